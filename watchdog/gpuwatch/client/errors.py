"""What a call to the daemon can raise."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gpuwatch.client import wire

R = TypeVar("R", bound=wire.Struct)


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


def read_result(reply: wire.Reply, method: str, result: type[R]) -> R:
    """What a call returned. Raises DaemonUnreachable when that is not what this version knows."""
    try:
        return msgspec.json.decode(reply.result, type=result)
    except wire.UNREADABLE as error:
        raise DaemonUnreachable(
            f"gpuwatch answered {method} in a way that this version does not know ({error}); if one of the two was "
            "upgraded, restart it: `gpuwatch stop`, then start it again"
        ) from error
