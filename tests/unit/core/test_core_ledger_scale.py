"""What is over stays on the disk: neither memory nor a start grows with the ledger's age."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from core_lives import EVENTS, NOW
from test_core_ledger import copy, opened

from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.ledger import Ledger, store
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State

FEW = 3


@pytest.fixture(autouse=True)
def keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ended runs stay in memory instead of two hundred."""
    monkeypatch.setattr(store, "RECENT", FEW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def request(name: str) -> e.Requested:
    return e.Requested(name=name.split("-")[0], spec="", file="", base="", key=f"key-{name}")


async def live_and_die(ledger: Ledger, name: str) -> None:
    """A whole life with a proved file."""
    label = f"gputui-{name}"
    await ledger.create(name, request(name))
    chosen = EVENTS[e.OfferChosen]
    assert isinstance(chosen, e.OfferChosen)
    life: list[e.RunEvent] = [
        e.OfferChosen(**{f: getattr(chosen, f) for f in chosen.__struct_fields__} | {"label": label}),
        e.CreateSent(label=label),
        e.Rented(label=label, instance_id=name),
        EVENTS[e.Booted],
        EVENTS[e.BoxChecked],
        EVENTS[e.JobStarted],
    ]
    for event in life:
        await ledger.append(name, event)
    await ledger.append(name, e.FilesVerified(files=1, bytes=1), copies=[copy("out/a")])
    for event in (EVENTS[e.JobEnded], e.CollectStarted(), EVENTS[e.ReceiptWritten]):
        await ledger.append(name, event)
    await ledger.append(name, e.DestroySent(permit="receipt", instance_id=name))
    await ledger.append(name, e.DestroyAccepted())
    await ledger.append(name, e.Gone(evidence="x"))
    await ledger.note(e.Buried(label=label, evidence="x"))


async def test_only_the_newest_ended_runs_stay_in_memory_and_all_on_the_disk(path: Path) -> None:
    forgotten: list[str] = []
    async with opened(path) as ledger:
        ledger.forgotten.append(forgotten.append)
        await ledger.create("alive-1", request("alive-1"))
        for n in range(10):
            await live_and_die(ledger, f"done-{n}")
        in_memory = set(ledger.runs)
        assert in_memory == {"alive-1", "done-7", "done-8", "done-9"}
        assert forgotten == [f"done-{n}" for n in range(7)]
        assert ledger.forgets
        assert (await ledger.counts()) == {"gone": 10, "requested": 1}
    async with opened(path) as again:
        assert set(again.runs) == in_memory
        assert again.register == {}, "what is off the books is not in memory"
        record = await again.record("done-2")
        assert (record.run.state, set(record.copies)) == (State.GONE, {"out/a"})
        with pytest.raises(KeyError):
            await again.record("never-1")


async def test_a_run_on_the_disk_is_found_by_id_name_and_prefix_and_its_id_is_taken(path: Path) -> None:
    async with opened(path) as ledger:
        for n in range(8):
            await live_and_die(ledger, f"job{n}-aaaa")
        assert await ledger.matching("job1-aaaa") == ["job1-aaaa"]
        assert await ledger.matching("job1") == ["job1-aaaa"], "by its name"
        assert await ledger.matching("job1-a") == ["job1-aaaa"], "by the start of its id"
        assert len(await ledger.matching("job")) == 6
        assert await ledger.matching("") == []
        assert await ledger.known("job1-aaaa")
        assert not await ledger.known("job9-aaaa")
        assert await ledger.run_for_key("key-job1-aaaa") == "job1-aaaa", "a launch is the same for ever"
        assert await ledger.run_for_key("other") is None


async def test_what_is_over_comes_in_pages_newest_first(path: Path) -> None:
    clock = [NOW]
    ledger = await Ledger.open(path, now=lambda: clock[0])
    writer = asyncio.create_task(ledger.write())
    for n in range(7):
        clock[0] += 10
        await live_and_die(ledger, f"done-{n}")
    first = await ledger.ended(NOW + 1000, 4)
    assert [r.id for r in first] == ["done-6", "done-5", "done-4", "done-3"]
    assert [r.id for r in await ledger.ended(first[-1].ended_at or 0, 4)] == ["done-2", "done-1", "done-0"]
    ledger.stop()
    await writer
    await ledger.close()


async def test_a_run_that_something_happens_to_again_comes_back_with_its_copies(path: Path) -> None:
    async with opened(path) as ledger:
        for n in range(6):
            await live_and_die(ledger, f"done-{n}")
        entry = await ledger.entry("gputui-done-0")
        assert entry is not None
        ledger.reopen(entry)
        await ledger.recall("done-0")
        after = await ledger.append("done-0", e.Returned(instance_id="done-0", evidence="listed"))
        assert (after.state, after.ended_at) == (State.DESTROYING, None)
        assert set(ledger.copies("done-0")) == {"out/a"}
        assert "gputui-done-0" in ledger.register
        for n in range(6, 9):
            await live_and_die(ledger, f"done-{n}")
        assert "done-0" in ledger.runs, "it is not over"
    async with opened(path) as again:
        assert again.runs["done-0"].state is State.DESTROYING
        assert set(again.copies("done-0")) == {"out/a"}


async def test_old_proofs_are_found_without_reading_all_and_damage_is_remembered(path: Path) -> None:
    clock = [NOW]
    ledger = await Ledger.open(path, now=lambda: clock[0])
    writer = asyncio.create_task(ledger.write())
    for n in range(6):
        await live_and_die(ledger, f"done-{n}")
    held = await ledger.held("done-1", "out/a")
    assert held is not None
    await ledger.record_scrubs(
        [Scrubbed("done-1", held, NOW + 50, "damaged"), Scrubbed("done-2", held, NOW + 60)]
    )
    longest = await ledger.unproved_longest(NOW, 2)
    assert {run for run, _, _ in longest} >= {"done-0", "done-1"}, "the oldest, and what is bad"
    assert "out/a" not in (await ledger.record("done-1")).copies, "a bad copy is none"
    assert set(await ledger.scrubs(since=NOW + 55)) == {("done-2", "out/a")}
    ahead = await ledger.unproved_longest(NOW - 30 * 86_400, 1)
    assert ahead[0][1].verified_at == NOW, "a proof from the future comes first: the clock was wrong then"
    ledger.stop()
    await writer
    await ledger.close()
    async with opened(path) as again:
        assert [(s.run, s.problem) for s in again.bad()] == [("done-1", "damaged")]


async def test_a_million_lines_cost_a_start_nothing(path: Path) -> None:
    """The queries of a start use an index each: none of them walks over the log or the ended runs."""
    async with opened(path) as ledger:
        await live_and_die(ledger, "done-0")
    import sqlite3

    from gpuwatch.ledger import rows

    db = sqlite3.connect(path)
    for query in (rows.LIVE_RUNS, rows.ENDED_RUNS, rows.COPIES_OF_LIVE, rows.OPEN_ENTRIES, rows.BAD_COPIES):
        values = (1,) * query.count("?")
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]
        walked = [line for line in plan if line.startswith("SCAN") and "USING INDEX" not in line]
        assert not walked, (query, plan)
    db.close()


async def test_one_commit_writes_a_runs_state_once_however_many_events_it_holds(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.create("r1", request("r1"))
        sent: list[str] = []
        execute = ledger._connection.execute
        many = ledger._connection.executemany

        def note(sql: str, *values: object) -> object:
            sent.append(sql)
            return execute(sql, *values)

        def note_many(sql: str, values: list[object]) -> object:
            sent.append(sql)
            return many(sql, values)

        ledger._connection.execute = note  # type: ignore[assignment,method-assign]
        ledger._connection.executemany = note_many  # type: ignore[assignment,method-assign]
        async with asyncio.TaskGroup() as group:
            for n in range(100):
                group.create_task(ledger.append("r1", e.EndRequested(by=str(n))))
        statements = [s for s in sent if not s.startswith(("BEGIN", "COMMIT"))]
        assert len(statements) <= 2 * len([s for s in sent if s == "COMMIT"])
        assert ledger.runs["r1"].end_requested_by == "99"
        log = await ledger.events(limit=1000)
        assert len(log) == 101
