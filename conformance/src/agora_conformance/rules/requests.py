"""CANCEL, AWAY and FOREIGN: who may end what, and when."""

from __future__ import annotations

from agora_conformance.requirement import Requirement

CANCEL = (
    Requirement(
        "CANCEL-01",
        "after-the-end",
        "A cancel after the end answers with the end (`ALREADY_SUCCEEDED`, `ALREADY_FAILED`) and changes nothing.",
    ),
    Requirement("CANCEL-02", "unknown-id", "A cancel of an unknown id answers `NOT_FOUND`."),
    Requirement(
        "CANCEL-03",
        "twice",
        "A second cancel answers `ALREADY_STOPPING` with the cause of the first, and the workload sees one SIGTERM.",
    ),
    Requirement(
        "CANCEL-04",
        "twenty-at-once",
        "Of twenty cancels at once one is recorded, the others answer `ALREADY_STOPPING` or with the end, and the "
        "workload sees one SIGTERM.",
    ),
    Requirement(
        "CANCEL-05",
        "longer-never-extends",
        "A second stop with a longer grace extends nothing.",
        timed=True,
    ),
    Requirement(
        "CANCEL-06",
        "shorter-shortens",
        "A second cancel with a shorter grace moves the kill forward.",
        capability="shorten",
        timed=True,
    ),
    Requirement(
        "CANCEL-07",
        "before-start",
        "A stop that is requested before the start leaves nothing that runs, and nothing that will.",
    ),
    Requirement(
        "CANCEL-08",
        "racing-the-start",
        "A cancel at any moment of the start leads to one terminal state, and nothing is left running.",
        limit=120,
    ),
    Requirement(
        "CANCEL-09",
        "racing-the-end",
        "A cancel at any moment around the end leads to one terminal state that agrees with the answer.",
        limit=120,
    ),
    Requirement(
        "CANCEL-10",
        "from-another-process",
        "Another process that knows only the id can cancel, and its actor, its door and its reason are what everybody "
        "sees.",
    ),
    Requirement(
        "CANCEL-11",
        "force",
        "A forced cancel kills at once.",
        capability="force_kill",
        timed=True,
    ),
    Requirement(
        "CANCEL-12",
        "never-refused",
        "A cancel with another grace, or with force, is never refused: what the backend cannot do is named in "
        "`degraded`, and the workload ends all the same.",
    ),
    Requirement(
        "CANCEL-13",
        "deadline",
        "A dispatch that reaches its timeout is stopped and ends `timed_out`.",
        timed=True,
    ),
)

AWAY = (
    Requirement(
        "AWAY-01",
        "nothing-ends",
        "While the agent or the API of a workload is cut off, nothing ends: the state stays, and `reachable` is false.",
    ),
    Requirement(
        "AWAY-02",
        "request-survives",
        "A cancel while cut off is recorded and answered as undelivered, and carried out once the cut is healed.",
    ),
    Requirement(
        "AWAY-03",
        "heals",
        "A workload that was cut off and healed shows its true state and its true end.",
    ),
    Requirement(
        "AWAY-04",
        "another-backend",
        "A handle of another backend is answered as unreachable, never as absent, ended or not found.",
    ),
    Requirement(
        "AWAY-05",
        "gone-is-not-dead",
        "Where the backend's record of a workload is gone while its process lives, no end is confirmed, with a stop "
        "requested or without.",
        declinable=True,
    ),
)

FOREIGN = (
    Requirement(
        "FOREIGN-01",
        "another-installation",
        "Another installation's workload is not listed, not found, not reaped and not stopped.",
    ),
    Requirement(
        "FOREIGN-02",
        "unmarked",
        "An unmarked workload on the same backend lives on through dispatch, stop, kill and reap.",
    ),
    Requirement(
        "FOREIGN-03",
        "same-id-elsewhere",
        "An id that another installation uses is not adopted from it: its workload goes on untouched.",
    ),
)
