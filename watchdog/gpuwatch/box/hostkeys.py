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

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


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
        self.accept(alias, words(key))

    def accept(self, alias: str, public: str) -> None:
        """Remember a key (type and base64, as `HostKeyChanged.key` tells it) that a person vouches for."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._beside(alias, ".tmp")
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{alias} {public}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path(alias))
        self._unmark(alias)

    def forget(self, alias: str) -> None:
        """Drop the pin: the machine is confirmed gone, or its container is known to be a new one."""
        with contextlib.suppress(FileNotFoundError):
            self.path(alias).unlink()
        self._unmark(alias)

    # --- containers that are made anew at every start ----------------------------------------------

    def expect_new(self, alias: str) -> None:
        """The vendor says that the machine is stopped and makes its container anew: the next key may be another."""
        if self.pinned(alias):
            self._mark(alias).touch()

    def expects_new(self, alias: str) -> bool:
        """Whether a key that differs is explained by a stop that was seen since the last contact."""
        return self._mark(alias).exists()

    def same(self, alias: str) -> None:
        """Contact was made: a key that differs from now on is not explained any more."""
        self._unmark(alias)

    def _mark(self, alias: str) -> Path:
        return self._beside(alias, ".new")

    def _beside(self, alias: str, ending: str) -> Path:
        path = self.path(alias)
        return path.with_name(path.name + ending)  # an alias may hold a dot: names of own machines do

    def _unmark(self, alias: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._mark(alias).unlink()


def words(key: asyncssh.SSHKey) -> str:
    """A public key as its type and its base64, without a comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def fingerprint(public: str) -> str:
    """What `ssh-keygen -l` calls a key of two words; the words themselves when they are none."""
    try:
        return asyncssh.import_public_key(public).get_fingerprint()
    except (asyncssh.KeyImportError, ValueError):
        return public[:80]


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
