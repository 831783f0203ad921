"""The ledger on a real SQLite file: what was acknowledged is there, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from core_lives import BOOT, EVENTS, INSTANCE, LABEL, NOW, REQUESTED, opened

from gpuwatch.custody.facts import Copy
from gpuwatch.ledger import Ledger, LedgerDamaged
from gpuwatch.ledger.schema import MIGRATIONS
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.run import State


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


RENTAL = [EVENTS[k] for k in (e.OfferChosen, e.CreateSent, e.Rented, e.Booted, e.BoxChecked, e.JobStarted)]


def copy(path: str, step: int | None = None) -> Copy:
    return Copy(path, 10, "ab" * 32, (10, 2**62, -5, 2**63 - 1), BOOT, NOW, step)


async def test_everything_is_there_after_a_restart(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        for event in RENTAL:
            await ledger.append("r1", event)
        copies = [copy("out/a"), copy("out/b\udcff\n", step=3)]
        await ledger.append("r1", e.FilesVerified(files=2, bytes=20), copies=copies)
        before, last = dict(ledger.runs), ledger.last_seq
        log = await ledger.events()
    async with opened(path) as again:
        assert again.runs == before
        assert again.runs["r1"].state is State.RUNNING
        assert again.last_seq == last == 8
        assert again.copies("r1") == {c.path: c for c in copies}
        assert await again.events() == log
        assert [x.event for x in log] == [REQUESTED, *RENTAL, e.FilesVerified(files=2, bytes=20)]
        assert await again.run_for_key("k1") == "r1"
        assert await again.labels() == [(LABEL, "r1", "vast", INSTANCE)]
        assert await again.check() == "ok"


async def test_the_file_is_private_and_durable(path: Path) -> None:
    async with opened(path) as ledger:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        async with ledger._connection.execute("PRAGMA synchronous") as cursor:
            assert await cursor.fetchone() == (2,), "FULL: an intent survives a power cut"
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


async def test_what_cannot_happen_is_not_written(path: Path) -> None:
    async with opened(path) as ledger:
        run = await ledger.create("r1", REQUESTED)
        with pytest.raises(Impossible):
            await ledger.append("r1", e.DestroyAccepted(), copies=[copy("x")])
        assert ledger.runs["r1"] == run
        assert ledger.copies("r1") == {}
        assert ledger.last_seq == 1
    async with opened(path) as again:
        assert len(await again.events()) == 1


async def test_text_that_cannot_be_written_does_not_part_memory_from_disk(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        await ledger.append("r1", e.NoOffer(reason="name \udcff"))
        before = dict(ledger.runs)
    async with opened(path) as again:
        assert again.runs == before


async def test_order_is_the_order_of_the_calls_and_commits_are_shared(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        before = ledger._writer.commits
        async with asyncio.TaskGroup() as group:
            for n in range(300):
                group.create_task(ledger.append("r1", e.EndRequested(by=str(n))))
        shared = ledger._writer.commits - before
        log = await ledger.events(since=1, limit=1000)
    assert [x.event.by for x in log if isinstance(x.event, e.EndRequested)] == [str(n) for n in range(300)]
    assert [x.seq for x in log] == list(range(2, 302))
    assert shared < 20, "waiting transactions share an fsync"


async def test_a_cancelled_caller_loses_nothing_and_halves_nothing(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        changed = asyncio.create_task(ledger.changed())
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(ledger.append("r1", e.EndRequested(by=str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(d, asyncio.CancelledError) for d in done) == 10
        await asyncio.wait_for(changed, 10)
        last = await ledger.append("r1", e.EndRequested(by="last"))
        assert last.end_requested_by == "last"
        before = dict(ledger.runs)
    async with opened(path) as again:
        assert again.runs == before
        assert len(await again.events()) == 22
        assert await again.check() == "ok"


async def test_watchers_wake_also_when_the_only_caller_was_cancelled(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        changed = asyncio.create_task(ledger.changed())
        await asyncio.sleep(0)
        append = asyncio.create_task(ledger.append("r1", e.EndCancelled()))
        await asyncio.sleep(0)
        append.cancel()
        await asyncio.wait_for(changed, 10)


async def test_a_label_is_open_until_its_machine_is_gone(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        await ledger.append("r1", EVENTS[e.OfferChosen])
        assert await ledger.labels() == [(LABEL, "r1", "vast", None)], "written before anything is sent"
        for kind in (e.CreateSent, e.Rented, e.DestroySent, e.DestroyAccepted):
            await ledger.append("r1", EVENTS[kind])
        assert len(await ledger.labels()) == 1
        await ledger.append("r1", e.Gone(evidence="x"))
        assert await ledger.labels() == []


async def test_a_label_is_used_once(path: Path) -> None:
    ledger = await Ledger.open(path, now=lambda: NOW)
    writer = asyncio.create_task(ledger.write())
    await ledger.create("r1", REQUESTED)
    for kind in (e.OfferChosen, e.CreateSent, e.CreateRefused):
        await ledger.append("r1", EVENTS[kind])
    with pytest.raises(sqlite3.IntegrityError):
        await ledger.append("r1", EVENTS[e.OfferChosen])
    with pytest.raises(sqlite3.IntegrityError):
        await writer
    await ledger.close()
    async with opened(path) as again:
        assert again.runs["r1"].state is State.REQUESTED, "the refused transaction left nothing"
        assert again.last_seq == 4


async def test_events_come_in_pages(path: Path) -> None:
    async with opened(path) as ledger:
        for name in ("r1", "r2"):
            await ledger.create(name, e.Requested(name=name, spec="", file="", base="", key=name))
        for n in range(25):
            await ledger.append("r1" if n % 2 else "r2", e.EndRequested(by=str(n)))
        seen: list[int] = []
        while page := await ledger.events(since=seen[-1] if seen else 0, limit=10):
            assert len(page) <= 10
            seen += [x.seq for x in page]
        assert seen == list(range(1, 28))
        assert {x.run for x in await ledger.events(run="r1")} == {"r1"}
        assert len(await ledger.events(run="r1", limit=100)) == 13
        newest = await ledger.last_events("r1", 3)
        assert [x.event.by for x in newest if isinstance(x.event, e.EndRequested)] == ["19", "21", "23"]


async def test_writing_blocks_nobody(path: Path) -> None:
    async with opened(path) as ledger:
        with blockbuster_ctx():
            await ledger.create("r1", REQUESTED)
            for event in RENTAL:
                await ledger.append("r1", event)
            await ledger.append("r1", e.FilesVerified(files=1, bytes=1), copies=[copy("a")])
            assert len(await ledger.events()) == 8


# --- damage --------------------------------------------------------------------------------------


async def filled(path: Path, events: int = 200) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        for event in RENTAL:
            await ledger.append("r1", event)
        async with asyncio.TaskGroup() as group:
            for n in range(events):
                group.create_task(ledger.append("r1", e.EndRequested(by="x" * 200, reason=str(n))))
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


async def usable(path: Path) -> None:
    """Open and read everything. Raises what opening or reading raises."""
    ledger = await Ledger.open(path)
    try:
        if await ledger.check() != "ok":
            raise LedgerDamaged("check")
        await ledger.events(limit=10**6)
    finally:
        await ledger.close()


async def test_a_page_of_rubbish_anywhere_is_damage_and_nothing_else(path: Path) -> None:
    await filled(path)
    whole = path.read_bytes()
    for page in range(len(whole) // 4096):
        path.write_bytes(whole[: page * 4096] + os.urandom(4096) + whole[(page + 1) * 4096 :])
        for side in (path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            side.unlink(missing_ok=True)
        with pytest.raises(LedgerDamaged):
            await usable(path)


@pytest.mark.parametrize("keep", [50, 4096, 10_000, 40_000])
async def test_a_truncated_ledger_is_damage(keep: int, path: Path) -> None:
    await filled(path)
    os.truncate(path, keep)
    with pytest.raises(LedgerDamaged):
        await usable(path)


async def test_a_document_that_is_none_is_damage_with_advice(path: Path) -> None:
    await filled(path, 1)
    db = sqlite3.connect(path)
    db.execute("UPDATE runs SET doc = ?", (b'{"id": "r1"',))
    db.commit()
    db.close()
    with pytest.raises(LedgerDamaged, match="move it aside"):
        await Ledger.open(path)


async def test_an_event_that_is_none_is_damage(path: Path) -> None:
    await filled(path, 1)
    db = sqlite3.connect(path)
    db.execute("UPDATE events SET data = ? WHERE seq = 3", (b"\xff",))
    db.commit()
    db.close()
    with pytest.raises(LedgerDamaged, match="doctor"):
        await usable(path)


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("dear diary, " * 100)
    with pytest.raises(LedgerDamaged, match="move it aside"):
        await Ledger.open(path)
    assert path.read_text().startswith("dear diary")


async def test_a_ledger_of_a_newer_gpuwatch_is_refused(path: Path) -> None:
    await filled(path, 1)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(LedgerDamaged, match="newer gpuwatch"):
        await Ledger.open(path)


async def test_a_ledger_that_cannot_be_opened_now_is_not_called_damaged(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LedgerDamaged, match="nothing is lost"):
        await Ledger.open(path)


# --- kill -9 -------------------------------------------------------------------------------------

APPENDER = """
import asyncio, sys
from pathlib import Path
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e

