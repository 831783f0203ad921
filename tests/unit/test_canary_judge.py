"""What the canary concludes from what it saw: held, differs, or not seen."""

from __future__ import annotations

import pytest

from gpuwatch.canary.judge import Seen, Verdict, judge


@pytest.mark.parametrize(
    ("offered", "listed", "verdict"),
    [(100_000, 105_000, Verdict.HOLDS), (100_000, 200_000, Verdict.DIFFERS), (100_000, None, Verdict.NOT_SEEN), (None, 5, Verdict.NOT_SEEN)],
)  # fmt: skip
def test_a_price_in_the_list_is_compared_with_the_offers(
    offered: int | None, listed: int | None, verdict: Verdict
) -> None:
    found = judge(Seen("vast", price=offered, listed_price=listed))
    (finding,) = (f for f in found if "what it was offered at" in f.assumption)
    assert finding.verdict is verdict


def test_a_canary_that_saw_nothing_concludes_nothing() -> None:
    assert {f.verdict for f in judge(Seen("runpod"))} == {Verdict.NOT_SEEN}
