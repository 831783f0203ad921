"""The terminal app's numbers: the real app in a pseudo-terminal against a scripted daemon, and its log view.

Latency is counted from the write of a key into the terminal to the first byte of the frame that
shows its effect. A child process plays the daemon: 20,000 offers, 500 runs, 1,000 changed rows a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Row

OFFERS, RUNS, CHANGES = 20_000, 500, 1_000
_PUSHES = 4
"""Snapshots a second: what the daemon sends at most."""
KEYS = 200
_FRAME = re.compile(rb"\x1b\[[0-9;]*H")


# --- the daemon's side (a process of its own) ----------------------------------------------------


async def _daemon(socket: Path, runs: int, offers: int, changes: int) -> None:
    from ui.fake_daemon import FakeDaemon
    from ui.scenario import GB, USD, World, gpu_row, run_row, some_offers

    from gpuwatch.client import wire

    world = World(burn=int(3.5 * USD) * runs)
    for i in range(runs):
        world.runs.append(
            run_row(
                f"run{i:04}", f"job-{i:04}", "running", provider="vast", instance_id=str(i), gpu="H100 SXM", gpu_count=1,
                price=int(2.21 * USD), cost=i * 1000, gpus=[gpu_row(0, "H100 SXM", 0.9, 60, 80, 600, 60)], telemetry_age=1.0,
                step=i, steps=100_000, loss=2.5, tokens_per_second=1e5, next="checkpoint expected in 2m", created_at=world.now - i,
                exposure=wire.Exposure(bytes=GB, seconds=60.0, files=2),
            )
        )  # fmt: skip
    world.offers = [
        msgspec.structs.replace(o, verified=True, spot=False, price=o.price + i)
        for i, o in enumerate(some_offers(offers))
    ]
    world.offers.sort(key=lambda o: o.price)
    daemon = FakeDaemon(socket, world)
    await daemon.start()
    at = 0
    while True:
        await asyncio.sleep(1 / _PUSHES)
        if not changes:
            continue
        for _ in range(min(len(world.runs), changes // _PUSHES)):
            row = world.runs[at % len(world.runs)]
            world.runs[at % len(world.runs)] = msgspec.structs.replace(
                row,
                step=(row.step or 0) + 1,
                loss=2.0 + (at % 97) / 100,
                cost=row.cost + 13,
                telemetry_age=0.5,
            )
            at += 1
        daemon.push_runs()


@contextlib.contextmanager
def daemon(home: Path, *, runs: int, offers: int, changes: int) -> Iterator[dict[str, str]]:
    """The scripted daemon; yields the environment in which the app finds it."""
    socket = home / "run" / "gpuwatch.sock"
    words = [sys.executable, __file__, "daemon", str(socket), str(runs), str(offers), str(changes)]
    child = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield os.environ | {"GPUTUI_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    finally:
        child.kill()
        child.wait()


# --- the terminal's side -------------------------------------------------------------------------


class Terminal:
    """The app in a pseudo-terminal of 160×50."""

    def __init__(self, env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(sys.executable, [sys.executable, "-m", "gputui"], env)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)
        self.process = psutil.Process(self.pid)

    def drain(self, seconds: float) -> bytes:
        """What is written in that time."""
        seen, end = b"", time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                seen += os.read(self.fd, 1 << 18)
        return seen

    def until(self, pattern: bytes, patience: float = 30) -> float:
        """Seconds until what is written matches."""
        started = time.perf_counter()
        seen, wanted, came = b"", re.compile(pattern, re.DOTALL), started
        while not wanted.search(seen):
            left = patience - (time.perf_counter() - started)
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise TimeoutError(f"{pattern!r} never came: {seen[-400:]!r}")
            new = os.read(self.fd, 1 << 18)
            came = time.perf_counter()  # what this process does with it is not the app's time
            seen = seen[-8192:] + new
        return came - started

    def press(self, key: bytes, pattern: bytes) -> float:
        """Seconds from the key to the first bytes that match."""
        os.write(self.fd, key)
        return self.until(pattern)

    def used(self, seconds: float) -> float:
        """Share of a core that it takes in that time, as it stands."""
        before = self.process.cpu_times()
        started = time.perf_counter()
        self.drain(seconds)
        after = self.process.cpu_times()
        busy = after.user + after.system - before.user - before.system
        return busy / (time.perf_counter() - started) * 100

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def _cursor_on(text: str) -> bytes:
    """The cursor's mark, and in the same row of the screen this text."""
    return rb"\xe2\x96\x8c(?:(?!\x1b\[\d+;\d+H).){0,3000}?" + text.encode()


