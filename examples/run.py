"""Run the examples at toy size on simulated clouds: rent, prepare, train, mirror, verify, destroy.

    python examples/run.py [NAME …]          # or: make examples

Each spec is the one beside this file with only its sizes changed (`TOYS`): smaller models, less text,
the same commands, GPUs and promises. The trainer of each is killed once with SIGKILL in the middle. At
the end everything is proved again from outside: the files' hashes, the simulator's own list of machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuproviders.money import format_usd
from gputui.demo import DemoFailed, World, check_receipts
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.spec.read import read_spec

HERE = Path(__file__).parent
TINY = (
    "--set model.layers=2 --set model.width=32 --set model.heads=4 --set model.kv_heads=2 --set model.ffn=64 "
    "--set model.context=64 --set train.batch_size=2 --set train.tokens_per_step=0 --set system.threads=1 "
    "--set checkpoint.min_free_bytes=0 --set system.recompute=false"
)
LONG = f"{TINY} --set train.steps=400 --set checkpoint.every_steps=50"
"""Long enough that the first checkpoint is home, and the trainer killed, before the end."""


@dataclass(frozen=True)
class Toy:
    """What is changed of a spec, and the files that its user would have."""

    make: Callable[[Path], None]
    commands: tuple[str, ...] = ()
    """In the place of `train.command`: the same with smaller sizes."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Other keys, ``{"train.profile": …}``."""
    cloud: str = "vast"


def topics() -> list[str]:
    """Some English: Python's own help topics, cut into paragraphs."""
    from pydoc_data.topics import topics as known

    return [part for name in sorted(known) for part in known[name].split("\n\n") if part.strip()][:600]


def jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Records, one per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def text(folder: Path, name: str = "datamix.jsonl") -> None:
    """A corpus."""
    jsonl(folder / name, [{"text": part} for part in topics()])


