"""What the engine says of a container, in the contract's words."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import requests
from agora.errors import ProviderError
from agora.model.observation import SECOND_COPY, Handle, Observation, Phase

from agora_docker import interrupted, marks, times
from agora_docker.engine import Engine, EngineError
from agora_docker.notes import KeptEnd, Notes
from agora_docker.story import Happened, Stories, Story, removal, told
from agora_docker.streams import Reader, frames, json_lines

logger = logging.getLogger(__name__)

ENDED = ("exited", "dead")
#: Above so many handles one list answers for all; up to it, asking for each is as quick.
_FEW = 2
#: So many are asked for at the same time.
_AT_ONCE = 4
#: Containers whose labels and start are kept.
_KEPT = 5000
#: Exit codes by which the init says that it could not start the command (tini, as env(1) and the shells).
_NOT_STARTED = {126: "program_not_executable", 127: "program_not_found"}
#: The exit code where the init itself could not be started, for which its arguments are too long with the environment.
#: The kernel takes a quarter of the stack (execve(2)), 2 MiB mostly; below this nobody asks.
_TOO_LONG, _LONG = 1, 1_000_000
#: Seconds by which the request to listen lets that to stop go first.
_MOMENT = 0.003
#: Seconds after which nobody listens to one container any more.
_LISTEN = 10.0
#: Seconds for which the event of an end that was seen is waited for.
_LATE = 0.5
_INIT_SAYS = ("[FATAL tini", "exec /sbin/docker-init:")


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
        self._started: dict[str, datetime] = {}
        self.stories = stories

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Return everything about a container, None where there is no such."""
        response = self._engine.request("GET", f"/containers/{container}/json", accept=(404,))
        if response.status_code == 404:
            return None
        found: dict[str, Any] = response.json()
        self._labels[found["Id"]] = dict(found["Config"].get("Labels") or {})
        if (started := times.parse(found["State"]["StartedAt"])) is not None:
            self._started[found["Id"]] = started
        while len(self._labels) > _KEPT:
            self._started.pop(self._labels.popitem(last=False)[0], None)
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

    def owned(self, installation: str, id: str | None = None, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """List the containers of an installation.

        Parameters:
            id: the dispatch whose container is looked for; all by default.
            filters: what else must hold, as for `listed`.
        """
        wanted = [f"{marks.INSTALLATION}={installation}", *([] if id is None else [f"{marks.DISPATCH}={id}"])]
        listed = self.listed(label=wanted, **filters)
        return [one for one in listed if marks.carries(one, installation) and not self._is_copy(one, installation)]

    def _is_copy(self, summary: Mapping[str, Any], installation: str) -> bool:
        """Whether somebody else made a container with our marks, or has them from an image made of our container.

        What has the name that goes with its marks is ours without a question; somebody may have given it another.
        """
        if marks.is_named(summary, installation):
            return False
        id = summary["Labels"][marks.DISPATCH]
        if self._notes and (made := self._notes.container(id)) is not None:
            return bool(made != summary["Id"])
        response = self._engine.request("GET", f"/images/{summary['ImageID']}/json", accept=(404,))
        if response.status_code == 404:
            return True  # not known, and so not touched
        inherited = response.json()["Config"].get("Labels") or {}
        return bool(inherited.get(marks.DISPATCH) == id)

    def story(self, container: str, since: float = 0, until: float | None = None) -> Story:
        """Return what happened to a container, as far as the engine or a watch remembers.

        Parameters:
            since, until: seconds since 1970 by the engine's clock; up to now by default, for which the engine
                waits until its clock has surely come to it.
        """
        params = self._query(container, since, self._engine.facts().latest() if until is None else until)
        response = self._engine.request("GET", "/events", params=params)
        self.stories.add(container, *(Happened.parse(event) for event in json_lines([response.content])))
        return self.stories.of(container)

    @staticmethod
    def _query(container: str, since: float, until: float) -> dict[str, str]:
        filters = json.dumps({"type": ["container"], "container": [container]})
        return {"since": times.query(since), "until": times.query(until), "filters": filters}

    def seen(self, inspected: Mapping[str, Any]) -> Observation:
        """Return what an inspected container is."""
        state = inspected["State"]
        started = times.parse(state.get("StartedAt"))
        native = {"container": inspected["Id"]}
        if state["Status"] == "created":
            if interrupted.is_interrupted(self._engine, inspected):
                return interrupted.observation(inspected["Id"])
            return Observation(phase=Phase.PENDING, native=native)
        if state["Running"] or state["Status"] not in (*ENDED, "removing"):
            if (ended := times.parse(state.get("FinishedAt"))) is not None:
                return self._run_again(inspected, ended)
            return Observation(phase=Phase.RUNNING, started_at=started, native={**native, "pid": state["Pid"]})
        if started is None:
            return Observation(
                phase=Phase.ENDED, never_started=True, reason="start_failed", message=state["Error"] or None
            )
        return self._ended(inspected, native)

    def _run_again(self, inspected: Mapping[str, Any], ended: datetime) -> Observation:
        """Note how the first run ended of a container that somebody has started again: its next end replaces that.

        The engine keeps the time of an end while the container runs again.
        """
        container, known = inspected["Id"], inspected["Config"].get("Labels") or {}
        id = known.get(marks.DISPATCH)
        if self._notes and id and self._notes.sent_to(id) and self._notes.kept_end(id) is None:
            story = self.stories.of(container)
            if story.died is None:
                story = self.story(container)
            seen = Observation(phase=Phase.ENDED, ended_at=ended, native={"container": container})
            if story.died is not None:
                seen = told(container, story, story.died, inspected["Config"].get("StopTimeout") or 10)
            try:
                self._notes.keep_end(id, KeptEnd(container=container, spec=known.get(marks.SPEC, ""), seen=seen))
            except OSError as error:
                logger.warning("dispatch %s: how its first run ended cannot be noted: %s", id, error)
        words = f"container {container[:12]} was started again after its end, and is killed"
        return Observation(phase=Phase.RUNNING, reason=SECOND_COPY, message=words, native={"container": container})

    def _first_end(self, inspected: Mapping[str, Any]) -> Observation | None:
        """Return how an ended container ended first, where it was seen to run again."""
        id = (inspected["Config"].get("Labels") or {}).get(marks.DISPATCH)
        kept = self._notes.kept_end(id) if self._notes and id else None
        return kept.seen if kept is not None and kept.container == inspected["Id"] else None

    def _ended(self, inspected: Mapping[str, Any], native: dict[str, Any]) -> Observation:
        if (first := self._first_end(inspected)) is not None:
            return first
        state = inspected["State"]
        started, ended = times.parse(state["StartedAt"]), times.parse(state["FinishedAt"])
        # Of a container that was started again in between, the last run alone.
        begun = round((started.timestamp() - 0.001) * 1e9) if started else 0
        story = self.stories.of(inspected["Id"]).since(begun)
        if started is not None and not (story.died and story.first("start")):
            story = self._story_to_its_end(inspected["Id"], started.timestamp() - 1, begun)
        code = state["ExitCode"] if 0 <= state["ExitCode"] <= 255 else None
        forced, evidence = story.forced(code)
        ended_by = story.ended_by(code, inspected["Config"].get("StopTimeout") or 10)
        reason, message = None, state["Error"] or None
        if state["OOMKilled"] and code not in (0, None):
            reason = "oom_killed"
        elif ended_by is None and (why := _why_not_started(inspected, code)) and (words := self._init_words(inspected)):
            reason, message = why, words
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

    @contextlib.contextmanager
    def listening(self, container: str) -> Iterator[Reader[dict[str, Any]] | None]:
        """Listen to a container while it is being stopped, on a connection beside that of the stop.

        None where a watch heard its start, which hears its end too, and where another connection costs too much.
        """
        started = self._started.get(container)
        if started is None or self.stories.of(container).first("start") or not self._engine.connects_at_once:
            yield None
            return
        params = self._query(container, started.timestamp() - 1, self._engine.facts().latest() + _LISTEN)
        answer = _a_moment_later(self._engine.stream("GET", "/events", params=params, seconds=_LISTEN))
        with Reader(answer, _up_to_the_end) as reader:
            yield reader

    def heard(
        self,
        container: str,
        reader: Reader[dict[str, Any]] | None,
        seconds: float = 0,
        enough: Callable[[], bool] = lambda: False,
    ) -> Story:
        """Return what happened to a container, with all that was heard by now.

        Parameters:
            reader: what listens.
            seconds: to wait for its end.
            enough: whether to wait no longer, asked whenever the reader is woken.
        """
        give_up = time.monotonic() + seconds
        with contextlib.suppress(ProviderError):  # who has to know asks, and is told of the failure
            while reader is not None and not reader.over:
                event = reader.next(max(0.0, give_up - time.monotonic()))
                if event is not None:
                    self.stories.add(container, Happened.parse(event))
                elif time.monotonic() >= give_up or enough():
                    break
        return self.stories.of(container)

    def told_end(self, container: str, story: Story, at: int) -> Observation | None:
        """Return the end of a container that is being stopped, None where it was not heard.

        Whoever heard everything from its start to its end knows all that an inspect would say.

        Parameters:
            story: what was heard of it.
            at: when the stop was sent, in nanoseconds by the engine's clock.
        """
        last = story.last
        died = last.died
        if died is None or died.at < at or not last.first("start"):
            return None
        oom = last.first("oom") is not None
        reason = "oom_killed" if oom and died.exit_code != 0 else None
        seen = told(container, last, died)
        return seen.model_copy(update={"oom": oom, "reason": reason, "started_at": self._started.get(container)})

    def end(self, container: str, reader: Reader[dict[str, Any]] | None, at: int) -> Observation | None:
        """Return the end of a container whose stop was answered, None where it has not ended.

        Parameters:
            reader: what listened meanwhile.
            at: as for `told_end`.
        """
        heard = self.heard(container, reader, _LATE)
        if reader is not None and (told := self.told_end(container, heard, at)) is not None:
            return told
        found = self.inspect(container)
        seen = Observation(phase=Phase.ABSENT) if found is None else self.seen(found)
        return seen if seen.phase is Phase.ENDED else None

    def _story_to_its_end(self, container: str, since: float, begun: int) -> Story:
        """Ask for what has surely happened by now, which needs no waiting and nearly always holds the end."""
        story = self.story(container, since, self._engine.facts().earliest()).since(begun)
        return story if story.died else self.story(container, since).since(begun)

    def _init_words(self, inspected: Mapping[str, Any]) -> str | None:
        """Return what the init said instead of starting the command."""
        try:
            params = {"stderr": "1", "tail": "1"}
            content = self._engine.request("GET", f"/containers/{inspected['Id']}/logs", params=params).content
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
        seen = told(container, story, died)
        ended_by = seen.ended_by or removal(story, died)
        return seen.model_copy(update={"reason": "removed", "ended_by": ended_by})

    def observe(self, handles: Sequence[Handle]) -> list[Observation]:
        """Look at many: one list for all, and one more question for each that has ended."""
        if len(handles) <= _FEW:
            return [self._one(handle) for handle in handles]
        listed = self.listed(id=[str(handle.data["container"]) for handle in handles])
        running = {summary["Id"] for summary in listed if summary["State"] in ("running", "paused")}
        # Some at a time: on a far engine a hundred ends one after the other would take longer than a look may.
        threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="agora-docker-look")
        try:
            return list(threads.map(lambda handle: self._among(handle, running), handles))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _among(self, handle: Handle, running: Collection[str]) -> Observation:
        container = str(handle.data["container"])
        native = {"container": container}
        if container in running:
            return Observation(phase=Phase.RUNNING, native=native)
        try:
            return self._one(handle)
        except EngineError as error:
            # What is wrong with one container must not hide the ends of the others.
            logger.warning("dispatch %s cannot be looked at: %s", handle.id, error)
            return Observation(phase=Phase.RUNNING, reachable=False, reason="engine_error", native=native)

    def _one(self, handle: Handle) -> Observation:
        inspected = self.inspect(str(handle.data["container"]))
        return self.gone(handle) if inspected is None else self.seen(inspected)


@contextlib.contextmanager
def _a_moment_later(answer: AbstractContextManager[requests.Response]) -> Iterator[requests.Response]:
    time.sleep(_MOMENT)
    with answer as response:
        yield response


def _why_not_started(inspected: Mapping[str, Any], code: int | None) -> str | None:
    """Return for what the init may have failed to start the command, by the exit code; the init's words prove it."""
    if code == _TOO_LONG:
        config = inspected["Config"]
        parts = (*(config.get("Env") or ()), *(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
        return "start_failed" if sum(len(part.encode()) for part in parts) > _LONG else None
    return None if code is None else _NOT_STARTED.get(code)


def _up_to_the_end(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for event in json_lines(pieces):
        yield event
        if event["Action"] == "die":
            return


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
