"""The book of prices: what is noted, how often, how long, and what a damaged file does (nothing)."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpuproviders.model import Offer
from gpuproviders.money import MicroUsd
from gpuwatch.prices import EVERY_SECONDS, KEEP_SECONDS, Kind, Point, PriceBook, cheapest, format_line, parse

NOW = 1_790_000_000.0
RTX = Kind("vast", "RTX 4090", 1, False)


def offer(price: int, *, gpu: str = "RTX 4090", verified: bool = True, spot: bool = False) -> Offer:
    return Offer(
        provider="vast", offer_id=str(price), machine_id="1", gpu_name=gpu, gpu_count=1, gpu_memory=0, price=MicroUsd(price),
        disk_price=MicroUsd(0), verified=verified, spot=spot,
    )  # fmt: skip


def test_the_cheapest_verified_price_of_each_kind_is_noted() -> None:
    found = cheapest([offer(5), offer(3), offer(1, verified=False), offer(2, spot=True)], NOW)
    assert found == {RTX: Point(NOW, 3, 2), RTX._replace(spot=True): Point(NOW, 2, 1)}


def test_a_kind_is_noted_once_in_ten_minutes_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "prices.jsonl"
    book = PriceBook(path)
    assert book.record([offer(3)], NOW) == 1
    assert book.record([offer(2)], NOW + EVERY_SECONDS - 1) == 0
    assert PriceBook(path).record([offer(2)], NOW + 5) == 0
    assert PriceBook(path).record([offer(2), offer(9, gpu="L4")], NOW + EVERY_SECONDS) == 2
    series = book.series(NOW + 2 * EVERY_SECONDS, NOW - 1)
    assert series[RTX] == [Point(NOW, 3, 1), Point(NOW + EVERY_SECONDS, 2, 1)]
    assert book.series(NOW + 2 * EVERY_SECONDS, NOW + 1)[RTX] == [Point(NOW + EVERY_SECONDS, 2, 1)]


def test_a_clock_that_was_set_back_does_not_stop_the_book(tmp_path: Path) -> None:
    book = PriceBook(tmp_path / "p")
    book.record([offer(3)], NOW + 10**7)
    assert book.record([offer(3)], NOW) == 1


def test_old_lines_are_dropped_and_damaged_ones_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "p"
    old, new = Point(NOW - KEEP_SECONDS - 1, 7, 1), Point(NOW - 5000, 8, 1)
    path.write_text(format_line(RTX, old) + "garbage\n[1,2]\n" + format_line(RTX, new) + '[1, "vast", "x')
    book = PriceBook(path)
    assert book.record([offer(3)], NOW) == 1
    assert [p.price for p in book.series(NOW, 0)[RTX]] == [8, 3]


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert PriceBook(tmp_path / "file" / "p").record([offer(3)], NOW) == 0


@given(st.text(max_size=100) | st.lists(st.integers() | st.text(max_size=5) | st.none(), max_size=8).map(str))
def test_no_line_breaks_the_reader(line: str) -> None:
    parse(line)


@given(
    st.text(max_size=20),
    st.text(max_size=20),
    st.integers(0, 99),
    st.booleans(),
    st.integers(0, 10**9),
    st.integers(0, 9999),
)
def test_what_is_written_is_read_again(
    provider: str, gpu: str, count: int, spot: bool, price: int, offers: int
) -> None:
    kind, point = Kind(provider, gpu, count, spot), Point(NOW, price, offers)
    assert parse(format_line(kind, point).rstrip("\n")) == (kind, point)
