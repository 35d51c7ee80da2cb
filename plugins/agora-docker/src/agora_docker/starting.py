"""Creating and starting the one container of a dispatch."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Mapping
from typing import IO, cast

import urllib3.exceptions
from agora.errors import DispatchConflict, ProviderError, SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.model.observation import Handle, Phase
from agora.model.spec import Spec

from agora_docker import body, image, interrupted, marks
from agora_docker.config import DockerConfig, DockerOptions
from agora_docker.engine import Engine, EngineError
from agora_docker.looking import Looker, handle_of, is_marked
from agora_docker.notes import Notes

#: Seconds for one step of a start: a busy engine takes its time, and the caller keeps up its claim meanwhile.
_STEP = 120.0
#: Seconds after which a container that somebody else created and did not start counts as left behind.
_LEFT_BEHIND = 10.0
_PAUSE = 0.05


class Starter:
    """Starts dispatches.

    Parameters:
        engine, looker, notes: of the target.
        config: its configuration.
        installation: whose marks the containers carry.
    """

    def __init__(self, engine: Engine, looker: Looker, notes: Notes, config: DockerConfig, installation: str) -> None:
        self._engine = engine
        self._looker = looker
        self._notes = notes
        self._config = config
        self._installation = installation

    def start(self, id: str, spec: Spec, check: Check) -> Handle:
        """Start the container of a dispatch, or return the one that was started.

        Raises:
            StopRequested: a stop was asked for; what was made is removed.
            SubmitRefused: the engine's words.
            DispatchConflict: the name is taken by something else.
        """
        asked: list[str] = []
        try:
            return self._start(id, spec, check, asked)
        except ProviderError as error:
            error.sent = error.sent or bool(asked)
            raise

    def _start(self, id: str, spec: Spec, check: Check, asked: list[str]) -> Handle:
        """Do it; `asked` gets the id once the engine has answered a request to make the container."""
        check()
        backend = self._engine.facts().id
        before = self._notes.sent_to(id)
        if before not in (None, backend):
            raise Unreachable(f"{id} was sent to the engine {before}, and now {backend} answers", sent=False)
        if (kept := self._notes.kept_end(id)) is not None:
            self._check_digest(id, spec, {marks.SPEC: kept.spec})
            return handle_of(id, backend, kept.container)
        if before is not None and (there := self._elsewhere(id, spec)) is not None:
            return handle_of(id, backend, there)
        self._notes.send(id, backend)
        policy = DockerOptions.model_validate(spec.options).pull or self._config.pull
        if policy == "always":
            self._pull(id, spec, check)
        others: dict[str, float] = {}
        may_pull = policy == "missing"
        while True:
            check()
            try:
                container = self._create(id, spec)
            except EngineError as error:
                asked.append(id)
                if error.status == 404 and may_pull and self._lacks_image(spec):
                    may_pull = False
                    self._pull(id, spec, check)
                elif error.status == 409:
                    if found := self._adopt(id, spec, others):
                        return handle_of(id, backend, found)
                    time.sleep(_PAUSE)
                else:
                    raise self._refused(spec, error) from error
                continue
            asked.append(id)
            self._notes.made(id, container)
            if self._run(container, spec, check):
                return self._started(id, backend, container)

    # --- image -------------------------------------------------------------------------------------------------

    def _pull(self, id: str, spec: Spec, check: Check) -> None:
        platform = DockerOptions.model_validate(spec.options).platform
        image.pull(self._engine, spec.image or "", platform, check, id)

    def _lacks_image(self, spec: Spec) -> bool:
        """Whether a 404 may mean the image: it is not there, or not for the platform that is asked for."""
        if DockerOptions.model_validate(spec.options).platform is not None:
            return True
        return self._engine.request("GET", f"/images/{spec.image}/json", accept=(404,)).status_code == 404

    def _image_command(self, spec: Spec) -> list[str]:
        """Return what the image runs by itself; the engine's 404 where it is not there."""
        config = self._engine.request("GET", f"/images/{spec.image}/json").json()["Config"]
        command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
        if not command:
            raise SubmitRefused(f"{spec.image} brings no command, and the spec has none", reason="no_command")
        return command

    # --- create ------------------------------------------------------------------------------------------------

    def _create(self, id: str, spec: Spec) -> str:
        inherited = self._image_command(spec) if spec.secrets and spec.command is None else []
        driver = self._engine.facts().log_driver
        asked = body.container(id, self._installation, spec, self._config, driver, inherited)
        params = {"name": marks.name_of(id, self._installation)}
        if platform := DockerOptions.model_validate(spec.options).platform:
            params["platform"] = platform
        response = self._engine.request("POST", "/containers/create", params=params, json=asked, seconds=_STEP)
        return str(response.json()["Id"])

    def _refused(self, spec: Spec, error: EngineError) -> SubmitRefused:
        if error.status == 404 and self._lacks_image(spec):
            policy = DockerOptions.model_validate(spec.options).pull or self._config.pull
            hint = "; the pull policy is never" if policy == "never" else ""
            return SubmitRefused(f"{error}{hint}", reason="image_missing", exit_code=125)
        return SubmitRefused(str(error), reason="create_failed", exit_code=125)

    def _adopt(self, id: str, spec: Spec, others: dict[str, float]) -> str | None:
        """Return the container that has the name, once it was started; None while it is to be tried again.

        Nobody starts a container that somebody else created: it may have run and ended between two looks, and
        would run twice. It is waited for, and one that nobody starts is removed, unless it may run all the same.
        """
        found = self._looker.inspect(marks.name_of(id, self._installation))
        if found is None:
            return None
        container = str(found["Id"])
        if not is_marked(found, id, self._installation):
            raise DispatchConflict(f"the name {found['Name'].lstrip('/')} is taken by a container that is not ours")
        self._check_digest(id, spec, found["Config"]["Labels"])
        if found["State"]["Status"] != "created":
            return container
        waited = time.monotonic() - others.setdefault(container, time.monotonic())
        return container if waited > _LEFT_BEHIND and not self.remove_unstarted(container) else None

    def _elsewhere(self, id: str, spec: Spec) -> str | None:
        """Return the started container of a dispatch that was sent before, also one that was renamed since.

        A new name makes room for a second container under the first one.
        """
        for found in self._looker.owned(self._installation, id):
            if found["State"] != "created":
                self._check_digest(id, spec, found["Labels"])
                return str(found["Id"])
        return None

    def _check_digest(self, id: str, spec: Spec, labels: Mapping[str, str]) -> None:
        if labels.get(marks.SPEC) != spec.digest():
            raise DispatchConflict(f"{id} was dispatched with another spec")

    # --- start -------------------------------------------------------------------------------------------------

    def _run(self, container: str, spec: Spec, check: Check) -> bool:
        """Start a container that this process created; false where somebody removed it before."""
        try:
            if spec.secrets:
                self._put_secrets(container, body.archive(spec))
            check()
            self._engine.request("POST", f"/containers/{container}/start", seconds=_STEP)
        except EngineError as error:
            found = self._looker.inspect(container)
            if found is None:
                return False
            if found["State"]["Status"] != "created":
                return True
            if interrupted.is_interrupted(self._engine, found):
                raise Unreachable(f"{interrupted.words(container)}: {error}") from error
            self.remove_unstarted(container)
            raise start_refusal(error) from error
        except Unreachable:
            raise
        except BaseException:
            self.remove_unstarted(container)
            raise
        return True

    def _put_secrets(self, container: str, packed: bytes) -> None:
        path = f"/containers/{container}/archive"
        headers = {"Content-Type": "application/x-tar"}
        params = {"path": body.SECRETS}
        self._engine.request("PUT", path, params=params, data=packed, headers=headers, seconds=_STEP)

    def empty_secrets(self, container: str) -> None:
        """Empty whatever lies where secrets do; a container that is gone has taken them along."""
        path, params = f"/containers/{container}/archive", {"path": body.SECRETS}
        try:
            plain = {"Accept-Encoding": "identity"}  # it is read as it comes
            with self._engine.stream("GET", path, params=params, headers=plain, seconds=_STEP) as response:
                blank = body.emptied(cast("IO[bytes]", response.raw))
            if blank is not None:
                self._put_secrets(container, blank)
        except EngineError as error:
            if error.status != 404:
                raise
        except (tarfile.TarError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"what lies in {body.SECRETS} of {container[:12]} cannot be read: {error}") from error

    def remove_left_secrets(self, id: str) -> None:
        """Remove the volume of secrets that a container left which somebody removed without it."""
        labels = [f"{marks.DISPATCH}={id}", f"{marks.INSTALLATION}={self._installation}"]
        params = {"filters": json.dumps({"label": labels, "dangling": ["true"]})}
        for left in self._engine.request("GET", "/volumes", params=params).json()["Volumes"] or ():
            self._engine.request("DELETE", f"/volumes/{left['Name']}", accept=(404, 409))

    def remove_unstarted(self, container: str) -> bool:
        """Remove a container that was never started.

        Returns:
            whether it is gone and never ran; without force the engine refuses to remove one that it knows to run.
        """
        found = self._looker.inspect(container)
        if found is not None and interrupted.is_interrupted(self._engine, found):
            return False
        since = self._engine.facts().earliest() - 60
        response = self._engine.request("DELETE", f"/containers/{container}", params={"v": "1"}, accept=(404, 409))
        if response.status_code == 409:
            return False
        return self._looker.story(container, since).first("start") is None

    def _started(self, id: str, backend: str, container: str) -> Handle:
        handle = handle_of(id, backend, container)
        found = self._looker.inspect(container)
        if found is None or not found["State"]["Running"]:
            return handle
        seen = self._looker.seen(found)
        return handle.model_copy(update={"first": seen}) if seen.phase is Phase.RUNNING else handle


def start_refusal(error: EngineError) -> SubmitRefused:
    """Return why a container could not be started, with the exit code that `docker run` gives it."""
    words = str(error)
    missing = ("executable file not found", "no such file or directory")
    if any(part in words for part in missing):
        return SubmitRefused(words, reason="program_not_found", exit_code=127)
    if "permission denied" in words or "is a directory" in words:
        return SubmitRefused(words, reason="program_not_executable", exit_code=126)
    return SubmitRefused(words, reason="start_failed", exit_code=125)
