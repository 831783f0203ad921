"""The service: a unit that systemd itself accepts, a watchdog that is fed, a heartbeat that somebody hears."""

from __future__ import annotations

import asyncio
import os
import plistlib
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gpuwatch.cli_install import KEPT, install, unit
from gpuwatch.daemon.pulse import feed_watchdog, notify, ping, watchdog_seconds

ODD = '/home/me/a b/100%/$HOME/"q"/\\x/python'


def test_the_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    made = install({"GPUTUI_HOME": str(tmp_path / "with space")}, tmp_path, platform="linux")
    assert made.path == tmp_path / ".config/systemd/user/gpuwatch.service"
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "the tests need systemd's tools"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [analyze, "verify", "--user", "--man=no", str(made.path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "gpuwatch" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_the_hardening_is_seen_by_systemds_own_rating(tmp_path: Path) -> None:
    made = install({}, tmp_path, platform="linux")
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(made.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    rating = next(line for line in done.stdout.splitlines() if "Overall exposure level" in line)
    assert float(rating.split(":")[1].split()[0]) < 9.0, rating


def test_odd_paths_stay_one_word_and_mean_nothing() -> None:
    line = next(x for x in unit(ODD, {}).splitlines() if x.startswith("ExecStart="))
    assert (
        line == 'ExecStart="/home/me/a b/100%%/$$HOME/\\"q\\"/\\\\x/python" -m gpuwatch run --log-format json'
    )
    with pytest.raises(ValueError, match="unit file"):
        unit("/a\nExecStart=/bin/evil", {})


def test_no_secret_is_ever_written_into_a_unit(tmp_path: Path) -> None:
    environment = {
        "VAST_API_KEY": "s3cret",
        "RUNPOD_API_KEY": "s3cret",
        "WANDB_API_KEY": "s3cret",
        "GPUTUI_VAULT": "/v",
    }
    assert "s3cret" not in install(environment, tmp_path, platform="linux").text
    assert "GPUTUI_VAULT=/v" in unit("/p", environment)
    assert not any("KEY" in name or "TOKEN" in name for name in KEPT)


def test_macos_gets_an_agent(tmp_path: Path) -> None:
    made = install({"GPUTUI_HOME": "/h"}, tmp_path, platform="darwin")
    agent = plistlib.loads(made.path.read_bytes())
    assert agent["ProgramArguments"][1:] == [
        "-m", "gpuwatch", "run", "--log-format", "json", "--log-file", agent["StandardErrorPath"],
    ]  # fmt: skip
    assert agent["EnvironmentVariables"] == {"GPUTUI_HOME": "/h"}


# --- signs of life -------------------------------------------------------------------------------


async def test_the_watchdog_is_fed_while_the_ledgers_writer_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "60000")
        end = asyncio.Event()

        async def write() -> None:
            await end.wait()

        loop, writer = asyncio.get_running_loop(), asyncio.create_task(write())
        feeding = asyncio.create_task(feed_watchdog(writer))
        assert await loop.sock_recv(listener, 100) == b"WATCHDOG=1"
        assert await loop.sock_recv(listener, 100) == b"WATCHDOG=1"
        end.set()
        await feeding
        assert notify("STOPPING=1")
        while (said := await loop.sock_recv(listener, 100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [({}, None), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "x"}, None), ({"WATCHDOG_USEC": "3000000"}, 3.0),
     ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None), ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0)],
)  # fmt: skip
def test_the_watchdogs_period_is_read(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environment) == seconds


async def test_a_heartbeat_goes_on_over_answers_that_fail() -> None:
    beats: list[str] = []
    third = threading.Event()

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            beats.append(self.path)
            if len(beats) == 3:
                third.set()
            self.send_response(500 if len(beats) == 1 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    writer = asyncio.create_task(asyncio.Event().wait())
    beating = asyncio.create_task(ping(f"http://127.0.0.1:{server.server_port}/beat", 0.01, writer))  # type: ignore[arg-type]
    await asyncio.to_thread(third.wait)
    for task in (beating, writer):
        task.cancel()
    await asyncio.gather(beating, writer, return_exceptions=True)
    await asyncio.to_thread(server.shutdown)
    thread.join()
    server.server_close()
    assert beats[:3] == ["/beat"] * 3