async def one(ledger, name):
    run = await ledger.create(name, e.Requested(name=name, spec="", file="", base="", key=name))
    n = 0
    while True:
        n += 1
        await ledger.append(name, e.EndRequested(by=str(n)))
        sys.stdout.write(f"{name} {n}\\n")
        sys.stdout.flush()

async def main():
    ledger = await Ledger.open(Path(sys.argv[1]))
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.write())
        for name in sys.argv[2:]:
            group.create_task(one(ledger, name))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_what_was_acknowledged_survives_kill_9(acknowledged: int, path: Path) -> None:
    names = ("r1", "r2", "r3")
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path), *names], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledged)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().split(b"\n")[:-1]  # what was printed before the kill and not read yet
    process.wait()
    process.stdout.close()
    told: dict[str, int] = {}
    for line in lines:
        name, n = line.decode().split()
        told[name] = max(told.get(name, 0), int(n))
    async with opened(path) as ledger:
        assert await ledger.check() == "ok"
        log = await ledger.events(limit=10**6)
        assert [x.seq for x in log] == list(range(1, len(log) + 1)), "no holes"
        for name, n in told.items():
            done = [int(x.event.by) for x in log if x.run == name and isinstance(x.event, e.EndRequested)]
            assert done == list(range(1, len(done) + 1))
            assert len(done) >= n
            assert ledger.runs[name].end_requested_by == str(done[-1]), "state row and log agree"
