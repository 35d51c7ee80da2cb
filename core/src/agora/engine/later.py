"""A start that is put off: whoever carries it out has the record alone, so all that it takes is kept there."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from agora.engine.targets import LOOK_SECONDS, Target
from agora.errors import InvalidRequest, PermissionDenied, ProviderError, Unreachable
from agora.model.record import Entry
from agora.model.spec import Spec

logger = logging.getLogger(__name__)

#: When to start: at a time, or so long after it is recorded; null for at once.
Start = datetime | timedelta | None


def moment(start: datetime | timedelta, now: datetime) -> datetime:
    """Return the time of a start, in UTC."""
    return start.astimezone(UTC) if isinstance(start, datetime) else now + start


def kept(spec: Spec, target: Target) -> Spec:
    """Return the spec as whoever starts it needs it.

    Raises:
        InvalidRequest: it has what is never stored, or what cannot be kept.
    """
    if spec.secrets:
        raise InvalidRequest(
            f"secrets {', '.join(sorted(spec.secrets))}: their values are never stored, so nothing that has any can "
            "start later; have the workload read them where it runs"
        )
    if target.limits.spec_is_whole or "cwd" in target.limits.refused_fields:
        return spec
    # Started from its caller's surroundings: of these the directory is what a command depends on most.
    try:
        return Spec.model_validate({**spec.model_dump(), "cwd": str(Path.cwd() / (spec.cwd or ""))})
    except FileNotFoundError:
        raise InvalidRequest("cwd: the working directory is gone; name one that is there") from None
    except ValidationError:
        raise InvalidRequest("cwd: the name of the working directory is no UTF-8 text") from None


async def backend_of(target: Target) -> str | None:
    """Return which backend a target is now; null where it cannot tell."""
    if not target.implements("identity"):
        return None
    try:
        backend: str | None = await target.call("identity", seconds=LOOK_SECONDS)
    except ProviderError as error:
        logger.warning("target %r does not say now which backend it is: %s", target.name, error)
        return None
    return backend


async def check_backend(entry: Entry, target: Target) -> None:
    """Refuse to start a dispatch on another backend than its target was when it was recorded.

    Raises:
        Unreachable: it is another one, or cannot be asked; nothing was sent.
        PermissionDenied: the backend refused the credentials.
    """
    if entry.backend is None:
        return
    try:
        backend = await target.call("identity", seconds=LOOK_SECONDS)
    except PermissionDenied:
        raise
    except ProviderError as error:
        raise Unreachable(str(error), sent=False) from error
    if backend is not None and backend != entry.backend:
        words = f"target {target.name!r} is backend {backend} now, and was {entry.backend} when this was recorded"
        raise Unreachable(words, sent=False)
