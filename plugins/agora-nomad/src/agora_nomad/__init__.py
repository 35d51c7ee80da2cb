"""Agora provider for HashiCorp Nomad: a batch job per dispatch."""

import os
from collections.abc import Mapping
from typing import Any

from agora.model.base import Model
from agora.model.capabilities import FULL, Capabilities, Capability, Limits, Support, cannot
from agora.provider import Installation, ProviderInfo

from agora_nomad.config import NomadConfig, NomadOptions

__all__ = ["PROVIDER"]


def _create(target_name: str, config: Model, installation: Installation) -> object:
    from agora_nomad.provider import NomadProvider

    if not isinstance(config, NomadConfig):
        raise TypeError(f"NomadConfig expected, not {type(config).__name__}")
    return NomadProvider(target_name, config, installation)


def _surroundings(target_name: str, config: Model) -> Mapping[str, Any]:
    from agora_nomad.connect import surroundings

    if not isinstance(config, NomadConfig):
        raise TypeError(f"NomadConfig expected, not {type(config).__name__}")
    return surroundings(target_name, config, os.environ)


PROVIDER = ProviderInfo(
    name="nomad",
    config_model=NomadConfig,
    options_model=NomadOptions,
    create=_create,
    surroundings=_surroundings,
    capabilities=Capabilities(
        grace_per_stop=cannot("the grace of a task is set when it starts; a shorter one is carried out by a kill"),
        shorten=FULL,
        force_kill=FULL,
        stop_signal=FULL,
        native_deadline=Capability(support=Support.FROM_VERSION, detail="Nomad 2.0 (`max_run_duration`)"),
        logs=FULL,
        logs_after_end=Capability(support=Support.FULL, detail="while the client keeps the allocation"),
        watch=FULL,
        reattach=FULL,
        exit_code_after_end=FULL,
        exit_code_after_stop=Capability(
            support=Support.FULL, detail="drivers docker and exec; raw_exec loses about one in eight"
        ),
        oom_reason=Capability(support=Support.FULL, detail="drivers docker and exec"),
        secrets=Capability(support=Support.FULL, detail="a Nomad variable each, of 64 KiB"),
    ),
    # What the cluster does not show may still run on a client that is away, so absence proves nothing. A request
    # that got no answer may be carried out for as long as a server works on it. The record of a job, which is the
    # fence against a second one, stays for four hours after its end (`job_gc_threshold`).
    limits=Limits(
        settle_time=5,
        resubmit_within=1800,
        report_lag=3,
        poll_interval=2,
        concurrency=16,
        absence_proves_death=False,
        absence_proves_never_started=False,
        exit_code_may_be_lost=True,
    ),
)
