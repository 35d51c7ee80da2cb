"""Dispatch ids: time-sortable, lower-case DNS labels that every backend accepts as a name."""

import hashlib
import re

from agora.errors import InvalidRequest

MAX_ID_LENGTH = 32
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


def new_dispatch_id() -> str:
    """Make a dispatch id: a ULID in lower case, 26 characters, sorted by time of creation."""
    from ulid import ULID  # whoever makes no id does without

    return str(ULID()).lower()


def check_dispatch_id(value: str) -> str:
    """Return `value` if it is a valid dispatch id.

    Raises:
        InvalidRequest: it is not a lower-case DNS label of at most 32 characters.
    """
    if not _ID.fullmatch(value):
        raise InvalidRequest(
            f"{value[:80]!r} is not a dispatch id: lower-case letters, digits and inner dashes, "
            f"at most {MAX_ID_LENGTH} characters"
        )
    return value


def member_id(run: str, name: str) -> str:
    """Return the id that a dispatch of that name has in a run: the same one at any time, and no other one's.

    `RUN-NAME` where that is an id and can be read in one way only; else what is left of it and a hash.
    """
    plain = f"{run}-{name}"
    if "-" not in name and _ID.fullmatch(plain):
        return plain
    digest = hashlib.sha256(f"{run}/{name}".encode()).hexdigest()[:12]
    begin = re.sub("[^a-z0-9]+", "-", plain.lower())[: MAX_ID_LENGTH - 1 - len(digest)]
    return f"{begin.rstrip('-')}-{digest}"
