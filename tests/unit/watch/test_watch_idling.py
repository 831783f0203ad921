"""The idle timers inside the daemon: when a wish is written down, and when never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gpuwatch.box.sentinel import Report, StageState
from gpuwatch.daemon.idling import watch_idleness
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run, State
from gpuwatch.spec.model import Artifact, Idle, Job, RunSpec
from gpuwatch.telemetry.sample import Gpus, GpuSample, Processes, Vitals

SPEC = RunSpec(name="r", job=Job(command="true"), artifacts=(Artifact(path="out"),), idle=Idle(after=900.0))
GPU = GpuSample(
    index=0, uuid="g", name="H100", utilisation=0.0, memory_used=0, memory_total=1, power=1.0, power_limit=2.0, temperature=3.0,
    clock=4.0, clock_max=5.0, throttle=None, ecc_errors=0, mig=False, lost=False, age=0.0,
)  # fmt: skip
CALM = Vitals(
    gpus=Gpus(rows=(GPU,), expected=1),
    processes=Processes(count=5, cpu=0.0, disk_read=0.0, disk_written=0.0, own_net=0.0, sessions=()),
    net_received=0.0, net_sent=0.0,
)  # fmt: skip
REPORT = Report(
    at=0.0, boot_id="b", job=StageState("ended", 1, 0), log_size=5, gpus=(), cpu=0.0, memory_used=0, memory_total=1, disk_free=1,
    disk_total=2, step=None, steps=None, loss=None, tokens_per_second=None, files=(), vitals=CALM,
)  # fmt: skip


class Watched:
    """A run, its live side, and a daemon that only has a ledger and a clock."""

    def __init__(self, state: State, spec: RunSpec = SPEC) -> None:
        self.live, self.time, self.events = Live(), 1_000_000.0, []
        self.spec = spec
        run = Run(
            id="r1",
            name="r",
            state=state,
            spec="",
            file="",
            base="",
            key="",
            created_at=0.0,
            since=0.0,
            job_ended_at=999_000.0,
        )
        self.runs: dict[str, Any] = {"r1": run}
        self.ctx: Any = SimpleNamespace(
            ledger=SimpleNamespace(runs=self.runs, append=self.append), now=lambda: self.time
        )

    async def append(self, run_id: str, event: e.EndRequested) -> None:
        self.events.append(event)
        self.change(end_requested_by=event.by)

    def change(self, **changes: Any) -> None:
        self.runs["r1"] = msgspec.structs.replace(self.runs["r1"], **changes)

    async def minutes(self, count: float, report: Report = REPORT) -> None:
        for _ in range(int(count * 6)):
            self.time += 10
            self.live.observe(replace(report, at=self.time), self.time, self.time)
            for _ in range(5):
                await asyncio.sleep(0)

    @asynccontextmanager
    async def watching(self, nudge: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(watch_idleness(self.ctx, "r1", self.spec, self.live, nudge))
            await asyncio.sleep(0)
            yield
            task.cancel()


async def test_a_quarter_of_an_hour_of_silence_asks_for_the_end_once() -> None:
    here, nudges = Watched(State.VERIFIED), []
    async with here.watching(lambda: nudges.append(1)):
        await here.minutes(14)
        assert here.events == []
        assert here.live.idle is not None
        assert here.live.idle.text.startswith("collected and destroyed in")
        await here.minutes(20)
    assert [event.by for event in here.events] == ["idle"]
    assert here.events[0].reason.startswith("idle for 15 min: job ended")
    assert nudges == [1]
    assert here.live.idle is None, "nothing stale is shown when nobody watches"


async def test_a_wish_that_a_person_took_back_starts_the_clock_anew() -> None:
    here = Watched(State.VERIFIED)
    async with here.watching():
        await here.minutes(16)
        here.change(end_requested_by=None)
        await here.minutes(14)
        assert len(here.events) == 1
        await here.minutes(2)
        assert len(here.events) == 2


@pytest.mark.parametrize("state", [s for s in State if s not in (State.RUNNING, State.VERIFIED)])
async def test_nothing_is_asked_while_we_are_at_work_or_a_person_must_decide(state: State) -> None:
    here = Watched(state)
    async with here.watching():
        await here.minutes(60)
    assert here.events == []


async def test_a_job_that_lives_gets_half_an_hour() -> None:
    here = Watched(State.RUNNING)
    alive = replace(REPORT, job=StageState("running", 1, None))
    async with here.watching():
        await here.minutes(29, alive)
        assert here.events == []
        await here.minutes(2, alive)
    assert [event.by for event in here.events] == ["idle"]


async def test_a_box_that_tells_nothing_is_never_idle() -> None:
    here = Watched(State.VERIFIED)
    async with here.watching():
        await here.minutes(120, replace(REPORT, vitals=Vitals()))
    assert here.events == []


async def test_without_a_timer_nothing_is_judged() -> None:
    here = Watched(State.VERIFIED, msgspec.structs.replace(SPEC, idle=Idle()))
    async with here.watching():
        await here.minutes(120)
    assert here.events == []
    assert here.live.idle is None


async def test_only_told_when_the_spec_says_so() -> None:
    here = Watched(State.VERIFIED, msgspec.structs.replace(SPEC, idle=Idle(after=900.0, action="notify")))
    async with here.watching():
        await here.minutes(120)
        assert here.live.idle is not None
        assert here.live.idle.act.value == "notify"
    assert here.events == []
