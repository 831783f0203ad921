"""What a call to the daemon can raise."""

from __future__ import annotations

from typing import Any


class CallFailed(Exception):
    """The daemon answered with an error. `code` is one of `wire.Code`; the message is for people."""

    def __init__(self, code: str, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data or {}


class DaemonUnreachable(CallFailed):
    """No daemon answers, or the connection broke. What was asked may or may not have been done."""

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message)
