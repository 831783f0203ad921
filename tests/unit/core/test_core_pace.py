"""The bandwidth cap: shared by all, kept on average, without a burst worth the name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.box.pace import BURST, Pace
from gpuwatch.config import ConfigError, load


class Slept(asyncio.SelectorEventLoop):
    """An event loop whose time goes on only while somebody sleeps."""

    now = 100.0

    def time(self) -> float:
        return self.now

    def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def]
        self.now = max(self.now, when)
        return self.call_soon(callback, *args, context=context)


def took(sizes: list[int], rate: int | None) -> float:
    async def all_at_once() -> None:
        pace = Pace(rate)
        await asyncio.gather(*(pace.take(size) for size in sizes))

    loop = Slept()
    try:
        loop.run_until_complete(all_at_once())
        return loop.now - 100.0
    finally:
        loop.close()


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20), st.integers(10**4, 10**8))
def test_whoever_transfers_the_rate_holds_for_all_together(sizes: list[int], rate: int) -> None:
    before_the_last = sum(sizes[:-1])
    assert took(sizes, rate) == pytest.approx(max(0.0, before_the_last / rate - BURST), abs=1e-6)


def test_without_a_cap_nobody_waits() -> None:
    assert took([10**12] * 5, None) == 0


def test_a_cap_makes_the_pieces_small() -> None:
    assert Pace(None).share(8 << 20) == 8 << 20
    assert Pace(4_000_000).share(8 << 20) == 1_000_000
    assert Pace(10_000).share(8 << 20) == 64 << 10


@pytest.mark.parametrize("rate", ['"5"', '"fast"', "20", '"-1MB"', '"9kB"'])
def test_a_rate_that_is_none_is_refused(rate: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[transfer]\nrate = {rate}\n")
    with pytest.raises(ConfigError):
        load(tmp_path / "c.toml")


def test_a_rate_is_bytes_per_second(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[transfer]\nrate = "20MB"\n')
    assert load(tmp_path / "c.toml").transfer_rate == 20_000_000
    assert load(tmp_path / "none.toml").transfer_rate is None
