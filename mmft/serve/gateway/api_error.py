"""``ApiError``: an answer of the gateway that is an error, worded as OpenAI's API words it."""

from __future__ import annotations

from typing import Any

__all__ = ['ApiError']

_KINDS = {401: 'authentication_error', 404: 'not_found_error', 429: 'overloaded_error'}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what came, what was expected and what to do, in a sentence or two.
        code: a word for programs.
        param: the field at fault.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {'retry-after': str(retry_after)} if retry_after else {}
        if status == 401:
            self.headers['www-authenticate'] = 'Bearer'
        if status == 408:
            self.headers['connection'] = 'close'  # else the client may go on sending the rest

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI words it."""
        kind = _KINDS.get(self.status, 'invalid_request_error' if self.status < 500 else 'server_error')
        return {'error': {'message': self.message, 'type': kind, 'param': self.param, 'code': self.code}}
