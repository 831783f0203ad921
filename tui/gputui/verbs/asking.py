"""How a command asks the daemon, and in whose name."""

from __future__ import annotations

from typing import TypeVar

from gputui.clean import cleaned
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.paths import discover

R = TypeVar("R", bound=wire.Struct)

SLOW = 120.0
"""Seconds for calls that reach a vendor."""


def call(client: Client, method: str, params: wire.Struct, result: type[R]) -> R:
    """One call whose answer has been cleaned."""
    return cleaned(client.call(method, params, result))


def connect(*, timeout: float = 30.0) -> Client:
    """A client for the user's daemon, not yet opened."""
    return Client(discover().socket, timeout=timeout)


def me() -> str:
    """Who types, for the ledger."""
    import getpass

    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return "a person (command line)"
