"""What to run: the spec, validated before anything starts."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from agora.model.base import Model

MAX_TIMEOUT = 86_400
DEFAULT_TIMEOUT = 7_200
MIN_GRACE = 2
DEFAULT_GRACE = 30
#: Linux refuses a single argument or `NAME=value` above MAX_ARG_STRLEN (131,072 bytes with its NUL), execve(2).
MAX_STRING_BYTES = 131_071
#: What Agora adds; no part of what was asked for.
WORKER_VARIABLES = frozenset(
    {
        "AGORA_DISPATCH_ID",
        "AGORA_OWNER",
        "AGORA_WORKER_BUDGET",
        "AGORA_WORKER_GRACE",
        "AGORA_WORKER_HEARTBEAT",
        "AGORA_WORKER_INBOX",
        "AGORA_WORKER_SECRETS",
        "AGORA_WORKER_TIMEOUT",
    }
)
#: The shortest silence that a policy may act on, in seconds: nobody listens more often than once a second.
MIN_QUIET = 2
#: The units that can be spent, as the worker has them too: their names, how many there are at most, and of one.
UNIT = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,23}$"
MAX_UNITS, MAX_AMOUNT = 16, 1e15
_POLICIES = ("heartbeat_timeout", "silence_timeout", "budget")


def _plain_text(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8 text") from None
    if "\0" in value:
        raise ValueError("contains a NUL character")
    if size > MAX_STRING_BYTES:
        raise ValueError(f"is {size} bytes long; the limit is {MAX_STRING_BYTES}")
    return value


def _label(value: str) -> str:
    _plain_text(value)
    if any(ord(c) < 32 for c in value):
        raise ValueError("contains a control character")
    return value


Text = Annotated[StrictStr, AfterValidator(_plain_text)]
Label = Annotated[StrictStr, Field(max_length=256), AfterValidator(_label)]
Unit = Annotated[StrictStr, Field(pattern=UNIT)]
Limit = Annotated[StrictFloat, Field(gt=0, le=MAX_AMOUNT)]
Name = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


def check_environment(environment: dict[str, str]) -> None:
    """Check names and sizes of environment variables.

    Raises:
        ValueError: an empty name, a name with `=` or NUL, or `NAME=value` above 131,071 bytes.
    """
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name[:80]!r} is not a variable name")
        size = len(name.encode()) + 1 + len(value.encode())
        if size > MAX_STRING_BYTES:
            raise ValueError(f"variable {name[:80]!r} is {size} bytes long; the limit is {MAX_STRING_BYTES}")


class Resources(Model):
    """What the workload may use.

    Parameters:
        cpu: cores, may be fractional.
        memory: bytes.
    """

    cpu: float | None = Field(default=None, gt=0)
    memory: StrictInt | None = Field(default=None, gt=0)


class Spec(Model):
    """One workload, as asked for.

    Parameters:
        command: argument list that replaces the image's ENTRYPOINT and CMD; never a string for a shell.
        image: container image; refused by a target that has none.
        env: variables added to the workload's environment.
        cwd: working directory.
        grace: seconds between SIGTERM and SIGKILL, whole, at least 2 (the kubelet's floor).
        timeout: seconds from `dispatch.submitted` to the deadline, at most 86,400.
        heartbeat_timeout: seconds without a heartbeat or progress of its worker after which a running workload is
            cancelled, whole, at least 2; null for never.
        silence_timeout: seconds without output after which it is cancelled, whole, at least 2; null for never.
        budget: how much it may spend before it is cancelled, by unit of the workload's own choice, at most 16.
        labels: free key-value pairs to find dispatches by.
        run: group that this dispatch belongs to.
        name: name of the dispatch, unique in its run.
        secrets: variables whose values are never stored, logged or shown.
        resources: limits.
        options: the provider's own options, validated by its model.
    """

    command: tuple[Text, ...] | None = None
    image: Text | None = None
    env: dict[Text, Text] = Field(default_factory=dict)
    cwd: Text | None = None
    grace: StrictInt = Field(default=DEFAULT_GRACE, ge=MIN_GRACE, le=MAX_TIMEOUT)
    timeout: StrictInt = Field(default=DEFAULT_TIMEOUT, ge=1, le=MAX_TIMEOUT)
    heartbeat_timeout: StrictInt | None = Field(default=None, ge=MIN_QUIET, le=MAX_TIMEOUT)
    silence_timeout: StrictInt | None = Field(default=None, ge=MIN_QUIET, le=MAX_TIMEOUT)
    budget: dict[Unit, Limit] = Field(default_factory=dict, max_length=MAX_UNITS)
    labels: dict[Label, Label] = Field(default_factory=dict)
    run: Name | None = None
    name: Name | None = None
    secrets: dict[Text, SecretStr] = Field(default_factory=dict, repr=False)
    resources: Resources = Resources()
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("command")
    @classmethod
    def _command_has_a_program(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or not value[0]):
            raise ValueError("is empty: name a program")
        return value

    @model_validator(mode="after")
    def _environment_fits(self) -> "Spec":
        check_environment(self.env)
        secrets = {name: value.get_secret_value() for name, value in self.secrets.items()}
        for name, value in secrets.items():
            try:
                _plain_text(value)
            except ValueError as error:
                raise ValueError(f"secret {name!r} {error}") from None
        check_environment(secrets)
        if both := self.env.keys() & secrets.keys():
            raise ValueError(f"{sorted(both)} are in env and in secrets")
        return self

    def public(self) -> dict[str, Any]:
        """Return the spec as JSON values, with the names of the secrets and none of their values."""
        # What was not asked for is left out, so that a record of an older Agora has the same digest.
        unasked = {name for name in _POLICIES if not getattr(self, name)}
        data = self.model_dump(mode="json", exclude={"secrets", *unasked})
        data["secrets"] = sorted(self.secrets)
        return data

    def for_owner(self, owner: str | None) -> "Spec":
        """Return the spec with the variable by which what the workload itself dispatches belongs to the same owner."""
        if owner is None:
            return self
        return self.model_copy(update={"env": {**self.env, "AGORA_OWNER": owner}})

    def with_worker(self, dispatch_id: str, inbox: str | None = None) -> "Spec":
        """Return the spec as it is sent: with the variables that tell a worker inside what was agreed.

        Parameters:
            dispatch_id: the dispatch.
            inbox: the file by which a worker is told of what is asked later; null where it can see none.
        """
        told = {
            "AGORA_DISPATCH_ID": dispatch_id,
            "AGORA_WORKER_GRACE": str(self.grace),
            "AGORA_WORKER_TIMEOUT": str(self.timeout),
            # The one character that no name of a variable has.
            "AGORA_WORKER_SECRETS": "=".join(sorted(self.secrets)),
        }
        if inbox is not None:
            told["AGORA_WORKER_INBOX"] = inbox
        if self.heartbeat_timeout is not None:
            told["AGORA_WORKER_HEARTBEAT"] = str(self.heartbeat_timeout)
        if self.budget:
            told["AGORA_WORKER_BUDGET"] = ",".join(f"{unit}={limit!r}" for unit, limit in self.budget.items())
        return self.model_copy(update={"env": {**told, **self.env, "AGORA_DISPATCH_ID": dispatch_id}})

    def digest(self) -> str:
        """Return a hash of what was asked for without the secrets' values, short enough for any backend's label."""
        data = self.public()
        data["env"] = {name: value for name, value in self.env.items() if name not in WORKER_VARIABLES}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:40]
