"""The dead-man switch: stops this machine when nobody watches it any more and nothing happens on it.

Standard library only, Python 3.8 or newer; a part of the sentinel (see `gpuwatch.sentinel.source`). Three
things must hold for the whole term: no sign of life from the daemon (the lease, which only bytes received
from it renew), no job (or no load on any GPU), and no processor time used by anyone. A person who is logged
in outranks all. It stops, with the key that the provider put into this box, and never destroys; it is only
started where stopping keeps the disk.

Ages are measured by this process's own monotonic clock, from when it first saw the thing: a restart of the
box or of the guard, and a clock that is set, start the term anew.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from typing import Any

QUIET_CORES = 0.25
QUIET_GPU = 5.0


class Since:
    """For how long something has stayed as it is, seen by looks that are not far apart."""

    def __init__(self) -> None:
        self.mark: Any = None
        self.at = time.monotonic()

    def look(self, mark: Any) -> float:
        """Seconds for which `mark` has been the same."""
        now = time.monotonic()
        if mark != self.mark:
            self.mark, self.at = mark, now
        return now - self.at


def verdict(
    term: float,
    silent: float,
    ended: float | None,
    gpus_quiet: float | None,
    cpu_quiet: float | None,
    people: bool,
) -> str | None:
    """Why to stop now, None when not. Ages in seconds; None is unknown, and unknown is no reason."""
    if people or silent < term or cpu_quiet is None or cpu_quiet < term:
        return None
    if ended is not None and ended >= term:
        return "no word from gpuwatch for %d min, and the job ended %d min ago" % (silent / 60, ended / 60)
    if gpus_quiet is not None and gpus_quiet >= term:
        return "no word from gpuwatch for %d min, and no GPU has worked for %d min" % (
            silent / 60,
            gpus_quiet / 60,
        )
    return None


def gpus_idle(smi: dict[str, Any]) -> bool:
    """Whether every GPU has said lately that it does nothing."""
    fields, rows = smi.get("fields") or [], smi.get("rows") or []
    if smi.get("problem") or "utilization.gpu" not in fields or not rows:
        return False
    column = fields.index("utilization.gpu")
    for age, cells in rows:
        try:
            if age > 30 or float(cells[column]) > QUIET_GPU:
                return False
        except (ValueError, IndexError):
            return False
    return "count" not in fields or str(len(rows)) == rows[0][1][fields.index("count")]


def stop_self(task: dict[str, Any], env: dict[str, str]) -> str:
    """Ask the provider to stop this instance, with the instance's own key. Raises OSError, ValueError, KeyError."""
    if task["provider"] != "vast":
        raise ValueError("this provider's machines lose their disk when they stop")
    url = "%s/api/v0/instances/%s/" % (task["url"].rstrip("/"), int(env["CONTAINER_ID"]))
    request = urllib.request.Request(url, data=b'{"state": "stopped"}', method="PUT")
    request.add_header("Authorization", "Bearer " + env["CONTAINER_API_KEY"])
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read(4096).decode("utf-8", "replace")
    if json.loads(text).get("success") is not True:
        raise ValueError("refused: " + text[:200])
    return "accepted"


def lease_mark(path: str) -> Any:
    """Changes whenever the lease is renewed."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def keep_guard(task: dict[str, Any], vitals: Any, job_phase: Any, write: Any, env: dict[str, str]) -> None:
    """Watch until the machine stops. order: folder, provider, url, term, interval; `job_phase()` tells the job's."""
    term, interval = float(task["term"]), float(task["interval"])
    lease = os.path.join(task["folder"], "lease")
    diary = os.path.join(task["folder"], "deadman.json")
    silence, over, rest, calm = Since(), Since(), Since(), Since()
    wait = 0.0
    while True:
        time.sleep(interval)
        sample = vitals.now(task["folder"])
        processes = sample["processes"]
        silent = silence.look(lease_mark(lease))
        ended = over.look(job_phase() in ("ended", "vanished"))
        idle = rest.look(gpus_idle(sample["smi"]))
        quiet = calm.look(processes.get("cpu") is not None and processes["cpu"] <= QUIET_CORES)
        why = verdict(
            term, silent, ended if over.mark else None, idle if rest.mark else None, quiet if calm.mark else None,
            bool(processes.get("sessions")),
        )  # fmt: skip
        if why is None or time.monotonic() < wait:
            continue
        # written down first: the stop may end this process before it hears the answer
        entry = {"at": time.time(), "why": why, "result": "asked"}
        write(diary, json.dumps(entry))
        try:
            entry["result"] = stop_self(task, env)
        except (OSError, ValueError, KeyError) as error:
            entry["result"] = "failed: %s" % error
            wait = time.monotonic() + 600
        write(diary, json.dumps(entry))
