"""Errors as the JSON protocol of AWS tells them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


class ApiError(Exception):
    """An answer that is an error.

    Parameters:
        kind: the error's name, as clients see it in `Error.Code`.
        message: what it says.
        status: of HTTP.
        more: other members of the error.
    """

    def __init__(self, kind: str, message: str, status: int = 400, more: Object | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status
        self._more = more or {}

    def body(self) -> Object:
        """Return what is sent."""
        return {"__type": self.kind, "message": self.message, **self._more}


def invalid(message: str) -> ApiError:
    """Return an InvalidParameterException."""
    return ApiError("InvalidParameterException", message)


def client(message: str) -> ApiError:
    """Return a ClientException."""
    return ApiError("ClientException", message)
