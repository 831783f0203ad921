"""A running simulator for integration tests: its process, its HTTP, the vendor's CLI, OpenSSH's clients.

Use with `pytest_plugins = ["cloudsim_fixtures"]` (and import names only under TYPE_CHECKING, so that
pytest can rewrite the assertions here), or make a `Simulator` yourself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

KEY = "account-key-of-the-tests"
DIRECT = "ssh_direc ssh_proxy"
HOST_OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]


class Simulator:
    """`python -m gpucloudsim` as a process, with a state directory that may outlive it."""

    key = KEY

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> Simulator:
        """Start it and wait for its line."""
        command = [sys.executable, "-m", "gpucloudsim", "--state", str(self.state), "--api-key", KEY]
        command += [
            "--boot-seconds",
            "0.3",
            "--fault",
            "ssh_denied=0",
            "--fault",
            "ssh_refused=0.01",
            "--market-at",
            "stocked",
            *self.arguments,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the simulator ended before it was ready"
        self.url = json.loads(line)["url"]
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal. Returns its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(number)
        code = self.process.wait(15)
        self.process.stdout.close()
        self.process = None
        return code

    def restart(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal and start it again on the same state."""
        self.end(number)
        self.arguments = ()
        self.start()

    def call(self, method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, Any]:
        """(status, decoded body) of one HTTP call; the text itself where it is not JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as problem:
            with problem:
                status, raw = problem.code, problem.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode(errors="replace")

    def offer(self, gpu: str = "RTX 4090", **more: object) -> dict[str, Any]:
        """The best offer of a GPU model."""
        query = {"gpu_name": {"eq": gpu}, "num_gpus": {"eq": 1}, "rentable": {"eq": True}, **more}
        first: dict[str, Any] = self.call("POST", "/api/v0/bundles/", query)[1]["offers"][0]
        return first

    def rent(self, **body: object) -> int:
        """Rent one and wait until it runs and SSH listens. Returns the instance's id."""
        whole = {"image": "pytorch/pytorch:latest", "disk": 16, "runtype": DIRECT, **body}
        status, made = self.call("PUT", f"/api/v0/asks/{self.offer()['id']}/", whole)
        assert status == 200, made
        self.wait(made["new_contract"], "running", ssh="ssh" in str(whole["runtype"]))
        return int(made["new_contract"])

    def wait(self, instance: int, phase: str, ssh: bool = False) -> dict[str, Any]:
        """Wait until an instance is in a phase and its box has followed."""
        status, body = self.call(
            "GET", f"/_sim/instances/{instance}/wait?phase={phase}{'&ssh=1' if ssh else ''}"
        )
        assert status == 200, body
        known: dict[str, Any] = body["instance"]
        return known

    def rows(self, query: str = "") -> list[dict[str, Any]]:
        """The v1 list, first page."""
        listed: list[dict[str, Any]] = self.call("GET", f"/api/v1/instances/{query}")[1]["instances"]
        return listed

    def row(self, instance: int) -> dict[str, Any] | None:
        """One instance as the API shows it."""
        shown: dict[str, Any] | None = self.call("GET", f"/api/v0/instances/{instance}/")[1]["instances"]
        return shown

    def known(self, instance: int) -> dict[str, Any]:
        """What the simulator itself knows about an instance, destroyed ones included."""
        return next(i for i in self.call("GET", "/_sim/state")[1]["instances"] if i["id"] == instance)

    def fault(self, setting: str) -> None:
        """Switch a fault on, e.g. `create_hang_after*1`."""
        status, body = self.call("POST", "/_sim/faults", {"set": setting})
        assert status == 200, body

    def box(self, instance: int) -> Path:
        """The directory of a box."""
        return self.state / "boxes" / str(instance)

    def port(self, instance: int) -> int:
        """The direct SSH port."""
        row = self.row(instance)
        assert row is not None
        return int(row["ports"]["22/tcp"][0]["HostPort"])

    @staticmethod
    def alive(pid: int) -> bool:
        """Whether a process runs (one that was killed and waits for init to reap it does not)."""
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @staticmethod
    def await_end(pid: int) -> None:
        """Wait until a process has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(10)

    def vastai(self, *arguments: str, check: bool = True) -> Any:
        """The vendor's own CLI with --raw. Returns its JSON, or its text where it prints none."""
        env = {
            **os.environ,
            "VAST_URL": self.url,
            "VAST_API_KEY": KEY,
            "VASTAI_NO_UPDATE_CHECK": "1",
            "HOME": str(self.state),
        }
        done = subprocess.run(
            [str(Path(sys.executable).parent / "vastai"), *arguments, "--raw"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        text = done.stdout if done.stdout.strip() else done.stderr
        try:
            return json.loads(text)
        except ValueError:
            return text


class SshUser:
    """OpenSSH's clients with a key of their own."""

    def __init__(self, key: Path) -> None:
        self.key = key
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.public = key.with_suffix(".pub").read_text().strip()

    def options(self, port: int, flag: str = "-p") -> list[str]:
        """Options for ssh (-p) or scp and sftp (-P)."""
        return [flag, str(port), "-i", str(self.key), "-o", "IdentitiesOnly=yes", *HOST_OPTIONS]

    def run(
        self, port: int, command: str, data: bytes = b"", user: str = "root"
    ) -> subprocess.CompletedProcess[bytes]:
        """ssh user@box command."""
        return subprocess.run(
            ["ssh", *self.options(port), f"{user}@127.0.0.1", command],
            input=data,
            capture_output=True,
            timeout=60,
        )

    def sftp(self, port: int, *lines: str) -> subprocess.CompletedProcess[str]:
        """sftp with a batch."""
        return subprocess.run(
            ["sftp", "-b", "-", *self.options(port, "-P"), "root@127.0.0.1"],
            input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def ssh_user(tmp_path_factory: pytest.TempPathFactory) -> SshUser:
    """A customer with an SSH key."""
    return SshUser(tmp_path_factory.mktemp("ssh") / "id_ed25519")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory, ssh_user: SshUser) -> Iterator[Simulator]:
    """A simulator that several tests of a module share; the customer's key is on the account."""
    sim = Simulator(tmp_path_factory.mktemp("cloud"), "--ephemeral").start()
    sim.call("POST", "/api/v0/ssh/", {"ssh_key": ssh_user.public})
    yield sim
    if sim.process is not None:
        sim.end()


@pytest.fixture
def own_simulator(tmp_path: Path, ssh_user: SshUser) -> Iterator[Simulator]:
    """A simulator for one test, which may kill it."""
    sim = Simulator(tmp_path / "cloud").start()
    sim.call("POST", "/api/v0/ssh/", {"ssh_key": ssh_user.public})
    yield sim
    if sim.process is not None:
        for row in sim.rows():
            sim.call("DELETE", f"/api/v0/instances/{row['id']}/")
        sim.end()
