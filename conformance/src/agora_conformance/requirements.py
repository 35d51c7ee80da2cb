"""Every requirement of the suite, as data; the checks register by id, and docs/conformance.md is made from it."""

from __future__ import annotations

from agora_conformance.requirement import Level, Requirement

FAMILIES = {
    "DISP": "Dispatch: started once, exactly as asked for",
    "STOP": "Stop: one SIGTERM, the grace, then death of the whole tree",
    "CANCEL": "Cancel: one answer and one end, whoever asks, whenever, how often",
    "AWAY": "Away is not gone",
    "FOREIGN": "What is not ours is not touched",
    "EVT": "Events",
    "CRASH": "The control plane may be killed between any two steps",
    "CLEAN": "Nothing is left",
    "CAP": "Capabilities: what is claimed is true",
}

_DISPATCH = (
    Requirement(
        "DISP-01",
        "handle-round-trips",
        "A handle that went through JSON names the same workload for observe, find and stop, and carries the identity "
        "of its backend.",
    ),
    Requirement(
        "DISP-02",
        "started-once",
        "One dispatch starts one workload: one READY, and one workload with its marks.",
    ),
    Requirement(
        "DISP-03",
        "exit-codes",
        "The exit codes 0, 1 and 42 of a workload that ends by itself arrive unchanged and decide its state.",
    ),
    Requirement(
        "DISP-04",
        "arguments-exact",
        "Every argument arrives byte for byte: shell, template and quoting characters, newlines, tabs, emoji, empty "
        "strings, a leading dash.",
    ),
    Requirement("DISP-05", "environment-exact", "Every variable of the spec arrives byte for byte."),
    Requirement(
        "DISP-06",
        "working-directory",
        "The workload starts in the working directory of the spec.",
        declinable=True,
    ),
    Requirement(
        "DISP-07",
        "idempotent-in-sequence",
        "Dispatching the same id and spec again returns the same workload and starts nothing, while it runs and after "
        "its end.",
    ),
    Requirement(
        "DISP-08",
        "idempotent-at-once",
        "Twenty dispatches of one id and spec at once start one workload and all return it.",
    ),
    Requirement(
        "DISP-09",
        "conflict",
        "Another spec under an id that is taken is a conflict; the workload that has the id goes on untouched.",
    ),
    Requirement(
        "DISP-10",
        "refused-start-fails",
        "A command whose program does not exist ends as `failed` in bounded time, with a reason.",
    ),
    Requirement(
        "DISP-11",
        "declared-size-arrives",
        "A variable as large as the declared limit arrives whole.",
    ),
    Requirement(
        "DISP-12",
        "entrypoint-replaced",
        "The command replaces the ENTRYPOINT and the CMD of the image.",
        declinable=True,
    ),
)

_STOP = (
    Requirement("STOP-01", "one-sigterm", "A stop sends SIGTERM to the command's own process, once."),
    Requirement(
        "STOP-02",
        "graceful-exit-kept",
        "A workload that exits by itself within the grace is `cancelled` with its own exit code, or a null one where "
        "the provider declares that the code may be lost.",
    ),
    Requirement(
        "STOP-03",
        "alive-within-grace",
        "A workload that ignores SIGTERM is alive one second before its grace is over.",
        timed=True,
    ),
    Requirement(
        "STOP-04",
        "dead-after-grace",
        "A workload that ignores SIGTERM is dead once its grace and the declared overhead have passed.",
        timed=True,
    ),
    Requirement(
        "STOP-05",
        "forced-flag",
        "`forced` is true, with its evidence, for a workload that had to be killed, and not true for one that exited "
        "in its grace, whatever its exit code.",
    ),
    Requirement(
        "STOP-06",
        "default-disposition",
        "A program without a handler dies of SIGTERM at once, not after its grace.",
        timed=True,
    ),
    Requirement(
        "STOP-07",
        "tree-gone-after-stop",
        "After a confirmed stop nothing of the tree lives: no child that ignores SIGTERM, none that left the session.",
    ),
    Requirement(
        "STOP-08",
        "tree-gone-after-own-end",
        "Once a workload has ended by itself nothing of its tree lives, and its exit code is the leader's.",
    ),
    Requirement(
        "STOP-09",
        "whole-grace-usable",
        "A workload that needs most of its grace to clean up gets it, and its exit code is kept.",
        timed=True,
    ),
    Requirement("STOP-10", "stop-answers", "The stop hook answers within ten seconds and does not wait for the end."),
    Requirement(
        "STOP-11",
        "stop-idempotent",
        "Further stops of a workload that is stopping, or that has ended, are answered by a receipt and not by an "
        "error.",
    ),
    Requirement(
        "STOP-12",
        "stop-of-the-absent",
        "An id that was never dispatched is not found, and a stop of a workload that the backend no longer knows says "
        "so.",
    ),
)

