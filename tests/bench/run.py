"""Numbers next to their targets: `make bench`. Each row prints name, measured, target, ok or MISS.

Peers run interleaved with ours in the same session, so that ratios hold on a noisy machine.
Needs openssh-server and a few GB of disk. `run.py NAME …` runs only those rows.
"""

from __future__ import annotations

import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import clouds, custody, ledger, tui, watch
from bench.rows import Row

from integration.world import World

BIN = Path(sys.executable).parent
HELLO = """
from textual.app import App
from textual.widgets import Static
class A(App):
    def compose(self):
        yield Static("hello-world")
A().run()
"""


def timed(argv: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def listing(world: World) -> Row:
    """The CLI's listing against the vendor's own, both with one machine rented."""
    ours, theirs = [], []
    vast = world.environment | {"VAST_URL": world.url}
    for _ in range(9):
        ours.append(timed([str(BIN / "gputui"), "ls", "--json"], world.environment))
        theirs.append(timed([str(BIN / "vastai"), "show", "instances", "--raw"], vast))
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Row(
        "gputui ls / vastai show instances",
        ratio,
        0.35,
        "x",
        f"{statistics.median(ours):.3f} s vs {statistics.median(theirs):.3f} s",
    )


def versus(ours: list[float], theirs: list[float]) -> str:
    return f"medians {statistics.median(ours):.3f} s vs {statistics.median(theirs):.3f} s"


def until_on_screen(argv: list[str], env: dict[str, str], text: bytes) -> float:
    """Seconds from exec until `text` is among the bytes sent to a pseudo-terminal of 120×40."""
    started = time.perf_counter()
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, env | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"})
    seen = b""
    try:
        while text not in seen:
            ready, _, _ = select.select([master], [], [], 15)
            if not ready or time.perf_counter() - started > 30:
                raise TimeoutError(f"{argv[0]} did not show {text!r}: {seen[-300:]!r}")
            seen += os.read(master, 1 << 16)
        return time.perf_counter() - started
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)


def first_paint(world: World) -> Row:
    """The app with the daemon's data on screen, against a bare Textual app."""
    ours, theirs = [], []
    for _ in range(9):
        ours.append(until_on_screen([str(BIN / "gputui")], world.environment, b"benchrun"))
        theirs.append(until_on_screen([sys.executable, "-c", HELLO], world.environment, b"hello-world"))
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Row(
        "first paint with data / bare app",
        ratio,
        1.6,
        "x",
        f"{statistics.median(ours):.3f} s vs {statistics.median(theirs):.3f} s",
    )


def idle_memory(home: Path) -> Row:
    """Resident memory of a daemon that has loaded no vendor SDK."""
    config = home / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    world = World(home)
    config.write_text("[providers.vast]\nenabled = false\n")
    try:
        world.start_daemon()
        assert world.daemon is not None
        status = Path(f"/proc/{world.daemon.pid}/status").read_text()
        rss = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    finally:
        world.stop()
    return Row("gpuwatch idle memory", rss, 80, "MiB", "VmRSS, no vendor SDK loaded")


def with_world(home: Path, measure: Callable[[World], Row]) -> Row:
    world = World(home)
    try:
        world.start_simulator("--ephemeral")
        world.start_daemon()
        run = world.script("while :; do sleep 1; done", name="benchrun", top='artifacts = "none"')
        world.wait_event(run, "job-started")
        return measure(world)
    finally:
        world.stop()


def main(names: list[str]) -> int:
    rows: dict[str, Callable[[Path], Row | list[Row]]] = {
        "listing": lambda home: with_world(home, listing),
        "first-paint": lambda home: with_world(home, first_paint),
        "idle-memory": idle_memory,
        **custody.ROWS,
        **tui.ROWS,
        **watch.ROWS,
        "ledger": ledger.rows,
        **clouds.ROWS,
    }
    missed = 0
    for name, measure in rows.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="gputui-bench-") as folder:
            measured = measure(Path(folder))
        for row in measured if isinstance(measured, list) else [measured]:
            print(row, flush=True)
            missed += "MISS" in str(row)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
