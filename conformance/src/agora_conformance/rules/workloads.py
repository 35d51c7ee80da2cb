"""DISP and STOP: one workload, from its start to its death."""

from __future__ import annotations

from agora_conformance.requirement import Requirement

DISPATCH = (
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

STOP = (
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
    Requirement(
        "STOP-13",
        "end-stays-readable",
        "A stop of a workload that has ended is answered with its end, which can be read afterwards as before, by "
        "another process too.",
    ),
)
