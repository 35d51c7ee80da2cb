"""Agora provider for Kubernetes: a Job per dispatch."""

from collections.abc import Mapping
from typing import Any

from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Capability, Limits, Support, cannot
from agora.provider import Installation, ProviderInfo

from agora_k8s.config import K8sConfig, K8sOptions

__all__ = ["PROVIDER"]


def _create(target_name: str, config: Model, installation: Installation) -> object:
    from agora_k8s.provider import K8sProvider

    if not isinstance(config, K8sConfig):
        raise TypeError(f"K8sConfig expected, not {type(config).__name__}")
    return K8sProvider(target_name, config, installation)


def _surroundings(target_name: str, config: Model) -> Mapping[str, Any]:
    from agora_k8s.connect import surroundings

    if not isinstance(config, K8sConfig):
        raise TypeError(f"K8sConfig expected, not {type(config).__name__}")
    return surroundings(target_name, config)


PROVIDER = ProviderInfo(
    name="k8s",
    config_model=K8sConfig,
    options_model=K8sOptions,
    create=_create,
    surroundings=_surroundings,
    capabilities=Capabilities(
        grace_per_stop=FULL,
        shorten=cannot("a second delete of a pod with a shorter grace does not hasten its end"),
        force_kill=cannot("a delete with grace 0 removes the record of a pod and leaves its process alive"),
        stop_signal=cannot("the first signal is the STOPSIGNAL of the image"),
        native_deadline=FULL,
        logs=Capability(support=Support.FULL, detail="both streams arrive as one, told as stdout"),
        logs_after_end=Capability(
            support=Support.FULL, detail="while the pod is there; then the tail that was kept at the end"
        ),
        watch=FULL,
        reattach=FULL,
        exit_code_after_end=Capability(
            support=Support.FULL, detail="null where somebody else deletes the pod and nobody is watching"
        ),
        exit_code_after_stop=Capability(support=Support.FULL, detail="with `finalizer = true`, the default"),
        oom_reason=FULL,
        secrets=FULL,
    ),
    # What the cluster does not show may still run on a node that is away, so absence proves nothing. A request
    # that got no answer may be carried out for as long as the API server works on it.
    limits=Limits(
        settle_time=5,
        resubmit_within=1800,
        report_lag=3,
        poll_interval=2,
        concurrency=16,
        # etcd takes 1.5 MiB an object, and every dollar sign is sent twice.
        max_total_bytes=1_000_000,
        absence_proves_death=False,
        absence_proves_never_started=False,
        one_log_stream=True,
    ),
)
