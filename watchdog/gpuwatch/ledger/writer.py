"""The one task that writes. Transactions are whole lists of statements, committed in groups.

aiosqlite runs each call in a thread, and cancelling the awaiting task does not stop the
statement: a cancelled BEGIN … COMMIT sequence would leave a transaction open. So the
connection belongs to this task alone, which nobody cancels while it commits; callers
hand over a finished list of statements and wait for its commit.

A group costs few trips to that thread however many transactions it holds: statements with
the same text that follow each other go as one call, and of a row that the group writes
again and again (a run's state) only the newest version goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias

import aiosqlite

Statement: TypeAlias = tuple[str, Sequence[Any]]

_GROUP = 256


@dataclass(slots=True)
class _Transaction:
    statements: Sequence[Statement]
    newest: Mapping[str, Statement]
    done: asyncio.Future[None] = field(repr=False)


class Writer:
    """Commits transactions in the order they were handed over; durable when the future is done."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._queue: asyncio.Queue[_Transaction | None] = asyncio.Queue()
        self._failed: BaseException | None = None
        self.commits = 0

    def submit(
        self, statements: Sequence[Statement], newest: Mapping[str, Statement] | None = None
    ) -> asyncio.Future[None]:
        """Queue a transaction now; the future is done once it is on the disk.

        The order of `submit` calls is the order of the ledger. `newest` are whole rows by a name
        of their own: when several transactions of one commit write the same row, only the last
        version is written. sqlite3.Error comes out of the future and of `run`: a ledger that
        cannot be written ends the daemon.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._failed is not None:
            # nobody writes any more: whoever would wait for it, in a clean-up, would wait for ever
            _fail(done, self._failed)
        else:
            self._queue.put_nowait(_Transaction(statements, newest or {}, done))
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
                self._failed = error
                while not self._queue.empty():
                    if (item := self._queue.get_nowait()) is not None:
                        group.append(item)
                for transaction in group:
                    _fail(transaction.done, error)
                raise
            for transaction in group:
                if not transaction.done.done():
                    transaction.done.set_result(None)
            if last:
                return

    def stop(self) -> None:
        """Finish what is queued, then let `run` return."""
        self._queue.put_nowait(None)

    async def _write(self, group: Sequence[_Transaction]) -> None:
        await self._connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in _batches(group):
                if len(values) == 1:
                    await self._connection.execute(sql, values[0])
                else:
                    await self._connection.executemany(sql, values)
        except BaseException:
            await self._connection.execute("ROLLBACK")
            raise
        await self._connection.execute("COMMIT")
        self.commits += 1


def _batches(group: Sequence[_Transaction]) -> Iterator[tuple[str, list[Sequence[Any]]]]:
    """The group's statements in order, neighbours of the same text together, then the newest rows. Pure."""
    newest: dict[str, Statement] = {}
    for transaction in group:
        newest.update(transaction.newest)
    ordered = [s for transaction in group for s in transaction.statements] + list(newest.values())
    for sql, same in groupby(ordered, key=lambda statement: statement[0]):
        yield sql, [values for _, values in same]


def _fail(done: asyncio.Future[None], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # seen: the caller may be gone already
