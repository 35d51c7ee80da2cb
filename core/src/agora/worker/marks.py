"""Events as marked lines among a workload's own output, and how to take them out again.

A mark begins with the ASCII record separator (0x1E), which programs do not print, the word `agora:1:` and the id of
the dispatch: a line that only looks like one, or the mark of another dispatch, stays output. It ends with its line,
and whoever removes it from the separator to the line's end gets back the output as it was, also in mid-line.
"""

from __future__ import annotations

#: A write of so many bytes to a pipe is never mixed with another one's: PIPE_BUF of pipe(7).
LINE_BYTES = 4096
_SEPARATOR = b"\x1e"


def head(dispatch_id: str) -> bytes:
    """Return what every mark of a dispatch begins with."""
    return b"%bagora:1:%b " % (_SEPARATOR, dispatch_id.encode())


def pack(dispatch_id: str, event: bytes) -> bytes:
    """Return an event as a marked line.

    Parameters:
        dispatch_id: whose it is.
        event: JSON without a line break.
    Raises:
        ValueError: it is longer than what one write can carry.
    """
    line = b"%b%b\n" % (head(dispatch_id), event)
    if len(line) > LINE_BYTES:
        raise ValueError(f"an event of {len(line)} bytes is longer than {LINE_BYTES}")
    return line


class Sieve:
    """Takes the marks of one dispatch out of one stream of output.

    Parameters:
        dispatch_id: the dispatch.
    """

    def __init__(self, dispatch_id: str) -> None:
        self._head = head(dispatch_id)
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """Take the marks out of the next piece; the beginning of a possible one is held back.

        Parameters:
            data: the piece, cut anywhere.
        Returns:
            the output without marks, and the events.
        """
        if not self._held and _SEPARATOR not in data:
            return data, []
        data = self._held + data
        output: list[bytes] = []
        events: list[bytes] = []
        told, until = 0, len(data)
        at = data.find(_SEPARATOR)
        while at >= 0:
            if data.startswith(self._head, at):
                # Looked for no further than a mark goes: what only begins as one may be any amount of output.
                end = data.find(b"\n", at, at + LINE_BYTES + 1)
                if end >= 0:
                    output.append(data[told:at])
                    events.append(data[at + len(self._head) : end].rstrip(b"\r"))
                    told = end + 1
                    at = data.find(_SEPARATOR, told)
                    continue
                half = len(data) - at <= LINE_BYTES
            else:
                half = len(data) - at < len(self._head) and self._head.startswith(data[at:])
            if half:
                until = at
                break
            at = data.find(_SEPARATOR, at + 1)
        output.append(data[told:until])
        self._held = data[until:]
        return b"".join(output), events

    def close(self) -> bytes:
        """Return what was held back and turned out to be output."""
        held, self._held = self._held, b""
        return held
