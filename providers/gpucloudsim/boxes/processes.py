"""Finding and ending the processes of boxes.

A process belongs to a box when its environment carries the box's marker. Children inherit it, so
the set is found again after a restart of the simulator, and detached (setsid) processes are in it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARKER = "GPUCLOUDSIM_BOX"
"""Environment variable that holds the box's directory in each of its processes."""
YOUNG_S = 2.0
"""A process younger than this may not have executed its program yet: what it is, is not remembered."""


def _marker_of(pid: int) -> str | None:
    """The box of a process, read from its environment; None when it has none or may not be read."""
    proc = Path(f"/proc/{pid}/environ")
    try:
        data = proc.read_bytes()
    except FileNotFoundError:
        data = b""
        if not Path("/proc/self").exists():
            try:
                return psutil.Process(pid).environ().get(MARKER)
            except (psutil.Error, OSError):
                return None
    except OSError:
        return None
    _, found, tail = data.partition(f"{MARKER}=".encode())
    return os.fsdecode(tail.partition(b"\0")[0]) if found else None


class Scanner:
    """Looks through the processes of this machine, remembering which are of no box."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float], str | None] = {}

    def scan(self) -> dict[str, list[psutil.Process]]:
        """Processes by the directory of their box. Blocking, a few milliseconds."""
        found: dict[str, list[psutil.Process]] = {}
        seen: dict[tuple[int, float], str | None] = {}
        own, now = os.getpid(), time.time()
        for process in psutil.process_iter():
            if process.pid == own:
                continue
            try:
                born = process.create_time()
            except psutil.Error:
                continue
            key = (process.pid, born)
            box = self._known[key] if key in self._known else _marker_of(process.pid)
            if box is not None or now - born > YOUNG_S:
                seen[key] = box
            if box is not None:
                found.setdefault(box, []).append(process)
        self._known = seen
        return found


def pids_of(box: Path) -> set[int]:
    """Process ids of everything that runs in the box now."""
    own = os.getpid()
    return {pid for pid in psutil.pids() if pid != own and _marker_of(pid) == str(box)}


def _with_descendants(pids: Iterable[int]) -> set[int]:
    everyone = set(pids)
    for pid in list(everyone):
        try:
            everyone.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        except psutil.Error:
            continue
    everyone.discard(os.getpid())
    return everyone


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kill_all(box: Path, limit_s: float = 5.0) -> int:
    """Kill every process of the box, as the end of a container does. Returns how many were left.

    Blocking; repeats until a scan finds none, since a process may fork while it is being killed.
    """
    deadline = time.monotonic() + limit_s
    while True:
        pids = pids_of(box)
        alive = {pid for pid in (_with_descendants(pids) if pids else pids) if _alive(pid)}
        if not alive or time.monotonic() > deadline:
            return len(alive)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.01)
