"""The run directory: everything about a run that can be read without torch.

Layout and meaning are the run contract: `run.json`, `config.toml`, `status.json`, `events.jsonl`,
`metrics.jsonl`, `control/`, `mirror/`, `ckpt/`, `DONE.json` or `FAILED.json`.
"""

from __future__ import annotations

import enum
import fcntl
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from gputrain.config import Config
from gputrain.errors import ConfigError
from gputrain.files import LineLog, read_json, replace_file, to_json


class Phase(enum.StrEnum):
    """What the trainer is doing, as `status.json` reports it."""

    STARTING = "starting"
    COMPILING = "compiling"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    PAUSED = "paused"
    DRAINING = "draining"
    DONE = "done"
    FAILED = "failed"


class Control(enum.StrEnum):
    """Requests that the daemon makes by touching a file in `control/`."""

    CHECKPOINT = "checkpoint"
    STOP = "stop"
    PAUSE = "pause"


class RunDir:
    """One run's directory, locked for this process.

    Only the leader of several processes keeps records; for the others all recording is silent.
    Raises ConfigError when another trainer holds it or it cannot be written.
    """

    def __init__(self, path: Path, *, follower_of: str = "") -> None:
        self.path = path.resolve()
        self.leader = not follower_of
        self.ckpt = self.path / "ckpt"
        self.control = self.path / "control"
        self.mirror = self.path / "mirror"
        self.run_id = follower_of
        if follower_of:
            return
        try:
            for directory in (self.path, self.ckpt, self.control, self.mirror):
                directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise ConfigError(f"Cannot use {path} as run directory: {error.strerror}.") from error
        self.events = LineLog(self.path / "events.jsonl", durable=True)
        self.metrics = LineLog(self.path / "metrics.jsonl", durable=False)
        last = self.events.last()
        self._seq = int(last["seq"]) + 1 if last and isinstance(last.get("seq"), int) else 1
        self._event_lock = threading.Lock()
        self.run_id = self._identify()

    def _take_lock(self) -> IO[str]:
        lock = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigError(
                f"Another gputrain (pid {holder}) trains in {self.path}. Stop it, or give another --out."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _identify(self) -> str:
        known = read_json(self.path / "run.json")
        if known is not None:
            return str(known["run_id"])
        return uuid.uuid4().hex

    def describe(self, config: Config) -> None:
        """Write `run.json` (once) and the resolved `config.toml`."""
        if not self.leader:
            return
        run_file = self.path / "run.json"
        if not run_file.exists():
            facts = {
                "format": "gputrain-run/1",
                "run_id": self.run_id,
                "argv": sys.argv,
                "git": git_commit(),
                "config_sha256": config.sha256(),
                "created": time.time(),
            }
            replace_file(run_file, to_json(facts))
        replace_file(self.path / "config.toml", config.to_toml().encode())
        tokenizers = [Path(path, "tokenizer.json") for path in config.data.path]
        for source in filter(Path.is_file, tokenizers[:1]):
            # Whoever samples from this run needs it; corpora of one run share it.
            replace_file(self.path / "tokenizer.json", source.read_bytes())

    def event(self, name: str, **facts: Any) -> None:
        """Append a numbered event; it is on disk on return. Safe from any thread."""
        if not self.leader:
            return
        with self._event_lock:
            self.events.append({"seq": self._seq, "t": time.time(), "event": name, **facts})
            self._seq += 1

    def measure(self, record: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        if self.leader:
            self.metrics.append(record)

    def requested(self, control: Control) -> bool:
        """Whether the daemon asks for `control` now."""
        return self.leader and (self.control / control).exists()

    def acknowledge(self, control: Control, **facts: Any) -> None:
        """Remove the request and record that it was acted on."""
        (self.control / control).unlink(missing_ok=True)
        self.event("control", request=str(control), **facts)

    def finish(self, **facts: Any) -> None:
        """Write DONE.json: the run is complete."""
        if not self.leader:
            return
        (self.path / "FAILED.json").unlink(missing_ok=True)
        replace_file(self.path / "DONE.json", to_json({"time": time.time(), **facts}))

    def fail(self, **facts: Any) -> None:
        """Write FAILED.json: the run needs a person."""
        if not self.leader:
            return
        replace_file(self.path / "FAILED.json", to_json({"time": time.time(), **facts}))

    def reopen(self) -> None:
        """Remove the verdict of an earlier attempt: the run goes on."""
        if not self.leader:
            return
        for name in ("DONE.json", "FAILED.json"):
            (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the directory."""
        if not self.leader:
            return
        self.events.close()
        self.metrics.close()
        self._lock.close()


STALL_FLOOR_S = 120.0
UNHURRIED = (Phase.STARTING, Phase.COMPILING, Phase.EVALUATING, Phase.PAUSED, Phase.SAVING, Phase.DONE)
"""Phases in which no steps are expected."""


def is_stalled(facts: Mapping[str, Any], now: float) -> bool:
    """Whether the main loop makes no steps although the process lives; `now` in Unix seconds."""
    if facts["phase"] in [str(phase) for phase in UNHURRIED]:
        return False
    patience = max(STALL_FLOOR_S, 20 * float(facts.get("step_s_ema") or 0))
    return bool(now - float(facts["last_step_unix"]) > patience)


class Heartbeat:
    """Writes `status.json` every few seconds from a thread of its own.

    The thread shows that the process lives; `last_step_unix`, set by the main loop, shows that it
    works. A reader can so tell a stuck trainer from a slow one.
    """

    def __init__(self, path: Path, period_s: float, *, enabled: bool = True) -> None:
        self._path = path
        self._period_s = period_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "boot_id": boot_id(),
            "phase": str(Phase.STARTING),
            "step": 0,
            "last_step_unix": time.time(),
        }
        self._thread = threading.Thread(target=self._run, name="gputrain-heartbeat", daemon=True)
        self._enabled = enabled
        if enabled:
            self._thread.start()

    def update(self, *, now: bool = False, **facts: Any) -> None:
        """Change what the next beat says; `now` writes it at once."""
        with self._lock:
            if "phase" in facts and self._facts["phase"] != str(facts["phase"]):
                now = True
            self._facts.update({k: str(v) if k == "phase" else v for k, v in facts.items()})
        if now:
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._period_s)
            self._wake.clear()
            self._write()
            if self._stopped:
                return

    def _write(self) -> None:
        with self._lock:
            facts = dict(self._facts)
        facts["stalled"] = is_stalled(facts, time.time())
        try:
            replace_file(self._path, to_json({"time": time.time(), **facts}), durable=False)
        except OSError:
            # A full disk must not end the heartbeat; the stale time in the file shows it.
            return

    def close(self) -> None:
        """Write the last state and end the thread."""
        self._stopped = True
        self._wake.set()
        if self._enabled:
            self._thread.join()


def boot_id() -> str:
    """The kernel's name for this boot, empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def git_commit() -> str:
    """The commit of the working directory, empty outside a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
