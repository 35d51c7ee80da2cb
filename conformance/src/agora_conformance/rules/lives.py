"""EVT, WORK, CRASH, CLEAN and CAP: what is told, what survives, what is left, what is claimed."""

from __future__ import annotations

from agora_conformance.requirement import Requirement

EVENTS = (
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

WORK = (
    Requirement(
        "WORK-01",
        "acknowledged",
        "A workload that says that it was cancelled is `acknowledged` as soon as its end is known, by one "
        "`dispatch.cancelled` that carries the recorded cause and comes before the end.",
        capability="logs",
    ),
    Requirement(
        "WORK-02",
        "not-done-in-time",
        "Where a workload says that it did not get done, `acknowledged` is false, and its first word stands.",
        capability="logs",
    ),
    Requirement(
        "WORK-03",
        "silence-is-no-word",
        "`acknowledged` is null where the workload says nothing, whether it exits in its grace or has to be killed.",
        capability="logs",
    ),
    Requirement(
        "WORK-04",
        "not-believed",
        "Nobody is believed but the dispatch itself, in its own marks, about what is its own to say: no mark of or "
        "about another dispatch, no start, no end, nothing broken; what is no mark of its own stays output.",
        capability="logs",
    ),
    Requirement(
        "WORK-05",
        "told-once",
        "What a workload tells while its output is read is told once and in order, however often it is read, also "
        "after the end, and is no part of the output.",
        capability="logs",
    ),
)

CRASH = (
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

CLEAN = (
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
    Requirement(
        "CLEAN-04",
        "live-not-removed",
        "Nothing that lives loses its record: release refuses it, prune passes it over, and it goes on and is listed.",
    ),
    Requirement(
        "CLEAN-05",
        "orphans-found",
        "A workload that no record knows is reported by reap, can be stopped by what the list says of it, and is "
        "removed once it has ended.",
    ),
)

CAPABILITIES = (
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
