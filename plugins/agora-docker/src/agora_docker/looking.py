"""What the engine says of a container, in the contract's words."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from agora.model.observation import EndedBy, Handle, Observation, Phase

from agora_docker import marks, times
from agora_docker.engine import Engine, EngineError
from agora_docker.notes import Notes
from agora_docker.story import Happened, Stories, Story
from agora_docker.streams import frames, json_lines

ENDED = ("exited", "dead")
#: Above so many handles one list answers for all; up to it, asking for each is as quick.
_FEW = 2
#: Containers whose labels are kept.
_KEPT = 5000
#: Exit codes by which the init says that it could not start the command (tini, as env(1) and the shells).
_NOT_STARTED = {126: "program_not_executable", 127: "program_not_found"}
_INIT_SAYS = "[FATAL tini"


class Looker:
    """Looks at containers.

    Parameters:
        engine: the engine.
        stories: what a watch heard.
        notes: what is known of containers that were removed since; nothing without.
    """

    def __init__(self, engine: Engine, stories: Stories, notes: Notes | None = None) -> None:
        self._engine = engine
        self._notes = notes
        self._labels: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self.stories = stories

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Return everything about a container, None where there is no such."""
        response = self._engine.request("GET", f"/containers/{container}/json", accept=(404,))
        if response.status_code == 404:
            return None
        found: dict[str, Any] = response.json()
        self._labels[found["Id"]] = dict(found["Config"].get("Labels") or {})
        while len(self._labels) > _KEPT:
            self._labels.popitem(last=False)
        return found

    def labels(self, container: str) -> Mapping[str, str] | None:
        """Return the labels of a container, which never change; None where there is no such, if it has to be asked."""
        if (known := self._labels.get(container)) is not None:
            return known
        found = self.inspect(container)
        return None if found is None else self._labels.get(found["Id"], {})

    def listed(self, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """List containers, ended ones too."""
        params = {"all": "1", "filters": json.dumps(filters)}
        return list(self._engine.request("GET", "/containers/json", params=params).json())

    def story(self, container: str, since: float = 0, until: float | None = None) -> Story:
        """Return what happened to a container, as far as the engine or a watch remembers.

        Parameters:
            since, until: seconds since 1970 by the engine's clock; up to now by default, for which the engine
                waits until its clock has surely come to it.
        """
        until = self._engine.facts().latest() if until is None else until
        filters = json.dumps({"type": ["container"], "container": [container]})
        params = {"since": times.query(since), "until": times.query(until), "filters": filters}
        response = self._engine.request("GET", "/events", params=params)
        self.stories.add(container, *(Happened.parse(event) for event in json_lines([response.content])))
        return self.stories.of(container)

    def seen(self, inspected: Mapping[str, Any]) -> Observation:
        """Return what an inspected container is."""
        state = inspected["State"]
        started = times.parse(state.get("StartedAt"))
        native = {"container": inspected["Id"]}
        if state["Status"] == "created":
            return Observation(phase=Phase.PENDING, native=native)
        if state["Running"] or state["Status"] not in (*ENDED, "removing"):
            return Observation(phase=Phase.RUNNING, started_at=started, native={**native, "pid": state["Pid"]})
        if started is None:
            return Observation(
                phase=Phase.ENDED, never_started=True, reason="start_failed", message=state["Error"] or None
            )
        return self._ended(inspected, native)

    def _ended(self, inspected: Mapping[str, Any], native: dict[str, Any]) -> Observation:
        state = inspected["State"]
        started, ended = times.parse(state["StartedAt"]), times.parse(state["FinishedAt"])
        story = self.stories.of(inspected["Id"])
        if started is not None and not (story.died and story.first("start")):
            story = self._story_to_its_end(inspected["Id"], started.timestamp() - 1)
        code = state["ExitCode"] if 0 <= state["ExitCode"] <= 255 else None
        forced, evidence = story.forced(code)
        ended_by = story.ended_by(code, inspected["Config"].get("StopTimeout") or 10)
        reason, message = None, state["Error"] or None
        if state["OOMKilled"] and code not in (0, None):
            reason = "oom_killed"
        elif code in _NOT_STARTED and ended_by is None and (words := self._init_words(inspected["Id"])):
            reason, message = _NOT_STARTED[code], words
        return Observation(
            phase=Phase.ENDED,
            exit_code=code,
            oom=state["OOMKilled"],
            reason=reason,
            message=message,
            started_at=started,
            ended_at=ended,
            stop_reached=story.stop_reached,
            forced=forced,
            evidence=evidence,
            ended_by=ended_by,
            native=native,
        )

    def _story_to_its_end(self, container: str, since: float) -> Story:
        """Ask for what has surely happened by now, which needs no waiting and nearly always holds the end."""
        story = self.story(container, since, self._engine.facts().earliest())
        return story if story.died else self.story(container, since)

    def _init_words(self, container: str) -> str | None:
        """Return what the init said instead of starting the command."""
        try:
            params = {"stderr": "1", "tail": "1"}
            content = self._engine.request("GET", f"/containers/{container}/logs", params=params).content
        except EngineError:
            return None  # a log driver that cannot be read
        for _, line in frames([content]):
            words = line.decode(errors="replace").strip()
            if words.startswith(_INIT_SAYS):
                return words[:1000]
        return None

    def gone(self, handle: Handle) -> Observation:
        """Return what is known of a container that the engine does not know any more."""
        container = str(handle.data["container"])
        kept = self._notes.kept_end(handle.id) if self._notes else None
        if kept is not None and kept.container == container:
            return kept.seen
        story = self.story(container)
        died = story.died
        if died is None:
            return Observation(phase=Phase.ABSENT)
        forced, evidence = story.forced(died.exit_code)
        return Observation(
            phase=Phase.ENDED,
            exit_code=died.exit_code,
            reason="removed",
            ended_at=times.moment(died.at),
            stop_reached=story.stop_reached,
            forced=forced,
            evidence=evidence,
            ended_by=story.ended_by(died.exit_code, 0) or _removal(story, died),
            native={"container": container},
        )

    def observe(self, handles: Sequence[Handle]) -> list[Observation]:
        """Look at many: one list for all, and one more question for each that has ended."""
        if len(handles) <= _FEW:
            return [self._one(handle) for handle in handles]
        listed = self.listed(id=[str(handle.data["container"]) for handle in handles])
        states = {summary["Id"]: summary["State"] for summary in listed}
        seen = []
        for handle in handles:
            container = str(handle.data["container"])
            if states.get(container) in ("running", "paused"):
                seen.append(Observation(phase=Phase.RUNNING, native={"container": container}))
            else:
                seen.append(self._one(handle))
        return seen

    def _one(self, handle: Handle) -> Observation:
        inspected = self.inspect(str(handle.data["container"]))
        return self.gone(handle) if inspected is None else self.seen(inspected)


def _removal(story: Story, died: Happened) -> EndedBy | None:
    """Attribute an end to whoever removed the container, where nothing but the removal can have caused it."""
    return EndedBy.EXTERNAL if died.exit_code == 0 and story.first("destroy") else None


def handle_of(id: str, backend: str, container: str, foreign: str | None = None) -> Handle:
    """Return the handle of a container.

    Parameters:
        foreign: the other installation that it belongs to, where one was asked for by name.
    """
    data = {"container": container} if foreign is None else {"container": container, "installation": foreign}
    return Handle(id=id, backend=backend, data=data)


def is_marked(inspected: Mapping[str, Any], id: str, installation: str) -> bool:
    """Whether an inspected container carries the marks of a dispatch."""
    return marks.is_marked(inspected["Config"].get("Labels"), id, installation)
