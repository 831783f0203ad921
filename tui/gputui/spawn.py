"""Start the daemon when none answers, as tmux does its server."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import DaemonUnreachable
from gpuwatch.paths import Paths

DEADLINE = 20.0
"""Seconds a new daemon has to answer: it opens its ledger and reconciles nothing before that."""
GRACE = 2.0
"""Seconds that another one, which took the lock from ours, has to answer."""
_STEP = 0.05


def answers(socket: Path) -> bool:
    """Whether a daemon says hello at `socket` now."""
    try:
        with Client(socket, timeout=2.0):
            return True
    except DaemonUnreachable:
        return False


def start_daemon(
    paths: Paths, *, deadline: float = DEADLINE, grace: float = GRACE, command: list[str] | None = None
) -> bool:
    """Make sure a daemon answers; True when this call had to start one.

    The daemon gets a session of its own and outlives us; its output goes to
    `<state>/log/gpuwatch.out`, which it rotates itself. Two callers at once are fine: the daemon's lock lets one live.
    Raises DaemonUnreachable with the end of that file when none answers within `deadline` seconds.
    """
    if answers(paths.socket):
        return False
    paths.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    output = paths.logs / "gpuwatch.out"
    with output.open("ab") as sink:
        process = subprocess.Popen(
            command or [sys.executable, "-m", "gpuwatch", "run", "--log-file", str(output)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            close_fds=True,
        )
    until = time.monotonic() + deadline
    exited_at: float | None = None
    while time.monotonic() < until:
        if answers(paths.socket):
            process.returncode = process.returncode or 0  # it is not ours to wait for
            return True
        if process.poll() is not None:
            # the one that lost the race for the lock exits: give the winner a moment to answer
            exited_at = exited_at or time.monotonic()
            if time.monotonic() - exited_at > grace:
                break
        time.sleep(_STEP)
    ended = process.poll()
    what = f"exited with status {ended}" if ended is not None else f"did not answer within {deadline:.0f} s"
    raise DaemonUnreachable(f"gpuwatch {what}; its last words in {output}:\n{_tail(output)}")


def _tail(path: Path, lines: int = 8) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"  (unreadable: {error})"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"
