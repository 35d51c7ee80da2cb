"""Pulling an image, with its progress told, and an end as soon as somebody asks for a stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from agora.errors import SubmitRefused, Unreachable
from agora.hookspecs import Check
from agora.logs import PROGRESS

from agora_docker.engine import Engine, EngineError
from agora_docker.streams import Reader, json_lines

progress_log = logging.getLogger(PROGRESS)

#: Seconds between two questions whether a stop was asked for, and between two lines of progress.
_CHECK = 0.5
_TELL = 5.0


def pull(engine: Engine, image: str, platform: str | None, check: Check, dispatch: str) -> None:
    """Pull an image.

    Parameters:
        dispatch: id of the dispatch that it is for.
        image: its name with tag or digest; `latest` without.
        platform: `linux/arm64`, ...; the engine's own by default.
        check: raises once a stop was asked for; the pull is then given up.
    Raises:
        SubmitRefused: it cannot be had; the engine's words.
        Unreachable: the engine went away.
    """
    check()
    name, tag = _split(image)
    params = {"fromImage": name, "tag": tag}
    if platform is not None:
        params["platform"] = platform
    headers = engine.auth_header(image)
    progress = Progress(image, dispatch)
    progress.tell("pulling")
    try:
        with Reader(engine.stream("POST", "/images/create", params=params, headers=headers), json_lines) as reader:
            while not reader.over:
                check()
                said = reader.next(_CHECK)
                if said is not None:
                    progress.heard(said)
    except EngineError as error:
        raise SubmitRefused(f"{image}: {error}", reason="image_pull_failed") from error
    if not progress.complete:
        raise Unreachable(f"the pull of {image} broke off")
    progress.tell("pulled")


class Progress:
    """What a pull says, summed up.

    Parameters:
        image: its name.
        dispatch: id of the dispatch that it is for.
    """

    def __init__(self, image: str, dispatch: str) -> None:
        self._image = image
        self._dispatch = dispatch
        self._layers: dict[str, tuple[int, int]] = {}
        self._told = time.monotonic()
        self.complete = False

    def heard(self, said: Mapping[str, Any]) -> None:
        """Take in one message.

        Raises:
            SubmitRefused: it is an error.
        """
        if "error" in said:
            raise SubmitRefused(f"{self._image}: {said['error']}", reason="image_pull_failed")
        status = str(said.get("status", ""))
        # The last message of every pull (moby distribution/pull_v2.go).
        self.complete = self.complete or status.startswith("Status: ")
        detail = said.get("progressDetail") or {}
        if "id" in said and detail.get("total"):
            self._layers[f"{said['id']} {status}"] = (int(detail.get("current", 0)), int(detail["total"]))
        if time.monotonic() - self._told >= _TELL:
            self._told = time.monotonic()
            self.tell(f"pulling{self.words()}")

    def tell(self, words: str) -> None:
        """Tell whoever waits for the dispatch."""
        progress_log.info("%s: %s", self._image, words, extra={"dispatch": self._dispatch})

    def words(self) -> str:
        """Say how far it is."""
        loaded = [pair for name, pair in self._layers.items() if name.endswith(" Downloading")]
        if not loaded:
            return ""
        done, total = (sum(column) for column in zip(*loaded, strict=True))
        return f", {done} of {total} bytes of {len(loaded)} layers"


def _split(image: str) -> tuple[str, str]:
    """Split a name into what the engine takes as name and tag; a digest stands where a tag does."""
    if "@" in image:
        name, digest = image.split("@", 1)
        return name, digest
    name, colon, tag = image.rpartition(":")
    if colon and "/" not in tag:
        return name, tag
    return image, "latest"
