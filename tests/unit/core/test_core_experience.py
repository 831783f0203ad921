"""Our own experience of machines: folded from the ledger, judged, kept beside it; nothing of it can stop a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders.model import GB, Offer
from gpuproviders.money import MicroUsd
from gpuwatch.daemon.renting import choose, ranking
from gpuwatch.experience.book import Experience
from gpuwatch.experience.facts import KEPT, MOST_MACHINES, Facts, Machine, fold, median
from gpuwatch.experience.judge import DAY, EXPERIENCE, LONGEST, Standing, Word, blamed, expected, standing
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run, State

NOW = 1_800_000_000.0
KEY = "vast:4711"


def chosen(machine: str | None = "4711", offer: str = "1") -> e.OfferChosen:
    return e.OfferChosen(
        label=f"gputui-{offer}", provider="vast", offer_id=offer, machine_id=machine, gpu="RTX 4090", gpu_count=2, gpu_memory=24 * GB,
        price=500_000, disk_price=1000,
    )  # fmt: skip


LIFE: tuple[e.AnyEvent, ...] = (
    chosen(),
    e.Rented(label="gputui-1", instance_id="9"),
    e.Booted(host="h", port=22, user="root", fingerprint="f", seconds=93.0),
    e.BoxChecked(boot_id="b", workspace="/w", python="3.11", gpus=2, disk_speed=4e8),
    e.JobStarted(boot_id="b", pid=1),
    e.FilesVerified(files=1, bytes=10, seconds=1.0, moved=10),
    e.FilesVerified(files=1, bytes=GB, seconds=10.0, moved=GB),
    e.JobEnded(exit_code=0, tokens_per_second=123_456.0),
    e.Gone(evidence="x"),
)


def folded(*events: e.AnyEvent, run: str = "r1", at: float = NOW) -> Facts:
    facts = Facts()
    for seq, event in enumerate(events, 1):
        fold(facts, seq, at, run, event)
    return facts


def test_a_life_tells_boot_disk_and_network_and_the_speed_of_its_gpus() -> None:
    facts = folded(*LIFE)
    machine = facts.machines[KEY]
    assert (machine.tries, machine.good, machine.duds) == (1, 1, [])
    assert (machine.boots, machine.disks, machine.downloads) == (
        [93.0],
        [4e8],
        [1e8],
    )  # ten bytes tell nothing
    assert facts.speeds["2 × RTX 4090"].tokens_per_second == 123_456.0
    assert facts.current == {}
    assert facts.seq == len(LIFE)


def test_a_dud_is_remembered_unless_it_was_our_own_fault() -> None:
    facts = folded(chosen(), e.Dud(reason="container: nvidia-container-cli: no devices"))
    assert facts.machines[KEY].duds == [(NOW, "container: nvidia-container-cli: no devices")]
    for ours in ("image: pull access denied", "no-credit: balance"):
        assert folded(chosen(), e.Dud(reason=ours)).machines[KEY].duds == []


def test_events_go_to_the_machine_that_the_run_had_then() -> None:
    facts = folded(
        chosen("a"),
        e.Dud(reason="x"),
        e.DudGone(evidence="y"),
        chosen("b"),
        e.Rented(label="l", instance_id="2"),
    )
    assert len(facts.machines["vast:a"].duds) == 1
    assert (facts.machines["vast:b"].tries, facts.machines["vast:b"].duds) == (1, [])
    assert folded(e.Dud(reason="of a run whose offer nobody knows")).machines == {}


def test_memory_is_bounded() -> None:
    facts = Facts()
    for number in range(MOST_MACHINES + 5):
        fold(facts, number, NOW + number, f"r{number}", chosen(str(number)))
    assert len(facts.machines) == MOST_MACHINES
    assert "vast:0" not in facts.machines
    for _ in range(20):
        fold(facts, 1, NOW, f"r{MOST_MACHINES}", e.Dud(reason="again"))
    assert len(facts.machines[f"vast:{MOST_MACHINES}"].duds) == KEPT


def machine(*duds: float, tries: int | None = None, last_good: float | None = None) -> Machine:
    return Machine(
        gpu="H100 SXM", gpu_count=1, tries=len(duds) if tries is None else tries, duds=[(at, "bad") for at in duds], last_good=last_good
    )  # fmt: skip


@pytest.mark.parametrize(("row", "days"), [(1, 1), (2, 2), (3, 4), (5, 16), (8, 30)])
def test_each_further_dud_in_a_row_doubles_the_time(row: int, days: int) -> None:
    stands = standing(machine(*[NOW - 10] * row), [], NOW)
    assert stands == Standing(NOW - 10 + days * DAY, EXPERIENCE, "bad")
    assert standing(machine(*[NOW - days * DAY] * row), [], NOW) == Standing()


def test_a_job_that_ran_there_and_a_pardon_end_it() -> None:
    assert standing(machine(NOW - 50, last_good=NOW - 40), [], NOW) == Standing()
    pardon = Word(at=NOW - 5, machine=KEY, by="ann", forgive=True)
    assert standing(machine(NOW - 50), [pardon], NOW) == Standing(forgiven=NOW - 5)
    assert expected(100, machine(NOW - 50), NOW - 5) == 100 < expected(100, machine(NOW - 50))
    assert standing(machine(NOW - 50, NOW - 1), [pardon], NOW).by == EXPERIENCE
    assert blamed(machine(NOW - 50, NOW - 1), NOW - 5) == [(NOW - 1, "bad")]


def test_a_persons_word_goes_before_experience_and_ends_in_its_time() -> None:
    word = Word(at=NOW - 9, machine=KEY, by="ann", reason="too loud", until=NOW + 60)
    stands = standing(None, [word], NOW)
    assert (stands.until, stands.by, stands.reason, stands.excluded) == (NOW + 60, "ann", "too loud", True)
    assert standing(None, [word], NOW + 61) == Standing()
    pardon = Word(at=NOW - 8, machine=KEY, by="bob", forgive=True)
    assert standing(None, [word, pardon], NOW).until is None


def test_a_clock_that_was_set_back_avoids_nothing_for_ever() -> None:
    until = standing(machine(NOW + 400 * DAY), [], NOW).until
    assert until is not None
    assert until <= NOW + LONGEST


@given(st.integers(0, 8), st.integers(0, 40), st.integers(0, 10**9))
def test_a_bad_past_only_makes_dearer_and_never_twice_as_dear(duds: int, tries: int, price: int) -> None:
    assert price <= expected(price, machine(*[1.0] * duds, tries=tries)) <= 2 * price
    assert expected(price, None) == price


def offer(number: int, price: int, machine_id: str | None) -> Offer:
    return Offer(
        provider="vast", offer_id=str(number), machine_id=machine_id, gpu_name="H100 SXM", gpu_count=1, gpu_memory=80 * GB,
        price=MicroUsd(price), disk_price=MicroUsd(0), transfer_price=MicroUsd(0), receive_price=MicroUsd(0),
    )  # fmt: skip


def book(tmp_path: Path, **machines: Machine) -> Experience:
    made = Experience(tmp_path, lambda: NOW)
    made.facts = Facts(machines={f"vast:{name}": seen for name, seen in machines.items()})
    made._loaded = True
    return made


RUN = Run(id="r", name="r", state=State.REQUESTED, spec="", file="", base="/", key="k", created_at=0, since=0)


async def test_what_experience_avoids_is_taken_last_and_what_a_person_avoids_never(tmp_path: Path) -> None:
    seen = book(tmp_path, bad=machine(NOW - 60), flaky=machine(NOW - 20 * DAY, tries=2))
    cheap, fine, flaky = offer(1, 100, "bad"), offer(2, 300, "new"), offer(3, 250, "flaky")
    rank = ranking(seen, 0)
    assert choose(RUN, [cheap, fine, flaky], rank) == fine  # 250 with one failure of two tries is worth 312
    assert choose(RUN, [cheap], rank) == cheap
    await seen.say(Word(at=NOW, machine="vast:new", by="ann", until=NOW + 9))
    assert choose(RUN, [cheap, fine], rank) == cheap
    assert choose(RUN, [fine], rank) is None


async def test_a_dud_of_a_kind_does_not_speak_against_the_next_machine_of_it(tmp_path: Path) -> None:
    seen = book(tmp_path, **{"secure:EU-RO-1": machine(NOW - 60)})
    kind = offer(0, 100, None)
    kind = Offer(**{name: getattr(kind, name) for name in Offer.__slots__} | {"offer_id": "secure:EU-RO-1"})  # type: ignore[attr-defined]
    assert seen.of(kind)[1] == Standing()
    await seen.say(Word(at=NOW, machine="vast:secure:EU-RO-1", by="ann", until=NOW + 9))
    assert seen.of(kind)[1].excluded


async def filled(path: Path, machines: int) -> None:
    ledger = await Ledger.open(path, now=lambda: NOW)
    writer = asyncio.create_task(ledger.write())
    for number in range(machines):
        run = f"run-{number}"
        await ledger.create(run, e.Requested(name="run", spec="", file="", base="/", key=run))
        await ledger.append(run, chosen(str(number), offer=str(number)))
        await ledger.append(run, e.CreateSent(label=f"gputui-{number}"))
        await ledger.append(run, e.Rented(label=f"gputui-{number}", instance_id=str(number)))
        await ledger.append(run, e.Dud(reason="dead"))
    ledger.stop()
    await writer
    await ledger.close()


async def test_it_is_made_again_from_the_ledger_whatever_became_of_its_file(tmp_path: Path) -> None:
    await filled(tmp_path / "ledger.db", 3)
    ledger = await Ledger.open(tmp_path / "ledger.db", now=lambda: NOW)
    texts = []
    for damage in (None, b"{", b'{"version": 99}', b'{"version": 1, "seq": 10000000}'):
        if damage is not None:
            (tmp_path / "experience.json").write_bytes(damage)
        seen = Experience(tmp_path, lambda: NOW)
        await seen.catch_up(ledger)
        assert [len(seen.facts.machines[f"vast:{n}"].duds) for n in range(3)] == [1, 1, 1]
        texts.append((tmp_path / "experience.json").read_bytes())
    assert len(set(texts)) == 1
    await ledger.close()


async def test_what_people_said_survives_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    seen = Experience(tmp_path, lambda: NOW)
    await seen.say(Word(at=NOW, machine=KEY, by="ann", reason="slow", until=NOW + 9))
    with (tmp_path / "machines.jsonl").open("ab") as file:
        file.write(b'{"at": 1, "mach')
    await filled(tmp_path / "ledger.db", 0)
    ledger = await Ledger.open(tmp_path / "ledger.db")
    again = Experience(tmp_path, lambda: NOW)
    await again.catch_up(ledger)
    assert again.standing(KEY).reason == "slow"
    assert list(again.keys()) == [KEY]
    await ledger.close()


def test_the_median_of_nothing_is_unknown() -> None:
    assert median([]) is None
    assert median([3.0, 1.0, 2.0]) == 2.0
