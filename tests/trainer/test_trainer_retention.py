"""Retention keeps what the rules promise, whatever it is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gputrain.retention import KEEP_ALWAYS, Kept, to_delete

checkpoints = st.lists(
    st.builds(Kept, st.integers(1, 60), st.integers(1, 100), st.booleans()),
    unique_by=lambda c: c.step,
    max_size=40,
)
some_steps = st.sets(st.integers(1, 60), max_size=20)


@given(checkpoints, st.integers(0, 12), st.integers(0, 24), st.integers(0, 4000), some_steps, some_steps)
def test_retention(
    kept: list[Kept], last: int, milestones: int, budget: int, verified: set[int], uploading: set[int]
) -> None:
    doomed = to_delete(
        kept,
        keep_last=last,
        keep_milestones=milestones,
        max_bytes=budget,
        verified=verified,
        uploading=uploading,
    )
    newest = sorted((c.step for c in kept), reverse=True)
    left = [c for c in kept if c.step not in doomed]
    assert len(set(doomed)) == len(doomed)
    assert not set(doomed) & set(newest[:KEEP_ALWAYS]), "never the newest two"
    assert not set(doomed) & uploading, "never one that is being uploaded"
    assert sum(c.bytes for c in left) <= budget or {c.step for c in left} <= (
        set(newest[:KEEP_ALWAYS]) | uploading
    ), "over budget only when nothing more may go"
    ordinary = [c for c in left if c.step not in newest[:last] and c.step not in uploading]
    assert len([c for c in ordinary if c.milestone]) <= milestones + KEEP_ALWAYS
    assert all(c.milestone or c.step in newest[:KEEP_ALWAYS] for c in ordinary)


@given(checkpoints, some_steps)
def test_under_pressure_a_copy_that_exists_elsewhere_goes_first(kept: list[Kept], verified: set[int]) -> None:
    half = sum(c.bytes for c in kept) // 2
    doomed = to_delete(kept, keep_last=99, keep_milestones=99, max_bytes=half, verified=verified)
    flags = [step in verified for step in doomed]
    assert flags == sorted(flags, reverse=True)


def test_the_field_notes_counts() -> None:
    every_five_minutes = [Kept(step, 1, step % 12 == 0) for step in range(1, 601)]
    doomed = to_delete(every_five_minutes, keep_last=12, keep_milestones=24, max_bytes=10**9)
    left = [c.step for c in every_five_minutes if c.step not in doomed]
    assert len([step for step in left if step > 588]) == 12
    assert len([step for step in left if step % 12 == 0]) == 24
