"""The suite as the tests of one pytest run: the checks run many at a time, the tests report them one by one."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from agora_conformance.discover import Unusable, load_target
from agora_conformance.report import CheckRow, Profile, Report
from agora_conformance.requirement import Requirement
from agora_conformance.suite import Plan, run
from agora_conformance.verdict import Status

#: Seconds after which a test gives up waiting for its check: the longest check, and the queue before it.
LIMIT = 600.0


class SuiteInPytest:
    """Collects the requirements in place of test files, and runs them when the first one is asked for.

    Parameters:
        config: pytest's configuration.
        name: name of the target.

    Raises:
        pytest.UsageError: there is no such target, or the tests are spread over processes.
    """

    def __init__(self, config: pytest.Config, name: str) -> None:
        if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
            raise pytest.UsageError("--agora-conformance runs its checks at once in one process: leave out -n")
        try:
            target = load_target(name)
        except Unusable as error:
            raise pytest.UsageError(str(error)) from error
        profile = config.getoption("--agora-profile")
        self._plan = Plan(
            name,
            target,
            profile=Profile(profile),
            command=f"pytest --agora-conformance {name} --agora-profile {profile}",
        )
        self._path: Path | None = config.getoption("--agora-report")
        self._background: Background | None = None

    def pytest_ignore_collect(self) -> bool:
        """Leave every file alone."""
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Collect the requirements; others may deselect some of them afterwards."""
        items[:] = [
            RequirementItem.from_parent(
                session, name=f"{requirement.id}-{requirement.slug}", requirement=requirement, suite=self
            )
            for requirement in self._plan.requirements
        ]

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Start the checks of what is selected."""
        chosen = frozenset(item.requirement.id for item in session.items if isinstance(item, RequirementItem))
        if session.config.option.collectonly or not chosen:
            return
        if len(chosen) < len(self._plan.requirements):
            self._plan = dataclasses.replace(self._plan, only=chosen)
        self._background = Background(self._plan)

    def row(self, requirement: str) -> CheckRow:
        """Wait for the row of a requirement."""
        if self._background is None:
            raise RuntimeError("the suite was not started")
        return self._background.row(requirement)

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        if self._background is not None and self._path is not None and (report := self._background.report()):
            self._path.write_text(report.text(), encoding="utf-8")


class Background:
    """A run of the suite in a thread.

    Parameters:
        plan: what to run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows: dict[str, CheckRow] = {}
        self._report: Report | None = None
        self._error: BaseException | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="agora-conformance", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            report = run(self._plan, self._hear)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for a row
            self._end(None, error)
        else:
            self._end(report, None)

    def _end(self, report: Report | None, error: BaseException | None) -> None:
        with self._news:
            self._report, self._error = report, error
            self._news.notify_all()

    def _hear(self, row: CheckRow) -> None:
        with self._news:
            self._rows[row.id] = row
            self._news.notify_all()

    def row(self, requirement: str) -> CheckRow:
        """Wait for a row; raises what ended the run before it."""
        with self._news:
            self._news.wait_for(lambda: requirement in self._rows or self._error is not None, LIMIT)
            if requirement in self._rows:
                return self._rows[requirement]
            raise self._error or TimeoutError(f"no row of {requirement} after {LIMIT:g} s")

    def report(self) -> Report | None:
        """Wait for the report; null where the run failed."""
        self._thread.join(LIMIT)
        return self._report


class NotPassed(Exception):
    """A requirement failed, or could not be decided."""


class RequirementItem(pytest.Item):
    """One requirement as a test."""

    def __init__(self, *, requirement: Requirement, suite: SuiteInPytest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.requirement = requirement
        self._suite = suite
        if self.config.pluginmanager.has_plugin("timeout"):
            self.add_marker(pytest.mark.timeout(LIMIT))

    def runtest(self) -> None:
        """Wait for its check and say how it ended."""
        row = self._suite.row(self.requirement.id)
        self.user_properties += [("status", row.status.value), *row.measured.items()]
        if row.status is Status.INAPPLICABLE:
            pytest.skip(row.message or "")
        if row.status is not Status.PASS:
            raise NotPassed(f"{row.status.value}: {row.message}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what was seen; a traceback of the suite tells a provider's author nothing."""
        if isinstance(excinfo.value, NotPassed):
            return f"{self.requirement.level} {self.requirement.sentence}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the requirement."""
        return self.path, None, f"{self.requirement.id} {self.requirement.slug}"
