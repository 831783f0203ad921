"""The ledger: append events, read runs, copies and timelines. One per daemon."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiosqlite
import msgspec

from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.ledger.schema import MIGRATIONS, PRAGMAS
from gpuwatch.ledger.writer import Statement, Writer
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import create, evolve
from gpuwatch.lifecycle.run import Run
from gpuwatch.vault.layout import fsync_folder

_RUN = msgspec.json.Decoder(Run)


class LedgerDamaged(Exception):
    """The file cannot be used as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One line of the log."""

    seq: int
    at: float
    run: str | None
    event: e.AnyEvent


class Ledger:
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
        self._launches: dict[str, str] = {}
        self._copies: dict[str, dict[str, Copy]] = {}
        self._scrubs: dict[tuple[str, str], Scrubbed] = {}
        self._bad: dict[tuple[str, str], Scrubbed] = {}
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, path: Path, *, now: Callable[[], float] = time.time) -> Self:
        """Open or make the ledger at `path`. Raises LedgerDamaged (damage, or made by a newer gpuwatch)."""
        await asyncio.to_thread(_make_private, path)
        connection = await aiosqlite.connect(path, isolation_level=None)
        try:
            for pragma in PRAGMAS:
                await connection.execute(pragma)
            await _migrate(connection, path)
            ledger = cls(connection, now=now)
            await ledger._load()
        except (aiosqlite.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
            await connection.close()
            raise _unusable(path, error) from error
        except BaseException:
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
        await self._connection.execute("PRAGMA optimize")
        await self._connection.close()

    # --- runs ------------------------------------------------------------------------------------

    async def create(self, run_id: str, event: e.Requested) -> Run:
        """A new run. The caller has checked `run_for_key` in the same turn of the event loop."""
        at = self._now()
        event = e.storable(event)
        run = create(run_id, event, at)
        launch: Statement = ("INSERT INTO launches (key, run) VALUES (?, ?)", (event.key, run_id))
        self._launches[event.key] = run_id
        await self._record(run, event, at, [launch])
        return run

    async def append(self, run_id: str, event: e.AnyEvent, *, copies: Iterable[Copy] = ()) -> Run:
        """Let `event` happen to the run; durable on return. Raises Impossible before anything is written.

        `copies` are files proved at home, stored with the event in one transaction.
        """
        at = self._now()
        event = e.storable(event)
        run = evolve(self.runs[run_id], event, at)
        extra: list[Statement] = []
        mine = self._copies.setdefault(run_id, {})
        for copy in copies:
            mine[copy.path] = copy
            extra.append(_copy_row(run_id, copy))
            if self._scrubs.pop((run_id, copy.path), None) is not None:
                self._bad.pop((run_id, copy.path), None)
                extra.append((_DELETE_SCRUB, (run_id, os.fsencode(copy.path))))
        machine = run.machine
        match event:
            case e.OfferChosen():
                row = (event.label, run_id, event.provider, at)
                extra.append(("INSERT INTO labels (label, run, provider, at) VALUES (?, ?, ?, ?)", row))
            case e.Rented():
                extra.append(
                    ("UPDATE labels SET instance_id = ? WHERE label = ?", (event.instance_id, event.label))
                )
            case e.CreateRefused():
                extra.append(("UPDATE labels SET gone_at = ? WHERE label = ?", (at, event.label)))
            case e.Gone() | e.DudGone() | e.Lost():
                last = machine or (run.past[-1] if run.past else None)
                if last is not None:
                    extra.append(("UPDATE labels SET gone_at = ? WHERE label = ?", (at, last.label)))
            case _:
                pass
        await self._record(run, event, at, extra)
        return run

    def run_for_key(self, key: str) -> str | None:
        """The run that a launch key made before."""
        return self._launches.get(key)

    def copies(self, run_id: str) -> Mapping[str, Copy]:
        """Path → the newest proved copy, of one run. A copy that has gone bad is none."""
        return self._copies.get(run_id, {})

    def held(self, run_id: str) -> dict[str, Copy]:
        """Path → copy, those that have gone bad included. The caller's own."""
        return dict(self._copies.get(run_id, {})) | {
            s.copy.path: s.copy for (run, _), s in self._bad.items() if run == run_id
        }

    def scrubs(self) -> dict[tuple[str, str], Scrubbed]:
        """(run, path) → the newest re-read of that copy. The caller's own."""
        return dict(self._scrubs)

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
            key = (scrub.run, scrub.copy.path)
            known = self._bad[key].copy if key in self._bad else self.copies(scrub.run).get(scrub.copy.path)
            if known == scrub.copy:
                self._note(scrub)
                row = (scrub.run, os.fsencode(scrub.copy.path), scrub.at, scrub.problem)
                statements.append((_INSERT_SCRUB, row))
        if statements:
            durable = self._writer.submit(statements)
            durable.add_done_callback(self._tell)
            await asyncio.shield(durable)

    def _note(self, scrub: Scrubbed) -> None:
        key, copies = (scrub.run, scrub.copy.path), self._copies[scrub.run]
        self._scrubs[key] = scrub
        if scrub.problem is None:
            self._bad.pop(key, None)
            copies[scrub.copy.path] = scrub.copy
        else:
            self._bad[key] = scrub
            copies.pop(scrub.copy.path, None)

    async def _record(self, run: Run, event: e.Event, at: float, extra: list[Statement]) -> None:
        kind = str(type(event).__struct_config__.tag)
        data, doc = e.ENCODER.encode(event), msgspec.json.encode(run)
        self._seq += 1
        self.runs[run.id] = run
        statements: list[Statement] = [
            (
                "INSERT INTO events (seq, at, run, kind, data) VALUES (?, ?, ?, ?, ?)",
                (self._seq, at, run.id, kind, data),
            ),
            ("INSERT OR REPLACE INTO runs (id, seq, doc) VALUES (?, ?, ?)", (run.id, self._seq, doc)),
            *extra,
        ]
        durable = self._writer.submit(statements)
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

    # --- timelines -------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """Number of the newest event."""
        return self._seq

    async def events(self, *, since: int = 0, run: str | None = None, limit: int = 500) -> list[StoredEvent]:
        """Events after `since`, oldest first, at most `limit`. Raises LedgerDamaged."""
        where, values = ("seq > ?", [since]) if run is None else ("run = ? AND seq > ?", [run, since])
        return await self._select(f"{where} ORDER BY seq LIMIT ?", [*values, limit])

    async def last_events(self, run: str, limit: int) -> list[StoredEvent]:
        """The newest `limit` events of a run, oldest first."""
        return list(reversed(await self._select("run = ? ORDER BY seq DESC LIMIT ?", [run, limit])))

    async def _select(self, tail: str, values: list[object]) -> list[StoredEvent]:
        query = f"SELECT seq, at, run, data FROM events WHERE {tail}"  # noqa: S608 - `tail` is ours
        try:
            async with self._connection.execute(query, values) as cursor:
                rows = await cursor.fetchall()
            return [StoredEvent(row[0], row[1], row[2], e.DECODER.decode(row[3])) for row in rows]
        except (aiosqlite.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LedgerDamaged(
                f"the ledger's log cannot be read ({error}); run `gpuwatch doctor`"
            ) from error

    async def check(self) -> str:
        """`PRAGMA quick_check`: `ok`, or what is wrong."""
        try:
            async with self._connection.execute("PRAGMA quick_check(10)") as cursor:
                rows = await cursor.fetchall()
        except aiosqlite.DatabaseError as error:  # too damaged even for the check
            return str(error)
        return "; ".join(str(row[0]) for row in rows)

    async def labels(self) -> list[tuple[str, str, str, str | None]]:
        """(label, run, provider, instance id) of every label whose machine is not confirmed gone."""
        query = "SELECT label, run, provider, instance_id FROM labels WHERE gone_at IS NULL"
        async with self._connection.execute(query) as cursor:
            return [(row[0], row[1], row[2], row[3]) for row in await cursor.fetchall()]

    async def _load(self) -> None:
        async with self._connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events") as cursor:
            row = await cursor.fetchone()
            self._seq = int(row[0]) if row else 0
        async with self._connection.execute("SELECT doc FROM runs") as cursor:
            async for row in cursor:
                run = _RUN.decode(row[0])
                self.runs[run.id] = run
        async with self._connection.execute("SELECT key, run FROM launches") as cursor:
            self._launches = {row[0]: row[1] async for row in cursor}
        query = "SELECT run, path, size, sha256, mtime_ns, ctime_ns, inode, boot_id, verified_at, step FROM copies"
        async with self._connection.execute(query) as cursor:
            async for row in cursor:
                path = os.fsdecode(row[1])
                copy = Copy(path, row[2], row[3], (row[2], row[4], row[5], row[6]), row[7], row[8], row[9])
                self._copies.setdefault(row[0], {})[path] = copy
        async with self._connection.execute("SELECT run, path, at, problem FROM scrubs") as cursor:
            async for row in cursor:
                known = self.copies(row[0]).get(os.fsdecode(row[1]))
                if known is not None:
                    self._note(Scrubbed(row[0], known, row[2], row[3]))


def _make_private(path: Path) -> None:
    """Make the file, when there is none, and see that only its owner can read it. Blocking. Raises LedgerDamaged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unusable(path, error) from error


_NOT_DAMAGE = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_FULL",
    "SQLITE_PERM",
)


def _unusable(path: Path, error: Exception) -> LedgerDamaged:
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


_INSERT_COPY = """INSERT OR REPLACE INTO copies
    (run, path, size, sha256, mtime_ns, ctime_ns, inode, boot_id, verified_at, step)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def _copy_row(run_id: str, copy: Copy) -> Statement:
    size, mtime_ns, ctime_ns, inode = copy.identity
    return (
        _INSERT_COPY,
        (
            run_id, os.fsencode(copy.path), size, copy.sha256, mtime_ns, ctime_ns, inode, copy.boot_id,
            copy.verified_at, copy.step,
        ),
    )  # fmt: skip


_INSERT_SCRUB = "INSERT OR REPLACE INTO scrubs (run, path, at, problem) VALUES (?, ?, ?, ?)"
_DELETE_SCRUB = "DELETE FROM scrubs WHERE run = ? AND path = ?"


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = int(row[0]) if row else 0
    if version > len(MIGRATIONS):
        raise LedgerDamaged(
            f"the ledger {path} was made by a newer gpuwatch (format {version}, this one knows {len(MIGRATIONS)}): upgrade"
        )
    if 0 < version < len(MIGRATIONS):
        await _back_up(connection, path.with_suffix(f".v{version}.bak"))
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
    await asyncio.to_thread(_make_private, unfinished)
    await connection.execute("VACUUM INTO ?", (str(unfinished),))
    await asyncio.to_thread(unfinished.replace, backup)
    await asyncio.to_thread(fsync_folder, backup.parent)
