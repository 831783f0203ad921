"""The one task that writes. Transactions are whole lists of statements, committed in groups.

aiosqlite runs each call in a thread, and cancelling the awaiting task does not stop the
statement: a cancelled BEGIN … COMMIT sequence would leave a transaction open. So the
connection belongs to this task alone, which nobody cancels while it commits; callers
hand over a finished list of statements and wait for its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiosqlite

Statement: TypeAlias = tuple[str, Sequence[Any]]

_GROUP = 256


@dataclass(slots=True)
class _Transaction:
    statements: list[Statement]
    done: asyncio.Future[None] = field(repr=False)


class Writer:
    """Commits transactions in the order they were handed over; durable when `commit` returns."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._queue: asyncio.Queue[_Transaction | None] = asyncio.Queue()
        self.commits = 0

    def submit(self, statements: list[Statement]) -> asyncio.Future[None]:
        """Queue a transaction now; the future is done once it is on the disk.

        The order of `submit` calls is the order of the ledger. sqlite3.Error comes out of
        the future and of `run`: a ledger that cannot be written ends the daemon.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Transaction(statements, done))
        return done

    async def run(self) -> None:
        """Write until `stop`; several waiting transactions share one commit (one fsync)."""
        while True:
            first = await self._queue.get()
            if first is None:
                return
            group, last = [first], False
            while len(group) < _GROUP and not self._queue.empty():
                item = self._queue.get_nowait()
                if item is None:
                    last = True
                    break
                group.append(item)
            try:
                await self._write(group)
            except BaseException as error:
                for transaction in group:
                    if not transaction.done.done():
                        transaction.done.set_exception(error)
                        transaction.done.exception()  # seen: the caller may be gone already
                raise
            for transaction in group:
                if not transaction.done.done():
                    transaction.done.set_result(None)
            if last:
                return

    def stop(self) -> None:
        """Finish what is queued, then let `run` return."""
        self._queue.put_nowait(None)

    async def _write(self, group: list[_Transaction]) -> None:
        await self._connection.execute("BEGIN IMMEDIATE")
        try:
            for transaction in group:
                for sql, values in transaction.statements:
                    await self._connection.execute(sql, values)
        except BaseException:
            await self._connection.execute("ROLLBACK")
            raise
        await self._connection.execute("COMMIT")
        self.commits += 1
