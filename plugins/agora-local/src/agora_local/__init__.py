"""Agora provider for processes on this machine: a shim per workload, which outlives the control plane."""

from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Limits, cannot
from agora.provider import Installation, ProviderInfo

from agora_local.config import LocalConfig, LocalOptions

__all__ = ["PROVIDER"]


def _create(target_name: str, config: Model, installation: Installation) -> object:
    from agora_local.machine import require_linux

    require_linux(target_name)  # before modules are loaded that work on Linux alone
    from agora_local.provider import LocalProvider

    if not isinstance(config, LocalConfig):
        raise TypeError(f"LocalConfig expected, not {type(config).__name__}")
    return LocalProvider(target_name, config, installation)


PROVIDER = ProviderInfo(
    name="local",
    config_model=LocalConfig,
    options_model=LocalOptions,
    create=_create,
    capabilities=Capabilities(
        grace_per_stop=FULL,
        shorten=FULL,
        force_kill=FULL,
        stop_signal=cannot("a process has no stop signal of its own; it is always SIGTERM"),
        native_deadline=FULL,
        logs=FULL,
        logs_after_end=FULL,
        watch=FULL,
        reattach=FULL,
        exit_code_after_end=FULL,
        exit_code_after_stop=FULL,
        oom_reason=cannot("the kernel does not tell an out-of-memory kill from another SIGKILL"),
        secrets=FULL,
    ),
    # A journal that is gone says nothing of the process, so absence proves no death. A start without a journal
    # is impossible, and while one is under way its lock is held, so absence does prove that nothing was started.
    limits=Limits(
        settle_time=0,
        report_lag=0.5,
        poll_interval=0.5,
        concurrency=16,
        absence_proves_death=False,
        absence_proves_never_started=True,
        spec_is_whole=False,
        shares_files=True,
        refused_fields=("image", "resources.cpu", "resources.memory"),
    ),
)
