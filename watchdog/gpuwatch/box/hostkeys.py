"""Host keys, pinned on first use, one file per instance.

Providers recycle addresses, so a key belongs to an instance id (the alias), never to
host:port. The files are in OpenSSH's known_hosts format, for `ssh -o UserKnownHostsFile`.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import asyncssh

_ALIAS = re.compile(r"[a-z0-9-]{1,80}")


class HostKeys:
    """The pins of one daemon."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "pins"

    def path(self, alias: str) -> Path:
        """Where the pin of `alias` lies (it may not exist)."""
        if not _ALIAS.fullmatch(alias):
            raise ValueError(f"no host alias: {alias!r}")
        return self._folder / alias

    def pinned(self, alias: str) -> bytes:
        """The pin as known_hosts text, empty when there is none."""
        try:
            return self.path(alias).read_bytes()
        except FileNotFoundError:
            return b""

    def pin(self, alias: str, key: asyncssh.SSHKey) -> None:
        """Remember `key`, durably. Called only after the whole handshake has succeeded."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        public = key.export_public_key("openssh").decode().split()[:2]
        temporary = self.path(alias).with_suffix(".tmp")
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{alias} {' '.join(public)}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path(alias))

    def forget(self, alias: str) -> None:
        """Drop the pin, when the machine is confirmed gone."""
        with contextlib.suppress(FileNotFoundError):
            self.path(alias).unlink()


def own_key(folder: Path) -> Path:
    """The daemon's own ed25519 key, made on first use; returns the private key's path (mode 0600)."""
    path = folder / "id_ed25519"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = asyncssh.generate_private_key("ssh-ed25519", comment="gputui")
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key("openssh"))
        path.with_suffix(".pub").write_bytes(key.export_public_key("openssh"))
        temporary.replace(path)
    return path
