"""Lists in pages."""

from __future__ import annotations

import base64
import binascii

from agora_conformance.emulators.ecs.errors import Object, invalid

#: Entries of a page, at most and by default (botocore: `maxResults`).
MOST = 100


def page(found: list[str], body: Object, member: str) -> Object:
    """Return one page of a list.

    Parameters:
        found: the whole list.
        body: the request, with `maxResults` and `nextToken`.
        member: of the answer that holds the page.

    Raises:
        ApiError: the token or the size is none.
    """
    size = body.get("maxResults", MOST)
    if not 1 <= size <= MOST:
        raise invalid(f"maxResults must be between 1 and {MOST}.")
    start = 0
    if (token := body.get("nextToken")) is not None:
        # The token names the last entry that was told, so that a list that grows or shrinks meanwhile goes on.
        try:
            last = base64.urlsafe_b64decode(token.encode()).decode()
            start = int(last.partition(" ")[0])
            named = last.partition(" ")[2]
        except (ValueError, binascii.Error):
            raise invalid("Invalid token.") from None
        start = found.index(named) + 1 if named in found else start
    answer: Object = {member: found[start : start + size]}
    if start + size < len(found):
        end = start + size
        answer["nextToken"] = base64.urlsafe_b64encode(f"{end} {found[end - 1]}".encode()).decode()
    return answer