def _keys(terminal: Terminal, names: list[str]) -> list[float]:
    """Walk down a table, a key each 50 ms or so, and time each."""
    times = []
    for name in names:
        terminal.drain(0.04)
        times.append(terminal.press(b"j", _cursor_on(name)) * 1000)
    return times


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def keys(home: Path) -> list[Row]:
    """Key press to painted frame with everything at once, and what that takes."""
    with daemon(home, runs=RUNS, offers=OFFERS, changes=CHANGES) as env:
        terminal = Terminal(env)
        try:
            terminal.until(b"job-0000")
            terminal.press(b"s", b"NAME")
            runs = _keys(terminal, [f"job-{i:04}" for i in range(1, KEYS // 2 + 1)])
            os.write(terminal.fd, b"2")
            terminal.until(f"{OFFERS} offers".encode())
            terminal.drain(2)
            from ui.scenario import some_offers

            priced = [
                msgspec.structs.replace(o, price=o.price + i) for i, o in enumerate(some_offers(OFFERS))
            ]
            names = [f"{o.provider}:{o.offer_id}" for o in sorted(priced, key=lambda o: o.price)]
            offers = _keys(terminal, names[1 : KEYS // 2 + 1])
            busy = terminal.used(10)
            memory = terminal.process.memory_info().rss / (1 << 20)
        finally:
            terminal.close()
    both = runs + offers
    said = f"runs {statistics.median(runs):.0f}/{_quantile(runs, 0.99):.0f}, offers {statistics.median(offers):.0f}/{_quantile(offers, 0.99):.0f} ms (p50/p99), n={len(both)}"
    load = f"{OFFERS} offers, {RUNS} runs, {CHANGES} updates/s"
    return [
        Row("app: key to paint, p50", statistics.median(both), 16, "ms", said),
        Row("app: key to paint, p99", _quantile(both, 0.99), 50, "ms", said),
        Row("app: CPU under load", busy, 25, "% core", load),
        Row("app: memory under load", memory, 150, "MiB", load),
    ]


def idle(home: Path) -> list[Row]:
    """Five runs that report as they do."""
    with daemon(home, runs=5, offers=10, changes=8) as env:
        terminal = Terminal(env)
        try:
            terminal.until(b"job-0000")
            terminal.drain(2)
            busy = terminal.used(15)
        finally:
            terminal.close()
    return [Row("app: CPU idle, 5 runs", busy, 2, "% core", "4 snapshots a second, 8 changed rows a second")]


def table(home: Path) -> list[Row]:
    """Sort and filter of 20,000 offers: the model's work, which is all but one frame of 50 rows."""
    from ui.scenario import some_offers

    from gputui.screens.offers import model

    made = model()
    made.load(some_offers(OFFERS))
    columns = [column.key for column in made.columns if column.sort]
    sorts, filters = [], []
    for column in columns:
        started = time.perf_counter()
        made.sort(column)
        sorts.append((time.perf_counter() - started) * 1000)
    made.sort(None)
    started = time.perf_counter()
    made.prepare()
    prepared = (time.perf_counter() - started) * 1000
    for text in ("h100", "h100 !spot price<2.5", "reliable>95 down>500", "sweden", "zzz", ""):
        started = time.perf_counter()
        made.set_filter(text)
        filters.append((time.perf_counter() - started) * 1000)
    return [
        Row(
            "app: sort 20,000 offers, worst",
            max(sorts),
            50,
            "ms",
            f"{len(columns)} columns, median {statistics.median(sorts):.0f} ms",
        ),
        Row(
            "app: filter 20,000 offers, worst",
            max(filters),
            50,
            "ms",
            f"median {statistics.median(filters):.0f} ms; {prepared:.0f} ms once, when the filter opens",
        ),
    ]


# --- the log -------------------------------------------------------------------------------------


def _big_log(path: Path, size: int) -> None:
    """A coloured trainer's log of `size` bytes."""
    from ui.scenario import training_log

    block = training_log(100_000)
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(block)
        file.write(b"the very last line\n")


async def _opened(path: Path) -> float:
    from textual.app import App, ComposeResult

    from gputui import theme
    from gputui.logs.store import FileLog
    from gputui.widgets.logview import LogView

    class Viewer(App[None]):
        def get_theme_variable_defaults(self) -> dict[str, str]:
            return theme.VARIABLES

        def compose(self) -> ComposeResult:
            yield LogView()

    app = Viewer()
    async with app.run_test(size=(160, 50)) as pilot:
        view = app.query_one(LogView)
        await pilot.pause()
        started = time.perf_counter()
        log = FileLog(path)
        log.refresh()
        view.attach(log)
        while "the very last line" not in "".join(s.text for s in app.screen._compositor.render_strips()):
            await asyncio.sleep(0)
        took = time.perf_counter() - started
        log.close()
    return took * 1000


async def _search(path: Path, pattern: str) -> tuple[float, float, int]:
    """MB/s, longest hold-up of the event loop in ms, matches."""
    from gputui.logs.pattern import Finder
    from gputui.logs.search import Search
    from gputui.logs.store import FileLog

    log = FileLog(path)
    log.refresh()
    search = Search(log, Finder(pattern), lambda: None)
    worst = 0.0

    async def probe() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before - 0.005)

    beside = asyncio.create_task(probe())
    started = time.perf_counter()
    await search.run()
    took = time.perf_counter() - started
    beside.cancel()
    log.close()
    return log.end / took / 1e6, worst * 1000, search.count


async def _follow(path: Path, seconds: float) -> tuple[float, float, float]:
    """Lines a second written, the longest time until one was shown, and the longest time a key took, in ms."""
    from textual.app import App, ComposeResult

    from gputui import theme
    from gputui.logs.store import FileLog
    from gputui.widgets.logview import LogView

    class Viewer(App[None]):
        def get_theme_variable_defaults(self) -> dict[str, str]:
            return theme.VARIABLES

        def compose(self) -> ComposeResult:
            yield LogView()

        def on_mount(self) -> None:
            self.query_one(LogView).attach(log)
            self.set_interval(0.1, self.look)

        def look(self) -> None:
            if log.refresh():
                self.query_one(LogView).grown()

    script = (
        "import sys,time\nf=open(sys.argv[1],'ab',buffering=0)\nn=0\nstart=time.time()\n"
        f"while time.time()-start < {seconds}:\n"
        "  for k in range(500):\n    n+=1\n"
        "  f.write(b''.join(b'\\x1b[32mINFO\\x1b[0m step %9d | loss 2.4 | lr 3.0e-04 | 184.2k tok/s %.3f\\n' % (i, time.time()) for i in range(n-500,n)))\n"
        "  time.sleep(max(0, start + n/50000 - time.time()))\n"
        "print(n/(time.time()-start))\n"
    )
    path.write_bytes(b"")
    log = FileLog(path)
    app = Viewer()
    lag, slowest = [], []
    async with app.run_test(size=(160, 50)) as pilot:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(path), stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        while writer.returncode is None:
            before = time.perf_counter()
            await pilot.press("h")
            slowest.append((time.perf_counter() - before) * 1000)
            strip = app.query_one(LogView).render_line(48)
            if written := re.search(r"tok/s (\d+\.\d{3})", strip.text):
                lag.append((time.time() - float(written[1])) * 1000)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writer.wait(), 0.05)
        rate = float(await writer.stdout.read())
    log.close()
    return rate, _quantile(lag, 0.99), _quantile(slowest, 0.99)


def log(home: Path) -> list[Row]:
    """A log of two gigabytes opened, one of them searched, and one followed."""
    home.mkdir(exist_ok=True)
    path = home / "job.log"
    _big_log(path, 2_000_000_000)
    opened = [asyncio.run(_opened(path)) for _ in range(5)]
    os.truncate(path, 1_000_000_000)
    rows = [
        Row(
            "log: open 2 GB",
            statistics.median(opened),
            200,
            "ms",
            f"to the frame that shows its last line, worst {max(opened):.0f} ms",
        )
    ]
    for pattern in ("worker 3 was", "error|nan|traceback"):
        speeds = [asyncio.run(_search(path, pattern)) for _ in range(3)]
        speed, hold, count = (
            statistics.median(s for s, _, _ in speeds),
            max(h for _, h, _ in speeds),
            speeds[0][2],
        )
        rows.append(
            Row(
                f"log: search 1 GB, {pattern[:14]}",
                speed,
                300,
                "MB/s",
                f"{count} lines, event loop held ≤ {hold:.0f} ms",
                at_least=True,
            )
        )
    rate, lag, key = asyncio.run(_follow(home / "live.log", 5))
    rows.append(
        Row(
            "log: follow, lines a second",
            rate,
            45_000,
            "/s",
            f"shown within {lag:.0f} ms (p99)",
            at_least=True,
        )
    )
    rows.append(Row("log: key while following, p99", key, 50, "ms", f"at {rate:.0f} lines a second"))
    return rows


ROWS = {"app-keys": keys, "app-idle": idle, "app-table": table, "app-log": log}


if __name__ == "__main__" and sys.argv[1:2] == ["daemon"]:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_daemon(Path(sys.argv[2]), *map(int, sys.argv[3:6])))
