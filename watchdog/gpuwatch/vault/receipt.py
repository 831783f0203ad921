"""Receipts: content-addressed proof that named files stood verified in the vault.

`<digest>.json` is the canonical JSON whose SHA-256 is its name; `<digest>.sha256` lists the
same files for `sha256sum -c` (run it in the run's folder). Both are readable years
later without the ledger.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuwatch import __version__
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault.layout import Vault, fsync_folder, make_folder

FORMAT = "gputui-receipt/1"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A written receipt."""

    digest: str
    path: Path
    files: int
    bytes: int


def document(
    *,
    run: str,
    name: str,
    label: str,
    inventory: Inventory,
    copies: Iterable[Copy],
    waived: Iterable[str],
    reason: str,
    at: float,
) -> dict[str, Any]:
    """The receipt's content. Hashes are SHA-256, equal on the box and re-read from the local disk after fsync."""
    rows = sorted(copies, key=lambda c: os.fsencode(c.path))
    return {
        "format": FORMAT,
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
        "files": [
            {
                "path": c.path,
                "bytes": c.size,
                "sha256": c.sha256,
                "mtime_ns": c.identity[1],
                "verified_at": c.verified_at,
            }
            for c in rows
        ],
    }


def write(vault: Vault, run_id: str, content: dict[str, Any]) -> Receipt:
    """Write a receipt durably; returns what identifies it. Blocking."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = vault.receipts(run_id)
    make_folder(folder)
    sums = sums_of((row["sha256"], row["path"]) for row in content["files"])
    for path, data in (
        (folder / f"{digest}.sha256", sums),
        (folder / f"{digest}.json", text.encode()),
    ):
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    fsync_folder(folder)
    files = content["files"]
    return Receipt(digest, folder / f"{digest}.json", len(files), sum(row["bytes"] for row in files))


def stands(vault: Vault, run_id: str, digest: str) -> bool:
    """Whether this receipt is in the vault now, whole. Blocking. Raises VaultUnusable."""
    vault.check()
    try:
        content = (vault.receipts(run_id) / f"{digest}.json").read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content).hexdigest() == digest


def sums_of(files: Iterable[tuple[str, str]]) -> bytes:
    """The twin for `sha256sum -c` of (SHA-256, path) pairs."""
    return os.fsencode("".join(_sum_line(sha256, path) for sha256, path in files))


def _sum_line(sha256: str, path: str) -> str:
    """A line of `sha256sum`'s own format, which escapes backslash and newline and marks the line.

    A file called `-` would be read from standard input, so it is written `./-`.
    """
    path = "./-" if path == "-" else path
    if "\\" in path or "\n" in path or "\r" in path:
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{sha256}  {escaped}\n"
    return f"{sha256}  {path}\n"
