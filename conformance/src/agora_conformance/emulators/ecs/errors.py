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
        query: the error's name and party in the older protocol of SQS, which SDKs still show.
    """

    def __init__(self, kind: str, message: str, status: int = 400, more: Object | None = None, query: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.status, self.query = kind, message, status, query
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
