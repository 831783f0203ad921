"""A recording is what was seen, without what must not leave the house, and nothing can be changed in it."""

import asyncio
import time
from pathlib import Path

import pytest
from ui.conftest import Clock, ThreadedDaemon, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import World

from gputui.app import GpuTui
from gputui.cli import main
from gputui.replay.recorder import Recorder
from gputui.replay.records import BadRecording, parse, read
from gputui.replay.server import ReplayServer
from gputui.screens.run import RunScreen
from gpuwatch.client.stream import AsyncClient

MIRAS = "r7k2m9qa"


async def recorded(daemon: FakeDaemon, path: Path) -> None:
    """Record while a few things happen."""
    client = AsyncClient(daemon.path)
    out = bytearray()
    recorder = Recorder(client, out.extend, clock=time.monotonic)
    task = asyncio.create_task(recorder.run(await client.connect()))
    await daemon.subscribed("log", MIRAS)
    await daemon.subscribed("telemetry", "q8f4j2ls")
    daemon.append_log(MIRAS, b"export HF_TOKEN=hf_secretsecret123\nand then it went on\n")
    daemon.push_event(MIRAS, "checkpoint", "step 2000 verified")
    async with asyncio.timeout(20):
        while b"step 2000 verified" not in out or b'"what":"runs"' not in out:
            daemon.push_runs()
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.close()
    path.write_bytes(out)


async def test_what_was_recorded_is_what_is_shown(daemon: FakeDaemon, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "story.jsonl"
    await recorded(daemon, path)
    assert b"hf_secret" not in path.read_bytes()
    header, records = await asyncio.to_thread(read, path)
    server = ReplayServer(tmp_path / "s", header, records, speed=0)
    playing = asyncio.create_task(server.serve())
    await server.finished.wait()
    app = GpuTui(tmp_path / "s", clock=clock, heartbeat=3600)
    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        await until(pilot, lambda: "onyx-1b-grow" in screen_text(app))
        assert "▶ replay" in screen_text(app)
        app.open_run(MIRAS)
        await until(pilot, lambda: "and then it went on" in screen_text(app))
        assert isinstance(app.screen, RunScreen)
        await pilot.press("t")
        await until(pilot, lambda: "step 2000 verified" in screen_text(app))
        await pilot.press("escape", "u")
        await until(pilot, lambda: "nothing can be changed" in toasts(app))
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


async def test_time_passes_in_a_replay(daemon: FakeDaemon, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "story.jsonl"
    await recorded(daemon, path)
    header, records = await asyncio.to_thread(read, path)
    assert [r.at for r in records] == sorted(r.at for r in records)
    server = ReplayServer(tmp_path / "s", header, records, speed=1000)
    playing = asyncio.create_task(server.serve())
    app = GpuTui(tmp_path / "s", clock=clock, heartbeat=3600)
    async with app.run_test(size=(140, 40)) as pilot:
        app.link.retry_now()
        await until(pilot, lambda: "miras-s" in screen_text(app))
    await server.finished.wait()
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


def test_the_command_records_into_a_new_file_only(
    served: ThreadedDaemon, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    assert main(["record", str(path), "--seconds", "1"]) == 0
    _, records = read(path)
    assert records
    assert path.stat().st_mode & 0o777 == 0o600
    assert "look into it before you share it" in capsys.readouterr().out
    assert main(["record", str(path), "--seconds", "1"]) == 2
    assert "File exists" in capsys.readouterr().err


def test_without_a_daemon_no_empty_file_is_left(home: Path, tmp_path: Path) -> None:
    assert main(["record", str(tmp_path / "out.jsonl")]) == 5
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no recording"),
        ([b'{"a":1}\n'], "no recording"),
        ([b"\xff\xfe\n"], "no recording"),
        ([b'{"gputui":9,"started":1.0,"version":"1"}\n'], "format 9"),
        ([b'{"gputui":1,"started":1.0,"version":"1"}\n', b"[[[\n", b"{}\n"], "line 2"),
    ],
)
def test_what_is_no_recording_is_refused(lines: list[bytes], said: str) -> None:
    with pytest.raises(BadRecording, match=said):
        parse(iter(lines))


def test_a_recording_that_was_cut_off_plays_up_to_there() -> None:
    _header, records = parse(
        iter([b'{"gputui":1,"started":1.0,"version":"1"}\n', b'{"at":0.1,"what":"runs"}\n', b'{"at":0.2,"wh'])
    )
    assert len(records) == 1
