"""Opening a ledger: its file's permissions, its pragmas, upgrades with a backup, and what damage means."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiosqlite

from gpuwatch.ledger.schema import MIGRATIONS, PRAGMAS
from gpuwatch.vault.layout import fsync_folder


class LedgerDamaged(Exception):
    """The file cannot be used as it is; the message says what to do."""


async def connect(path: Path) -> aiosqlite.Connection:
    """Open or make the file at `path` in today's format. Raises LedgerDamaged, aiosqlite.DatabaseError."""
    await asyncio.to_thread(make_private, path)
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        for pragma in PRAGMAS:
            await connection.execute(pragma)
        await migrate(connection, path)
    except BaseException:
        await connection.close()
        raise
    return connection


def make_private(path: Path) -> None:
    """Make the file, when there is none, and see that only its owner can read it. Blocking. Raises LedgerDamaged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unusable(path, error) from error


_NOT_DAMAGE = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_FULL",
    "SQLITE_PERM",
)


def unusable(path: Path, error: Exception) -> LedgerDamaged:
    """What to do about a ledger that does not open; only real damage is a reason to move it aside."""
    code = str(getattr(error, "sqlite_errorname", ""))
    if isinstance(error, OSError) or code.startswith(_NOT_DAMAGE):
        return LedgerDamaged(
            f"the ledger {path} cannot be used now ({error}); nothing is lost: check that no other program "
            "has it open, its permissions, and the space on its disk"
        )
    return LedgerDamaged(
        f"the ledger {path} is damaged ({error}); move it aside and start gpuwatch: "
        "it finds its machines again by their labels"
    )


async def migrate(connection: aiosqlite.Connection, path: Path) -> None:
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = int(row[0]) if row else 0
    if version > len(MIGRATIONS):
        raise LedgerDamaged(
            f"the ledger {path} was made by a newer gpuwatch (format {version}, this one knows {len(MIGRATIONS)}): upgrade"
        )
    if 0 < version < len(MIGRATIONS):
        try:
            await _back_up(connection, path.with_suffix(f".v{version}.bak"))
        except OSError as error:
            raise unusable(path, error) from error
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            await connection.execute(statement)
        await connection.execute(f"PRAGMA user_version = {number}")
        await connection.execute("COMMIT")


async def _back_up(connection: aiosqlite.Connection, backup: Path) -> None:
    """Keep the ledger as it was before an upgrade; what an upgrade that was cut off left is replaced."""
    unfinished = backup.with_suffix(".tmp")
    await asyncio.to_thread(unfinished.unlink, missing_ok=True)
    await asyncio.to_thread(make_private, unfinished)
    await connection.execute("VACUUM INTO ?", (str(unfinished),))
    await asyncio.to_thread(unfinished.replace, backup)
    await asyncio.to_thread(fsync_folder, backup.parent)
