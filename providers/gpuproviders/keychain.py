"""The system's keyring, if there is one that works. Nothing here raises, and nothing waits for ever.

A keyring may be locked, ask a person, or hang on a bus that nobody serves: each call has a deadline, after which the
keyring counts as not there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")
SERVICE: Final = "gputui"
SECONDS: Final = 5.0


def name(vendor: str) -> str:
    """Under which user name a vendor's key is kept in the service `gputui`."""
    return f"{vendor}-api-key"


def backend() -> str | None:
    """The name of the keyring that would be used; None when there is none that keeps secrets."""
    return _within(_backend)


def put(vendor: str, key: str) -> bool:
    """Keep a key, and read it back. False when the keyring did not take it."""

    def act() -> bool:
        import keyring

        if _backend() is None:
            return False
        keyring.set_password(SERVICE, name(vendor), key)
        return keyring.get_password(SERVICE, name(vendor)) == key

    return _within(act) is True


def get(vendor: str) -> str | None:
    """The key that was kept; None when there is none, or the keyring does not answer."""

    def act() -> str | None:
        import keyring

        return keyring.get_password(SERVICE, name(vendor))

    found = _within(act)
    return found.strip() or None if isinstance(found, str) else None


def forget(vendor: str) -> bool:
    """Remove a key. False when the keyring did not do it."""

    def act() -> bool:
        import keyring

        if keyring.get_password(SERVICE, name(vendor)) is not None:
            keyring.delete_password(SERVICE, name(vendor))
        return keyring.get_password(SERVICE, name(vendor)) is None

    return _within(act) is True


def _backend() -> str | None:
    import keyring

    chosen: Any = keyring.get_keyring()
    # keyring's own placeholders have a priority of 0 or less; so have backends that keep plain text
    if getattr(chosen, "priority", 0) <= 0:
        return None
    parts = getattr(chosen, "backends", None)
    if isinstance(parts, list | tuple) and not parts:
        return None
    return f"{type(chosen).__module__}.{type(chosen).__qualname__}"


def _within(act: Callable[[], T]) -> T | None:
    """What `act` returns, None when it fails or takes longer than SECONDS."""
    found: list[T] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception:  # noqa: BLE001 - backends raise whatever their system does; the file is there instead
            return

    thread = threading.Thread(target=run, name="keyring", daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else None
