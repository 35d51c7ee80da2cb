"""Every requirement of the suite, with the mutants that fail it; docs/conformance.md is made from it."""

from __future__ import annotations

from dataclasses import replace

from agora_conformance.pinned import PINNED
from agora_conformance.requirement import Requirement
from agora_conformance.rules import lives, requests, workloads

FAMILIES = {
    "DISP": "Dispatch: started once, exactly as asked for",
    "STOP": "Stop: one SIGTERM, the grace, then death of the whole tree",
    "CANCEL": "Cancel: one answer and one end, whoever asks, whenever, how often",
    "AWAY": "Away is not gone",
    "FOREIGN": "What is not ours is not touched",
    "EVT": "Events",
    "CRASH": "The control plane may be killed between any two steps",
    "WORK": "What a workload says of itself",
    "CLEAN": "Nothing is left",
    "CAP": "Capabilities: what is claimed is true",
}

_ALL = (
    *workloads.DISPATCH,
    *workloads.STOP,
    *requests.CANCEL,
    *requests.AWAY,
    *requests.FOREIGN,
    *lives.EVENTS,
    *lives.CRASH,
    *lives.WORK,
    *lives.CLEAN,
    *lives.CAPABILITIES,
)

REQUIREMENTS: tuple[Requirement, ...] = tuple(
    replace(one, mutants=tuple(sorted(mutant for mutant, failed in PINNED.items() if one.id in failed))) for one in _ALL
)

BY_ID = {requirement.id: requirement for requirement in REQUIREMENTS}
