"""The ledger: append events, read runs, copies, machines and timelines. One per daemon.

What is open is in memory: runs that are not over with their copies, the newest ended
runs, the entries of machines that may exist or are still checked. Everything else is
read from the disk when somebody asks, so that neither start nor memory grows with age.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite
import msgspec

from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.ledger import rows
from gpuwatch.ledger.opening import LedgerDamaged, connect, unusable
from gpuwatch.ledger.opening import migrate as _migrate
from gpuwatch.ledger.retained import Retained
from gpuwatch.ledger.values import ClockMark, Record, StoredEvent
from gpuwatch.ledger.writer import Statement, Writer
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import create, evolve
from gpuwatch.lifecycle.register import Entry, enter, label_of
from gpuwatch.lifecycle.run import FINAL, Run

__all__ = ["Ledger", "LedgerDamaged", "Record", "StoredEvent", "_migrate"]

T = TypeVar("T")

RECENT = 200
"""Ended runs that stay in memory, so that a listing shows them without reading the disk."""
_FUTURE = 86_400.0
"""Seconds by which a proof may lie ahead of the clock before it counts as none."""


class Ledger(Retained):
    """Runs as the events made them, in memory and on disk at once.

    `append` changes the run in memory, queues event and state row as one transaction and
    returns when they are durable. Within one event loop turn the order of appends is the
    order on disk. Use `open`, then run `write` as a task of the daemon's group.
    """

    def __init__(self, connection: aiosqlite.Connection, *, now: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._writer = Writer(connection)
        self._now = now
        self._seq = 0
        self.runs: dict[str, Run] = {}
        """By id: every run that is not over, and the newest that are."""
        self.register: dict[str, Entry] = {}
        """By label: machines that exist or may exist, are checked after their end, or stand in an alarm."""
        self.accounts: dict[str, e.AccountSeen] = {}
        """Provider → the account that our machines are of."""
        self.clock: ClockMark | None = None
        """Which clock the times on record are of; None before any daemon said so."""
        self.forgotten: list[Callable[[str], None]] = []
        """Called with the id of each run that leaves the memory."""
        self._launches: dict[str, str] = {}
        self._copies: dict[str, dict[str, Copy]] = {}
        self._bad: dict[tuple[str, str], Scrubbed] = {}
        self._let_go: dict[str, set[str]] = {}
        """Run in memory that is not over → paths of which retention let something go."""
        self._ended: dict[str, None] = {}
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, path: Path, *, now: Callable[[], float] = time.time) -> Self:
        """Open or make the ledger at `path`. Raises LedgerDamaged (damage, or made by a newer gpuwatch)."""
        connection: aiosqlite.Connection | None = None
        try:
            connection = await connect(path)
            ledger = cls(connection, now=now)
            await ledger._load()
        except (aiosqlite.DatabaseError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            if connection is not None:
                await connection.close()
            raise unusable(path, error) from error
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        return ledger

    async def write(self) -> None:
        """The writer task. Returns after `stop`; raises when the disk refuses, which ends the daemon."""
        await self._writer.run()

    def stop(self) -> None:
        """Finish queued writes and end `write`."""
        self._writer.stop()

    async def close(self) -> None:
        """Close the file; `write` must have returned."""
        with contextlib.suppress(aiosqlite.DatabaseError):  # a hint to the planner; damage is told by reading
            await self._connection.execute("PRAGMA optimize")
        await self._connection.close()

    # --- what happens ----------------------------------------------------------------------------

    async def create(self, run_id: str, event: e.Requested) -> Run:
        """A new run. The caller has checked key and id: `launched` in the same turn of the event loop."""
        run, statements = self._made(run_id, e.storable(event), self._now())
        await self._durable(statements)
        return run

    async def take_over(self, event: e.TakenOver, left: e.Recovering | None = None) -> Run:
        """A new run for a machine that the run `event.of` goes on without; its entry, in memory, is that run's now.

        With `left` the other run leaves its machine in the same transaction: at every moment exactly one of
        the two has it. Raises Impossible before anything is written.
        """
        at = self._now()
        event = e.storable(event)
        statements: list[Statement] = []
        newest: dict[str, Statement] = {}
        if left is not None:
            left = e.storable(left)
            before = evolve(self.runs[event.of], left, at)
            self._seq += 1
            statements.append(rows.event_row(self._seq, at, event.of, left))
            newest[f"run {event.of}"] = rows.run_row(before, self._seq)
            self.runs[event.of] = before
        run, made = self._made(event.taker, event, at)
        newest |= self._enter(event.label, event, at)
        await self._durable([*statements, *made], newest)
        return run

    def _made(self, run_id: str, event: e.Requested | e.TakenOver, at: float) -> tuple[Run, list[Statement]]:
        """The new run, in memory, and its rows."""
        run = create(run_id, event, at)
        self._launches[event.key] = run_id
        self.runs[run_id] = run
        self._seq += 1
        return run, [
            rows.event_row(self._seq, at, run_id, event),
            rows.run_row(run, self._seq, new=True),
            rows.launch_row(event.key, run_id),
        ]

    async def append(self, run_id: str, event: e.RunEvent, *, copies: Iterable[Copy] = ()) -> Run:
        """Let `event` happen to the run; durable on return. Raises Impossible before anything is written.

        `copies` are files proved at home, stored with the event in one transaction.
        """
        at = self._now()
        event = e.storable(event)
        before = self.runs[run_id]
        run = evolve(before, event, at)
        self._seq += 1
        statements = [rows.event_row(self._seq, at, run_id, event)]
        fresh = {copy.path: copy for copy in copies}
        self._copies.setdefault(run_id, {}).update(fresh)
        for path in fresh:
            self._bad.pop((run_id, path), None)
        statements += [rows.copy_row(run_id, copy) for copy in fresh.values()]
        statements += [rows.unscrub_row(run_id, path) for path in fresh]
        statements += self._keeps_again(run_id, fresh.keys())
        newest = {f"run {run_id}": rows.run_row(run, self._seq)}
        label = label_of(event, before, run)
        if label is not None:
            if isinstance(event, e.OfferChosen):
                entry = Entry(label=label, run=run_id, provider=event.provider, at=at)
                self.register[label] = entry
                statements.append(rows.entry_row(entry, new=True))
            else:
                newest |= self._enter(label, event, at)
        self.runs[run_id] = run
        self._remember(run)
        await self._durable(statements, newest)
        return run

    async def note(self, event: e.RegisterEvent) -> None:
        """Let `event` happen to a machine's entry, which is in memory; durable on return. Raises KeyError."""
        at = self._now()
        event = e.storable(event)
        entry = self.register[event.label]
        self._seq += 1
        line = rows.event_row(self._seq, at, entry.run, event)
        await self._durable([line], self._enter(event.label, event, at))

    async def know_account(self, seen: e.AccountSeen) -> None:
        """From here on this is who we are to the provider; durable on return."""
        at = self._now()
        event = e.storable(seen)
        self.accounts[event.provider] = event
        self._seq += 1
        await self._durable([rows.event_row(self._seq, at, None, event), rows.account_row(event, at)])

    def mark_clock(self, boot: str, offset: float) -> None:
        """From here on recorded times are those of this clock; durable before anything that is recorded later."""
        mark = ClockMark(boot, offset)
        if mark != self.clock:
            self.clock = mark
            self._writer.submit([rows.clock_row(boot, offset)])

    def _enter(self, label: str, event: e.AnyEvent, at: float) -> dict[str, Statement]:
        """What the event makes of the machine's entry, in memory; the row to write, if it changes."""
        entry = self.register.get(label)
        after = None if entry is None else enter(entry, event, at)
        if after is None or after == entry:
            return {}
        if after.open:
            self.register[label] = after
        else:
            del self.register[label]
        return {f"machine {label}": rows.entry_row(after, new=False)}

    def _remember(self, run: Run) -> None:
        """Keep the newest ended runs; let older ones go, and the copies of all that are over."""
        if run.state not in FINAL:
            self._ended.pop(run.id, None)
            return
        self._ended[run.id] = None
        self._copies.pop(run.id, None)
        while len(self._ended) > RECENT:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            gone = self.runs.pop(oldest)
            self._let_go.pop(oldest, None)
            self._launches.pop(gone.key, None)
            for forget in self.forgotten:
                forget(oldest)

    async def _durable(
        self, statements: Sequence[Statement], newest: dict[str, Statement] | None = None
    ) -> None:
        durable = self._writer.submit(statements, newest)
        durable.add_done_callback(self._tell)
        # the commit goes on even when the caller is cancelled while waiting for it
        await asyncio.shield(durable)

    def _tell(self, durable: asyncio.Future[None]) -> None:
        """Wake whoever waits for a change; also when the caller of `append` has been cancelled."""
        if not durable.cancelled() and durable.exception() is None:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def changed(self) -> None:
        """Return after the next event is durable."""
        await self._changed.wait()

    # --- runs ------------------------------------------------------------------------------------

    async def run_for_key(self, key: str) -> str | None:
        """The run that a launch key made before. Ask `launched` again in the turn that creates."""
        return self.launched(key) or await self._one("SELECT run FROM launches WHERE key = ?", key)

    def launched(self, key: str) -> str | None:
        """The run in memory that this launch key made."""
        return self._launches.get(key)

    async def known(self, run_id: str) -> bool:
        """Whether there ever was a run of this id."""
        return run_id in self.runs or await self._one("SELECT id FROM runs WHERE id = ?", run_id) is not None

    async def matching(self, ref: str) -> list[str]:
        """Ids of runs that `ref` can mean: the one with this id, else the newest of this name, else by prefix."""
        if await self.known(ref):
            return [ref]
        named = await self._one("SELECT id FROM runs WHERE name = ? ORDER BY created_at DESC LIMIT 1", ref)
        if named is not None:
            return [named]
        if not ref:
            return []
        query = "SELECT id FROM runs WHERE id >= ? AND id < ? LIMIT 6"
        return [str(row[0]) for row in await self._rows(query, (ref, ref + "\U0010ffff"))]

    async def record(self, run_id: str) -> Record:
        """A run with its copies, from memory or the disk. Raises KeyError, LedgerDamaged."""
        run = self.runs.get(run_id)
        if run is not None and run.state not in FINAL:
            return Record(run, self.copies(run_id))
        if run is None:
            found = await self._rows("SELECT doc FROM runs WHERE id = ?", (run_id,))
            if not found:
                raise KeyError(run_id)
            run = _read(lambda: rows.run_of(found[0]))
        copies = [rows.copy_of(row)[1] for row in await self._rows(rows.COPIES_OF, (run_id,))]
        return Record(run, {c.path: c for c in copies if (run_id, c.path) not in self._bad})

    @property
    def forgets(self) -> bool:
        """Whether there may be ended runs that are only on the disk."""
        return len(self._ended) >= RECENT

    async def ended(self, before: float, limit: int) -> list[Run]:
        """Runs that ended before this time (Unix seconds), newest first, at most `limit`."""
        found = await self._rows(rows.OLDER_RUNS, (before, limit))
        return _read(lambda: [rows.run_of(row) for row in found])

    async def counts(self) -> dict[str, int]:
        """State → number of runs, all that ever were."""
        return {
            str(s): int(n) for s, n in await self._rows("SELECT state, COUNT(*) FROM runs GROUP BY state")
        }

    async def with_checkpoints(self, name: str, ids: Iterable[str] = ()) -> list[Run]:
        """The newest 20 runs of a name and those of these ids (in memory or not), newest first."""
        query = "SELECT id FROM runs WHERE name = ? ORDER BY created_at DESC LIMIT 20"
        found = {str(row[0]) for row in await self._rows(query, (name,))}
        found |= {i for i in ids if i and await self.known(i)}
        runs = [(await self.record(run_id)).run for run_id in found]
        return sorted(runs, key=lambda r: -r.created_at)

    async def recall(self, run_id: str) -> Run:
        """Bring an ended run and its copies back into memory, because something happens to it again."""
        record = await self.record(run_id)
        if run_id not in self.runs:
            self.runs[run_id] = record.run
            self._ended[run_id] = None
        self._copies.setdefault(run_id, dict(record.copies))
        self._let_go.setdefault(run_id, {p.copy.path for p in await self.let_go(run_id)})
        return self.runs[run_id]

    # --- machines --------------------------------------------------------------------------------

    async def entry(self, label: str) -> Entry | None:
        """The register's entry of this label, from memory or the disk."""
        known = self.register.get(label)
        if known is not None:
            return known
        found = await self._rows(rows.ENTRY_OF, (label,))
        return rows.entry_of(found[0]) if found else None

    def reopen(self, entry: Entry) -> None:
        """Take an entry back into memory, because something happens to its machine again."""
        self.register.setdefault(entry.label, entry)

    async def labels(self) -> list[tuple[str, str, str, str | None]]:
        """(label, run, provider, instance id) of every label whose machine is not confirmed gone."""
        query = "SELECT label, run, provider, instance_id FROM labels WHERE gone_at IS NULL"
        return [(row[0], row[1], row[2], row[3]) for row in await self._rows(query)]

    # --- copies and their re-reads ---------------------------------------------------------------

    def copies(self, run_id: str) -> Mapping[str, Copy]:
        """Path → the newest proved copy, of one run that is not over. A copy that has gone bad is none."""
        return self._copies.get(run_id, {})

    async def held(self, run_id: str, path: str) -> Copy | None:
        """The copy of this name, of any run, also when it has gone bad."""
        if (run_id, path) in self._bad:
            return self._bad[run_id, path].copy
        if run_id in self._copies:
            return self._copies[run_id].get(path)
        found = await self._rows(rows.COPY_OF, (run_id, os.fsencode(path)))
        return rows.copy_of(found[0])[1] if found else None

    async def unproved_longest(self, now: float, limit: int) -> list[tuple[str, Copy, Scrubbed | None]]:
        """(run, copy, newest re-read) of the copies whose last proof is oldest, and of all that are bad.

        One whose proof lies in the future comes first: the clock was wrong then.
        """
        ahead = await self._rows(rows.UNPROVED_LONGEST.format("> ?"), (now + _FUTURE, limit))
        oldest = await self._rows(rows.UNPROVED_LONGEST.format("<= ?"), (now + _FUTURE, limit))
        bad = await self._rows(rows.BAD_COPIES)
        unique = {(row[0], row[1]): row for row in [*ahead, *oldest, *bad]}
        return [rows.scrub_of(row) for row in unique.values()]

    async def scrubs(self, since: float = -math.inf) -> dict[tuple[str, str], Scrubbed]:
        """(run, path) → the newest re-read of that copy, of those since then (Unix seconds)."""
        found = [rows.scrub_of(row)[2] for row in await self._rows(rows.SCRUBS_SINCE, (since,))]
        return {(s.run, s.copy.path): s for s in found if s is not None}

    def bad(self) -> list[Scrubbed]:
        """The copies that were found bad and have not come home anew, by run and path."""
        return sorted(self._bad.values(), key=lambda s: (s.run, s.copy.path))

    async def record_scrubs(self, scrubs: Iterable[Scrubbed]) -> None:
        """Remember what re-reading copies found; durable on return. State, not history: the newest counts.

        A bad one is no copy any more (`copies` leaves it out), so custody holds what is on the
        box. What is about a copy that has been replaced meanwhile is left out.
        """
        statements: list[Statement] = []
        for scrub in scrubs:
            if await self.held(scrub.run, scrub.copy.path) == scrub.copy:
                self._note(scrub)
                statements += rows.scrub_rows(scrub)
        if statements:
            await self._durable(statements)

    def _note(self, scrub: Scrubbed) -> None:
        key, copies = (scrub.run, scrub.copy.path), self._copies.get(scrub.run)
        if scrub.problem is None:
            self._bad.pop(key, None)
            if copies is not None:
                copies[scrub.copy.path] = scrub.copy
        else:
            self._bad[key] = scrub
            if copies is not None:
                copies.pop(scrub.copy.path, None)

    # --- timelines -------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """Number of the newest event."""
        return self._seq

    async def events(self, *, since: int = 0, run: str | None = None, limit: int = 500) -> list[StoredEvent]:
        """Events after `since`, oldest first, at most `limit`. Raises LedgerDamaged."""
        where, values = ("seq > ?", [since]) if run is None else ("run = ? AND seq > ?", [run, since])
        return await self._select(f"{where} ORDER BY seq LIMIT ?", [*values, limit])

    async def events_of(self, kinds: Sequence[str], *, since: int, limit: int) -> list[StoredEvent]:
        """Events of these kinds after `since`, oldest first, at most `limit`. Raises LedgerDamaged."""
        marks = ", ".join("?" * len(kinds))
        return await self._select(
            f"seq > ? AND kind IN ({marks}) ORDER BY seq LIMIT ?", [since, *kinds, limit]
        )

    async def last_events(self, run: str, limit: int) -> list[StoredEvent]:
        """The newest `limit` events of a run, oldest first."""
        return list(reversed(await self._select("run = ? ORDER BY seq DESC LIMIT ?", [run, limit])))

    async def _select(self, tail: str, values: Sequence[object]) -> list[StoredEvent]:
        found = await self._rows(f"SELECT seq, at, run, data FROM events WHERE {tail}", values)  # noqa: S608 - `tail` is ours
        return _read(lambda: [StoredEvent(r[0], r[1], r[2], e.DECODER.decode(r[3])) for r in found])

    async def check(self) -> str:
        """`PRAGMA quick_check`: `ok`, or what is wrong."""
        try:
            async with self._connection.execute("PRAGMA quick_check(10)") as cursor:
                found = await cursor.fetchall()
        except aiosqlite.DatabaseError as error:  # too damaged even for the check
            return str(error)
        return "; ".join(str(row[0]) for row in found)

    # --- reading ---------------------------------------------------------------------------------

    async def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query. Raises LedgerDamaged."""
        try:
            async with self._connection.execute(query, values) as cursor:
                return list(await cursor.fetchall())
        except aiosqlite.DatabaseError as error:
            raise _unreadable(error) from error

    async def _one(self, query: str, *values: object) -> str | None:
        found = await self._rows(query, values)
        return str(found[0][0]) if found else None

    async def _load(self) -> None:
        """Everything that is open, and no more."""
        run = self._connection.execute
        async with run("SELECT COALESCE(MAX(seq), 0) FROM events") as cursor:
            row = await cursor.fetchone()
            self._seq = int(row[0]) if row else 0
        async with run(rows.ENDED_RUNS, (RECENT,)) as cursor:
            recent = [rows.run_of(row) async for row in cursor]
        async with run(rows.LIVE_RUNS) as cursor:
            live = [rows.run_of(row) async for row in cursor]
        for known in [*reversed(recent), *live]:
            self.runs[known.id] = known
            self._launches[known.key] = known.id
        self._ended = dict.fromkeys(r.id for r in reversed(recent))
        async with run(rows.COPIES_OF_LIVE) as cursor:
            async for row in cursor:
                run_id, copy = rows.copy_of(row)
                self._copies.setdefault(run_id, {})[copy.path] = copy
        async with run(rows.LET_GO_OF_LIVE) as cursor:
            async for row in cursor:
                self._let_go.setdefault(str(row[0]), set()).add(os.fsdecode(row[1]))
        async with run(rows.BAD_COPIES) as cursor:
            for scrub in [rows.scrub_of(row)[2] async for row in cursor]:
                if scrub is not None:
                    self._note(scrub)
        async with run(rows.OPEN_ENTRIES) as cursor:
            self.register = {entry.label: entry async for entry in _entries(cursor)}
        async with run("SELECT provider, user, key_id FROM accounts") as cursor:
            async for row in cursor:
                self.accounts[row[0]] = e.AccountSeen(provider=row[0], user=row[1], key_id=row[2])
        async with run("SELECT boot, offset FROM clock") as cursor:
            async for row in cursor:
                self.clock = ClockMark(row[0], row[1])


async def _entries(cursor: aiosqlite.Cursor) -> Any:
    async for row in cursor:
        yield rows.entry_of(row)


def _read(decode: Callable[[], T]) -> T:
    try:
        return decode()
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> LedgerDamaged:
    return LedgerDamaged(f"the ledger's log cannot be read ({error}); run `gpuwatch doctor`")
