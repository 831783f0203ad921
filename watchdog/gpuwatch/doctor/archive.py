"""The vault: its marker, its space, and that its parts lie on one disk."""

from __future__ import annotations

import os
from pathlib import Path

from gpuwatch.clean import clean
from gpuwatch.config import vault_folder
from gpuwatch.doctor.finding import Check, Found, Level, Patient, by_floor, not_writable, ok
from gpuwatch.spec.units import format_size


def vault(patient: Patient) -> Found:
    """Marker, a real write, space, and one file system."""
    from gpuwatch.vault.layout import MARKER

    root = vault_folder(patient.paths, patient.config)
    if not root.exists():
        if patient.paths.ledger.exists():
            yield Check(
                "vault", Level.FAIL, f"{root} is not there", "mount its disk; or `vault = …` in the settings"
            )
        else:
            yield ok("vault", f"{root} does not exist yet; the first `gpuwatch run` makes it")
        return
    if not (root / MARKER).is_file():
        empty = not any(root.iterdir())
        todo = "mount its disk" if empty else f"if it is the right disk: touch {root / MARKER}"
        yield Check("vault", Level.FAIL, f"{root} has no {MARKER}{' and is empty' if empty else ''}", todo)
        return
    problem = not_writable(root)
    if problem is not None:
        yield Check(
            "vault",
            Level.FAIL,
            f"{root} cannot be written: {problem}",
            "check its permissions, its disk and its quota",
        )
        return
    yield ok("vault", f"{root}, marked and writable")
    yield from _space(root)
    yield from _one_disk(root)


def _space(root: Path) -> Found:
    disk = os.statvfs(root)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    what = f"{format_size(free)} of {format_size(total)} free"
    yield by_floor(
        "vault-space", what, "make room, or move the vault (`vault = …`)", free, warn=20 * 10**9, fail=10**9
    )
    if disk.f_files and disk.f_favail < 10_000:
        yield Check(
            "vault-space",
            Level.WARN,
            f"room for {disk.f_favail} more files only",
            "this disk runs out of inodes",
        )


def _one_disk(root: Path) -> Found:
    """Downloads are renamed into place, which only works within one file system."""
    from gpuwatch.vault.layout import PARTIAL

    apart = [
        run.name for run in sorted(root.iterdir())
        if (run / PARTIAL).is_dir() and (run / PARTIAL).stat().st_dev != run.stat().st_dev
    ]  # fmt: skip
    if apart:
        what = f"{PARTIAL} lies on another disk than its run: {clean(', '.join(apart[:3]), 200)}"
        yield Check(
            "vault-partial", Level.FAIL, what, "put both on one file system: files are renamed into place"
        )
    else:
        yield ok("vault-partial", "downloads and files lie on one file system")
