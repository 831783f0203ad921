"""Remotes that misbehave, before a real `rclone serve`: what the user sees, and that nothing counts as verified (I3)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.daemon import standing
from gpuwatch.mirror import proof
from gpuwatch.mirror.rclone import MirrorFault
from integration.faulty_remote import Proxy, faulty
from integration.rclone_servers import Server, serving
from integration.test_retention_rclone import Home, home

pytestmark = pytest.mark.slow

BIG = 600_000


@pytest.fixture
async def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, Proxy]]:
    with serving("plain", tmp_path) as server:
        monkeypatch.setenv("RCLONE_CONFIG", server.environment["RCLONE_CONFIG"])
        async with faulty(server) as proxy:
            yield server, proxy


async def with_a_big_file(here: Home) -> None:
    """One checkpoint of 600 kB at home, its run over."""
    await here.train(until=1, over=False)
    path = here.box / "ckpt/step-2/model.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(BIG))
    from gpuwatch.lifecycle import events as e

    verified = e.FilesVerified(files=1, bytes=BIG)
    await here.ledger.append("r1", verified, copies=[here.copied("ckpt/step-2/model.bin", 2)])


async def seen(here: Home) -> wire.MirrorRow:
    """What `gputui mirror status` shows after one more try of the daemon's."""
    try:
        while await here.mirrors._round("sim:bucket"):
            pass
    except MirrorFault:
        pass
    (row,) = standing.rows(here.ctx, None)
    return row


def nothing_is_proved(here: Home) -> bool:
    return "ckpt/step-2/model.bin" not in proof.load(here.vault, "r1", "sim:bucket")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("full", "make room there"), ("vanish", "it is tried again"), ("corrupt", "not equal there: step-2/model.bin")],
)  # fmt: skip
async def test_it_is_behind_visibly_and_ever_longer_until_the_remote_is_well_again(
    tmp_path: Path, away: tuple[Server, Proxy], fault: str, said: str
) -> None:
    server, proxy = away
    async with home(tmp_path / "home", "[]") as here:
        await with_a_big_file(here)
        proxy.fault = fault
        row = await seen(here)
        assert proxy.met.is_set()
        assert said in (row.problem or "")
        # it is behind, by bytes and by time
        assert (row.behind_bytes or 0) >= BIG
        assert nothing_is_proved(here)
        assert any("sim:bucket" in alarm and "behind" in alarm for alarm in standing.alarms(here.ctx))
        here.clock[0] += 3600
        later = await seen(here)
        assert (later.behind_seconds or 0) >= (row.behind_seconds or 0) + 3600
        proxy.fault, proxy.gone = "", False
        well = await seen(here)
        assert (well.behind_files, well.behind_seconds, well.problem) == (0, None, None)
        there = server.file("runs/r1/checkpoints/step-2/model.bin").read_bytes()
        assert there == here.vault.destination("r1", "ckpt/step-2/model.bin").read_bytes()
        assert not nothing_is_proved(here)
        assert standing.alarms(here.ctx) == []


async def test_a_slow_remote_shows_how_far_it_is_and_nothing_counts_before_the_end(
    tmp_path: Path, away: tuple[Server, Proxy]
) -> None:
    _, proxy = away
    async with home(tmp_path / "home", "[]") as here:
        await with_a_big_file(here)
        proxy.fault = "slow"
        trying = asyncio.create_task(seen(here))
        shown: list[wire.MirrorRow] = []
        while not trying.done():
            found = standing.rows(here.ctx, None)
            under_way = proxy.met.is_set() and proxy.passed < BIG
            shown += [row for row in found if under_way and row.done is not None]
            if under_way:
                assert nothing_is_proved(here)
                assert all(row.behind_files for row in found)
            await asyncio.sleep(0.05)
        assert shown, "how far it is was shown"
        assert (await trying).behind_files == 0
        assert not nothing_is_proved(here)
