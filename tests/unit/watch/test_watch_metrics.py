"""Prometheus text: what is unknown is not there, what a box calls itself cannot break the page, and only loopback is served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gpuwatch.client import wire
from gpuwatch.config import Config, ConfigError, load
from gpuwatch.daemon import metrics
from gpuwatch.daemon.alarms import idle_warnings
from gpuwatch.daemon.rows import run_row
from gpuwatch.idle.timers import Act, Due

from gpuwatch.daemon.live import Live  # isort: skip
from gpuwatch.lifecycle.events import Requested
from gpuwatch.lifecycle.evolve import create

GPU = wire.GpuRow(
    index=0, name="RTX 4090", utilisation=97.0, memory_used=1 << 30, memory_total=24 << 30, power=None, temperature=61.0
)  # fmt: skip


def row(**changes: Any) -> wire.RunRow:
    run = create("r-ab3d", Requested(name="r", spec="", file="", base="", key="k"), 1000.0)
    made = run_row(run, None, Live(), {}, now=1060.0, clock=60.0)
    return msgspec.structs.replace(made, **({"state": "running"} | changes))


def page(*runs: wire.RunRow, **more: Any) -> str:
    account = wire.AccountRow(provider="vast", user="1", credit=12_340_000, age=3.5, problem=None, foreign=0)
    fleet = wire.Runs(runs=list(runs), accounts=[account], burn=400_000, now=1060.0, **more)
    return metrics.text(fleet, [])


def test_amounts_are_dollars_and_what_is_unknown_has_no_line() -> None:
    text = page(row(cost=250_000, step=40, gpus=[GPU]), alarms=["one"])
    assert 'gputui_run_cost_usd{run="r-ab3d",name="r",state="running",provider=""} 0.25\n' in text
    assert 'gputui_account_credit_usd{provider="vast"} 12.34\n' in text
    assert "gputui_burn_usd_per_hour 0.4\n" in text
    assert "gputui_alarms 1\n" in text
    assert (
        'gputui_gpu_temperature_celsius{run="r-ab3d",name="r",state="running",provider="",gpu="0"} 61\n'
        in text
    )
    assert "gputui_gpu_power_watts" not in text, "the driver did not say"
    assert "gputui_run_loss" not in text


def test_every_series_is_announced_once_and_no_line_is_doubled() -> None:
    text = page(row(gpus=[GPU]), row(id="r-zzzz"), row(id="r-gone", state="gone"))
    lines = text.splitlines()
    announced = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(announced) == len(set(announced))
    assert len(series) == len(set(series))
    assert {s.partition("{")[0] for s in series} == set(announced)
    assert "r-gone" not in text, "ended runs have no series of their own"
    assert 'gputui_runs{state="gone"} 1' in text


def test_a_name_cannot_break_the_page() -> None:
    text = page(row(name='a"} 1\nevil{x="\\'))
    assert 'name="a\\"} 1\\nevil{x=\\"\\\\"' in text
    assert not any(line.startswith("evil") for line in text.splitlines())


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    task = asyncio.create_task(metrics.serve_metrics(lambda: "gputui_up 1\n", port))
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(port: int, request: bytes) -> bytes:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionError:
            await asyncio.sleep(0)  # it begins to listen in a moment
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1", b"200 OK", b"gputui_up 1\n"), (b"GET /metrics?x=1 HTTP/1.1", b"200 OK", b"gputui_up 1\n"),
        (b"HEAD /metrics HTTP/1.1", b"200 OK", b""), (b"GET / HTTP/1.1", b"404", b"/metrics"),
        (b"POST /metrics HTTP/1.1", b"405", b"GET"), (b"nonsense", b"405", b"GET"),
    ],
)  # fmt: skip
async def test_only_the_page_is_served(request_line: bytes, status: bytes, body: bytes) -> None:
    async with served() as port:
        answer = await ask(port, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert body in content
    assert (content == b"") == (body == b"")


async def test_a_request_without_end_is_cut_off() -> None:
    async with served() as port:
        assert await ask(port, b"GET /" + b"x" * (2 * metrics.REQUEST_BYTES)) == b""


def test_the_port_is_a_setting_and_off_without_it(tmp_path: Any) -> None:
    assert Config().metrics.port is None
    path = tmp_path / "config.toml"
    path.write_text("[metrics]\nport = 9477\n")
    assert load(path).metrics.port == 9477
    path.write_text("[metrics]\nport = 0\n")
    with pytest.raises(ConfigError, match="port"):
        load(path)


# --- the warning before an idle machine is ended ---------------------------------------------------


@pytest.mark.parametrize(
    ("act", "told"), [(Act.WARN, True), (Act.NOTIFY, True), (Act.NOTHING, False), (Act.END, False)]
)
def test_an_idle_machine_is_told_before_it_is_ended_and_how_to_keep_it(act: Act, told: bool) -> None:
    live: Any = SimpleNamespace(idle=Due(act, "collected and destroyed in 4 min: GPUs 0 % for 11 min"))
    quiet: Any = SimpleNamespace(idle=None)
    lines = list(idle_warnings({"r-1": live, "r-2": quiet}))
    assert bool(lines) == told
    assert all("in 4 min" in line and "gputui hold r-1" in line for line in lines)
