"""The report of a run: a published schema, and the result recomputed from the rows alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from agora.model.base import Model
from pydantic import AwareDatetime, Field

from agora_conformance.requirement import Level, Tier
from agora_conformance.verdict import Status

SCHEMA: Literal["urn:agora:conformance-report:1"] = "urn:agora:conformance-report:1"


class Profile(StrEnum):
    """What a run covers: `core` is every MUST that binds everybody, `extended` is every requirement."""

    CORE = "core"
    EXTENDED = "extended"


class Result(StrEnum):
    """What a run says of one profile."""

    SUCCESS = "success"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    FILTERED = "filtered"
    NOT_RUN = "not_run"


class CheckRow(Model):
    """One requirement in a report.

    Parameters:
        id, slug, level, tier, capability: the requirement.
        status: how its check ended.
        message: what was seen, unless it passed.
        seconds: how long the check took.
        measured: what the check measured, times in seconds.
        known: the baseline of the run expects it not to pass.
    """

    id: str
    slug: str
    level: Level
    tier: Tier
    capability: str | None = None
    status: Status
    message: str | None = None
    seconds: float = Field(ge=0)
    measured: dict[str, Any] = Field(default_factory=dict)
    known: bool = False


class Suite(Model):
    """The suite that made a report; `digest` is a hash of its own files."""

    version: str
    digest: str


class Implementation(Model):
    """What was tested."""

    target: str
    provider: str
    distribution: str | None = None
    version: str | None = None


class BackendRow(Model):
    """What it was tested on."""

    name: str
    version: str
    emulated: bool


class Summary(Model):
    """What the rows add up to."""

    core: Result
    extended: Result
    counts: dict[Status, int]


class Report(Model):
    """A run of the suite.

    Parameters:
        contract: version of the contract.
        filtered: only some requirements were selected; such a report never says success.
        overhead: seconds added to upper bounds.
        capabilities: support of each capability as the provider claims it.
        environment: where the suite itself ran.
        seconds: how long the run took.
        baseline: ids that the run was told not to expect.
        leftovers: what was still there when everything was over.
        command: the command that makes this report again.
        integrity: hash of everything else.
    """

    schema_: Literal["urn:agora:conformance-report:1"] = Field(default=SCHEMA, alias="$schema")
    contract: str
    suite: Suite
    implementation: Implementation
    backend: BackendRow
    environment: dict[str, str]
    capabilities: dict[str, str]
    overhead: float
    profile: Profile
    filtered: bool
    started_at: AwareDatetime
    seconds: float
    result: Summary
    checks: tuple[CheckRow, ...]
    baseline: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    command: str
    integrity: str = ""

    def data(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def sealed(self) -> Report:
        """Return the report with its hash."""
        return self.model_copy(update={"integrity": seal(self.data())})

    def text(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.data(), indent=2, ensure_ascii=False) + "\n"


def seal(data: dict[str, Any]) -> str:
    """Return the hash of a report without its own `integrity`."""
    rest = {key: value for key, value in data.items() if key != "integrity"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _judge(rows: Iterable[CheckRow], filtered: bool) -> Result:
    statuses = {row.status for row in rows if row.level is Level.MUST}
    if Status.FAIL in statuses:
        return Result.FAILED
    if statuses & {Status.UNTESTED, Status.INCONCLUSIVE, Status.ERROR}:
        return Result.INCONCLUSIVE
    return Result.FILTERED if filtered else Result.SUCCESS


def summarise(rows: Iterable[CheckRow], profile: Profile, *, filtered: bool) -> Summary:
    """Say what the rows add up to; SHOULDs are counted and decide nothing."""
    rows = tuple(rows)
    core = _judge((row for row in rows if row.tier is Tier.CORE), filtered)
    extended = _judge(rows, filtered) if profile is Profile.EXTENDED else Result.NOT_RUN
    counts = Counter(row.status for row in rows)
    return Summary(core=core, extended=extended, counts={status: counts[status] for status in Status})


def exit_code(report: Report) -> int:
    """Return the command's exit code: 0 success, 1 a requirement failed, 3 inconclusive or error.

    What the baseline names is forgiven here, and only here: the result in the report stays what it is. A line
    of the baseline that passes is out of date and counts as a failure.
    """
    musts = [row for row in report.checks if row.level is Level.MUST]
    if any(row.known and row.status is Status.PASS for row in report.checks):
        return 1
    unexpected = {row.status for row in musts if not row.known} - {Status.PASS, Status.INAPPLICABLE}
    if Status.FAIL in unexpected:
        return 1
    return 3 if unexpected or report.filtered else 0


def _source(folder: Traversable, prefix: str = "") -> Iterable[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _source(entry, f"{name}/")
        else:
            yield name, entry.read_bytes()


@cache
def suite_digest() -> str:
    """Return the hash of the suite's own files, requirements and checks included."""
    total = hashlib.sha256()
    for name, content in _source(files("agora_conformance")):
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a report."""
    return {"$id": SCHEMA, **Report.model_json_schema(by_alias=True, mode="serialization")}
