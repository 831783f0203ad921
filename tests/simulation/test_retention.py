"""Old checkpoints are let go on bad days, too: never the last verified copy, wherever the daemon dies (I1, I4)."""

from __future__ import annotations

from collections import Counter

import pytest
from simulation.schedule import play

from gpuwatch.mirror import retention

FIRST, DAYS = 2_000_000, 150


def test_what_is_let_go_stands_somewhere_else_on_every_bad_day() -> None:
    """The judge stands at every removal, in the vault, on the remote and on the box."""
    gone: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + DAYS):
        try:
            gone += play(seed, keeping=True).judge.let_go
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert min(gone[place] for place in ("vault", "remote", "box")) >= 5, gone


def test_the_judge_sees_a_last_copy_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retention that looks at no other place is found out."""
    monkeypatch.setattr(retention, "_obstacle", lambda *_: None)
    monkeypatch.setattr("gpuwatch.daemon.retaining.Keeper._compare", _nothing)
    with pytest.raises(Exception, match=r"I1: .* leaves the vault and stands nowhere else"):
        for seed in range(FIRST, FIRST + DAYS):
            play(seed, keeping=True)


async def _nothing(*_: object) -> None:
    """No comparison."""
