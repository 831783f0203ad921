"""A whole sample from a box: typed where it fits, unknown where it does not, whatever the box sends (I6)."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.telemetry.read import read_progress, read_vitals
from gpuwatch.telemetry.sample import Session, Vitals, Xid

SAMPLE: dict[str, Any] = {
    "smi": {"fields": [], "rows": [], "apps": [], "problem": "no answer yet"}, "xids": [["0000:01:00", 79]],
    "processes": {"count": 12, "sessions": [["terminal", 4.5], ["command", None]], "cpu": 7.25, "own_cpu": 0.01, "own_moved": 100,
                  "read": 1000, "written": 2000},
    "limits": {"cores": 8.0, "memory": [5, 10]}, "cores": 64, "load": 3.5, "net": [10, 20], "disk": [1, 2], "inodes": [3, 4],
    "shared": False,
}  # fmt: skip


def test_a_sample_is_read() -> None:
    v = read_vitals(SAMPLE)
    assert v.processes is not None
    assert (v.processes.cpu, v.processes.disk_read, v.processes.disk_written) == (7.25, 1000.0, 2000.0)
    assert v.processes.sessions == (Session("terminal", 4.5), Session("command", None))
    assert (v.cores, v.memory_used, v.memory_limit, v.net_sent, v.disk_free, v.inodes_total) == (
        8.0,
        5,
        10,
        20.0,
        1,
        4,
    )
    assert v.xids == (Xid("0000:01:00", 79),)


def test_a_login_that_is_not_understood_is_still_a_login() -> None:
    v = read_vitals(SAMPLE | {"processes": {"count": 1, "sessions": [5, ["terminal"], ["terminal", -3]]}})
    assert v.processes is not None
    assert v.processes.sessions == (
        Session("unknown", None),
        Session("unknown", None),
        Session("terminal", None),
    )


def test_what_the_container_hides_is_unknown_and_not_nothing() -> None:
    v = read_vitals({"processes": {"count": 3, "sessions": None}, "xids": None})
    assert v.processes is not None
    assert (v.processes.cpu, v.processes.sessions, v.xids, v.net_sent) == (None, None, None, None)
    assert read_vitals(None) == Vitals()


def test_a_loss_of_nan_is_remembered_as_diverged() -> None:
    line = json.loads('{"step": 7, "loss": NaN, "tokens_per_second": 1000.5}')
    progress = read_progress(
        line, {"phase": "training", "last_step_age": 3.5, "step_s_ema": 0.4, "eta_s": 99}, None
    )
    assert (progress.loss, progress.diverged, progress.step, progress.phase) == (None, True, 7, "training")
    assert (progress.last_step_age, progress.step_seconds, progress.eta) == (3.5, 0.4, 99.0)
    assert not read_progress({"loss": 2.5}, None, None).diverged


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from([2**70, -1, 10**400])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


@given(st.sampled_from(sorted(SAMPLE)), ANY)
def test_any_part_may_be_anything(key: str, value: object) -> None:
    v = read_vitals(SAMPLE | {key: value})
    for real in (v.cores, v.load, v.net_received, v.net_sent):
        assert real is None or math.isfinite(real)
    for size in (v.memory_used, v.memory_limit, v.disk_free, v.inodes_free):
        assert size is None or (type(size) is int and size >= 0)


@given(ANY, ANY, ANY)
def test_any_progress_is_typed(metrics: object, trainer: object, steps: object) -> None:
    p = read_progress(metrics, trainer, steps)
    for real in (p.loss, p.tokens_per_second, p.last_step_age, p.step_seconds, p.eta):
        assert real is None or math.isfinite(real)
    assert p.step is None or p.step >= 0
