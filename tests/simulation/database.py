"""SQLite without threads, as aiosqlite looks, with the durability that its settings really buy.

The database is in memory and outlives the processes. A crash rolls back what was not
committed. With `synchronous=FULL` a commit is on the disk when it returns; with less, a
power cut may take any number of the last commits with it (SQLite's own words on WAL mode),
and this database does that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any, Self

from simulation.faults import Faults, Kind

_LEDGER = (Kind.HANG, Kind.ERROR_BEFORE, Kind.DELAY)
_FULL = 2


class _Cursor:
    """What `execute` gives: to be awaited, entered, or read."""

    def __init__(self, database: Database, sql: str, values: Sequence[Any], *, many: bool = False) -> None:
        self._database = database
        self._statements = [(sql, v) for v in values] if many else [(sql, values)]
        self._cursor: sqlite3.Cursor | None = None

    def __await__(self) -> Any:
        return self._run().__await__()

    async def _run(self) -> _Cursor:
        for sql, values in self._statements:
            self._cursor = await self._database.run(sql, values)
        return self

    async def __aenter__(self) -> Self:
        await self._run()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._rows.close()

    @property
    def _rows(self) -> sqlite3.Cursor:
        assert self._cursor is not None
        return self._cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        row = self._rows.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    async def fetchone(self) -> Any:
        return self._rows.fetchone()

    async def fetchall(self) -> list[Any]:
        return self._rows.fetchall()


class Database:
    """One ledger file."""

    def __init__(self, faults: Faults) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self._faults = faults
        self._synchronous = _FULL
        self._base: sqlite3.Connection | None = None
        self.times: dict[int, float] = {}
        """Number of an event → the world's time at which it was decided (its commit may have hung since)."""
        self.offset = 0.0
        """Of the daemon's clock: what it adds to the world's time."""
        self._open: list[tuple[str, Sequence[Any]]] = []
        self._unsynced: list[list[tuple[str, Sequence[Any]]]] = []

    def executemany(self, sql: str, values: Sequence[Sequence[Any]]) -> _Cursor:
        return _Cursor(self, sql, values, many=True)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> _Cursor:
        return _Cursor(self, sql, values)

    async def run(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """One statement. Raises sqlite3.OperationalError when the disk is full or broken."""
        faults, kind = self._faults, None
        if faults.time.dying:
            await faults.die()
        if sql == "COMMIT":
            kind = faults.choose("commit", _LEDGER, faults.ledger_rate)
            if kind is Kind.CRASH_BEFORE:
                await faults.die()
            if kind in (Kind.HANG, Kind.DELAY):
                await asyncio.sleep(200.0 if kind is Kind.HANG else 5.0)
            if kind is Kind.ERROR_BEFORE:
                raise sqlite3.OperationalError("disk I/O error")
            if faults.lasts(Kind.LEDGER_FULL):
                faults.note(Kind.LEDGER_FULL)
                raise sqlite3.OperationalError("database or disk is full")
        cursor = self.connection.execute(sql, values)
        if sql.startswith("INSERT INTO events"):
            self.times[values[0]] = values[1] - self.offset
        self._remember(sql, values)
        await faults.done(kind)
        return cursor

    def _remember(self, sql: str, values: Sequence[Any]) -> None:
        """With less than FULL: what was committed and is not on the disk."""
        if sql.startswith("PRAGMA synchronous"):
            self._synchronous = int(self.connection.execute("PRAGMA synchronous").fetchone()[0])
            if self._synchronous < _FULL and self._base is None:
                self._keep()
        if self._synchronous >= _FULL:
            return
        if sql == "COMMIT":
            self._unsynced.append(self._open)
            self._open = []
        elif sql == "ROLLBACK":
            self._open = []
        elif self.connection.in_transaction and not sql.startswith("BEGIN"):
            self._open.append((sql, values))

    def crash(self, *, power_cut: bool) -> None:
        """What is not committed is gone; after a power cut, what was not synced may be too."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._open = []
        if not power_cut or self._synchronous >= _FULL:
            return
        assert self._base is not None
        self._base.backup(self.connection)
        for transaction in self._unsynced[: self._faults.draw.randint(0, len(self._unsynced))]:
            for sql, values in transaction:
                self.connection.execute(sql, values)
        self._keep()

    def _keep(self) -> None:
        """What there is now is on the disk."""
        if self._base is not None:
            self._base.close()
        self._base, self._unsynced = sqlite3.connect(":memory:"), []
        self.connection.backup(self._base)

    async def close(self) -> None:
        """A process lets go of it; the file stays."""

    def dispose(self) -> None:
        self.connection.close()
        if self._base is not None:
            self._base.close()
