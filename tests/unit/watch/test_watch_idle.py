"""Idleness beyond the table: the sentence people read, the two timers, and what never happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.idle.signals import Look, Says, Signal
from gpuwatch.idle.timers import Act, due
from gpuwatch.idle.track import Track
from gpuwatch.idle.verdict import Line, Verdict, judge
from gpuwatch.spec.model import Idle
from gpuwatch.telemetry.sample import Gpus, GpuSample, JobProgress, Processes, Session, Vitals

QUIET_GPU = GpuSample(
    index=0, uuid="g", name="H100", utilisation=0.0, memory_used=0, memory_total=1, power=1.0, power_limit=2.0, temperature=3.0,
    clock=4.0, clock_max=5.0, throttle=None, ecc_errors=0, mig=False, lost=False, age=0.0,
)  # fmt: skip
CALM = Vitals(
    gpus=Gpus(rows=(QUIET_GPU, replace(QUIET_GPU, index=1)), expected=2),
    processes=Processes(count=5, cpu=0.0, disk_read=0.0, disk_written=0.0, own_net=0.0, sessions=()),
    net_received=0.0, net_sent=0.0,
)  # fmt: skip
LOOK = Look(at=0.0, job="ended", job_ended_at=0.0, vitals=CALM, files=(), log_size=1)


def watched(seconds: float, look: Look = LOOK, step: float = 10.0) -> tuple[Track, float]:
    track, at = Track(), 0.0
    while at <= seconds:
        track.observe(replace(look, at=at))
        at += step
    return track, at - step


def test_the_sentence_is_the_one_that_the_guide_promises() -> None:
    track, now = watched(480)
    verdict = judge(track.quiet, now, 900, alive=False)
    assert verdict.text.startswith("idle in 7 min: job ended 8 min ago; GPUs 0 % for 8 min; ")
    assert "no SSH sessions" in verdict.text


def test_every_signal_has_its_own_line() -> None:
    track, now = watched(60)
    assert [line.signal for line in judge(track.quiet, now, 900, alive=False).lines] == list(Signal)


@pytest.mark.parametrize("signal", [s for s in Signal if s is not Signal.STEP])
def test_one_signal_that_was_never_heard_keeps_a_machine(signal: Signal) -> None:
    track, now = watched(3600)
    known = {s: q for s, q in track.quiet.items() if s is not signal}
    verdict = judge(known, now, 900, alive=False)
    assert not verdict.idle
    assert verdict.idle_in is None


READINGS = st.sampled_from(["calm", "gpu", "cpu", "blind", "silence", "ssh", "log", "step"])


@given(st.lists(st.tuples(READINGS, st.floats(1, 200)), max_size=60))
def test_idle_is_never_said_without_an_unbroken_quiet_window(script: list[tuple[str, float]]) -> None:
    track, at, log, step = Track(), 0.0, 0, 0
    disturbed = 0.0  # since when nothing but calm looks, at most 60 s apart, were seen
    for what, pause in script:
        at += pause
        if pause > 60:
            disturbed = at
        if what == "silence":
            continue
        vitals: Vitals | None = CALM
        assert CALM.processes is not None
        if what == "gpu":
            vitals = replace(CALM, gpus=Gpus(rows=(replace(QUIET_GPU, utilisation=50.0),), expected=1))
        elif what == "cpu":
            vitals = replace(CALM, processes=replace(CALM.processes, cpu=8.0))
        elif what == "ssh":
            vitals = replace(CALM, processes=replace(CALM.processes, sessions=(Session("terminal", 1.0),)))
        elif what == "blind":
            vitals = None
        log += what == "log"
        step += what == "step"
        track.observe(
            Look(
                at=at,
                job="ended",
                job_ended_at=0.0,
                vitals=vitals,
                progress=JobProgress(step=step),
                files=(),
                log_size=log,
            )
        )
        if what in ("gpu", "cpu", "ssh", "blind"):
            disturbed = at
        verdict = judge(track.quiet, at, 300, alive=False)
        if verdict.idle:
            assert at - disturbed >= 300
    assert judge(track.quiet, at + 61, 300, alive=False).idle is False


# --- timers --------------------------------------------------------------------------------------

AWAKE = Verdict(False, None, 0.0, (), "not idle: GPU at 97 %")


def quiet(seconds: float, after: float = 900.0) -> Verdict:
    lines = (Line(Signal.GPU, Says.QUIET, "GPU 0 %", seconds),)
    return Verdict(seconds >= after, max(0.0, after - seconds), seconds, lines, f"quiet for {seconds:.0f}")


BOTH = Idle(after=900.0, action="collect-and-destroy", destroy_after=7200.0)
END = Idle(after=900.0, action="collect-and-destroy")
STOP = Idle(after=900.0, action="stop")
TELL = Idle(after=900.0, action="notify")


@pytest.mark.parametrize(
    ("idle", "verdict", "more", "act"),
    [
        (Idle(), quiet(9e9), {}, Act.NOTHING), (END, None, {}, Act.NOTHING), (END, AWAKE, {}, Act.NOTHING),
        (END, quiet(500), {}, Act.NOTHING), (END, quiet(650), {}, Act.WARN), (END, quiet(900), {}, Act.END),
        (STOP, quiet(900), {}, Act.STOP), (STOP, quiet(900), {"can_stop": False}, Act.NOTIFY),
        (TELL, quiet(900), {}, Act.NOTIFY), (BOTH, quiet(900), {}, Act.STOP),
        (BOTH, None, {"stopped_for": 7000.0}, Act.NOTHING), (BOTH, None, {"stopped_for": 7200.0}, Act.END),
        (STOP, None, {"stopped_for": 9e9}, Act.NOTHING), (BOTH, None, {"stopped_for": 9e9, "proved": False}, Act.NOTHING),
        (BOTH, quiet(900), {"can_stop": False}, Act.WARN), (BOTH, quiet(8100), {"can_stop": False}, Act.END),
        (END, quiet(9e9), {"held": True}, Act.NOTHING), (BOTH, None, {"stopped_for": 9e9, "held": True}, Act.NOTHING),
    ],
    ids=["no timer", "not judged", "awake", "early", "warned", "ended", "stopped", "cannot stop: told", "told", "first timer",
         "second timer runs", "second timer", "kept stopped", "not all home", "cannot stop: first", "cannot stop: second", "held", "held stopped"],
)  # fmt: skip
def test_the_two_timers(idle: Idle, verdict: Verdict | None, more: dict[str, object], act: Act) -> None:
    assert due(idle, verdict, **more).act is act  # type: ignore[arg-type]


def test_a_warning_says_what_will_happen_and_when() -> None:
    found = due(END, quiet(720))
    assert (found.act, found.seconds) == (Act.WARN, 180.0)
    assert found.text.startswith("collected and destroyed in 3 min: ")
