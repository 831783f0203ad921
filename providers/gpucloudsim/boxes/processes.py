"""Finding and ending the processes of a box.

A process belongs to a box when its environment carries the box's marker. Children inherit it, so
the set is found again after a restart of the simulator, and detached (setsid) processes are in it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil

MARKER = "GPUCLOUDSIM_BOX"
"""Environment variable that holds the box's directory in each of its processes."""


def _marked(pid: int, needle: bytes) -> bool:
    try:
        return needle in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def pids_of(box: Path) -> set[int]:
    """Process ids of everything that runs in the box now."""
    own = os.getpid()
    if sys.platform == "linux":
        needle = f"{MARKER}={box}\0".encode()
        return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != own and _marked(pid, needle)}
    found: set[int] = set()
    for process in psutil.process_iter():
        try:
            if process.pid != own and process.environ().get(MARKER) == str(box):
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def _with_descendants(pids: set[int]) -> set[int]:
    everyone = set(pids)
    for pid in pids:
        try:
            everyone.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        except psutil.Error:
            continue
    everyone.discard(os.getpid())
    return everyone


def kill_all(box: Path, limit_s: float = 5.0) -> int:
    """Kill every process of the box, as the end of a container does. Returns how many were left.

    Blocking; repeats until a scan finds none, since a process may fork while it is being killed.
    """
    deadline = time.monotonic() + limit_s
    while True:
        pids = _with_descendants(pids_of(box))
        alive = {pid for pid in pids if _alive(pid)}
        if not alive or time.monotonic() > deadline:
            return len(alive)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
