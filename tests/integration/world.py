"""One simulated world for one test: simulator and daemon as real processes, watched through events.

Nothing here sleeps: a test waits for an event of the ledger's stream or for a process to end;
pytest's own time limit is the deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuwatch.client import wire
from gpuwatch.client.blocking import Client

CONFIG = """\
[watch]
accounts = "1s"
booting = "1s"
telemetry = "1s"
lost_create = "4s"
[providers.vast]
url = "{url}"
paced = false
timeout = "3s"
"""

SCRIPT_SPEC = """\
name = "{name}"
disk = "10GB"
{top}
[gpu]
name = "RTX 4090"
[job]
command = '''{job}'''
[boot]
timeout = "{boot}"
{rest}
"""


class World:
    """Simulator + daemon in one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cloud = home / "cloud"
        self.vault = home / "vault"
        self.key = "sim-key"
        self.url = ""
        self.simulator: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAST_", "GPUTUI_", "RUNPOD_"))}
        return kept | {"GPUTUI_HOME": str(self.home), "VAST_API_KEY": self.key, "HOME": str(self.home)}

    @property
    def socket(self) -> Path:
        from unittest import mock

        from gpuwatch.paths import discover

        with mock.patch.dict(os.environ, {"GPUTUI_HOME": str(self.home)}):
            os.environ.pop("GPUTUI_VAULT", None)
            return discover().socket

    # --- processes -------------------------------------------------------------------------------

    def start_simulator(self, *options: str) -> None:
        log = (self.home / "simulator.log").open("ab")
        argv = [
            sys.executable,
            "-m",
            "gpucloudsim",
            "--state",
            str(self.cloud),
            "--boot-seconds",
            "0.5",
            "--market-at",
            "stocked",
            *options,
        ]
        with log:
            self.simulator = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, env=self.environment)
        assert self.simulator.stdout is not None
        self.url = str(json.loads(self.simulator.stdout.readline())["url"])
        config = self.home / "config" / "config.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(CONFIG.format(url=self.url))

    def start_daemon(self) -> None:
        """Start gpuwatch and return once it says that it is ready."""
        self.daemon = subprocess.Popen(
            [sys.executable, "-u", "-m", "gpuwatch", "run", "--log-format", "json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.environment,
        )  # fmt: skip
        assert self.daemon.stderr is not None
        ready = threading.Event()
        self._log = threading.Thread(target=self._drain, args=(self.daemon.stderr, ready), daemon=True)
        self._log.start()
        ready.wait()
        assert self.daemon.poll() is None, f"gpuwatch ended: {self.daemon_log()[-2000:]}"

    def _drain(self, stream: Any, ready: threading.Event) -> None:
        with stream, (self.home / "gpuwatch.log").open("ab") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if b'"event": "ready"' in line:
                    ready.set()
        ready.set()

    def daemon_log(self) -> str:
        path = self.home / "gpuwatch.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill_daemon(self) -> None:
        """kill -9, and wait until it is dead."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self._log.join()

    def stop(self) -> None:
        for process in (self.daemon, self.simulator):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self.daemon is not None:
            self._log.join()
        if self.simulator is not None and self.simulator.stdout is not None:
            self.simulator.stdout.close()

    def limit_file_size(self, size: int) -> None:
        """No file of the daemon may grow beyond `size` bytes: a full disk that can be emptied again."""
        assert self.daemon is not None
        resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    # --- the simulator's side --------------------------------------------------------------------

    def sim(self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float = 20) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def fault(self, switch: str) -> None:
        """Set a fault switch, e.g. `create_hang_after*1`."""
        self.sim("POST", "/_sim/faults", {"set": switch})

    def machines(self) -> list[dict[str, Any]]:
        """Every machine that was ever rented, as the simulator knows them."""
        return list(self.sim("GET", "/_sim/state")["instances"])

    def living(self) -> list[dict[str, Any]]:
        return [m for m in self.machines() if m["destroyed"] is None]

    def box(self, machine: dict[str, Any]) -> Path:
        return Path(machine["directory"])

    # --- the daemon's side -----------------------------------------------------------------------

    def client(self) -> Client:
        return Client(self.socket, name="test")

    def call(self, method: str, params: wire.Struct, result: Any) -> Any:
        with self.client() as client:
            return client.call(method, params, result)

    def launch(self, text: str, *, key: str = "k") -> str:
        spec = wire.SpecText(text=text, file="run.toml", base=str(self.home))
        return str(self.call("launch", wire.Launch(spec=spec, key=key), wire.Launched).run)

    def script(
        self, job: str, *, name: str = "job", top: str = "", rest: str = "", boot: str = "60s", key: str = "k"
    ) -> str:
        """Launch a shell job."""
        return self.launch(SCRIPT_SPEC.format(name=name, top=top, job=job, boot=boot, rest=rest), key=key)

    def row(self, run: str) -> wire.RunRow:
        return self.detail(run).run

    def detail(self, run: str) -> wire.RunDetail:
        return self.call("run", wire.RunRef(run=run), wire.RunDetail)

    def events(self, run: str) -> list[wire.EventRow]:
        return self.call("events", wire.EventsRead(run=run, limit=5000), wire.Events).events

    def kinds(self, run: str) -> list[str]:
        return [event.kind for event in self.events(run)]

    def wait_event(self, run: str, *kinds: str, after: int = 0) -> wire.EventRow:
        """The first event of one of `kinds` with a number above `after`, waited for as it happens."""
        with self.client() as client:
            for notice in client.notices(wire.Subscribe(topic="events", run=run, since=after)):
                if notice.event is not None and notice.event.kind in kinds:
                    return notice.event
        raise AssertionError("the stream of events ended")

    def wait_row(self, run: str, ready: Callable[[wire.RunRow], bool]) -> wire.RunRow:
        """The first fleet snapshot whose row for `run` satisfies `ready`."""
        with self.client() as client:
            for notice in client.notices(wire.Subscribe(topic="runs")):
                for row in notice.runs.runs if notice.runs is not None else ():
                    if row.id == run and ready(row):
                        return row
        raise AssertionError("the stream of snapshots ended")

    def wait_end(self, run: str) -> wire.RunRow:
        """The row of the run once it is gone, lost or waits for a person."""
        self.wait_event(run, "gone", "lost", "collect-blocked", "no-offer", "gave-up")
        return self.row(run)

    # --- outcomes --------------------------------------------------------------------------------

    def file(self, run: str, path: str) -> Path:
        return self.vault / run / path

    def assert_receipt_holds(self, run: str) -> dict[str, str]:
        """Every file of the newest receipt hashes to what it says; returns path → SHA-256."""
        digest = self.detail(run).custody.receipt
        assert digest is not None, "no receipt"
        text = (self.vault / run / ".receipts" / f"{digest}.json").read_bytes()
        assert hashlib.sha256(text).hexdigest() == digest
        files = {row["path"]: row["sha256"] for row in json.loads(text)["files"]}
        for path, expected in files.items():
            assert hashlib.sha256(self.file(run, path).read_bytes()).hexdigest() == expected, path
        return files

    def assert_one_machine_and_none_left(self) -> None:
        machines = self.machines()
        assert len(machines) == 1, machines
        assert machines[0]["destroyed"] is not None
        assert not self.box(machines[0]).exists()


@contextlib.contextmanager
def world(home: Path, *options: str) -> Iterator[World]:
    made = World(home)
    try:
        made.start_simulator("--ephemeral", *options)
        made.start_daemon()
        yield made
    finally:
        made.stop()
