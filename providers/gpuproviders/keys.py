"""Where an account's API key comes from: the environment, our own store, the vendor's own files.

A key is read when it is needed and kept nowhere. It never goes into a command line, a log or a box.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

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


def stored(vendor: str) -> str | None:
    """What was stored by `gputui login`; a file that others may read is not used."""
    path = store_path(vendor)
    try:
        if path.stat().st_mode & 0o077:
            return None
    except OSError:
        return None
    return _line(path)


def store(vendor: str, key: str) -> Path:
    """Keep a key in a file of mode 0600. Raises OSError."""
    path = store_path(vendor)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key + "\n")
    fresh.replace(path)
    return path


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
