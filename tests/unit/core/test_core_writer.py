"""The one task that writes the ledger: whoever waits for it is always answered."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import aiosqlite
import pytest

from gpuwatch.ledger.writer import Writer


async def test_after_a_failure_nobody_waits_for_a_commit_that_will_never_come(tmp_path: Path) -> None:
    """Found by a simulated day on which the ledger's disk was full: a clean-up waited, and the daemon never ended."""
    async with aiosqlite.connect(tmp_path / "x.db", isolation_level=None) as connection:
        writer = Writer(connection)
        first = writer.submit([("INSERT INTO nowhere VALUES (1)", ())])
        queued = writer.submit([("CREATE TABLE t (x)", ())])
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            await writer.run()
        late = writer.submit([("CREATE TABLE t (x)", ())])
        for done in (first, queued, late):
            with pytest.raises(sqlite3.OperationalError, match="nowhere"):
                async with asyncio.timeout(5):
                    await done
