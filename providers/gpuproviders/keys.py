"""Where an account's API key comes from: the environment, our own store, the vendor's own files.

A key is read when it is needed and kept nowhere. It never goes into a command line, a log or a box.
"""

from __future__ import annotations

import hashlib
import os
import time
import tomllib
from pathlib import Path
from typing import Final

from gpuproviders import keychain

VARIABLES = {"vast": "VAST_API_KEY", "runpod": "RUNPOD_API_KEY"}


def fingerprint(key: str) -> str:
    """Twelve hex digits that tell keys apart and give nothing of a key away."""
    return hashlib.sha256(b"gputui/" + key.encode()).hexdigest()[:12]


def vast() -> str | None:
    """VAST_API_KEY, what `gputui login vast` stored, the vendor's key files."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (
        _variable("vast")
        or stored("vast")
        or _line(config / "vastai" / "vast_api_key")
        or _line(Path.home() / ".vast_api_key")
    )


def runpod() -> str | None:
    """RUNPOD_API_KEY, what `gputui login runpod` stored, `~/.runpod/config.toml` of the SDK or of runpodctl."""
    return _variable("runpod") or stored("runpod") or _runpod_file()


def store_path(vendor: str) -> Path:
    """Where `gputui login` keeps a key: a file that only its owner may read."""
    home = os.environ.get("GPUTUI_HOME")
    if home:
        return Path(home) / "config" / "keys" / vendor
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "gputui" / "keys" / vendor


def marker_path(vendor: str) -> Path:
    """The file that says that the key is in the system's keyring; the keyring is asked only when it is there."""
    return store_path(vendor).with_suffix(".keyring")


def stored(vendor: str) -> str | None:
    """What was stored by `gputui login`, in its file or the keyring; a file that others may read is not used."""
    path = store_path(vendor)
    try:
        private = not path.stat().st_mode & 0o077
    except OSError:
        return _from_keyring(vendor)
    return _line(path) if private else None


_KEPT: dict[Path, tuple[int, float, str | None]] = {}
"""Marker -> (when it was written, when the keyring was asked, what it said)."""
_AGAIN: Final = 60.0
"""Seconds until a keyring that said nothing is asked again."""


def _from_keyring(vendor: str) -> str | None:
    """A keyring may ask a person, so it is asked once for each login, not once for each call."""
    path = marker_path(vendor)
    try:
        written = path.stat().st_mtime_ns
    except OSError:
        return None
    known, now = _KEPT.get(path), time.monotonic()
    if known is not None and known[0] == written and (known[2] is not None or now - known[1] < _AGAIN):
        return known[2]
    found = keychain.get(vendor)
    _KEPT[path] = (written, time.monotonic(), found)
    return found


def missing(vendor: str) -> str:
    """Why there is no key, and what to do; for people."""
    if marker_path(vendor).exists():
        return (
            f"the key of {vendor} is in the system's keyring, which does not give it out (locked, or no desktop session): "
            f"unlock it, set {VARIABLES[vendor]}, or keep the key in a file: `gputui login {vendor} --file`"
        )
    return f"set {VARIABLES[vendor]} or run `gputui login {vendor}`"


def keep(vendor: str, key: str, *, file: bool = False) -> str:
    """Keep a key in the system's keyring, else (or when `file`) in a file of mode 0600; says where. Raises OSError.

    It is kept in one place: what an earlier login left in the other is removed.
    """
    backend = None if file else keychain.backend()
    if backend is not None and keychain.put(vendor, key):
        _write(marker_path(vendor), backend)
        store_path(vendor).unlink(missing_ok=True)
        return f"the system's keyring ({backend})"
    path = store(vendor, key)
    if marker_path(vendor).exists():
        keychain.forget(vendor)
        marker_path(vendor).unlink(missing_ok=True)
    return str(path)


def forget(vendor: str) -> list[str]:
    """Remove a kept key from file and keyring; what could not be removed, for people. Raises OSError."""
    store_path(vendor).unlink(missing_ok=True)
    if not marker_path(vendor).exists():
        return []
    if not keychain.forget(vendor):
        return [f"the keyring did not remove it: service {keychain.SERVICE}, user {keychain.name(vendor)}"]
    marker_path(vendor).unlink(missing_ok=True)
    return []


def store(vendor: str, key: str) -> Path:
    """Keep a key in a file of mode 0600. Raises OSError."""
    path = store_path(vendor)
    _write(path, key)
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    fresh.replace(path)


def _variable(vendor: str) -> str | None:
    return os.environ.get(VARIABLES[vendor], "").strip() or None


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _runpod_file() -> str | None:
    """The SDK writes `[default] api_key`, runpodctl a top-level `apikey`."""
    try:
        data = tomllib.loads((Path.home() / ".runpod" / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    default = data.get("default")
    for value in (default.get("api_key") if isinstance(default, dict) else None, data.get("apikey")):
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None
