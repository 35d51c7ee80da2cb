"""Run the checks of a plan, many at a time, and make the report."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from agora.config import TargetConfig, validate_target
from agora.errors import AgoraError
from agora.plugins import load_provider
from agora.provider import CONTRACT, ProviderInfo
from anyio.abc import TaskStatus

from agora_conformance.arena import Arena, Setting
from agora_conformance.discover import provider_distribution
from agora_conformance.registry import Check, load_checks
from agora_conformance.report import (
    BackendRow,
    CheckRow,
    Implementation,
    Profile,
    Report,
    Suite,
    suite_digest,
    summarise,
)
from agora_conformance.requirement import Requirement, Tier
from agora_conformance.requirements import REQUIREMENTS
from agora_conformance.target import Backend, ConformanceTarget
from agora_conformance.verdict import Inapplicable, Status, Untested, Verdict

#: Checks at the same time; nearly all of what they do is waiting.
JOBS = 12

OnRow = Callable[[CheckRow], None]


@dataclass(frozen=True)
class Plan:
    """What to run.

    Parameters:
        name: name of the target.
        target: what its author declared.
        config: the target's table in the configuration, where it replaces the author's.
        profile: core or extended.
        only: ids to run; empty for all of the profile.
        jobs: checks at the same time.
        baseline: ids that are known not to pass.
        command: the command that does it again, for the report.
    """

    name: str
    target: ConformanceTarget
    config: Mapping[str, Any] | None = None
    profile: Profile = Profile.CORE
    only: frozenset[str] = frozenset()
    jobs: int = JOBS
    baseline: frozenset[str] = frozenset()
    command: str = ""

    @property
    def requirements(self) -> list[Requirement]:
        """The requirements that it covers."""
        return [
            requirement
            for requirement in REQUIREMENTS
            if (self.profile is Profile.EXTENDED or requirement.tier is Tier.CORE)
            and (not self.only or requirement.id in self.only)
        ]


@dataclass
class _Run:
    plan: Plan
    setting: Setting
    checks: dict[str, Check]
    rows: dict[str, CheckRow] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)


def run(plan: Plan, on_row: OnRow = lambda row: None) -> Report:
    """Run a plan.

    Parameters:
        on_row: called with every row as soon as it is known, from the thread that runs this.

    Raises:
        ConfigError: the provider is not installed, or the configuration is wrong.
    """
    info = load_provider(plan.target.provider)
    config = dict(plan.target.config if plan.config is None else plan.config)
    source = "the conformance target" if plan.config is None else "the file of --target-config"
    validate_target(TargetConfig(plan.name, plan.target.provider, config, source), info.config_model)
    folder = Path(tempfile.mkdtemp(prefix="agora-conformance-"))
    began = datetime.now(UTC)
    state = _Run(plan, Setting(plan.name, plan.target, info, config, folder), load_checks())
    try:
        with _no_variables(), _no_warnings():
            anyio.run(_everything, state, on_row)
        return _report(state, info, began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _no_variables() -> Iterator[None]:
    """Hide the `AGORA_*` variables of whoever runs the suite: it may be a workload itself."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("AGORA_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep the core's warnings from the terminal where nobody has set up logging: faults are what checks make."""
    logger, handler = logging.getLogger("agora"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def _everything(state: _Run, on_row: OnRow) -> None:
    # A check may hold several threads at once: twenty cancels, a watch, a hook that hangs.
    anyio.to_thread.current_default_thread_limiter().total_tokens = 40 + 10 * state.plan.jobs
    limiter = anyio.CapacityLimiter(state.plan.jobs)
    wanted = state.plan.requirements
    calm = {requirement.id: anyio.Event() for requirement in wanted}

    async def one(requirement: Requirement, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        async with limiter:
            row = await _check(state, requirement, calm[requirement.id])
        state.rows[requirement.id] = row
        on_row(row)

    # Time brackets run together, before the busy ones; of those the long ones start first.
    async with anyio.create_task_group() as group:
        for requirement in wanted:
            if requirement.timed:
                await group.start(one, requirement)
        for requirement in wanted:
            if requirement.timed:
                await calm[requirement.id].wait()
        for requirement in sorted(wanted, key=lambda requirement: -requirement.limit):
            if not requirement.timed:
                await group.start(one, requirement)


async def _check(state: _Run, requirement: Requirement, calm: anyio.Event) -> CheckRow:
    status, message = Status.PASS, None
    began = anyio.current_time()
    seconds = 0.0
    measured: dict[str, Any] = {}
    try:
        async with anyio.create_task_group() as group:
            arena = Arena(state.setting, requirement, group, calm)
            measured = arena.measured
            try:
                await _judge(state, requirement, arena)
            except Exception as error:  # noqa: BLE001 - whatever a check runs into becomes its row
                status, message = _verdict(requirement, error)
            finally:  # also when the run is interrupted: workloads would stay behind
                seconds = anyio.current_time() - began
                calm.set()
                await arena.close()
            state.leftovers += [f"{requirement.id}: {what}" for what in arena.leftovers]
    except Exception as error:  # noqa: BLE001 - a row is never lost to the cleaning up after it
        state.leftovers.append(f"{requirement.id}: cleaning up failed: {_verdict(requirement, error)[1]}")
    return CheckRow(
        id=requirement.id,
        slug=requirement.slug,
        level=requirement.level,
        tier=requirement.tier,
        capability=requirement.capability,
        status=status,
        message=message,
        seconds=round(seconds, 3),
        measured=measured,
        known=requirement.id in state.plan.baseline,
    )


async def _judge(state: _Run, requirement: Requirement, arena: Arena) -> None:
    if requirement.capability and not state.setting.info.capabilities.has(requirement.capability):
        raise Inapplicable(f"{requirement.capability} is not claimed")
    with anyio.fail_after(requirement.limit):
        await state.checks[requirement.id](arena)


def _verdict(requirement: Requirement, error: BaseException) -> tuple[Status, str]:
    """Say what an exception that came out of a check means."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Untested) and requirement.capability:
        return Status.FAIL, f"{requirement.capability} is claimed and cannot be tested: {error}"
    if isinstance(error, Verdict):
        return error.status, str(error)
    if isinstance(error, AgoraError):
        return Status.FAIL, f"{type(error).__name__}: {error}"
    if isinstance(error, TimeoutError):
        return Status.ERROR, f"the check was given up after {requirement.limit:g} s"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Status.ERROR, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _report(state: _Run, info: ProviderInfo, began: datetime) -> Report:
    plan = state.plan
    backend = plan.target.backend() if plan.target.backend else Backend("not named", "not named")
    distribution, its_version = provider_distribution(plan.target.provider)
    rows = tuple(state.rows[requirement.id] for requirement in plan.requirements)
    filtered = bool(plan.only)
    return Report(
        contract=CONTRACT,
        suite=Suite(version=version("agora-conformance"), digest=suite_digest()),
        implementation=Implementation(
            target=plan.name, provider=plan.target.provider, distribution=distribution, version=its_version
        ),
        backend=BackendRow(name=backend.name, version=backend.version, emulated=plan.target.emulated),
        environment={
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": str(os.cpu_count()),
            "core": version("agora-dispatch"),
        },
        capabilities={name: claim.support.value for name, claim in info.capabilities},
        overhead=plan.target.overhead,
        profile=plan.profile,
        filtered=filtered,
        started_at=began,
        seconds=round((datetime.now(UTC) - began).total_seconds(), 3),
        result=summarise(rows, plan.profile, filtered=filtered),
        checks=rows,
        baseline=tuple(sorted(plan.baseline)),
        leftovers=tuple(state.leftovers),
        command=plan.command,
    ).sealed()
