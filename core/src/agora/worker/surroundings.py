"""What a worker finds around it: who it is, how long its grace is, where its events go."""

from __future__ import annotations

import os

from agora.worker.termination import PATH

#: The grace of a dispatch that asks for none, in seconds.
DEFAULT_GRACE = 30.0


class Surroundings:
    """Read once, when a worker begins.

    Attributes:
        dispatch_id: of the dispatch that this program is the workload of; null outside of one.
        grace: seconds between SIGTERM and SIGKILL.
        heartbeat: seconds without a heartbeat after which the dispatch is cancelled; null for never.
        budget: of what the dispatch is cancelled after how much, by unit.
        timeout: seconds that the dispatch may take, null outside of one.
        secrets: names of the inline secrets.
        events: where events go: `stdout`, `stderr`, `none` or the path of a file.
        inbox: the file in which Agora tells what is asked; null where there is none.
        termination: the file for a container's termination message; it need not be there.
        url: address of a control plane that takes events; null for none.
        token: what it is asked with; null for nothing.
        redis: address of a Redis server that takes events; null for none.
        spool: the file that keeps what could not be delivered; null to lose it.
    """

    def __init__(self) -> None:
        get = os.environ.get
        self.dispatch_id = get("AGORA_DISPATCH_ID") or None
        self.grace = _seconds("AGORA_WORKER_GRACE") or DEFAULT_GRACE
        self.heartbeat = _seconds("AGORA_WORKER_HEARTBEAT")
        self.budget = _limits("AGORA_WORKER_BUDGET")
        self.timeout = _seconds("AGORA_WORKER_TIMEOUT")
        # Joined by the one character that no name of a variable has.
        self.secrets = tuple(name for name in get("AGORA_WORKER_SECRETS", "").split("=") if name)
        self.events = get("AGORA_WORKER_EVENTS") or ("stdout" if self.dispatch_id else "none")
        self.inbox = get("AGORA_WORKER_INBOX") or None
        self.termination = get("AGORA_WORKER_TERMINATION") or PATH
        self.url = get("AGORA_WORKER_URL") or None
        self.token = get("AGORA_WORKER_TOKEN") or None
        self.redis = get("AGORA_WORKER_REDIS") or None
        self.spool = get("AGORA_WORKER_SPOOL") or self._spool()

    def _spool(self) -> str | None:
        if self.dispatch_id is None or "/" in self.dispatch_id:
            return None
        directory = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - opened without following links, for us alone
        return f"{directory}/agora-worker-{self.dispatch_id}.jsonl"


def _seconds(name: str) -> float | None:
    return _positive(os.environ.get(name, ""))


def _limits(name: str) -> dict[str, float]:
    """Read `UNIT=LIMIT`, joined by commas; what is none is left out."""
    pairs = (pair.partition("=") for pair in os.environ.get(name, "").split(","))
    limits = ((unit, _positive(limit)) for unit, _, limit in pairs)
    return {unit: limit for unit, limit in limits if limit is not None}


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
