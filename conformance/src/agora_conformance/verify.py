"""Decide whether a report may be believed: recompute it from its rows, this suite and the known ids."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from agora.provider import CONTRACT
from pydantic import ValidationError

from agora_conformance.report import Profile, Report, schema, seal, suite_digest, summarise
from agora_conformance.requirement import Tier
from agora_conformance.requirements import BY_ID, REQUIREMENTS
from agora_conformance.verdict import Status

CLAIMED = ("full", "from_version")


class Refused(Exception):
    """The report cannot be believed; the message lists every reason."""


def _ids(report: Report) -> list[str]:
    seen = [row.id for row in report.checks]
    wanted = {
        requirement.id
        for requirement in REQUIREMENTS
        if report.profile is Profile.EXTENDED or requirement.tier is Tier.CORE
    }
    problems = [f"{name} is no requirement of this suite" for name in sorted(set(seen) - BY_ID.keys())]
    problems += [f"{name} does not belong to the profile" for name in sorted((set(seen) & BY_ID.keys()) - wanted)]
    problems += [f"{name} is missing" for name in sorted(wanted - set(seen))]
    problems += [f"{name} stands there twice" for name in sorted({name for name in seen if seen.count(name) > 1})]
    return problems


def _rows(report: Report) -> list[str]:
    problems = []
    for row in report.checks:
        requirement = BY_ID.get(row.id)
        if requirement is None:
            continue
        same = (requirement.slug, requirement.level, requirement.tier, requirement.capability)
        if same != (row.slug, row.level, row.tier, row.capability):
            problems.append(f"{row.id} is described differently from the suite")
        claimed = requirement.capability and report.capabilities.get(requirement.capability) in CLAIMED
        if row.status is Status.INAPPLICABLE and (claimed or not (requirement.capability or requirement.declinable)):
            problems.append(f"{row.id} cannot be inapplicable")
        if row.known != (row.id in report.baseline):
            problems.append(f"{row.id} and the baseline disagree")
    return problems


def verify(data: dict[str, Any]) -> Report:
    """Return the report if it may be believed.

    Parameters:
        data: the report as JSON values.

    Raises:
        Refused: it is malformed, filtered, edited, made by another suite, or its result does not follow from its
            rows.
    """
    try:
        jsonschema.validate(data, schema())
        report = Report.model_validate(data)
    except jsonschema.ValidationError as error:
        raise Refused(f"the report does not follow the schema: {error.json_path}: {error.message}") from error
    except ValidationError as error:
        raise Refused(f"the report does not follow the schema: {error}") from error
    problems = []
    if data["integrity"] != seal(data):
        problems.append("the report was changed after it was written")
    if report.contract != CONTRACT:
        problems.append(f"it is about contract {report.contract}, this suite about {CONTRACT}")
    if report.suite.digest != suite_digest():
        problems.append("it was made by another suite: run it again with this one, or verify with that one")
    if report.filtered:
        problems.append("it is filtered: only some requirements were selected")
    problems += _ids(report)
    problems += _rows(report)
    if report.result != summarise(report.checks, report.profile, filtered=report.filtered):
        problems.append("its result does not follow from its rows")
    if problems:
        raise Refused("; ".join(problems))
    return report


def read(text: str) -> Report:
    """Parse and verify a report.

    Raises:
        Refused: see `verify`; also for what is no JSON object.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Refused(f"the report is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise Refused("the report is no JSON object")
    return verify(data)
