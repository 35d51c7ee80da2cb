"""Reports: what the rows add up to, and what cannot be believed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from agora.provider import CONTRACT
from agora_conformance import render
from agora_conformance.report import (
    BackendRow,
    CheckRow,
    Implementation,
    Profile,
    Report,
    Result,
    Suite,
    exit_code,
    schema,
    seal,
    suite_digest,
    summarise,
)
from agora_conformance.requirement import Requirement, Tier
from agora_conformance.requirements import REQUIREMENTS
from agora_conformance.verdict import Status
from agora_conformance.verify import Refused, read, verify


def row(requirement: Requirement, status: Status = Status.PASS, *, known: bool = False) -> CheckRow:
    return CheckRow(
        id=requirement.id,
        slug=requirement.slug,
        level=requirement.level,
        tier=requirement.tier,
        capability=requirement.capability,
        status=status,
        seconds=0.1,
        message=None if status is Status.PASS else "seen",
        known=known,
    )


def report(
    profile: Profile = Profile.CORE,
    statuses: dict[str, Status] | None = None,
    *,
    baseline: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    emulated: bool = False,
) -> Report:
    wanted = [
        requirement
        for requirement in REQUIREMENTS
        if (profile is Profile.EXTENDED or requirement.tier is Tier.CORE) and (not only or requirement.id in only)
    ]
    rows = tuple(
        row(requirement, (statuses or {}).get(requirement.id, Status.PASS), known=requirement.id in baseline)
        for requirement in wanted
    )
    return Report(
        contract=CONTRACT,
        suite=Suite(version="1", digest=suite_digest()),
        implementation=Implementation(target="local", provider="local"),
        backend=BackendRow(name="Linux", version="6", emulated=emulated),
        environment={},
        capabilities={"logs": "full"},
        overhead=1,
        profile=profile,
        filtered=bool(only),
        started_at=datetime.now(UTC),
        seconds=1,
        result=summarise(rows, profile, filtered=bool(only)),
        checks=rows,
        baseline=baseline,
        command="agora-conformance run local",
    ).sealed()


@pytest.mark.parametrize(
    ("status", "result", "code"),
    [
        (Status.PASS, Result.SUCCESS, 0),
        (Status.INAPPLICABLE, Result.SUCCESS, 0),
        (Status.FAIL, Result.FAILED, 1),
        (Status.UNTESTED, Result.INCONCLUSIVE, 3),
        (Status.INCONCLUSIVE, Result.INCONCLUSIVE, 3),
        (Status.ERROR, Result.INCONCLUSIVE, 3),
    ],
)
def test_one_status_decides_the_result(status: Status, result: Result, code: int) -> None:
    made = report(statuses={"STOP-01": status})
    assert made.result.core is result
    assert made.result.extended is Result.NOT_RUN
    assert made.result.counts[status] >= 1
    assert exit_code(made) == code


def test_a_failure_outweighs_what_could_not_be_decided() -> None:
    made = report(statuses={"STOP-01": Status.ERROR, "STOP-02": Status.FAIL})
    assert (made.result.core, exit_code(made)) == (Result.FAILED, 1)


def test_a_capability_counts_in_the_extended_result_alone() -> None:
    made = report(Profile.EXTENDED, {"CAP-02": Status.FAIL})
    assert (made.result.core, made.result.extended) == (Result.SUCCESS, Result.FAILED)


def test_a_filtered_run_is_never_a_success() -> None:
    made = report(only=("STOP-01",))
    assert (made.result.core, exit_code(made)) == (Result.FILTERED, 3)


def test_a_baseline_forgives_the_exit_code_and_not_the_result() -> None:
    made = report(statuses={"STOP-01": Status.FAIL}, baseline=("STOP-01",))
    assert (made.result.core, exit_code(made)) == (Result.FAILED, 0)
    assert exit_code(report(statuses={"STOP-02": Status.FAIL}, baseline=("STOP-01",))) == 1


def test_a_baseline_that_is_out_of_date_fails() -> None:
    assert exit_code(report(baseline=("STOP-01",))) == 1


def test_a_report_follows_its_schema_and_can_be_verified() -> None:
    made = report(Profile.EXTENDED)
    jsonschema.validate(made.data(), schema())
    assert read(made.text()) == made


def test_a_failed_report_can_be_verified_too() -> None:
    made = report(statuses={"STOP-01": Status.FAIL})
    assert read(made.text()).result.core is Result.FAILED


def edited(change: Any, *, resealed: bool) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(report(statuses={"STOP-01": Status.FAIL}).text())
    change(data)
    if resealed:
        data["integrity"] = seal(data)
    return data


def _drop_row(data: dict[str, Any]) -> None:
    data["checks"].pop()


def _repeat_row(data: dict[str, Any]) -> None:
    data["checks"].append(data["checks"][0])


def _claim_success(data: dict[str, Any]) -> None:
    data["result"]["core"] = "success"


def _rename_row(data: dict[str, Any]) -> None:
    data["checks"][0]["id"] = "DISP-99"


def _soften_row(data: dict[str, Any]) -> None:
    data["checks"][0]["level"] = "SHOULD"


def _excuse_row(data: dict[str, Any]) -> None:
    failed = next(check for check in data["checks"] if check["status"] == "fail")
    failed["status"] = "inapplicable"
    data["result"] = {
        "core": "success",
        "extended": "not_run",
        "counts": {**data["result"]["counts"], "fail": 0, "inapplicable": 1},
    }


def _other_suite(data: dict[str, Any]) -> None:
    data["suite"]["digest"] = "0" * 64


def _filter(data: dict[str, Any]) -> None:
    data["filtered"] = True


def _unknown_key(data: dict[str, Any]) -> None:
    data["extra"] = 1


def _baseline(data: dict[str, Any]) -> None:
    data["baseline"] = ["STOP-01"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_drop_row, "is missing"),
        (_repeat_row, "stands there twice"),
        (_claim_success, "does not follow from its rows"),
        (_rename_row, "is no requirement"),
        (_soften_row, "described differently"),
        (_excuse_row, "cannot be inapplicable"),
        (_other_suite, "another suite"),
        (_filter, "filtered"),
        (_unknown_key, "schema"),
        (_baseline, "the baseline disagree"),
    ],
)
def test_an_edited_report_is_refused_even_with_a_new_hash(change: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        verify(edited(change, resealed=True))


def test_a_measured_value_that_was_changed_is_refused() -> None:
    def change(data: dict[str, Any]) -> None:
        data["checks"][0]["measured"] = {"lived": 3}

    with pytest.raises(Refused, match="changed after it was written"):
        verify(edited(change, resealed=False))


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        read(text)


def test_a_claimed_capability_cannot_be_inapplicable() -> None:
    made = report(Profile.EXTENDED, {"CAP-02": Status.INAPPLICABLE})
    with pytest.raises(Refused, match="CAP-02 cannot be inapplicable"):
        verify(made.data())
    made = report(Profile.EXTENDED, {"CAP-09": Status.INAPPLICABLE})
    assert verify(made.data()).result.extended is Result.SUCCESS


def test_junit_counts_what_could_not_be_decided_as_errors() -> None:
    made = report(statuses={"STOP-01": Status.FAIL, "STOP-02": Status.UNTESTED, "DISP-12": Status.INAPPLICABLE})
    suite = ET.fromstring(render.junit(made)).find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("failures", "errors", "skipped")} == {
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert len(suite.findall("testcase")) == len(made.checks)


def test_a_badge_tells_real_from_emulated() -> None:
    assert "core, real Linux" in render.badge(report())
    assert "extended, emulated Linux" in render.badge(report(Profile.EXTENDED, emulated=True))
    assert "failed, real Linux" in render.badge(report(statuses={"STOP-01": Status.FAIL}))
    ET.fromstring(render.badge(report()))


def test_a_matrix_has_one_column_a_report() -> None:
    lines = render.matrix([report(), report(statuses={"STOP-01": Status.FAIL}, emulated=True)]).splitlines()
    assert lines[0] == "| id | requirement | local (real) | local (emulated) |"
    assert "| STOP-01 | one-sigterm | ✓ | ✗ |" in lines
    assert "| CAP-02 | logs | not run | not run |" in lines
