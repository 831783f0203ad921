"""The truth table of idleness: what happened on a box, and what must be concluded after it.

Each row: a name, where it is from (rivals' issues and source, or our own promise), what the box did
minute by minute, and the verdict with `after = "15m"`. `idle` acts; `awake` and `unknown` never do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gpuwatch.idle.signals import Look, Says
from gpuwatch.idle.track import Track
from gpuwatch.idle.verdict import Verdict, judge
from gpuwatch.telemetry.sample import Gpus, GpuSample, JobProgress, Processes, Session, SmiProblem, Vitals

AFTER = 900.0
STEP = 10.0


def gpu(use: float | None, index: int = 0, *, mig: bool = False) -> GpuSample:
    return GpuSample(
        index=index, uuid=f"GPU-{index}", name="H100", utilisation=use, memory_used=70 * 10**9, memory_total=80 * 10**9, power=90.0,
        power_limit=700.0, temperature=40.0, clock=345.0, clock_max=1980.0, throttle=None, ecc_errors=0, mig=mig, lost=False, age=1.0,
    )  # fmt: skip


def gpus(*uses: float | None, mig: bool = False) -> Gpus:
    return Gpus(rows=tuple(gpu(u, i, mig=mig) for i, u in enumerate(uses)), expected=len(uses))


NOBODY = Processes(
    count=8,
    cpu=0.02,
    disk_read=0.0,
    disk_written=800.0,
    own_cpu=0.01,
    own_moved=5000.0,
    own_net=2500.0,
    sessions=(),
)
CALM = Vitals(gpus=gpus(0.0), processes=NOBODY, net_received=2500.0, net_sent=2500.0, cores=16.0)
ENDED = Look(at=0.0, job="ended", job_ended_at=0.0, vitals=CALM, files=(), log_size=100)
RUNNING = replace(ENDED, job="running", job_ended_at=None)


@dataclass(frozen=True)
class Box:
    """What one look at a minute of the scene shows."""

    look: Look = ENDED

    def __call__(self, at: float) -> Look:
        return replace(self.look, at=at)


def with_(look: Look, **vitals: object) -> Look:
    return replace(look, vitals=replace(look.vitals or CALM, **vitals))


def doing(look: Look, **processes: object) -> Look:
    return with_(look, processes=replace(NOBODY, **processes))


def loud(look: Look) -> Callable[[float], Look]:
    """Like `look`, and something is printed now and then."""
    return lambda at: replace(look, at=at, log_size=100 + int(at // 120))


def stepping(look: Look, every: float = 60.0) -> Callable[[float], Look]:
    return lambda at: replace(look, at=at, progress=JobProgress(step=int(at // every), phase="training"))


def growing(look: Look) -> Callable[[float], Look]:
    return lambda at: replace(look, at=at, files=("ckpt", int(at // 300)))


Act = Callable[[float], Look | None]
Q = Box()
SILENCE: Act = lambda at: None  # noqa: E731 - no look at all

# (what happened, from where, minutes of each phase, verdict, a word that the reason must hold)
ROWS: list[tuple[str, str, list[tuple[float, Act]], str, str]] = [
    # --- the plain cases -------------------------------------------------------------------------
    ("the job ended and nothing moves", "I5", [(16, Q)], "idle", "idle for"),
    ("the job ended 8 minutes ago", "own", [(8, Q)], "soon", "idle in 7 min: job ended"),
    ("one GPU works", "own", [(20, Box(with_(ENDED, gpus=gpus(97.0))))], "awake", "GPU at 97 %"),
    ("a job that trains", "own", [(60, stepping(with_(RUNNING, gpus=gpus(95.0))))], "awake", "GPU"),
    ("nothing was ever heard", "I3", [(60, SILENCE)], "unknown", "not heard yet"),
    # --- GPUs ------------------------------------------------------------------------------------
    ("one GPU of eight works, the mean is 12 %", "swm: mean over GPUs", [(60, Box(with_(ENDED, gpus=gpus(0, 0, 0, 97, 0, 0, 0, 0))))], "awake", "GPU 3 at 97 %"),
    ("one GPU of eight is idle, seven work", "dstack utilization_policy: any one low GPU kills", [(60, Box(with_(RUNNING, gpus=gpus(90, 91, 92, 0, 93, 90, 90, 90))))], "awake", "GPU 4 at 93 %"),
    ("eight GPUs at 0 %", "own", [(16, Box(with_(ENDED, gpus=gpus(*[0.0] * 8))))], "idle", "GPUs 0 %"),
    ("nvidia-smi fails", "swm: failure reads as 0 %", [(60, Box(with_(ENDED, gpus=Gpus(problem=SmiProblem.OTHER))))], "unknown", "GPU load unknown"),
    ("nvidia-smi is missing", "I3", [(60, Box(with_(ENDED, gpus=Gpus(problem=SmiProblem.NO_BINARY))))], "unknown", "not installed"),
    ("driver and library differ", "I3", [(60, Box(with_(ENDED, gpus=Gpus(problem=SmiProblem.MISMATCH))))], "unknown", "versions differ"),
    ("a GPU fell off the bus, the rest is quiet", "own", [(60, Box(with_(ENDED, gpus=replace(gpus(0.0, 0.0), expected=3))))], "unknown", "GPU load unknown"),
    ("a MIG parent tells no load", "rivals F(7)", [(60, Box(with_(ENDED, gpus=gpus(None, mig=True))))], "unknown", "MIG"),
    ("eight lines of nvidia-smi where a script expects one", "stop_if_idle.sh: breaks on multi-GPU", [(16, Box(with_(ENDED, gpus=gpus(*[0.0] * 8))))], "idle", "GPUs 0 %"),
    ("an instant of work between two quiet stretches", "swm: one sample a minute", [(12, Q), (0.2, Box(with_(ENDED, gpus=gpus(80.0)))), (12, Q)], "soon", "idle in"),
    ("GPU memory is full and nothing runs", "own: memory is no work", [(16, Q)], "idle", "GPU 0 %"),
    ("a monitor makes two per cent", "own", [(16, Box(with_(ENDED, gpus=gpus(2.0))))], "idle", "GPU 2 %"),
    ("two low samples around half an hour of nothing", "dstack: sparse window counts as full", [(1, Q), (30, SILENCE), (1, Q)], "soon", "idle in 14 min"),
    # --- phases without GPUs ---------------------------------------------------------------------
    ("data preparation on the CPUs for 20 minutes", "rivals F(7)", [(20, Box(doing(RUNNING, cpu=7.5)))], "awake", "7.5 cores"),
    ("torch.compile: one core, no GPU", "rivals F(7)", [(20, Box(doing(RUNNING, cpu=1.0)))], "awake", "1.0 cores"),
    ("compiling, says the heartbeat, in a quiet moment", "run contract", [(20, Box(replace(RUNNING, progress=JobProgress(step=0, phase="compiling"))))], "awake", "compiling"),
    ("evaluation on the CPU", "rivals F(7)", [(20, Box(doing(RUNNING, cpu=15.0)))], "awake", "cores"),
    ("the job downloads its data set", "own", [(60, Box(with_(RUNNING, net_received=40e6)))], "awake", "network 40.0 MB/s"),
    ("the job unpacks to disk", "own", [(60, Box(doing(RUNNING, disk_written=80e6, cpu=0.1)))], "awake", "disk 80.0 MB/s"),
    ("a quiet CPU phase that only writes its log", "swm: *.log excluded", [(60, loud(RUNNING))], "soon", "log still"),
    ("a slow job: one step in 5 minutes, waiting between", "own", [(60, stepping(RUNNING, 300.0))], "soon", "idle in"),
    ("checkpoints appear although nothing else shows", "own", [(60, growing(RUNNING))], "soon", "idle in"),
    # --- processes that no queue knows -----------------------------------------------------------
    ("a notebook computes after the job", "skypilot#1306, #1418", [(60, Box(doing(ENDED, cpu=2.0)))], "awake", "cores"),
    ("the job forked a daemon and exited 0", "own", [(60, Box(with_(ENDED, gpus=gpus(60.0))))], "awake", "GPU at 60 %"),
    ("an idle Jupyter, cron and syncthing", "vast base images", [(16, Box(doing(ENDED, cpu=0.08, disk_written=20e3)))], "idle", "idle for"),
    # --- a job that lives ------------------------------------------------------------------------
    ("a hung job: alive, silent for 20 minutes", "skypilot#10628", [(20, Box(RUNNING))], "soon", "the job lives"),
    ("a hung job: alive, silent for 31 minutes", "skypilot#10628", [(31, Box(RUNNING))], "idle", "the job lives"),
    ("a hung collective spins all GPUs at 100 %", "own: an alarm, not idleness", [(60, Box(with_(RUNNING, gpus=gpus(100.0, 100.0))))], "awake", "100 %"),
    ("while True: sleep", "skypilot: a job is a job", [(40, Box(RUNNING))], "idle", "the job lives"),
    ("nobody knows whether the job lives", "I3", [(60, Box(replace(ENDED, job=None)))], "unknown", "unknown"),
    # --- people ----------------------------------------------------------------------------------
    ("somebody typed a minute ago", "skypilot#9524", [(60, Box(doing(ENDED, sessions=(Session("terminal", 60.0),))))], "awake", "1 SSH session"),
    ("who(1) is empty, the terminal is there", "swm: who is empty in containers", [(60, Box(doing(ENDED, sessions=(Session("terminal", 5.0),))))], "awake", "SSH"),
    ("the probe for sessions failed", "skypilot: an exception reads as idle", [(60, Box(doing(ENDED, sessions=None)))], "unknown", "SSH sessions unknown"),
    ("an editor's remote half is connected", "own", [(60, Box(doing(ENDED, sessions=(Session("command", None),))))], "awake", "SSH"),
    ("a terminal forgotten for three hours", "own", [(16, Box(doing(ENDED, sessions=(Session("terminal", 10_800.0),))))], "idle", "forgotten for 3 h"),
    ("one forgotten terminal, one in use", "own", [(60, Box(doing(ENDED, sessions=(Session("terminal", 9e3), Session("terminal", 3.0)))))], "awake", "2 SSH sessions"),
    ("tmux runs detached and does nothing", "own", [(16, Box(doing(ENDED, count=11)))], "idle", "no SSH sessions"),
    # --- our own hands ---------------------------------------------------------------------------
    ("our copying fills the network while the job trains", "skypilot#10162", [(60, stepping(replace(with_(RUNNING, gpus=gpus(95.0), net_sent=118e6, processes=replace(NOBODY, own_net=110e6)), transferring=True)))], "awake", "GPU at 95 %"),
    ("we copy, and nothing else does", "swm: its own autosync kept the box active for ever", [(16, Box(replace(with_(ENDED, net_sent=110e6, processes=replace(NOBODY, own_net=107e6)), transferring=True)))], "idle", "idle for"),
    ("we copy and cannot tell our share", "I3", [(60, Box(replace(with_(ENDED, net_sent=110e6, processes=replace(NOBODY, own_net=None)), transferring=True)))], "unknown", "network use unknown"),
    ("somebody downloads while we copy", "own", [(16, Box(replace(with_(ENDED, net_sent=160e6, processes=replace(NOBODY, own_net=107e6)), transferring=True)))], "awake", "network"),
    ("our listing and hashing burns a core", "swm, dstack: own polls", [(16, Box(doing(ENDED, own_cpu=1.0)))], "idle", "idle for"),
    # --- time and gaps ---------------------------------------------------------------------------
    ("the laptop slept for three hours", "I3", [(10, Q), (180, SILENCE), (5, Q)], "soon", "idle in 10 min"),
    ("the connection is gone since 5 minutes", "openweights#82", [(20, Q), (5, SILENCE)], "unknown", "not heard for 5 min"),
    ("the clock was set back an hour", "skypilot: wall clock", [(14, Q), (-60, SILENCE), (5, Q)], "soon", "idle in 10 min"),
    ("the watcher has just been started", "skypilot#9524: cold daemon", [(1, Q)], "soon", "idle in 14 min"),
    ("disk use is hidden by the container", "I3", [(60, Box(doing(ENDED, disk_read=None, disk_written=None)))], "unknown", "disk use unknown"),
    ("the step counter vanished under a living job", "I3", [(5, stepping(RUNNING)), (20, Box(RUNNING))], "unknown", "step unknown"),
    ("the box shares its network with others", "own hosts", [(16, Box(with_(ENDED, shared=True, net_received=9e6)))], "idle", "idle for"),
]  # fmt: skip


def play(phases: list[tuple[float, Act]]) -> Verdict:
    track, at = Track(), 100_000.0
    begun = at
    for minutes, act in phases:
        if act is SILENCE:
            at += minutes * 60
            continue
        for _ in range(max(1, int(minutes * 60 / STEP))):
            at += STEP
            look = act(at)
            assert look is not None
            track.observe(replace(look, job_ended_at=begun) if look.job == "ended" else look)
    return judge(track.quiet, at, AFTER, alive=track.job == "running")


def outcome(verdict: Verdict) -> str:
    if verdict.idle:
        return "idle"
    if verdict.idle_in is not None:
        return "soon"
    return "awake" if any(line.says is Says.ACTIVE for line in verdict.lines) else "unknown"


@pytest.mark.parametrize(("name", "source", "phases", "expected", "word"), ROWS, ids=[row[0] for row in ROWS])
def test_the_truth_table(
    name: str, source: str, phases: list[tuple[float, Act]], expected: str, word: str
) -> None:
    verdict = play(phases)
    assert (outcome(verdict), word in verdict.text) == (expected, True), f"{name} ({source}): {verdict.text}"


def test_the_table_is_long_enough_and_says_where_each_row_is_from() -> None:
    assert len(ROWS) >= 40
    assert len({row[0] for row in ROWS}) == len(ROWS)
    rivals = [row for row in ROWS if row[1].startswith(("skypilot", "swm", "dstack"))]
    assert len(rivals) >= 12
