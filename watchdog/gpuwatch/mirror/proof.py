"""What stands verified on a remote: one file per run and remote in the vault, `<run>/.mirrors/<digest>.json`.

It is written whole and durably after each verified batch, and read back with every field checked. A file
that is not what was written counts as nothing: what it vouched for is verified again, not copied again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from gpuwatch.custody.facts import Copy
from gpuwatch.vault.layout import MIRRORS, Vault, fsync_folder, make_folder

FORMAT = "gputui-mirror/1"
MAX_BYTES = 64 << 20


class Stands(msgspec.Struct, frozen=True, kw_only=True):
    """One file on the remote: what was compared, and how (`hash` of both sides, or read back and compared)."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    how: str
    at: float


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """All that stands on one remote."""

    format: str = FORMAT
    remote: str
    run: str
    files: dict[str, Stands] = {}
    complete: bool = False
    """The run is over and nothing of it was missing: a restart need not look again."""


def path_of(vault: Vault, run: str, remote: str) -> Path:
    """Where the proof of one run on one remote lies."""
    return vault.run(run) / MIRRORS / f"{hashlib.sha256(remote.encode()).hexdigest()[:32]}.json"


def load(vault: Vault, run: str, remote: str) -> dict[str, Stands]:
    """What stands, as written down; empty when nothing is, or when it is not what we wrote. Blocking."""
    proof = _read(path_of(vault, run, remote))
    if proof is None or (proof.format, proof.remote, proof.run) != (FORMAT, remote, run):
        return {}
    return dict(proof.files)


def unfinished(vault: Vault) -> set[str]:
    """Runs with a remote on which something may still be missing. Blocking."""
    found = set()
    for path in vault.root.glob(f"*/{MIRRORS}/*.json"):
        proof = _read(path)
        if proof is None or not proof.complete:
            found.add(path.parent.parent.name)
    return found


def _read(path: Path) -> Proof | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return msgspec.convert(json.loads(path.read_bytes()), Proof)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        return None


def save(
    vault: Vault, run: str, remote: str, stands: Mapping[str, Stands], *, complete: bool = False
) -> None:
    """Write it down durably. Blocking. Raises OSError."""
    path = path_of(vault, run, remote)
    vault.check()
    make_folder(path.parent)
    proof = Proof(remote=remote, run=run, files=dict(stands), complete=complete)
    # the standard library, because names that are no UTF-8 stand as lone surrogates
    text = json.dumps(msgspec.to_builtins(proof), sort_keys=True, ensure_ascii=True).encode()
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def with_files(
    stands: Mapping[str, Stands], copies: Iterable[Copy], how: str, at: float
) -> dict[str, Stands]:
    """`stands` and these copies, compared just now."""
    return dict(stands) | {c.path: Stands(sha256=c.sha256, bytes=c.size, how=how, at=at) for c in copies}


def without(
    vault: Vault, run: str, remote: str, paths: Iterable[str], *, complete: bool | None = None
) -> dict[str, Stands]:
    """Write down that these stand there no more; what is left. Blocking. Raises OSError.

    `complete` says whether nothing is missing there now; None leaves that as it is.
    """
    proof, gone = _read(path_of(vault, run, remote)), set(paths)
    left = {p: s for p, s in load(vault, run, remote).items() if p not in gone}
    before = proof is not None and proof.complete
    save(vault, run, remote, left, complete=before if complete is None else complete)
    return left
