"""A provider of workloads on paper, for tests of the core alone: says what it is told to, or nothing for ever.

`PAPER_SILENT` (commas) names hooks that never answer, in this process; `all` means each of them.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from agora import hookimpl
from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Limits
from agora.model.cause import Cause
from agora.model.observation import Handle, LogChunk, Observation, Owned, Phase, ReceiptKind, StopReceipt
from agora.provider import Installation, ProviderInfo
from pydantic import SecretStr

SILENT = {name for name in os.environ.get("PAPER_SILENT", "").split(",") if name}
#: Set at the end of a test, so that its threads end.
RELEASE = threading.Event()
FAILS: dict[str, Exception] = {}
ENDS: dict[str, Observation] = {}
#: Ids that `observe` leaves out of its answer, against its contract.
FORGETS: set[str] = set()
STARTED: list[str] = []
STOPPED: list[tuple[str, int, Cause]] = []
#: Ids whose secrets were removed.
CLEANED: list[str] = []


class PaperConfig(Model):
    """Which paper."""

    backend: str = "paper-1"
    token: SecretStr | None = None


def _at(hook: str) -> None:
    if hook in SILENT or "all" in SILENT:
        RELEASE.wait()
    if hook in FAILS:
        raise FAILS[hook]


class Paper:
    """The hooks."""

    def __init__(self, config: PaperConfig) -> None:
        self.config = config

    @hookimpl
    def check(self, spec: Any) -> None:
        _at("check")

    @hookimpl
    def identity(self) -> str:
        _at("identity")
        return self.config.backend

    @hookimpl
    def dispatch(self, id: str, spec: Any, check: Any) -> Handle:
        check()
        _at("dispatch")
        STARTED.append(id)
        return Handle(id=id, backend=self.config.backend, first=Observation(phase=Phase.RUNNING))

    @hookimpl
    def stop(self, handle: Handle, grace: int, cause: Cause) -> StopReceipt:
        _at("stop")
        STOPPED.append((handle.id, grace, cause))
        return StopReceipt(kind=ReceiptKind.SIGNALLED, effective_grace=grace)

    @hookimpl
    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        _at("observe")
        told = (handle.id for handle in handles if handle.id not in FORGETS)
        return [ENDS.get(id, Observation(phase=Phase.RUNNING)) for id in told]

    @hookimpl
    def find(self, id: str) -> Handle | None:
        _at("find")
        return Handle(id=id, backend=self.config.backend) if id in STARTED else None

    @hookimpl
    def list_owned(self, installation: str) -> Sequence[Owned]:
        _at("list_owned")
        return []

    @hookimpl
    def logs(self, handle: Handle, follow: bool, since: datetime | None, tail: int | None) -> Iterator[LogChunk]:
        yield LogChunk(stream="stdout", data=b"hello\n")
        _at("logs")

    @hookimpl
    def release(self, handle: Handle) -> None:
        _at("release")

    @hookimpl
    def remove_secrets(self, id: str) -> None:
        _at("remove_secrets")
        CLEANED.append(id)

    @hookimpl
    def close(self) -> None:
        _at("close")


def _create(target_name: str, config: Model, installation: Installation) -> object:
    assert isinstance(config, PaperConfig)
    if "create" in SILENT:
        RELEASE.wait()
    return Paper(config)


PROVIDER = ProviderInfo(
    name="paper",
    config_model=PaperConfig,
    create=_create,
    capabilities=Capabilities(grace_per_stop=FULL, secrets=FULL, logs=FULL),
    limits=Limits(poll_interval=0.2, absence_proves_never_started=True),
)
