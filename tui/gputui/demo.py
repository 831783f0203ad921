"""`gputui demo`: the whole story on a simulated cloud, with real boxes, real SSH and a real training job.

Everything lies in one throw-away folder: simulator, daemon, ledger, vault. No account, no
key, no cost, no network. With a terminal it opens the app; with `--headless` it prints the
run's timeline and proves the outcome itself: the box is gone from the simulator, the
vault's files hash to what the trainer's manifests (written on the box) say, the loss fell.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuproviders.money import format_usd
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import CallFailed, DaemonUnreachable
from gpuwatch.paths import Paths, discover

SPEC = """\
# A run spec: what to rent, what to run, what must come home before the machine may go.
name = "demo"
provider = {provider}
disk = "10GB"

[gpu]
name = "RTX 4090"            # any spelling; `gputui offers --gpu 4090` shows the market
max_price = 0.80             # USD per hour, all-in

[train]                      # a gputrain job; your own script goes into [job] command = "…"
profile = "nano"
steps = {steps}
set = {{ "checkpoint.every_steps" = {every}, "checkpoint.min_free_bytes" = 0, "system.threads" = 1 }}

[budget]
max_cost = 1.00
"""
_CONFIG = """\
[watch]
accounts = "2s"
booting = "1s"
telemetry = "1s"
[providers.vast]
enabled = {vast_enabled}
url = "{vast}"
[providers.runpod]
enabled = {runpod_enabled}
url = "{runpod}"
"""
CLOUDS: dict[str, tuple[str, ...]] = {"vast": ("vast",), "runpod": ("runpod",), "both": ("vast", "runpod")}
_START_SECONDS = 60.0
_STATES_OVER = ("gone", "lost", "failed")


class DemoFailed(Exception):
    """The demo did not end as it must; the message says what is missing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0 only when everything it promises is proved."""
    parser = argparse.ArgumentParser(
        prog="gputui demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument(
        "--headless", action="store_true", help="no app: print the timeline, prove the outcome"
    )
    parser.add_argument(
        "--cloud",
        choices=CLOUDS,
        default="vast",
        help="which simulated cloud; with both, a headless demo runs the spec on each in turn (vast)",
    )
    parser.add_argument(
        "--keep", metavar="DIR", help="use this folder and keep it (default: a temporary one)"
    )
    parser.add_argument("--steps", type=int, default=200, help="training steps of the demo run (default 200)")
    parser.add_argument(
        "--no-kill", action="store_true", help="headless: do not kill the trainer in the middle"
    )
    parser.add_argument("--timeout", type=float, default=420, help="seconds until a headless demo gives up")
    options = parser.parse_args(argv)
    headless = options.headless or not (sys.stdin.isatty() and sys.stdout.isatty())
    with _folder(options.keep) as home:
        world = World(home, CLOUDS[options.cloud], still=headless)
        try:
            with world.started():
                spec = home / "demo.toml"
                if not headless:
                    spec.write_text(_spec(world.clouds, options.steps), encoding="utf-8")
                    return world.app(spec)
                for cloud in world.clouds:
                    # the same spec, only `provider` differs
                    spec.write_text(_spec((cloud,), options.steps), encoding="utf-8")
                    deadline = time.monotonic() + options.timeout
                    Timeline(world, cloud, deadline, kill_trainer=not options.no_kill).play(spec)
        except (DemoFailed, CallFailed) as error:
            print(f"demo failed: {error}", file=sys.stderr)
            world.show_logs()
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def _spec(clouds: tuple[str, ...], steps: int) -> str:
    return SPEC.format(provider=json.dumps(list(clouds)), steps=steps, every=max(1, steps // 8))


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is not None:
        path = Path(keep).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    path = Path(tempfile.mkdtemp(prefix="gputui-demo-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(slots=True)
class World:
    """The simulators and the daemon of one demo, as processes of ours."""

    home: Path
    clouds: tuple[str, ...] = ("vast",)
    still: bool = True
    """Prices and stock stand still: a proof must not depend on what is sold out at this hour."""
    urls: dict[str, str] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What child processes see: this demo's folders and the simulators' key, nothing of the user's accounts."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAST_", "RUNPOD_", "GPUTUI_"))}
        keys = {f"{cloud.upper()}_API_KEY": "sim-key" for cloud in self.clouds}
        return kept | {"GPUTUI_HOME": str(self.home)} | keys

    @property
    def paths(self) -> Paths:
        """The demo's own folders."""
        os.environ["GPUTUI_HOME"] = str(self.home)
        os.environ.pop("GPUTUI_VAULT", None)
        return discover()

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Simulators and daemon up; all ended, and every box with them, on leaving."""
        market = ["--market-at", "stocked"] if self.still else []
        try:
            simulators = {
                cloud: self._spawn(
                    f"simulator-{cloud}",
                    [
                        "-m",
                        "gpucloudsim",
                        "--cloud",
                        cloud,
                        "--state",
                        str(self.state(cloud)),
                        "--ephemeral",
                        *market,
                    ],
                )
                for cloud in self.clouds
            }
            for cloud, process in simulators.items():
                self.urls[cloud] = self._wait_for_simulator(cloud, process)
            known = {cloud: self.urls.get(cloud, "") for cloud in ("vast", "runpod")}
            switches = {f"{cloud}_enabled": str(bool(url)).lower() for cloud, url in known.items()}
            # an address of its own even when switched off: nothing here may reach the real service
            known = {cloud: url or "http://127.0.0.1:9" for cloud, url in known.items()}
            config = self.home / "config" / "config.toml"
            config.parent.mkdir(exist_ok=True)
            config.write_text(_CONFIG.format(**known, **switches), encoding="utf-8")
            self._spawn("gpuwatch", ["-m", "gpuwatch", "run"])
            self._wait_for_daemon()
            yield
        finally:
            for process in reversed(self._processes):
                _end(process)

    def client(self) -> Client:
        """A new connection to the daemon."""
        return Client(self.paths.socket, name="demo")

    def app(self, spec: Path) -> int:
        """The terminal app, in the demo's folder, with the spec at hand."""
        environment = self.environment | {"GPUTUI_SPEC": str(spec)}
        return subprocess.run(
            [sys.executable, "-m", "gputui"], cwd=self.home, env=environment, check=False
        ).returncode

    def state(self, cloud: str) -> Path:
        """The folder of one simulated cloud."""
        return self.home / f"cloud-{cloud}"

    def simulated(self, cloud: str) -> dict[str, Any]:
        """What a simulator itself says exists."""
        with urllib.request.urlopen(f"{self.urls[cloud]}/_sim/state", timeout=10) as answer:  # noqa: S310 - loopback
            state = json.load(answer)
        return dict(state)

    def show_logs(self) -> None:
        """The last lines of the processes' logs, for the failure report."""
        for name in (*(f"simulator-{cloud}" for cloud in self.clouds), "gpuwatch"):
            path = self.home / f"{name}.log"
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-15:]
                print(f"--- {path}\n" + "\n".join(lines), file=sys.stderr)

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _wait_for_simulator(self, cloud: str, process: subprocess.Popen[bytes]) -> str:
        ready = self.state(cloud) / "ready.json"
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(ready.read_text())["url"])
            time.sleep(0.05)
        raise DemoFailed(f"the simulated {cloud} did not start")

    def _wait_for_daemon(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(DaemonUnreachable), self.client():
                return
            if self._processes[-1].poll() is not None:
                raise DemoFailed("the daemon ended at its start")
            time.sleep(0.05)
        raise DemoFailed("the daemon did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


class Timeline:
    """The headless demo: launches, prints what happens as it happens, proves the end."""

    def __init__(self, world: World, cloud: str, deadline: float, *, kill_trainer: bool) -> None:
        self._kill_trainer = kill_trainer
        self._cloud = cloud
        self._pid = 0
        self._world = world
        self._deadline = deadline
        self._started = time.monotonic()
        self._news: queue.SimpleQueue[wire.Notice | Exception] = queue.SimpleQueue()
        self._losses: list[float] = []
        self._step = -1

    def play(self, spec: Path) -> None:
        """Raises DemoFailed unless the run ends with everything proved."""
        with self._world.client() as client:
            text = wire.SpecText(text=spec.read_text(encoding="utf-8"), file=spec.name, base=str(spec.parent))
            key = f"demo-{os.getpid()}-{self._cloud}"
            run = client.call("launch", wire.Launch(spec=text, key=key), wire.Launched).run
        url = self._world.urls[self._cloud]
        self._line(f"launched {run} from {spec.name} on the simulated {self._cloud} at {url}")
        for topic in ("events", "telemetry"):
            listen = threading.Thread(target=self._listen, args=(topic, run), daemon=True)
            listen.start()
        self._follow(run)
        with self._world.client() as client:
            row = client.call("run", wire.RunRef(run=run), wire.RunDetail).run
        self._prove(row, spec)

    def _listen(self, topic: str, run: str) -> None:
        try:
            with self._world.client() as client:
                for notice in client.notices(wire.Subscribe(topic=topic, run=run)):
                    self._news.put(notice)
        except CallFailed as error:
            self._news.put(error)

    def _follow(self, run: str) -> None:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise DemoFailed("it took too long")
            try:
                news = self._news.get(timeout=left)
            except queue.Empty:
                continue
            if isinstance(news, Exception):
                raise news
            if news.sample is not None:
                self._progress(news.sample)
            if news.event is not None:
                self._line(news.event.text)
                if news.event.kind == "job-started":
                    self._pid = int(news.event.data["pid"])
                if news.event.kind == "files-verified" and self._kill_trainer:
                    self._murder()
                if news.event.kind in _STATES_OVER or news.event.kind in ("collect-blocked", "no-offer"):
                    return

    def _progress(self, sample: wire.Sample) -> None:
        if sample.step is None or sample.loss is None or sample.step == self._step:
            return
        self._step = sample.step
        self._losses.append(sample.loss)
        gpu = next((f", GPU {g.utilisation:.0f} %" for g in sample.gpus if g.utilisation is not None), "")
        self._line(f"training: step {sample.step}, loss {sample.loss:.3f}{gpu}")

    def _murder(self) -> None:
        """kill -9 the trainer on its box, once, after the first checkpoint is home: it must resume exactly."""
        import psutil

        self._kill_trainer = False
        for process in psutil.Process(self._pid).children():
            self._line(
                f"demo: kill -9 of the trainer on the box (pid {process.pid}); it has to resume by itself"
            )
            process.kill()

    def _compare(self, vault: Path, spec: Path) -> None:
        """Train again here, undisturbed, and compare the final state by its hash. Raises DemoFailed."""
        done = json.loads((vault / "out" / "DONE.json").read_bytes())
        command = tomllib.loads(spec.read_text(encoding="utf-8"))["train"]
        out = self._world.home / f"undisturbed-{self._cloud}"
        argv = [sys.executable, "-m", "gputrain", "train", "--profile", command["profile"], "--out", str(out)]
        argv += ["--steps", str(command["steps"])]
        for key, value in command["set"].items():
            argv += ["--set", f"{key}={value}"]
        subprocess.run(
            argv, check=True, stdout=subprocess.DEVNULL, timeout=max(1.0, self._deadline - time.monotonic())
        )
        other = json.loads((out / "DONE.json").read_bytes())
        if other["state_sha256"] != done["state_sha256"]:
            raise DemoFailed("the resumed run and an undisturbed one end in different states")
        digest = next(iter(done["state_sha256"].values()))
        self._line(
            f"proved: killed and resumed, it ends in the very state of an undisturbed run ({digest[:12]}…)"
        )

    def _prove(self, row: wire.RunRow, spec: Path) -> None:
        if row.state != "gone" or row.exit_code != 0:
            raise DemoFailed(f"the run ended as {row.state} with exit code {row.exit_code}: {row.reason}")
        vault = self._world.paths.vault / row.id
        receipts, manifests = check_receipts(vault), check_manifests(vault)
        self._line(
            f"proved: {receipts} files hash to their receipt, {manifests} of them to the manifests made on the box"
        )
        losses = metrics_losses(vault)
        if len(losses) < 2 or not losses[-1] < losses[0]:
            raise DemoFailed(f"the loss did not fall: {losses[:1]} to {losses[-1:]}")
        self._line(f"proved: the loss fell from {losses[0]:.3f} to {losses[-1]:.3f}")
        self._compare(vault, spec)
        known = self._world.simulated(self._cloud)["instances"]
        alive = [i["public_id"] for i in known if not _is_destroyed(i)]
        boxes = [p.name for p in (self._world.state(self._cloud) / "boxes").glob("*")]
        if alive or boxes:
            raise DemoFailed(f"machines are left: {alive or boxes}")
        self._line(f"proved: the simulated {self._cloud} has no machine left, and no box on its disk")
        self._line(
            f"cost {format_usd(row.cost)} (simulated), {row.checkpoints} checkpoints, receipt verified"
        )

    def _line(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s  {text}", flush=True)


def _is_destroyed(instance: dict[str, Any]) -> bool:
    return instance.get("destroyed") is not None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_receipts(vault: Path) -> int:
    """Re-hash every file that a run's receipts name; returns how many. Raises DemoFailed."""
    checked = 0
    for receipt in (vault / ".receipts").glob("*.json"):
        content = receipt.read_bytes()
        if hashlib.sha256(content).hexdigest() != receipt.stem:
            raise DemoFailed(f"the receipt {receipt.name} is not what its name says")
        for row in json.loads(content)["files"]:
            if _sha256(vault / row["path"]) != row["sha256"]:
                raise DemoFailed(f"{row['path']} differs from its receipt")
            checked += 1
    if not checked:
        raise DemoFailed("there is no receipt")
    return checked


def check_manifests(vault: Path) -> int:
    """Re-hash every checkpoint file against the trainer's own MANIFEST.json; returns how many. Raises DemoFailed."""
    checked = 0
    for manifest in vault.glob("out/ckpt/step-*/MANIFEST.json"):
        for row in json.loads(manifest.read_bytes())["files"]:
            if _sha256(manifest.parent / row["path"]) != row["sha256"]:
                raise DemoFailed(
                    f"{manifest.parent.name}/{row['path']} differs from the hash made on the box"
                )
            checked += 1
    if not checked:
        raise DemoFailed("no checkpoint came home")
    return checked


def metrics_losses(vault: Path) -> list[float]:
    """The training loss, line by line, from the metrics that came home."""
    lines = (vault / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(row["loss"]) for row in map(json.loads, lines) if "loss" in row]
