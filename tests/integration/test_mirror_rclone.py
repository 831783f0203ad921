"""Real rclone against `rclone serve`: copies are proved by hashes or read back, and nothing less counts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.mirror.rclone import MirrorFault, Progress, Rclone, Trouble
from integration.rclone_servers import KINDS, Server, serving

NAMES = [
    "step-1/model.bin",
    "step-1/MANIFEST.json",
    "#hash",
    "-rf",
    "$(touch owned)",
    "a b.txt",
    "caf\u00e9.bin",
]
HOW = {"s3": "hash", "webdav": "read-back", "sftp": "hash", "plain": "read-back"}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Server]:
    with serving("s3", tmp_path) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "vault run (1) $HOME"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(50_000))
    return folder


def tool(server: Server) -> Rclone:
    assert server.rclone is not None
    return Rclone(server.rclone, server.environment)


async def put(
    server: Server, source: Path, names: list[str], *, replace: bool = False, limit: int | None = None
) -> list[Progress]:
    seen: list[Progress] = []
    await tool(server).copy(
        source, f"{server.remote}/x", names, replace=replace, limit=limit, progress=seen.append
    )
    return seen


async def test_files_arrive_and_are_proved_in_the_way_that_the_remote_allows(
    server: Server, source: Path
) -> None:
    await put(server, source, NAMES)
    how = await tool(server).verify(source, f"{server.remote}/x", NAMES, read_back=True)
    assert how == (HOW[server.kind] if server.kind != "sftp" else how)
    for name in NAMES:
        assert server.file(f"x/{name}").read_bytes() == (source / name).read_bytes()
    assert not (source / "owned").exists(), "no name was ever a command"


async def test_a_file_damaged_there_is_not_proved(server: Server, source: Path) -> None:
    await put(server, source, NAMES)
    damaged = server.file("x/step-1/model.bin")
    data = bytearray(damaged.read_bytes())
    data[1234] ^= 1
    before = damaged.stat()
    damaged.write_bytes(data)
    if server.kind != "s3":  # this S3 server remembers hashes by time stamp
        os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(MirrorFault, match=r"1 of 7 files are not equal there: step-1/model\.bin"):
        await tool(server).verify(source, f"{server.remote}/x", NAMES, read_back=True)


async def test_a_remote_without_hashes_is_refused_when_reading_back_is_forbidden(
    tmp_path: Path, source: Path
) -> None:
    with serving("plain", tmp_path) as server:
        await put(server, source, NAMES)
        with pytest.raises(MirrorFault, match="no hash that can be compared"):
            await tool(server).verify(source, f"{server.remote}/x", NAMES, read_back=False)


async def test_a_file_that_is_not_there_is_not_proved(s3: Server, source: Path) -> None:
    await put(s3, source, NAMES[:2])
    with pytest.raises(MirrorFault) as caught:
        await tool(s3).verify(source, f"{s3.remote}/x", NAMES, read_back=True)
    assert caught.value.trouble is Trouble.UNPROVED


async def test_another_file_under_the_same_name_is_never_overwritten_unasked(
    s3: Server, source: Path
) -> None:
    await put(s3, source, ["#hash"])
    (source / "#hash").write_bytes(b"new")
    with pytest.raises(MirrorFault) as caught:
        await put(s3, source, ["#hash"])
    assert caught.value.trouble is Trouble.CHANGED
    assert s3.file("x/#hash").read_bytes() != b"new"
    await put(s3, source, ["#hash"], replace=True)
    assert s3.file("x/#hash").read_bytes() == b"new"


async def test_a_wrong_key_is_told_as_one(s3: Server, source: Path) -> None:
    s3.configure(secret_access_key="WRONGSECRET")
    with pytest.raises(MirrorFault, match="renew the key") as caught:
        await put(s3, source, NAMES)
    assert caught.value.trouble is Trouble.AUTH


async def test_a_remote_that_is_not_configured_says_how(s3: Server, source: Path) -> None:
    with pytest.raises(MirrorFault, match="rclone config") as caught:
        await tool(s3).copy(source, "nope:x", NAMES, replace=False, limit=None, progress=lambda _: None)
    assert caught.value.trouble is Trouble.MISSING


async def test_a_server_killed_in_the_middle_leaves_nothing_proved_and_the_rest_comes_later(
    s3: Server, source: Path
) -> None:
    (source / "big").write_bytes(os.urandom(6_000_000))
    moving = asyncio.Event()
    copying = asyncio.create_task(
        tool(s3).copy(
            source,
            f"{s3.remote}/x",
            ["big"],
            replace=False,
            limit=1_500_000,
            progress=lambda p: moving.set() if p.done else None,
        )
    )
    await moving.wait()
    s3.stop()
    with pytest.raises(MirrorFault):
        await copying
    s3.start()
    await put(s3, source, ["big"])
    assert await tool(s3).verify(source, f"{s3.remote}/x", ["big"], read_back=False) == "hash"


async def test_cancelling_ends_rclone_and_all_that_it_started(s3: Server, source: Path) -> None:
    (source / "big").write_bytes(os.urandom(6_000_000))
    moving = asyncio.Event()
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        if progress.done:
            moving.set()

    copying = asyncio.create_task(
        tool(s3).copy(source, f"{s3.remote}/x", ["big"], replace=False, limit=500_000, progress=note)
    )
    await moving.wait()
    assert 0 < seen[-1].done < 6_000_000
    assert mine(s3), "rclone runs"
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert not mine(s3)


def mine(server: Server) -> list[str]:
    """Processes of a copy: whoever names this test's configuration in its environment, but the server."""
    assert server.process is not None
    found = []
    for pid in [p.name for p in Path("/proc").iterdir()]:
        if pid.isdigit() and int(pid) != server.process.pid:
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(server.root.parent / "rclone.conf").encode() in environment and state not in "ZX":
                found.append(pid)
    return found
