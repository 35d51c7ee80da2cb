"""What the author of a provider declares: one target, and eyes where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

#: Seconds of overhead that a target may declare at most: the contract's section 8 lets a death come 3 s after
#: the grace at the latest.
OVERHEAD_CAP = 3.0

#: `probe_spec(script, args)` returns the fields of a `Spec` that run `sh -c SCRIPT probe ARGS...`.
ProbeSpec = Callable[[str, Sequence[str]], Mapping[str, Any]]


@runtime_checkable
class SeesProcesses(Protocol):
    """An eye for live processes, apart from the API."""

    def processes(self, installation: str, dispatch_id: str | None) -> Sequence[int]:
        """Return the pids of one dispatch's live workload, or of the whole installation's; zombies are dead."""


@runtime_checkable
class CutsOff(Protocol):
    """A hand on the agent or the API, while the workload goes on."""

    def cut(self, installation: str, dispatch_id: str) -> None:
        """Cut off the agent or the API that answers for this workload; LookupError where it does not live."""

    def heal(self, installation: str, dispatch_id: str) -> None:
        """Undo `cut`; harmless where nothing was cut, always called."""


@runtime_checkable
class Forgets(Protocol):
    """A hand that takes the backend's own record of a workload away, while its processes go on for a while."""

    def forget(self, installation: str, dispatch_id: str) -> None:
        """Remove or hide the record, as a careless administrator would; LookupError where it does not live."""

    def remember(self, installation: str, dispatch_id: str) -> None:
        """Bring it back where that can be done; harmless, always called."""


class Stranger(Protocol):
    """A workload of the same backend that carries none of our marks."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def remove(self) -> None:
        """End it and leave nothing."""


@runtime_checkable
class MakesStrangers(Protocol):
    """A hand that starts workloads beside the API."""

    def stranger(self) -> Stranger:
        """Start an unmarked workload on the same backend."""


@runtime_checkable
class SeesLeftovers(Protocol):
    """An eye for what a backend keeps after everything was released."""

    def leftovers(self, installation: str) -> Sequence[str]:
        """Name what is left of an installation on the backend; empty where all is clean."""


@runtime_checkable
class Sweeps(Protocol):
    """A hand that ends what a broken provider left behind; the suite uses it last, where its look found something."""

    def sweep(self, installation: str) -> None:
        """End every workload of a suite's installation and remove what is left of it."""


@dataclass(frozen=True)
class Backend:
    """The backend that a report is about.

    Parameters:
        name: the product (`Linux`, `Docker Engine`, ...).
        version: its version.
    """

    name: str
    version: str


@dataclass(frozen=True)
class ConformanceTarget:
    """One backend to test a provider on; exported as `agora.conformance: NAME = module:TARGET`.

    Parameters:
        provider: name of the provider's entry point in `agora.providers`.
        probe_spec: turns the probe (a POSIX sh script and its arguments) into fields of a `Spec`.
        config: the target's table in the configuration; `--target-config` replaces it whole.
        overhead: seconds that this backend may need beyond a grace, at most `OVERHEAD_CAP`; added to upper
            bounds only.
        emulated: the backend is an emulator; the report and the badge say so.
        eyes: an object with any of the protocols of this module; what it lacks is checked by heartbeats, or
            is `untested`.
        backend: asks the backend for its name and version.
        variants: further probe specs: `entrypoint` has an image with an ENTRYPOINT, `stop_signal` one that asks
            for another stop signal than SIGTERM.
        gone_program: a command whose program does not exist on this backend.
        never_forgets: why the backend cannot lose its record of a workload that lives; empty where it can.
        configured: makes the target anew for a table that `--target-config` names, where more than the table
            depends on it: an emulator by default, say, and a real backend with a table; its `config` is used then.
    """

    provider: str
    probe_spec: ProbeSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    overhead: float = 1.0
    emulated: bool = False
    eyes: object | None = None
    backend: Callable[[], Backend] | None = None
    variants: Mapping[str, ProbeSpec] = field(default_factory=dict)
    gone_program: Sequence[str] = ("/agora-conformance/no-such-program",)
    never_forgets: str = ""
    configured: Callable[[Mapping[str, Any]], ConformanceTarget] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overhead <= OVERHEAD_CAP:
            raise ValueError(f"overhead is {self.overhead} s; it must be between 0 and {OVERHEAD_CAP} s")
