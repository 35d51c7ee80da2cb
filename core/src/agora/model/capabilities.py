"""What a provider can do, in the contract's words."""

from enum import StrEnum

from pydantic import Field

from agora.model.base import Model


class Support(StrEnum):
    """How far a capability goes."""

    FULL = "full"
    FROM_VERSION = "from_version"
    CANNOT = "platform_cannot"
    NOT_YET = "not_implemented_yet"
    UNDECLARED = "undeclared"


class Capability(Model):
    """One capability claim.

    Parameters:
        support: how far it goes.
        detail: the version it needs, or why it is missing.
    """

    support: Support = Support.UNDECLARED
    detail: str | None = None


FULL = Capability(support=Support.FULL)
UNDECLARED = Capability()


def cannot(why: str) -> Capability:
    """Claim that the platform cannot do it, and why."""
    return Capability(support=Support.CANNOT, detail=why)


class Capabilities(Model):
    """Every capability of the contract's section 8; what is not said is undeclared."""

    grace_per_stop: Capability = UNDECLARED
    shorten: Capability = UNDECLARED
    force_kill: Capability = UNDECLARED
    stop_signal: Capability = UNDECLARED
    native_deadline: Capability = UNDECLARED
    logs: Capability = UNDECLARED
    logs_after_end: Capability = UNDECLARED
    watch: Capability = UNDECLARED
    reattach: Capability = UNDECLARED
    exit_code_after_end: Capability = UNDECLARED
    exit_code_after_stop: Capability = UNDECLARED
    oom_reason: Capability = UNDECLARED
    secrets: Capability = UNDECLARED

    def has(self, name: str) -> bool:
        """Whether the capability `name` is claimed, in full or from some version on."""
        claim: Capability = getattr(self, name)
        return claim.support in (Support.FULL, Support.FROM_VERSION)


class Limits(Model):
    """The numbers of a provider, all times in seconds, all sizes in bytes.

    Parameters:
        grace_min, grace_max, grace_step: what a stop can be given; no maximum where `grace_max` is null.
        max_argument_bytes: of one argument or `NAME=value`.
        max_total_bytes: of all arguments and variables together; null where unknown.
        settle_time: how long a workload may stay invisible after the backend accepted it.
        resubmit_within: how long the same key is safe to send again; null where the key never expires.
        report_lag: how long a start or an end may take to show.
        poll_interval: pause between two observations where the provider cannot push.
        concurrency: calls to the backend at the same time.
        absence_proves_death: a workload that was seen and is absent is certainly dead.
        absence_proves_never_started: one that was never seen and is absent after the settle time was never started.
        spec_is_whole: the spec alone says all that is needed to send it again (false where the caller's
            environment is part of it); with secrets it never does.
        exit_code_may_be_lost: the backend may lose the exit code of a stopped workload.
        one_log_stream: the backend joins both streams of a workload; all output is told as `stdout`.
        shares_files: workloads have the files of the machine that the engine runs on, by the same names.
        refused_fields: spec fields that the provider cannot honour and refuses (`image`, `cwd`, ...).
    """

    grace_min: int = 2
    grace_max: int | None = None
    grace_step: float = 1
    max_argument_bytes: int = 131_071
    max_total_bytes: int | None = None
    settle_time: float = 0
    resubmit_within: float | None = None
    report_lag: float = 1
    poll_interval: float = 1
    concurrency: int = Field(default=16, ge=1)
    absence_proves_death: bool = False
    absence_proves_never_started: bool = False
    spec_is_whole: bool = True
    exit_code_may_be_lost: bool = False
    one_log_stream: bool = False
    shares_files: bool = False
    refused_fields: tuple[str, ...] = ()
