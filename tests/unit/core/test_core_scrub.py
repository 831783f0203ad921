"""Old copies are read again: what is due, how much a day, what a bad one means, and the table that remembers it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from blockbuster import blockbuster_ctx
from core_lives import BOOT, EVENTS, NOW, REQUESTED, opened
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.box.errors import BoxUnreachable
from gpuwatch.box.fetch import Fetched, Progress, Wanted
from gpuwatch.config import Config, ConfigError, Scrub, load
from gpuwatch.custody.facts import BoxFile, Copy
from gpuwatch.custody.scrub import DAY, RETRY, Budget, Policy, Scrubbed, due
from gpuwatch.daemon import scrubbing
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.scrubbing import Scrubber, alarms
from gpuwatch.ledger import Ledger, LedgerDamaged
from gpuwatch.ledger.schema import MIGRATIONS
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State
from gpuwatch.vault.layout import Vault, VaultUnusable
from gpuwatch.vault.reread import Reread

FIXTURES = Path(__file__).parents[2] / "fixtures/ledger"
MONTH = 30 * DAY
POLICY = Policy(every=MONTH, per_day=1000)
RENTAL = [EVENTS[k] for k in (e.OfferChosen, e.CreateSent, e.Rented, e.Booted, e.BoxChecked, e.JobStarted)]


def copy(path: str = "a", data: bytes = b"data", at: float = NOW) -> Copy:
    identity = (len(data), 10**18, 10**18, 7)
    return Copy(path, len(data), hashlib.sha256(data).hexdigest(), identity, BOOT, at)


# --- what is due ---------------------------------------------------------------------------------


def chosen(
    copies: list[Copy], scrubs: list[Scrubbed] | None = None, now: float = NOW, limit: int = 256
) -> list[str]:
    found = due(
        {"r1": {c.path: c for c in copies}},
        {(s.run, s.copy.path): s for s in scrubs or ()},
        POLICY,
        now=now,
        limit=limit,
    )
    return [d.copy.path for d in found]


def test_the_longest_unread_comes_first_and_the_young_not_at_all() -> None:
    copies = [
        copy("young", at=NOW - MONTH + 1),
        copy("old", at=NOW - MONTH - 1),
        copy("older", at=NOW - 3 * MONTH),
    ]
    assert chosen(copies) == ["older", "old"]
    assert chosen(copies, limit=1) == ["older"]
    assert chosen([]) == []


def test_reading_again_counts_from_then_on() -> None:
    old = copy(at=NOW - 3 * MONTH)
    assert chosen([old], [Scrubbed("r1", old, NOW - 5)]) == []
    assert chosen([old], [Scrubbed("r1", old, NOW - MONTH - 5)]) == ["a"]


def test_a_bad_file_is_looked_at_again_soon() -> None:
    bad = copy(at=NOW)
    assert chosen([bad], [Scrubbed("r1", bad, NOW - RETRY + 1, "missing")]) == []
    assert chosen([bad], [Scrubbed("r1", bad, NOW - RETRY, "missing")]) == ["a"]


def test_of_a_newer_version_an_older_reading_says_nothing() -> None:
    new = copy(data=b"new", at=NOW - MONTH)
    assert chosen([new], [Scrubbed("r1", copy(data=b"old"), NOW, None)]) == ["a"]


def test_a_proof_from_the_future_is_no_proof() -> None:
    assert chosen([copy(at=NOW + 5 * DAY)]) == ["a"]
    assert chosen([copy(at=NOW + DAY / 2)]) == []


Files = st.lists(
    st.tuples(st.floats(NOW - 9 * MONTH, NOW + MONTH), st.none() | st.floats(NOW - 9 * MONTH, NOW)),
    max_size=12,
)


@given(Files, st.integers(1, 12))
def test_what_is_chosen_is_overdue_and_nothing_more_overdue_is_left_out(files: Any, limit: int) -> None:
    copies = [copy(str(n), at=at) for n, (at, _) in enumerate(files)]
    scrubs = {
        ("r1", c.path): Scrubbed("r1", c, at)
        for c, (_, at) in zip(copies, files, strict=True)
        if at is not None
    }
    found = due({"r1": {c.path: c for c in copies}}, scrubs, POLICY, now=NOW, limit=limit)
    everything = due({"r1": {c.path: c for c in copies}}, scrubs, POLICY, now=NOW, limit=1000)
    assert found == everything[:limit]
    assert all(d.since <= NOW for d in everything)
    assert [d.since for d in everything] == sorted(d.since for d in everything)


# --- how much a day ------------------------------------------------------------------------------


def test_a_days_bytes_and_no_more() -> None:
    budget = Budget()
    for _ in range(4):
        assert budget.wait(250, 0.0, POLICY) == 0
        budget = budget.spent(250, 0.0, POLICY)
    assert budget.wait(250, 0.0, POLICY) == pytest.approx(DAY / 4)
    assert budget.wait(250, DAY / 4, POLICY) == pytest.approx(0)


def test_a_file_larger_than_a_day_is_read_and_its_days_are_waited_for() -> None:
    budget = Budget()
    assert budget.wait(10_000, 0.0, POLICY) == 0
    budget = budget.spent(10_000, 0.0, POLICY)
    assert budget.wait(10_000, 0.0, POLICY) == pytest.approx(10 * DAY)
    assert budget.wait(1, 0.0, POLICY) == pytest.approx(9 * DAY, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, DAY), st.integers(0, 5000)), max_size=60))
def test_over_any_time_the_rate_is_kept(wishes: list[tuple[float, int]]) -> None:
    budget, now, read, largest = Budget(), 0.0, 0, 0
    for pause, size in wishes:
        now += pause
        if budget.wait(size, now, POLICY) == 0:
            budget = budget.spent(size, now, POLICY)
            read, largest = read + size, max(largest, size)
        assert read <= POLICY.per_day + largest + now * POLICY.rate + 1


def test_a_restart_opens_no_new_day() -> None:
    budget = Budget.of([(-DAY / 2, 400), (-10.0, 900)], POLICY)
    assert budget.wait(500, 0.0, POLICY) > 0
    assert Budget.of([(-9 * DAY, 5000)], POLICY).wait(1000, 0.0, POLICY) == 0


# --- the ledger ----------------------------------------------------------------------------------


async def running(ledger: Ledger, *copies: Copy) -> None:
    await ledger.create("r1", REQUESTED)
    for event in RENTAL:
        await ledger.append("r1", event)
    await ledger.append("r1", e.FilesVerified(files=len(copies), bytes=1), copies=copies)


async def test_a_bad_copy_is_no_copy_until_it_is_whole_or_new_also_after_a_restart(tmp_path: Path) -> None:
    path, odd, good = tmp_path / "ledger.db", copy("odd\udcff\n"), copy("good")
    async with opened(path) as ledger:
        await running(ledger, odd, good)
        await ledger.record_scrubs([Scrubbed("r1", odd, NOW + 1, "damaged"), Scrubbed("r1", good, NOW + 1)])
        assert set(ledger.copies("r1")) == {"good"}, "custody must not count on it"
        assert [await ledger.held("r1", c.path) for c in (odd, good)] == [odd, good]
    async with opened(path) as ledger:
        assert set(ledger.copies("r1")) == {"good"}
        assert [s.problem for s in ledger.bad()] == ["damaged"]
        assert list(alarms(ledger)) == [
            "r1: odd\\xff␊ in the vault is damaged; restore it from another copy, see `gpuwatch verify --run r1`"
        ]
        await ledger.record_scrubs([Scrubbed("r1", odd, NOW + 2)])
        assert set(ledger.copies("r1")) == {"odd\udcff\n", "good"}
        await ledger.record_scrubs([Scrubbed("r1", good, NOW + 3, "missing")])
        await ledger.append(
            "r1", e.FilesVerified(files=1, bytes=1), copies=[replace(good, verified_at=NOW + 4)]
        )
        assert ledger.bad() == []
    async with opened(path) as ledger:
        assert ledger.bad() == []
        assert list(await ledger.scrubs()) == [("r1", "odd\udcff\n")], "a new copy starts without history"


async def test_news_of_a_copy_that_was_replaced_meanwhile_is_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.db") as ledger:
        await running(ledger, copy(data=b"new"))
        await ledger.record_scrubs(
            [Scrubbed("r1", copy(data=b"old"), NOW, "damaged"), Scrubbed("r9", copy(), NOW, "damaged")]
        )
        assert (ledger.bad(), (await ledger.scrubs())) == ([], {})


async def test_many_bad_files_are_one_line(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.db") as ledger:
        copies = [copy(f"f{n}") for n in range(9)]
        await running(ledger, *copies)
        await ledger.record_scrubs(Scrubbed("r1", c, NOW, "missing") for c in copies)
        shown = list(alarms(ledger))
        assert len(shown) == 4
        assert "6 more files" in shown[-1]


# --- upgrades ------------------------------------------------------------------------------------


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """A value as JSON shows it."""
    return cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(value)))


def says(now: Any, then: Any) -> bool:
    """Whether `now` says all that `then` said; fields are only ever added, at any depth."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(k in now and says(now[k], v) for k, v in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(says, now, then))
    return bool(now == then)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_ledger_of_every_released_format_upgrades_and_says_the_same(
    version: int, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(FIXTURES / f"v{version}.db", path)
    truth = json.loads((FIXTURES / f"v{version}.json").read_text())
    async with opened(path) as ledger:
        for run_id, fields in truth["runs"].items():
            assert says(plain(ledger.runs[run_id]), fields), run_id
        assert set(ledger.runs) == set(truth["runs"])
        log = [[s.seq, s.at, s.run, plain(s.event)] for s in await ledger.events(limit=10**6)]
        for now, then in zip(log, truth["events"], strict=True):
            assert now[:3] == then[:3]
            assert says(now[3], then[3])
        for run_id, files in truth["copies"].items():
            kept = [
                [c.path, c.size, c.sha256, list(c.identity), c.boot_id, c.verified_at, c.step]
                for c in (await ledger.record(run_id)).copies.values()
            ]
            assert sorted(kept) == sorted(files)
        assert [list(label) for label in await ledger.labels()] == truth["labels"]
        bad = [[s.run, s.copy.path, s.at, s.problem] for s in ledger.bad()]
        assert (await ledger.check(), bad) == ("ok", truth.get("bad", []))
        await ledger.append("waits-bbbb", EVENTS[e.EndRequested])
    backup = tmp_path / f"ledger.v{version}.bak"
    assert backup.stat().st_mode & 0o777 == 0o600
    db = sqlite3.connect(backup)
    assert db.execute("PRAGMA user_version").fetchone() == (version,)
    assert db.execute("SELECT COUNT(*) FROM events").fetchone() == (len(truth["events"]),)
    db.close()
    async with opened(path) as ledger:
        assert ledger.runs["waits-bbbb"].end_requested_by == "a person"


async def test_an_upgrade_that_was_cut_off_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(FIXTURES / "v1.db", path)
    (tmp_path / "ledger.v1.tmp").write_text("half a backup")
    (tmp_path / "ledger.v1.bak").write_text("a whole one, but the upgrade was not committed")
    async with opened(path) as ledger:
        assert len(ledger.runs) == 6


async def test_an_upgrade_without_room_for_its_backup_changes_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(FIXTURES / "v1.db", path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(LedgerDamaged, match=r"No space left on device.*nothing is lost"):
            await Ledger.open(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()
    async with opened(path) as ledger:
        assert len(ledger.runs) == 6


# --- the task ------------------------------------------------------------------------------------


@dataclass
class World:
    """A ledger, a vault, and a clock that only moves when it is told to."""

    ledger: Ledger
    vault: Vault
    config: Config = field(default_factory=Config)
    time: float = NOW + 2 * MONTH
    lives: dict[str, Live] = field(default_factory=dict)
    actors: dict[str, Any] = field(default_factory=dict)

    def now(self) -> float:
        return self.time

    def scrubber(self) -> Scrubber:
        return Scrubber(cast(Any, self), self.lives, self.actors)

    async def put(self, *files: tuple[str, bytes]) -> list[Copy]:
        copies = [copy(path, data) for path, data in files]
        for path, data in files:
            target = self.vault.run("r1") / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        await running(self.ledger, *copies)
        return copies

    def bad(self) -> dict[str, str | None]:
        return {s.copy.path: s.problem for s in self.ledger.bad()}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Pauses take no time here; how long they would be is another test's matter."""
    real = asyncio.sleep
    monkeypatch.setattr(
        scrubbing, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: real(0)})
    )
    vault = Vault(tmp_path / "vault")
    vault.create()
    async with opened(tmp_path / "ledger.db") as ledger:
        yield World(ledger, vault)


async def test_exactly_the_bad_files_are_found_and_the_good_ones_are_young_again(world: World) -> None:
    files = [
        ("ok", b"fine"),
        ("flip", b"flip" * 3_000_000),
        ("cut", b"cut!"),
        ("gone", b"gone"),
        ("job.log", b"log"),
    ]
    await world.put(*files)
    run = world.vault.run("r1")
    with (run / "flip").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0")
    os.truncate(run / "cut", 3)
    (run / "gone").unlink()
    with blockbuster_ctx():
        await world.scrubber().round()
    assert world.bad() == {"flip": "damaged", "cut": "truncated", "gone": "missing"}
    assert set(world.ledger.copies("r1")) == {"ok", "job.log"}
    assert {p for _, p in (await world.ledger.scrubs())} == {path for path, _ in files}
    assert await world.scrubber().round() > 60, "nothing is due now"


async def test_what_a_person_restored_is_whole_again(world: World) -> None:
    await world.put(("a", b"data"))
    target = world.vault.run("r1") / "a"
    target.unlink()
    await world.scrubber().round()
    assert world.bad() == {"a": "missing"}
    target.write_bytes(b"data")
    world.time += RETRY
    await world.scrubber().round()
    assert (world.bad(), list(alarms(world.ledger))) == ({}, [])


@pytest.mark.parametrize("lost", ["marker", "vault"])
async def test_a_disk_that_is_not_mounted_says_nothing_of_its_files(lost: str, world: World) -> None:
    await world.put(("a", b"data"), ("b", b"more"))
    shutil.rmtree(world.vault.run("r1"))
    if lost == "vault":
        shutil.rmtree(world.vault.root)
    else:
        (world.vault.root / ".gputui-vault").unlink()
    with pytest.raises(VaultUnusable):
        await world.scrubber().round()
    assert (world.bad(), (await world.ledger.scrubs())) == ({}, {})


async def test_a_disk_that_goes_away_while_reading_says_nothing_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put(("a", b"data"), ("b", b"more"))

    def unmounted(*_: Any, **__: Any) -> None:
        (world.vault.root / ".gputui-vault").unlink(missing_ok=True)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(scrubbing, "Reread", unmounted)
    with pytest.raises(VaultUnusable):
        await world.scrubber().round()
    assert (world.bad(), (await world.ledger.scrubs())) == ({}, {})


async def test_a_disk_that_cannot_be_read_is_an_alarm_and_our_own_limits_are_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put(("a", b"data"))
    error = OSError(24, "Too many open files")

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(scrubbing, "Reread", broken)
    with pytest.raises(OSError, match="Too many"):
        await world.scrubber().round()
    assert world.bad() == {}
    error = OSError(5, "Input/output error")
    await world.scrubber().round()
    assert world.bad() == {"a": "unreadable: Input/output error"}


async def test_the_days_budget_ends_a_round_and_survives_a_restart(world: World) -> None:
    world.config = Config(scrub=Scrub(per_day="1MB"))
    await world.put(*((f"f{n}", bytes([n]) * 400_000) for n in range(4)))
    assert await world.scrubber().round() > 60
    assert len(await world.ledger.scrubs()) == 2
    assert await world.scrubber().round() > 60, "a new scrubber knows what the old one read"
    assert len(await world.ledger.scrubs()) == 2
    world.time += DAY
    await world.scrubber().round()
    assert len(await world.ledger.scrubs()) == 4


async def test_nothing_is_read_while_files_come_home(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put(("a", b"data"))
    world.lives["r2"] = Live(transfer=Progress())
    waited = asyncio.Event()
    real = asyncio.sleep

    async def sleep(_: float) -> None:
        waited.set()
        await real(0)

    monkeypatch.setattr(scrubbing.asyncio, "sleep", sleep)
    task = asyncio.create_task(world.scrubber().round())
    await waited.wait()
    assert (task.done(), (await world.ledger.scrubs())) == (False, {})
    world.lives["r2"].transfer = None
    await task
    assert list(await world.ledger.scrubs()) == [("r1", "a")]


async def test_reading_stops_between_two_chunks_when_files_come_home(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put(("a", b"x" * (9 << 20)))
    live = world.lives["r2"] = Live()
    real, log = asyncio.sleep, []

    class Watched(Reread):
        def read(self) -> int:
            assert live.transfer is None, "read while files came home"
            return super().read()

    async def sleep(seconds: float) -> None:
        # a transfer begins in the first pause and is over in the second
        live.transfer = None if log else Progress()
        log.append(seconds)
        await real(0)

    monkeypatch.setattr(scrubbing, "Reread", Watched)
    monkeypatch.setattr(scrubbing.asyncio, "sleep", sleep)
    await world.scrubber().round()
    assert log[1] == scrubbing._QUIET
    assert list(await world.ledger.scrubs()) == [("r1", "a")]


async def test_our_share_of_the_disk_is_a_fifth(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put(("a", b"x" * (9 << 20)))
    pauses: list[float] = []
    clock = [0.0]
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    async def to_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        clock[0] += 0.25
        return call(*args, **kwargs)

    loop = SimpleNamespace(time=lambda: clock[0])
    monkeypatch.setattr(
        scrubbing, "asyncio", SimpleNamespace(sleep=sleep, to_thread=to_thread, get_running_loop=lambda: loop)
    )
    await world.scrubber().round()
    assert pauses == [1.0, 1.0, 1.0], "a quarter of a second of reading, one second of rest"


async def test_a_cancelled_reading_lets_go_of_its_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put(("a", b"x" * (8 << 20)))
    reading, closed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    proceed = threading.Event()

    class Slow(Reread):
        def read(self) -> int:
            loop.call_soon_threadsafe(reading.set)
            proceed.wait()
            return super().read()

        def close(self) -> None:
            super().close()
            loop.call_soon_threadsafe(closed.set)

    monkeypatch.setattr(scrubbing, "Reread", Slow)
    task = asyncio.create_task(world.scrubber().round())
    await reading.wait()
    task.cancel()
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await closed.wait()
    assert (await world.ledger.scrubs()) == {}


async def test_a_fault_of_ours_does_not_end_the_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scrubber, rounds = world.scrubber(), asyncio.Semaphore(0)

    async def broken() -> float:
        rounds.release()
        raise ZeroDivisionError

    monkeypatch.setattr(scrubber, "round", broken)
    task = asyncio.create_task(scrubber.run())
    for _ in range(3):
        await rounds.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- repair --------------------------------------------------------------------------------------


@dataclass
class Agent:
    """A box that still has the file, or something else, or is out of reach."""

    data: bytes
    asked: list[Wanted] = field(default_factory=list)
    reachable: bool = True

    async def sentinel(self) -> Agent:
        if not self.reachable:
            raise BoxUnreachable("no answer")
        return self

    async def fetch(self, wanted: list[Wanted], **_: Any) -> AsyncIterator[Fetched]:
        for want in wanted:
            self.asked.append(want)
            await asyncio.to_thread(want.target.write_bytes, self.data)
            yield Fetched(want, want.identity, hashlib.sha256(self.data).hexdigest())


async def with_box(world: World, agent: Agent, *files: Copy) -> None:
    """The job has failed; its box is held and stands there."""
    for event in (EVENTS[e.JobEnded], EVENTS[e.CollectStarted], EVENTS[e.CollectBlocked]):
        await world.ledger.append("r1", event)
    listed = tuple(BoxFile(c.path, c.identity[0], *c.identity[1:]) for c in files)
    world.lives["r1"] = Live(files=listed, boot_id=BOOT)
    world.actors["r1"] = SimpleNamespace(link=agent)


async def test_a_bad_file_is_fetched_again_from_its_box(world: World) -> None:
    copies = await world.put(("a", b"data"), ("b", b"good"))
    (world.vault.run("r1") / "a").write_bytes(b"dXta")
    agent = Agent(b"data")
    await with_box(world, agent, *copies)
    await world.scrubber().round()
    assert [w.path for w in agent.asked] == ["a"]
    assert (world.vault.run("r1") / "a").read_bytes() == b"data"
    assert world.bad() == {}
    assert world.ledger.copies("r1")["a"].verified_at == world.time
    kinds = [type(s.event) for s in await world.ledger.events(run="r1")]
    assert kinds[-1] is e.FilesVerified, "the repair stands in the log"


async def test_a_box_with_another_version_is_not_asked(world: World) -> None:
    (one,) = await world.put(("a", b"data"))
    (world.vault.run("r1") / "a").unlink()
    agent = Agent(b"newer")
    await with_box(world, agent, replace(one, identity=(5, 1, 1, 1)))
    await world.scrubber().round()
    assert agent.asked == []
    assert world.bad() == {"a": "missing"}


async def test_a_box_out_of_reach_leaves_the_alarm_and_is_asked_again(world: World) -> None:
    copies = await world.put(("a", b"data"))
    (world.vault.run("r1") / "a").unlink()
    agent = Agent(b"data", reachable=False)
    await with_box(world, agent, *copies)
    await world.scrubber().round()
    assert world.bad() == {"a": "missing"}
    agent.reachable = True
    world.time += RETRY
    await world.scrubber().round()
    assert world.bad() == {}


@pytest.mark.parametrize("state", [State.RUNNING, State.COLLECTING, State.DESTROYING, State.GONE, State.LOST])
async def test_a_box_that_is_gone_or_mirrored_anyway_is_left_alone(state: State, world: World) -> None:
    copies = await world.put(("a", b"data"))
    agent = Agent(b"data")
    await with_box(world, agent, *copies)
    world.ledger.runs["r1"] = msgspec.structs.replace(world.ledger.runs["r1"], state=state)
    (world.vault.run("r1") / "a").unlink()
    await world.scrubber().round()
    assert (agent.asked, world.bad()) == ([], {"a": "missing"})
    assert "a" not in world.ledger.copies("r1"), "so whoever mirrors fetches it"


# --- settings ------------------------------------------------------------------------------------


def test_the_settings_have_units(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[scrub]\nenabled = false\nevery = "7d"\nper_day = "1TB"\n')
    config = load(file)
    assert (config.scrub.enabled, config.scrub_age, config.scrub_bytes) == (False, 7 * DAY, 10**12)
    assert (Config().scrub_age, Config().scrub_bytes) == (MONTH, 50 * 10**9)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("per_day = '5'", "size"),
        ("per_day = '1kB'", "at least"),
        ("every = '0d'", "duration"),
        ("evry = '1d'", "evry"),
    ],
)
def test_settings_that_make_no_sense_are_refused(line: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[scrub]\n{line}\n")
    with pytest.raises(ConfigError, match=says):
        load(file)
