"""A night with everything at two per cent: nothing mirrored is lost, nothing forgotten, nothing billed idle for no reason.

The small night is played always, the whole one (twelve virtual hours, forty runs; `make night` prints it) by `make test-all`.
"""

from __future__ import annotations

import pytest
from simulation import remote
from simulation.cloud import Violation
from simulation.faults import Kind
from simulation.night import play
from simulation.remote import SimulatedRclone

from gpuwatch.lifecycle.run import State


@pytest.mark.parametrize("seed", [1, 2])
def test_a_small_night_ends_well_and_its_report_names_every_incident(seed: int) -> None:
    night = play(seed, hours=3.0, runs=8)
    text = "\n".join(night.lines)
    assert len(night.lost) == 2
    assert text.count("machine lost") >= 2
    assert "the laptop slept for 45 min" in text
    assert "ran low, said after" in text
    assert text.count("gpuwatch died") == night.world.crashes > 0
    for incident in night.incidents:
        assert incident.what in text
    vendors = {m.vendor for m in night.world.cloud.machines.values()}
    assert vendors == {"vast", "runpod"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_night_ends_well() -> None:
    night = play(1)
    runs = [r for r in night.ends.values() if r.of is None]
    assert len(runs) == 40
    assert sum(r.state is State.GONE for r in runs) > 30


def test_a_remote_that_is_believed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The night can fail: a comparison that compares nothing calls broken copies mirrored."""

    async def believes(*_: object, **__: object) -> str:
        return "hash"

    monkeypatch.setattr(SimulatedRclone, "verify", believes)
    monkeypatch.setattr(remote, "_KINDS", (Kind.WRONG,))
    _found("counts as mirrored")


def test_a_machine_that_idles_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The night can fail: without the idle rules a machine with a timer stays for ever."""

    async def never(*_: object) -> None:
        return

    monkeypatch.setattr("gpuwatch.daemon.companion.watch_idleness", never)
    _found("idle|still lives|is stuck")


def _found(what: str) -> None:
    with pytest.raises(Violation, match=what):
        for seed in range(1, 6):
            play(seed, hours=3.0, runs=8)
