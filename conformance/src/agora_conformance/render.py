"""Reports as other people read them: JUnit, a Markdown matrix, a badge, the list of requirements."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from html import escape

from agora.provider import CONTRACT

from agora_conformance.report import Profile, Report, Result
from agora_conformance.requirements import BY_ID, FAMILIES, REQUIREMENTS
from agora_conformance.verdict import Status

SIGNS = {
    Status.PASS: "✓",
    Status.FAIL: "✗",
    Status.INAPPLICABLE: "-",
    Status.UNTESTED: "untested",
    Status.INCONCLUSIVE: "inconclusive",
    Status.ERROR: "error",
}

PREFACE = """\
The core profile is every MUST without a capability. The extended profile is every requirement; one with a
capability binds whoever claims it, and a claim that cannot be tested fails. A mutant is a provider with one
planted fault: the suite proves with it that the requirement can fail.""".splitlines()


def junit(report: Report) -> str:
    """Return the report as JUnit XML: what could not be decided is an error there, never a pass."""
    counts = report.result.counts
    undecided = (Status.ERROR, Status.INCONCLUSIVE, Status.UNTESTED)
    suite = ET.Element(
        "testsuite",
        name=f"agora-conformance {report.implementation.target}",
        tests=str(len(report.checks)),
        failures=str(counts[Status.FAIL]),
        errors=str(sum(counts[status] for status in undecided)),
        skipped=str(counts[Status.INAPPLICABLE]),
        time=f"{report.seconds:.3f}",
        timestamp=report.started_at.isoformat(timespec="seconds"),
    )
    for row in report.checks:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=row.id.rpartition("-")[0],
            name=f"{row.id} {row.slug}",
            time=f"{row.seconds:.3f}",
        )
        if row.status is Status.FAIL:
            ET.SubElement(case, "failure", message=row.message or "")
        elif row.status in undecided:
            ET.SubElement(case, "error", type=row.status.value, message=row.message or "")
        elif row.status is Status.INAPPLICABLE:
            ET.SubElement(case, "skipped", message=row.message or "")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def matrix(reports: Sequence[Report]) -> str:
    """Return a Markdown table of requirements by targets."""
    names = [f"{report.implementation.target} ({_kind(report)})" for report in reports]
    verdicts = [
        ["", "result: core", *(report.result.core.value for report in reports)],
        ["", "result: extended", *(report.result.extended.value for report in reports)],
    ]
    rows = []
    for requirement in REQUIREMENTS:
        cells = []
        for report in reports:
            row = next((row for row in report.checks if row.id == requirement.id), None)
            cells.append(SIGNS[row.status] if row else "not run")
        rows.append([requirement.id, requirement.slug, *cells])
    return "\n".join(_table(["id", "requirement", *names], [*verdicts, *rows])) + "\n"


def _kind(report: Report) -> str:
    return "emulated" if report.backend.emulated else "real"


def badge(report: Report) -> str:
    """Return an SVG badge for a verified report: the best profile that succeeded, and real or emulated."""
    if report.result.extended is Result.SUCCESS:
        verdict, colour = Profile.EXTENDED.value, "#2c7a3f"
    elif report.result.core is Result.SUCCESS:
        verdict, colour = Profile.CORE.value, "#2c7a3f"
    else:
        verdict, colour = report.result.core.value, "#a33"
    left = f"agora {CONTRACT} {report.implementation.target}"
    right = f"{verdict}, {_kind(report)} {report.backend.name}"
    widths = [7 * len(text) + 16 for text in (left, right)]
    total = sum(widths)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" '
        f'aria-label="{escape(left)}: {escape(right)}">'
        f"<title>{escape(left)}: {escape(right)}</title>"
        f'<rect width="{widths[0]}" height="20" fill="#444"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{widths[0] / 2}" y="14">{escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2}" y="14">{escape(right)}</text></g></svg>\n'
    )


def requirement_list() -> str:
    """Return every requirement as a Markdown page."""
    lines = [
        "# Conformance requirements",
        "",
        f"Contract {CONTRACT}. Made by `agora-conformance requirements`; do not edit.",
        "",
        *PREFACE,
    ]
    for family, title in FAMILIES.items():
        rows = [
            [
                requirement.id,
                requirement.slug,
                requirement.level.value,
                requirement.tier.value,
                f"`{requirement.capability}`" if requirement.capability else "",
                requirement.sentence,
                ", ".join(f"`{name}`" for name in requirement.mutants),
            ]
            for requirement in BY_ID.values()
            if requirement.family == family
        ]
        header = ["id", "name", "level", "tier", "capability", "requirement", "failed by the mutants"]
        lines += ["", f"## {family}: {title}", "", *_table(header, rows)]
    return "\n".join(lines) + "\n"
