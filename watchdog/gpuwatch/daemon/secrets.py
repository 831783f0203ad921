"""The job's secrets: looked up at launch, carried in memory and on the encrypted channel, never written down."""

from __future__ import annotations

import os


def resolve_secrets(names: tuple[str, ...]) -> dict[str, str]:
    """Values of `[job] secrets` from the daemon's environment, else the system keyring (service `gputui`).

    Raises ValueError that names what is missing, never a value.
    """
    found: dict[str, str] = {}
    for name in names:
        value = os.environ.get(name) or _from_keyring(name)
        if not value:
            raise ValueError(
                f"the secret {name} is not known: set it in gpuwatch's environment, or store it with `keyring set gputui {name}`"
            )
        found[name] = value
    return found


def _from_keyring(name: str) -> str | None:
    import keyring
    import keyring.errors

    try:
        return keyring.get_password("gputui", name)
    except keyring.errors.KeyringError:
        return None