_CANCEL = (
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

_AWAY = (
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
)

_FOREIGN = (
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

_EVENTS = (
    Requirement("EVT-01", "schema", "Every event has the CloudEvents attributes and validates against the schema."),
    Requirement(
        "EVT-02",
        "order",
        "The events of a dispatch are numbered from 1 without gaps, in the order of its life.",
    ),
    Requirement("EVT-03", "one-terminated", "Every dispatch has exactly one `dispatch.terminated`."),
    Requirement("EVT-04", "nothing-after", "Nothing but one `dispatch.confirmed` follows `dispatch.terminated`."),
    Requirement("EVT-05", "aware-times", "All times are aware and do not run backwards."),
    Requirement("EVT-06", "end-agrees", "`dispatch.terminated` says what the record says."),
)

_CRASH = (
    Requirement(
        "CRASH-01",
        "before-the-submit",
        "Killed before the first byte left: the dispatch is sent by whoever may, or ends; no workload is unknown.",
        timed=True,
        limit=120,
    ),
    Requirement(
        "CRASH-02",
        "before-the-handle-is-stored",
        "Killed between the start and the stored handle: the workload is adopted, not started again, and can be "
        "cancelled.",
        timed=True,
        limit=120,
    ),
    Requirement(
        "CRASH-03",
        "before-the-stop-is-sent",
        "Killed between the recorded request and the stop: the stop is carried out by whoever comes next.",
        timed=True,
        limit=120,
    ),
    Requirement(
        "CRASH-04",
        "mid-grace",
        "Killed in the grace: the workload is killed on time with nobody there, and the record tells it afterwards.",
        timed=True,
        limit=120,
    ),
)

_CLEAN = (
    Requirement(
        "CLEAN-01",
        "no-process-left",
        "After its end no process of a dispatch is left, by any way to an end.",
    ),
    Requirement(
        "CLEAN-02",
        "released",
        "After release the backend keeps nothing of an ended workload.",
    ),
    Requirement(
        "CLEAN-03",
        "owned-list",
        "Every live workload of an installation is listed with its id, its mark and its age, and never as ended.",
    ),
)

_CAPABILITIES = (
    Requirement(
        "CAP-01",
        "grace-per-stop",
        "A stop with another grace than the dispatch's uses it.",
        capability="grace_per_stop",
        timed=True,
    ),
    Requirement(
        "CAP-02",
        "logs",
        "All output of a workload can be read, every line once, in order, by stream.",
        capability="logs",
    ),
    Requirement(
        "CAP-03",
        "logs-after-end",
        "The output of a killed workload can be read after its end, to its last heartbeat.",
        capability="logs_after_end",
    ),
    Requirement(
        "CAP-04",
        "watch",
        "The watch pushes an end within the declared lag, and returns once it is closed.",
        capability="watch",
    ),
    Requirement(
        "CAP-05",
        "native-deadline",
        "The backend itself ends a workload at its deadline, with nobody there, and says so.",
        capability="native_deadline",
        timed=True,
        limit=180,
    ),
    Requirement(
        "CAP-06",
        "reattach",
        "A workload that was dispatched by a process that is gone is observed and stopped by another.",
        capability="reattach",
    ),
    Requirement(
        "CAP-07",
        "exit-code-after-end",
        "The exit code of a workload that ended while nobody looked is there.",
        capability="exit_code_after_end",
    ),
    Requirement(
        "CAP-08",
        "exit-code-after-stop",
        "The exit code of a stopped workload is there, and true.",
        capability="exit_code_after_stop",
    ),
    Requirement(
        "CAP-09",
        "oom-reason",
        "A workload that runs out of its memory limit is marked `oom`.",
        capability="oom_reason",
    ),
    Requirement(
        "CAP-10",
        "secrets",
        "A secret reaches the workload, and shows in no handle, mark, event, record or process list.",
        capability="secrets",
    ),
    Requirement(
        "CAP-11",
        "stop-signal",
        "The first signal is SIGTERM, also where the image asks for another one.",
        capability="stop_signal",
    ),
)

REQUIREMENTS: tuple[Requirement, ...] = (
    *_DISPATCH,
    *_STOP,
    *_CANCEL,
    *_AWAY,
    *_FOREIGN,
    *_EVENTS,
    *_CRASH,
    *_CLEAN,
    *_CAPABILITIES,
)

BY_ID = {requirement.id: requirement for requirement in REQUIREMENTS}

__all__ = ["BY_ID", "FAMILIES", "REQUIREMENTS", "Level", "Requirement"]
