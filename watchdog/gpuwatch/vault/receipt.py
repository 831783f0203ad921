"""Receipts: content-addressed proof that named files stood verified in the vault.

`<digest>.json` is the canonical JSON whose SHA-256 is its name; `<digest>.sha256` lists the
same files for `sha256sum -c` (run it in the run's folder). A receipt of very many files
names parts, `<sha256>.part`, which hold the list of files. All are readable years later
without the ledger.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gpuwatch import __version__
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault.layout import Vault, fsync_folder, make_folder

FORMAT = "gputui-receipt/1"
PARTED = "gputui-receipt/2"
"""A receipt whose files stand in parts."""
PART_FILES = 20_000
"""Files up to which a receipt is one document, and in each part of a larger one."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A written receipt."""

    digest: str
    path: Path
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Reads:
    """When files were last read back from the vault's disk, beyond when they came home. Unix seconds."""

    since: float = 0.0
    """What was read from then on was read for this receipt; the rest is taken from the record."""
    later: Mapping[str, float] = field(default_factory=dict)
    """Path → a later read of it that found it good."""

    def row(self, copy: Copy) -> dict[str, Any]:
        """One file of a receipt."""
        read_at = max(copy.verified_at, self.later.get(copy.path, 0.0))
        return {
            "path": copy.path,
            "bytes": copy.size,
            "sha256": copy.sha256,
            "mtime_ns": copy.identity[1],
            "verified_at": copy.verified_at,
            "read_at": read_at,
            "source": "read" if read_at >= self.since else "record",
        }


def heading(
    *,
    run: str,
    name: str,
    label: str,
    inventory: Inventory,
    waived: Iterable[str],
    reason: str,
    at: float,
) -> dict[str, Any]:
    """The receipt's content but for its files."""
    return {
        "gpuwatch": __version__,
        "run": run,
        "name": name,
        "instance": inventory.instance_id,
        "label": label,
        "boot_id": inventory.boot_id,
        "listed_at": inventory.taken_at,
        "written_at": at,
        "waived": sorted(waived),
        "waiver_reason": reason,
        "links": [
            {"path": link.path, "target": link.target}
            for link in sorted(inventory.links, key=lambda x: os.fsencode(x.path))
        ],
    }


def write(
    vault: Vault, run_id: str, head: Mapping[str, Any], copies: Iterable[Copy], reads: Reads | None = None
) -> Receipt:
    """Write a receipt durably; returns what identifies it. Blocking. Raises OSError.

    Hashes are SHA-256, equal on the box and read back from the local disk after fsync.
    """
    reads = reads or Reads()
    rows = sorted(copies, key=lambda c: os.fsencode(c.path))
    folder = vault.receipts(run_id)
    make_folder(folder)
    content = dict(head)
    if len(rows) <= PART_FILES:
        content |= {"format": FORMAT, "files": [reads.row(c) for c in rows]}
    else:
        slices = [rows[at : at + PART_FILES] for at in range(0, len(rows), PART_FILES)]
        content |= {"format": PARTED, "parts": [_write_part(folder, part, reads) for part in slices]}
    text = canonical(content)
    digest = hashlib.sha256(text).hexdigest()
    _write(folder / f"{digest}.sha256", lambda file: _write_sums(file, rows))
    _write(folder / f"{digest}.json", lambda file: file.write(text))
    fsync_folder(folder)
    return Receipt(digest, folder / f"{digest}.json", len(rows), sum(c.size for c in rows))


def stands(vault: Vault, run_id: str, digest: str) -> bool:
    """Whether this receipt is in the vault now, whole. Blocking. Raises VaultUnusable."""
    vault.check()
    try:
        content = (vault.receipts(run_id) / f"{digest}.json").read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content).hexdigest() == digest


def canonical(content: object) -> bytes:
    """JSON as it is hashed: ASCII, keys sorted, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _write_part(folder: Path, copies: Sequence[Copy], reads: Reads) -> dict[str, Any]:
    text = canonical({"files": [reads.row(c) for c in copies]})
    sha256 = hashlib.sha256(text).hexdigest()
    _write(folder / f"{sha256}.part", lambda file: file.write(text))
    return {"sha256": sha256, "files": len(copies), "bytes": sum(c.size for c in copies)}


def _write_sums(file: BinaryIO, copies: Iterable[Copy]) -> None:
    file.writelines(sum_line(copy.sha256, copy.path) for copy in copies)


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """A file that is whole and durable, or not there."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sum_line(sha256: str, path: str) -> bytes:
    """A line of `sha256sum`'s own format, which escapes backslash and newline and marks the line.

    A file called `-` would be read from standard input, so it is written `./-`.
    """
    path = "./-" if path == "-" else path
    if "\\" in path or "\n" in path or "\r" in path:
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return os.fsencode(f"\\{sha256}  {escaped}\n")
    return os.fsencode(f"{sha256}  {path}\n")
