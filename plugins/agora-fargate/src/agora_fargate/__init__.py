"""Agora provider for AWS Fargate: an ECS task per dispatch."""

from collections.abc import Mapping
from typing import Any

from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Capability, Limits, Support, cannot
from agora.provider import Installation, ProviderInfo

from agora_fargate.config import MAX_GRACE, MIN_GRACE, FargateConfig, FargateOptions

__all__ = ["PROVIDER"]


def _create(target_name: str, config: Model, installation: Installation) -> object:
    from agora_fargate.provider import FargateProvider

    if not isinstance(config, FargateConfig):
        raise TypeError(f"FargateConfig expected, not {type(config).__name__}")
    return FargateProvider(target_name, config, installation)


def _surroundings(target_name: str, config: Model) -> Mapping[str, Any]:
    from agora_fargate.connect import surroundings

    if not isinstance(config, FargateConfig):
        raise TypeError(f"FargateConfig expected, not {type(config).__name__}")
    return surroundings(target_name, config)


_AN_HOUR = "for an hour after the end, for which ECS shows a stopped task"

PROVIDER = ProviderInfo(
    name="fargate",
    config_model=FargateConfig,
    options_model=FargateOptions,
    create=_create,
    surroundings=_surroundings,
    capabilities=Capabilities(
        grace_per_stop=cannot("StopTask has no grace; that of the task definition is in force"),
        shorten=cannot("a second StopTask changes nothing"),
        force_kill=cannot("ECS has no kill; StopTask always gives the grace of the task definition"),
        stop_signal=cannot("the first signal is the STOPSIGNAL of the image"),
        native_deadline=cannot("ECS ends no task after a time"),
        logs=Capability(support=Support.FULL, detail="seconds late; both streams arrive as one, told as stdout"),
        logs_after_end=FULL,
        watch=Capability(
            support=Support.FULL, detail="by DescribeTasks under one rate budget, sooner with `queue_url`"
        ),
        reattach=FULL,
        exit_code_after_end=Capability(support=Support.FULL, detail=_AN_HOUR),
        exit_code_after_stop=Capability(support=Support.FULL, detail=_AN_HOUR),
        oom_reason=Capability(support=Support.FULL, detail="of the container's own limit"),
        secrets=Capability(
            support=Support.FULL,
            detail="a secret of Secrets Manager and a task definition for each dispatch; about one start a second",
        ),
    ),
    limits=Limits(
        grace_min=MIN_GRACE,
        grace_max=MAX_GRACE,
        # A variable of this size leaves room for a command and the marks in the 8192 characters of overrides.
        max_argument_bytes=2048,
        max_total_bytes=8192,
        settle_time=10,
        # A clientToken lives for an hour after the end of a short task.
        resubmit_within=3300,
        # STOPPED comes once the network interface is gone, tens of seconds after the last process.
        report_lag=60,
        poll_interval=5,
        concurrency=16,
        absence_proves_death=False,
        absence_proves_never_started=False,
        one_log_stream=True,
    ),
)