def gputrain(*words: str) -> None:
    """Run the trainer here. Raises DemoFailed with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "gputrain", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoFailed(f"gputrain {words[0]} failed: {done.stderr[-500:]}")


def small_run(folder: Path, *extra: str) -> Path:
    """A few steps of a tiny model on a tokenizer of its own."""
    text(folder)
    gputrain(
        "prepare", str(folder / "datamix.jsonl"), "--root", str(folder), "--experiment", "small", "--profile", "nano",
        "--vocab", "400", *TINY.split(), "--set", "train.steps=3", *extra,
    )  # fmt: skip
    return folder / "runs" / "small"


def onyx_1b(folder: Path) -> None:
    run = small_run(folder)
    shutil.copytree(run / "ckpt" / "step-000000003", folder / "init")
    shutil.copy(run / "tokenizer.json", folder)


def shards(folder: Path) -> None:
    text(folder)
    gputrain("shard", str(folder / "datamix.jsonl"), "--out", str(folder / "shards"), "--val-ratio", "0.1")


def chats(folder: Path) -> None:
    run = small_run(folder, "--set", "model.context=192")
    gputrain("export", str(run), "--out", str(folder / "base"))
    asked = [
        (f"What is {n} times {n}?", f"It is {n * n}.", f"I do not know what {n} is.") for n in range(200)
    ]
    said = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a, _ in asked]
    jsonl(folder / "chat.jsonl", [{"messages": messages} for messages in said])
    jsonl(folder / "pairs.jsonl", [{"prompt": q, "chosen": a, "rejected": b} for q, a, b in asked])


def own_script(folder: Path) -> None:
    shutil.copy(HERE / "own_script.py", folder)


def nanogpt(folder: Path) -> None:
    text(folder, "fineweb.jsonl")
    question = {
        "label": 0,
        "ctx": "The sun",
        "endings": [" shines.", " sleeps in a bed.", " eats.", " writes a book."],
    }
    jsonl(folder / "hellaswag_val.jsonl", [question, {**question, "ctx": "A cat"}])


SMALL_DISK = {"disk": "20GB"}
QUICK = (
    "--set optim.lr=1e-3 --set system.threads=1 --set checkpoint.min_free_bytes=0 --set system.dtype=float32"
)
PREPARE = f"--root . --take 300 --vocab 400 {LONG}"

TOYS: dict[str, Toy] = {
    "onyx-150m": Toy(
        text,
        (f"prepare datamix.jsonl --experiment onyx-150m --profile 150m {PREPARE} --set model.vocab=400",),
        SMALL_DISK
        | {"train.env": {"TOKENS_PER_STEP": "128", "BATCH_SIZE": "2", "MAX_SEQ_LEN": "64", "MHC_N": "2"}},
    ),
    "onyx-1b": Toy(
        onyx_1b,
        (
            (
                "prepare datamix.jsonl --root . --experiment onyx-1b --profile 1b --tokenizer-json tokenizer.json "
                f"{LONG} --set model.width=64 --set model.heads=8 --set model.kv_heads=4 --set model.ffn=128 "
                "--set model.vocab=0 --set model.norm_eps=5e-6 --set model.qk_norm=false"
            ),
        ),
        SMALL_DISK
        | {
            "setup.command": "test -d grown || PYTHONPATH=$GPUWATCH_TRAINER python3 -m gputrain grow init --set "
            "model.width=64 --set model.heads=8 --set model.kv_heads=4 --set model.ffn=128 --out grown",
            "train.env": {"INIT_CKPT": "grown", "GRADIENT_CHECKPOINTING": "1"},
        },
    ),
    "miras-s": Toy(
        shards,
        changes=SMALL_DISK
        | {
            "train.set": {
                "watch.wandb": "offline",
                "model.layers": 2,
                "model.width": 32,
                "model.heads": 4,
                "model.context": 64,
                "model.vocab": 257,
                "model.memory_chunk": 16,
                "model.memory_detach": 32,
                "train.steps": 300,
                "train.batch_size": 2,
                "train.tokens_per_step": 0,
                "checkpoint.every_steps": 40,
                "system.threads": 1,
                "checkpoint.min_free_bytes": 0,
                "checkpoint.keep_last": 12,
                "checkpoint.keep_milestones": 24,
            },
        },
    ),
    "sft-dpo-gguf": Toy(
        chats,
        (
            (
                "sft --stage all --processes 1 --base base --data chat.jsonl --pairs pairs.jsonl --out models --type q8_0 "
                f"--template chatml --set train.batch_size=4 --set tune.examples_per_step=4 --set train.epochs=3 {QUICK} "
                "--set checkpoint.every_steps=10"
            ),
        ),
        SMALL_DISK
        | {
            "setup.command": "true",
            "upload.paths": ["base", "chat.jsonl", "pairs.jsonl"],
            "artifacts.0.min_size": "30kB",
        },
    ),
    "runpod-2b": Toy(
        text,
        (f"prepare datamix.jsonl {PREPARE} --set model.vocab=400 --set watch.tensorboard=false",),
        SMALL_DISK
        | {
            "setup.command": "true",
            "upload": {"paths": ["datamix.jsonl"]},
            "train.env": {
                "RUN_EXPERIMENT": "runpod-2b",
                "RUN_CONFIG": "2b",
                "RUN_SHARD": "1",
                "SHARD_LINES": "100",
            },
        },
        cloud="runpod",
    ),
    "nanogpt-124m": Toy(
        nanogpt,
        (
            (
                f"prepare fineweb.jsonl --experiment nanogpt-124m --profile 124m --processes 2 {PREPARE} "
                "--set model.vocab=400"
            ),
            "eval runs/nanogpt-124m --hellaswag hellaswag_val.jsonl --out hellaswag.json",
            "plot runs/nanogpt-124m --out loss.svg",
        ),
        SMALL_DISK | {"setup.command": "true", "upload.paths": ["hellaswag_val.jsonl", "fineweb.jsonl"]},
        cloud="runpod",
    ),
    "own-script": Toy(
        own_script,
        changes={
            "job.command": "for again in 1 2 3; do python3 own_script.py --steps 600 --pause 0.02 && exit 0; sleep 1; "
            "done; exit 1",
        },
    ),
}


def toy_spec(name: str) -> dict[str, Any]:
    """The spec of an example with its toy's changes."""
    toy = TOYS[name]
    spec = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    spec["provider"] = [toy.cloud]
    if toy.commands:
        spec["train"]["command"] = list(toy.commands)
    for key, value in toy.changes.items():
        *path, last = key.split(".")
        table: Any = spec
        for part in path:
            table = table[int(part)] if isinstance(table, list) else table[part]
        table[last] = value
    # Secrets are resolved as always; what the toy needs of them is that they are there.
    return spec


