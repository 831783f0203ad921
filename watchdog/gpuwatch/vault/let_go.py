"""What retention let go from the vault, told in the vault: `<run>/.let-go/<digest>.json`.

Written durably before a file goes, so that receipts can be verified years later without the ledger: what such
a record names, in that version, is not missing. A record is believed when its bytes hash to its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from gpuwatch.custody.facts import Copy
from gpuwatch.vault.layout import LET_GO, Vault, fsync_folder, make_folder
from gpuwatch.vault.receipt import canonical
from gpuwatch.vault.reread import NotThere, Reread

FORMAT = "gputui-let-go/1"
MAX_BYTES = 64 << 20
_NAME = re.compile(r"([0-9a-f]{64})\.json")


class _File(msgspec.Struct, frozen=True):
    path: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Document(msgspec.Struct, frozen=True):
    format: str
    run: str
    stands: list[str]
    files: list[_File]


@dataclass(frozen=True, slots=True)
class LetGo:
    """One file that was let go: its version, and where that stood verified then."""

    path: str
    size: int
    sha256: str
    stands: tuple[str, ...]


def write(
    vault: Vault, run_id: str, checkpoint: str, copies: Iterable[Copy], stands: Iterable[str], at: float
) -> None:
    """Tell that these go from the vault, durably. Blocking. Raises OSError."""
    vault.check()
    rows = sorted(copies, key=lambda c: os.fsencode(c.path))
    text = canonical(
        {
            "format": FORMAT, "run": run_id, "checkpoint": checkpoint, "at": at, "stands": sorted(stands),
            "files": [{"path": c.path, "bytes": c.size, "sha256": c.sha256} for c in rows],
        }
    )  # fmt: skip
    folder = vault.run(run_id) / LET_GO
    make_folder(folder)
    path = folder / f"{hashlib.sha256(text).hexdigest()}.json"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(folder)


def read(folder: Path) -> dict[tuple[str, str], LetGo]:
    """(path, SHA-256) → what the records of a run's folder say. What is no whole record says nothing. Blocking."""
    found: dict[tuple[str, str], LetGo] = {}
    for document in _documents(folder):
        for file in document.files:
            found[file.path, file.sha256] = LetGo(file.path, file.bytes, file.sha256, tuple(document.stands))
    return found


def _documents(folder: Path) -> Iterator[_Document]:
    try:
        names = sorted(p.name for p in (folder / LET_GO).iterdir())
    except OSError:
        return
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        try:
            size = (folder / LET_GO / name).lstat().st_size
            if size > MAX_BYTES:
                continue
            with Reread(folder, (LET_GO, name), size=size) as file:
                while file.read():
                    pass
                if file.seen().sha256 != match[1]:
                    continue
            # the standard library, because names that are no UTF-8 stand there as lone surrogates
            document = msgspec.convert(json.loads((folder / LET_GO / name).read_bytes()), _Document)
        except (OSError, NotThere, ValueError, RecursionError):
            continue
        if document.format == FORMAT and document.run == folder.name:
            yield document


def remove(vault: Vault, run_id: str, folder: str, copies: Iterable[Copy]) -> int:
    """Remove these files of the vault and the folders that are empty then, below `folder`; the bytes that went. Blocking.

    A file that is not there, or that has another size, is left as it is. Raises OSError.
    """
    vault.check()
    freed, parents = 0, set()
    for copy in copies:
        path = vault.destination(run_id, copy.path)
        parents.add(path.parent)
        if vault.holds(run_id, copy.path, copy.size):
            path.unlink()
            freed += copy.size
    top = vault.destination(run_id, folder)
    for parent in sorted(parents, key=lambda p: -len(p.parts)):
        while parent != top and parent.is_relative_to(top):
            try:
                parent.rmdir()
            except OSError:  # not empty, or gone already
                break
            parent = parent.parent
    if top.is_dir():
        fsync_folder(top)
    return freed
