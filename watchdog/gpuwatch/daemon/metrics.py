"""What gpuwatch knows, as Prometheus text: pure from what the app is shown, served on a loopback port if the settings want it.

Amounts are in US dollars, sizes in bytes, times in seconds. What is unknown has no line: a missing series and
a zero mean different things.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import structlog

from gpuwatch.client import wire

log = structlog.get_logger()

TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS = 10.0
REQUEST_BYTES = 16 << 10
_ENDED = ("gone", "lost")
Line = tuple[dict[str, str], float | None]


def text(fleet: wire.Runs, mirrors: Iterable[wire.MirrorRow]) -> str:
    """The whole page. Pure."""
    lines: list[str] = []
    for name, what, found in _families(fleet, list(mirrors)):
        shown = [(labels, value) for labels, value in found if value is not None]
        if shown:
            lines += [f"# HELP {name} {what}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(labels)} {value:.10g}" for labels, value in shown]
    return "\n".join(lines) + "\n"


def _families(fleet: wire.Runs, mirrors: list[wire.MirrorRow]) -> Iterator[tuple[str, str, list[Line]]]:
    open_runs = [run for run in fleet.runs if run.state not in _ENDED]
    states = Counter(run.state for run in fleet.runs)
    yield "gputui_up", "gpuwatch answers.", [({}, 1.0)]
    yield "gputui_alarms", "Alarms that stand.", [({}, float(len(fleet.alarms)))]
    yield "gputui_burn_usd_per_hour", "What everything that is rented costs now.", [({}, fleet.burn / 1e6)]
    yield "gputui_runs", "Runs by state.", [({"state": s}, float(n)) for s, n in sorted(states.items())]
    for name, what, value in _RUN:
        yield name, what, [(_of(run), value(run)) for run in open_runs]
    for name, what, of_gpu in _GPU:
        cells = [({**_of(run), "gpu": str(g.index)}, of_gpu(g)) for run in open_runs for g in run.gpus or ()]
        yield name, what, cells
    accounts = [({"provider": a.provider}, a) for a in fleet.accounts]
    yield (
        "gputui_account_credit_usd", "The account's balance.",
        [(labels, None if a.credit is None else a.credit / 1e6) for labels, a in accounts],
    )  # fmt: skip
    yield (
        "gputui_account_listing_age_seconds", "Since the newest complete listing.",
        [(labels, a.age) for labels, a in accounts],
    )  # fmt: skip
    remotes = [({"run": m.run, "remote": m.remote}, m) for m in mirrors]
    yield (
        "gputui_mirror_behind_bytes", "Verified at home and not on the remote.",
        [(labels, None if m.behind_bytes is None else float(m.behind_bytes)) for labels, m in remotes],
    )  # fmt: skip
    yield (
        "gputui_mirror_behind_seconds", "For how long something has been missing on the remote.",
        [(labels, m.behind_seconds) for labels, m in remotes],
    )  # fmt: skip


def _maybe(value: float | None) -> float | None:
    return None if value is None else float(value)


_RUN: tuple[tuple[str, str, Callable[[wire.RunRow], float | None]], ...] = (
    ("gputui_run_cost_usd", "What all machines of the run have cost.", lambda r: r.cost / 1e6),
    ("gputui_run_exposure_bytes", "Promised, and only on the box.", lambda r: _maybe(r.exposure.bytes)),
    ("gputui_run_exposure_seconds", "Work since the newest verified copy.", lambda r: r.exposure.seconds),
    ("gputui_run_telemetry_age_seconds", "Since the box's last report.", lambda r: r.telemetry_age),
    ("gputui_run_step", "The job's step.", lambda r: _maybe(r.step)),
    ("gputui_run_loss", "The job's loss.", lambda r: r.loss),
    ("gputui_run_tokens_per_second", "The job's speed.", lambda r: r.tokens_per_second),
    ("gputui_run_checkpoints", "Checkpoints verified at home.", lambda r: float(r.checkpoints)),
    ("gputui_run_verified_bytes", "Bytes verified at home.", lambda r: float(r.verified_bytes)),
    ("gputui_run_attempt", "Machines that the run has used up.", lambda r: float(r.attempt)),
    ("gputui_run_alarms", "Alarms of the run's telemetry.", lambda r: float(len(r.alarms))),
)
_GPU: tuple[tuple[str, str, Callable[[wire.GpuRow], float | None]], ...] = (
    ("gputui_gpu_utilisation_percent", "Load of a GPU.", lambda g: g.utilisation),
    ("gputui_gpu_memory_used_bytes", "Memory of a GPU in use.", lambda g: _maybe(g.memory_used)),
    ("gputui_gpu_power_watts", "Power of a GPU.", lambda g: g.power),
    ("gputui_gpu_temperature_celsius", "Heat of a GPU.", lambda g: g.temperature),
)


def _of(run: wire.RunRow) -> dict[str, str]:
    return {"run": run.id, "name": run.name, "state": run.state, "provider": run.provider or ""}


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, value in labels.items()
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"


async def serve_metrics(page: Callable[[], str], port: int) -> None:
    """Answer `GET /metrics` on 127.0.0.1 until cancelled. A port that is taken is logged and tried again.

    Loopback only and read only; a request that is slow, long or anything else is cut off.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(head, page))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics request", problem=type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    while True:
        try:
            server = await asyncio.start_server(answer, "127.0.0.1", port, limit=REQUEST_BYTES)
        except OSError as error:
            log.warning("metrics port cannot be used", port=port, problem=str(error))
            await asyncio.sleep(60)
            continue
        async with server:
            await server.serve_forever()


def _answer(head: bytes, page: Callable[[], str]) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    method, path = (words[0], words[1].partition(b"?")[0]) if len(words) == 3 else (b"", b"")
    if method not in (b"GET", b"HEAD"):
        status, body, kind = "405 Method Not Allowed", "only GET\n", "text/plain"
    elif path != b"/metrics":
        status, body, kind = "404 Not Found", "the metrics are at /metrics\n", "text/plain"
    else:
        status, body, kind = "200 OK", page(), TYPE
    content = body.encode("utf-8", "replace")
    lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return lines.encode() + (content if method != b"HEAD" else b"")