def to_toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {to_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class Clouds(World):
    """The demo's simulated clouds, a drive that is a folder, and secrets that open nothing."""

    @property
    def drive(self) -> Path:
        """What ``gdrive:`` stands for."""
        return self.home / "drive"

    @property
    def environment(self) -> dict[str, str]:
        self.drive.mkdir(exist_ok=True)
        remote = {"RCLONE_CONFIG_GDRIVE_TYPE": "alias", "RCLONE_CONFIG_GDRIVE_REMOTE": str(self.drive)}
        return (
            super().environment
            | remote
            | {"WANDB_API_KEY": "none", "HF_TOKEN": "none", "OMP_NUM_THREADS": "1"}
        )


@dataclass
class Story:
    """What became of one example."""

    name: str
    rented: str = ""
    trained: str = ""
    saved: str = ""
    mirrored: str = ""
    destroyed: str = ""
    seconds: float = 0.0


class Play:
    """One example on the simulated clouds, from launch to the last proof. Raises DemoFailed."""

    def __init__(self, world: Clouds, name: str, timeout: float) -> None:
        self._world, self._name, self._toy = world, name, TOYS[name]
        self._deadline = time.monotonic() + timeout
        self._began = time.monotonic()
        self._news: queue.SimpleQueue[wire.Notice | Exception] = queue.SimpleQueue()
        self._pid, self._killed, self._step, self._loss = 0, False, 0, 0.0

    def run(self) -> Story:
        """Launch, follow, kill once, prove."""
        folder = self._world.home / self._name
        folder.mkdir()
        self._toy.make(folder)
        spec = "\n".join(f"{key} = {to_toml(value)}" for key, value in toy_spec(self._name).items()) + "\n"
        read_spec(spec, file=f"{self._name}.toml", base=folder)
        with self._world.client() as client:
            sent = wire.SpecText(text=spec, file=f"{self._name}.toml", base=str(folder))
            key = f"examples-{os.getpid()}-{self._name}"
            run = client.call("launch", wire.Launch(spec=sent, key=key), wire.Launched).run
        for topic in ("events", "telemetry"):
            threading.Thread(target=self._listen, args=(topic, run), daemon=True).start()
        self._follow()
        with self._world.client() as client:
            row = client.call("run", wire.RunRef(run=run), wire.RunDetail).run
        return self._prove(row)

    def _listen(self, topic: str, run: str) -> None:
        try:
            with self._world.client() as client:
                for notice in client.notices(wire.Subscribe(topic=topic, run=run)):
                    self._news.put(notice)
        except CallFailed as error:
            self._news.put(error)

    def _follow(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                news = self._news.get(timeout=left)
                if isinstance(news, Exception):
                    raise news
                if news.sample is not None and news.sample.step is not None:
                    self._step, self._loss = news.sample.step, news.sample.loss or self._loss
                if news.event is None:
                    continue
                kind = news.event.kind
                print(
                    f"{self._name:<14}{time.monotonic() - self._began:6.1f} s  {news.event.text}", flush=True
                )
                if kind == "job-started":
                    self._pid = int(news.event.data["pid"])
                if kind == "files-verified" and not self._killed:
                    self._kill()
                if kind in ("gone", "lost", "failed", "collect-blocked", "no-offer"):
                    return
        raise DemoFailed(f"{self._name} took too long")

    def _kill(self) -> None:
        """SIGKILL what trains on the box, once, when a first file of it is here."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._pid).children(recursive=True):
                words = process.cmdline()
                if any("gputrain" in word or word.endswith("own_script.py") for word in words):
                    process.kill()
                    self._killed = True
            if self._killed:
                print(
                    f"{self._name:<14}{time.monotonic() - self._began:6.1f} s  kill -9 of its trainer",
                    flush=True,
                )

    def _prove(self, row: wire.RunRow) -> Story:
        vault = self._world.paths.vault / row.id
        if row.state != "gone" or row.exit_code != 0:
            said = (
                (vault / "job.log").read_text(errors="replace")[-1500:]
                if (vault / "job.log").exists()
                else ""
            )
            raise DemoFailed(
                f"{self._name} ended as {row.state} with exit code {row.exit_code}: {row.reason}\n{said}"
            )
        if not self._killed:
            raise DemoFailed(f"{self._name} ended before it could be killed in the middle")
        files = check_receipts(vault)
        size = sum(
            path.stat().st_size
            for path in vault.rglob("*")
            if path.is_file() and ".receipts" not in path.parts
        )
        known = self._world.simulated(self._toy.cloud)["instances"]
        alive = [i["public_id"] for i in known if i.get("destroyed") is None]
        boxes = [path.name for path in (self._world.state(self._toy.cloud) / "boxes").glob("*")]
        if alive or boxes:
            raise DemoFailed(f"{self._name}: machines are left: {alive or boxes}")
        mirrored = [path for path in self._world.drive.rglob("*") if path.is_file() and row.id in path.parts]
        spec = toy_spec(self._name)
        if spec.get("mirror") and not mirrored:
            raise DemoFailed(f"{self._name}: nothing is on the drive")
        return Story(
            self._name,
            rented=f"{row.gpu_count} × {row.gpu}, {row.provider}",
            trained=self._trained(vault),
            saved=f"{files} files, {size / 1e6:.1f} MB",
            mirrored=f"{len(mirrored)} files" if mirrored else "-",
            destroyed=f"yes, {format_usd(row.cost)}",
            seconds=time.monotonic() - self._began,
        )

    def _trained(self, vault: Path) -> str:
        """Steps and loss from what came home."""
        result = vault / "result.json"
        if result.exists():
            found = json.loads(result.read_text())
            return f"{found['step']} steps, loss {found['loss']:.2g}"
        parts = []
        for metrics in sorted(vault.rglob("metrics.jsonl")):
            rows = [json.loads(line) for line in metrics.read_text().splitlines()]
            if not rows[-1]["loss"] < rows[0]["loss"]:
                raise DemoFailed(f"{self._name}: the loss did not fall in {metrics.parent.name}")
            stage = f"{metrics.parent.name}: " if metrics.parent.name in ("sft", "dpo") else ""
            parts.append(
                f"{stage}{rows[-1]['step']} steps, loss {rows[0]['loss']:.2f} → {rows[-1]['loss']:.2f}"
            )
        return "; ".join(parts)


COLUMNS = ("name", "rented", "trained", "saved", "mirrored", "destroyed", "seconds")


def table(stories: Sequence[Story]) -> str:
    """All stories, one per line."""
    rows = [
        [f"{s.seconds:.0f} s" if c == "seconds" else str(getattr(s, c)) for c in COLUMNS] for s in stories
    ]
    rows.insert(
        0, ["example", "rented", "trained", "saved and verified", "mirrored", "destroyed, cost", "time"]
    )
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@contextlib.contextmanager
def playground() -> Iterator[Clouds]:
    """Both clouds and a daemon in a throw-away folder."""
    home = Path(tempfile.mkdtemp(prefix="gputui-examples-"))
    world = Clouds(home, ("vast", "runpod"))
    try:
        with world.started():
            yield world
    except DemoFailed:
        world.show_logs()
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TOYS)}; default: all")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each (default 600)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in TOYS]
    if unknown:
        parser.error(f"there is no example {unknown[0]}; there are {', '.join(TOYS)}")
    stories, failed = [], []
    with playground() as world:
        for name in args.names or TOYS:
            try:
                stories.append(Play(world, name, args.timeout).run())
            except (DemoFailed, CallFailed) as error:
                failed.append(name)
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
    if stories:
        print("\n" + table(stories))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
