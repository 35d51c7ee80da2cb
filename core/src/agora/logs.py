"""Structured logs: one JSON object a line, with the dispatch id where there is one."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

#: The logger on which a provider may say how far it is while it starts a dispatch; the command line shows that.
PROGRESS = "agora.progress"

_DISPATCH = re.compile(r"dispatch ([a-z0-9-]{1,32})\b")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, dispatch, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        dispatch = getattr(record, "dispatch", None)
        if dispatch is None and (found := _DISPATCH.search(message)):
            dispatch = found.group(1)
        if dispatch is not None:
            line["dispatch"] = dispatch
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str = "WARNING") -> None:
    """Send the logs of Agora to stderr as JSON lines; libraries call nothing of this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("agora")
    root.handlers[:] = [handler]
    root.setLevel(level)
