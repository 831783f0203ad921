"""Where things lie (XDG), in one place. `GPUTUI_HOME` puts everything under one folder instead.

Unix socket paths are limited to 104 bytes on macOS and 108 on Linux, so the socket
falls back to a short hashed name under /tmp when the runtime folder is too deep.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_SUN_PATH = 100


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one daemon. Nothing is created by making this."""

    config: Path
    state: Path
    runtime: Path
    vault: Path

    @property
    def ledger(self) -> Path:
        """The SQLite event log."""
        return self.state / "ledger.db"

    @property
    def lock(self) -> Path:
        """Held by the one daemon of this state folder."""
        return self.state / "lock"

    @property
    def config_file(self) -> Path:
        """The user's settings."""
        return self.config / "config.toml"

    @property
    def keys(self) -> Path:
        """SSH key and host-key pins."""
        return self.state / "ssh"

    @property
    def logs(self) -> Path:
        """The daemon's own log."""
        return self.state / "log"

    @property
    def socket(self) -> Path:
        """The daemon's Unix socket."""
        path = self.runtime / "gpuwatch.sock"
        if len(os.fsencode(path)) <= _SUN_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(f"/tmp/gpuwatch-{os.getuid()}-{digest}/s")  # noqa: S108 - made 0700 and owner-checked


def discover() -> Paths:
    """The folders for this user: `GPUTUI_HOME` when set, else the platform's own."""
    vault = os.environ.get("GPUTUI_VAULT")
    if home := os.environ.get("GPUTUI_HOME"):
        root = Path(home).expanduser().absolute()
        return Paths(
            config=root / "config",
            state=root / "state",
            runtime=root / "run",
            vault=Path(vault).expanduser().absolute() if vault else root / "vault",
        )
    from platformdirs import PlatformDirs  # 20 ms that the demo and the tests need not pay

    dirs = PlatformDirs("gputui", appauthor=False)
    state = Path(dirs.user_state_dir)
    runtime = (
        Path(os.environ["XDG_RUNTIME_DIR"], "gputui") if "XDG_RUNTIME_DIR" in os.environ else state / "run"
    )
    return Paths(
        config=Path(dirs.user_config_dir),
        state=state,
        runtime=runtime,
        vault=Path(vault).expanduser().absolute() if vault else Path(dirs.user_data_dir) / "vault",
    )
