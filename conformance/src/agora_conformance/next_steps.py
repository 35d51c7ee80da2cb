"""What the author of a provider does next about what was not tested, and the rows of a report by their reasons."""

from __future__ import annotations

import json
from collections.abc import Iterable

from agora_conformance.report import CheckRow
from agora_conformance.verdict import Status

#: By what a check says when it has no way to look.
NEXT_STEPS = {
    "the provider has no logs, so the probe cannot be heard": "write the hook `logs` of the provider",
    "the target declares no variant with an ENTRYPOINT": (
        "add `entrypoint` to `variants` of the ConformanceTarget, or list `image` in `refused_fields`"
    ),
    "the target declares no variant with another stop signal": (
        "add `stop_signal` to `variants` of the ConformanceTarget"
    ),
    "the target has no way to cut the agent or the API off": "give its `eyes` the methods `cut` and `heal`",
    "the target has no way to take the record of a living workload away": (
        "give its `eyes` the methods `forget` and `remember`, or say in `never_forgets` why that cannot be"
    ),
    "the target has no way to start an unmarked workload": "give its `eyes` the method `stranger`",
}

#: What there is to do first comes first.
_ORDER = (Status.FAIL, Status.ERROR, Status.INCONCLUSIVE, Status.UNTESTED, Status.INAPPLICABLE, Status.PASS)


def by_reason(rows: Iterable[CheckRow]) -> list[tuple[str, str, list[CheckRow]]]:
    """Put together the rows that need a look and say the same.

    Returns:
        status, reason with its next step, and rows, the gravest status first; what simply passed is left out.
    """
    found: dict[tuple[str, str], list[CheckRow]] = {}
    for row in sorted(rows, key=lambda row: _ORDER.index(row.status)):
        if row.status is not Status.PASS or row.known:
            reason = row.message or json.dumps(row.measured)
            if step := NEXT_STEPS.get(reason):
                reason = f"{reason}: {step}"
            status = row.status.value + (" (baseline)" if row.known else "")
            found.setdefault((status, reason), []).append(row)
    return [(status, reason, together) for (status, reason), together in found.items()]
