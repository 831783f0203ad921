"""Speed and memory of the trainer next to their targets: ``python tests/bench/trainer/bench_trainer.py``.

Ratios against a named peer are measured interleaved in one run, each side by its best round. Every row prints name, measured,
target, and ok or MISS; the exit code is 1 if a row missed. nanoGPT is taken from $NANOGPT, else cloned
from GitHub into a temporary directory; without it those rows say that they were not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gputrain.config import Config, Layer, from_layers
from gputrain.loop import Trainer
from gputrain.loss import chunked_cross_entropy
from gputrain.pretraining import Pretraining
from gputrain.rundir import Heartbeat, RunDir
from gputrain.signals import StopSignal
from gputrain.world import World

SHAPE: dict[str, object] = {
    "model.layers": 6,
    "model.heads": 6,
    "model.width": 384,
    "model.context": 256,
    "train.batch_size": 8,
    "train.steps": 100_000,
    "system.device": "cpu",
    "system.compile": "off",
    "checkpoint.every_seconds": 0,
    "checkpoint.min_free_bytes": 0,
    "watch.tee": False,
}
MISSED: list[str] = []


def row(name: str, measured: float, target: float, *, at_least: bool, unit: str = "×") -> None:
    """Print one result."""
    good = measured >= target if at_least else measured <= target
    relation = "≥" if at_least else "≤"
    print(
        f"{name:<58} {measured:8.2f} {unit:<4} {relation} {target:g} {unit:<4} {'ok' if good else 'MISS'}",
        flush=True,
    )
    if not good:
        MISSED.append(name)


@dataclass
class Session:
    """A trainer whose steps can be taken one by one."""

    trainer: Trainer
    run: RunDir
    heart: Heartbeat
    stop: StopSignal

    def step(self) -> float:
        """One optimiser step; returns milliseconds."""
        began = time.perf_counter()
        result = self.trainer._step()
        assert result is not None
        self.trainer.progress.step += 1
        self.trainer.progress.next_sample += self.trainer.plan.windows_per_step
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        self.trainer.close()
        self.heart.close()
        self.run.close()
        self.stop.restore()


def open_session(path: Path, **changes: object) -> Session:
    """A trainer of the benchmark's shape in `path`."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    config: Config = from_layers([Layer("bench", {**SHAPE, **named})])[0]
    run, stop = RunDir(path), StopSignal()
    heart = Heartbeat(run.path / "status.json", 60)
    world = World(0, 1, 0, torch.device("cpu"))
    task = Pretraining(config, world)
    return Session(Trainer(task, run, heart, stop, world, "auto"), run, heart, stop)


def find_nanogpt(scratch: Path) -> Any:
    """nanoGPT's `model` module, unmodified, or None."""
    path = os.environ.get("NANOGPT", "")
    if not path:
        path = str(scratch / "nanoGPT")
        clone = ["git", "clone", "--quiet", "--depth", "1", "https://github.com/karpathy/nanoGPT", path]
        if subprocess.run(clone, check=False, capture_output=True, timeout=120).returncode:
            return None
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(path) / "model.py")
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module


def bench_throughput(scratch: Path, rounds: int) -> None:
    """Tokens per second against nanoGPT in float32, as its train.py steps, on the same windows."""
    nano = find_nanogpt(scratch)
    if nano is None:
        print("throughput against nanoGPT: not run (give NANOGPT=DIR, or let git reach GitHub)")
        return
    shape = nano.GPTConfig(
        block_size=256, vocab_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False
    )
    peer = nano.GPT(shape)
    optimiser = peer.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
    wide = open_session(scratch / "fp32", system__dtype="float32")
    ours = open_session(scratch / "auto")

    def peer_step(number: int) -> float:
        inputs, targets = wide.trainer.task.sampler.batch(number * 8, 8)
        began = time.perf_counter()
        _, loss = peer(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()
        return (time.perf_counter() - began) * 1000

    times: dict[str, list[float]] = {"nano": [], "fp32": [], "auto": []}
    worked_times: dict[str, list[float]] = {"nano": [], "fp32": [], "auto": []}
    for number in range(rounds + 3):
        for name, call in (("nano", lambda n=number: peer_step(n)), ("fp32", wide.step), ("auto", ours.step)):
            before = time.process_time()
            times[name].append(call())
            worked_times[name].append((time.process_time() - before) * 1000)
    dtype = str(ours.trainer.built.dtype).removeprefix("torch.")
    wide.close()
    ours.close()
    median = {name: min(values[3:]) for name, values in times.items()}
    print(
        f"# ms per step of 2048 tokens: nanoGPT {median['nano']:.0f}, ours fp32 {median['fp32']:.0f}, {dtype} {median['auto']:.0f}"
    )
    worked = {name: min(values[3:]) for name, values in worked_times.items()}
    # With one thread this hardly depends on what else the machine does; with more, waiting threads spin.
    print(
        f"# processor time: nanoGPT {worked['nano']:.0f} ms, ours fp32 {worked['nano'] / worked['fp32']:.2f} x, "
        f"{dtype} {worked['nano'] / worked['auto']:.2f} x"
    )
    row("tokens/s, float32, against nanoGPT", median["nano"] / median["fp32"], 1.05, at_least=True)
    row(
        f"tokens/s, default dtype ({dtype}), against nanoGPT",
        median["nano"] / median["auto"],
        2.2,
        at_least=True,
    )


def reset_peak() -> int:
    """Begin to watch the peak of resident memory anew (Linux); returns the bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """The peak of resident memory since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def bench_save(scratch: Path, rounds: int) -> None:
    """Saving and resuming a state of 500 MB: 42 million parameters and AdamW."""
    big = {"model__layers": 23, "train__batch_size": 1, "model__context": 64}
    session = open_session(scratch / "save", **big)
    trainer = session.trainer
    state = {kind: {n: s.tensor for n, s in part.items()} for kind, part in trainer.tensors.items()}
    size = sum(t.numel() * t.element_size() for part in state.values() for t in part.values())
    # The peer gets the same tensors; both write to the same directory.
    target = scratch / "peer.pt"

    def peer_save() -> float:
        return timed(lambda: torch.save(state, target))

    def peer_save_fsync() -> float:
        def both() -> None:
            torch.save(state, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())

        return timed(both)

    def our_save() -> tuple[float, float]:
        """Seconds that the loop lost to a save, and until it was durable."""
        trainer.progress.step += 1
        began = time.perf_counter()
        call = timed(lambda: trainer._save("regular"))
        trainer._step()  # its update waits for the copy if need be
        wait = trainer.report._stall_ms / 1000 - call
        trainer.report._stall_ms = 0.0
        trainer.saver.wait()
        return call + max(0.0, wait), time.perf_counter() - began

    def our_save_alone() -> float:
        """Seconds until a save is durable when nothing else runs."""
        trainer.progress.step += 1
        return timed(lambda: (trainer._save("regular"), trainer.saver.wait()))

    trainer.saver.max_bytes = 3 * size
    session.step()
    before = reset_peak()
    first = our_save()
    added = peak_bytes() - before
    plain, synced, stalls, totals = [], [], [], []
    for _ in range(rounds):
        plain.append(peer_save())
        stalls.append(our_save()[0])
        totals.append(our_save_alone())
        synced.append(peer_save_fsync())
    middle = min  # noise of a shared machine only adds
    print(
        f"# state {size / 1e6:.0f} MB; torch.save {middle(plain) * 1e3:.0f} ms, + fsync {middle(synced) * 1e3:.0f} ms; "
        f"ours: stall {middle(stalls) * 1e3:.0f} ms (first {first[0] * 1e3:.0f}), until durable {middle(totals) * 1e3:.0f} ms"
    )
    row("stall of a save, against torch.save", middle(stalls) / middle(plain), 0.10, at_least=False)
    row(
        "save until durable and hashed, against torch.save + fsync",
        middle(totals) / middle(synced),
        1.0,
        at_least=False,
    )
    row(
        "memory a save adds beside its snapshot",
        added / size,
        0.1,
        at_least=False,
        unit="snap",
    )
    session.close()

    def resume() -> Session:
        again = open_session(scratch / "save", **big)
        again.step()
        return again

    began = time.perf_counter()
    again = resume()
    took = time.perf_counter() - began
    assert again.trainer.resumed is not None
    again.close()
    row("resume to the end of the first step (hashes checked)", took, 1.5, at_least=False, unit="s")


def head_memory(kind: str) -> int:
    """Bytes by which the peak grows over forward and backward of the head, in a fresh process."""
    code = f"from bench_trainer import run_head; run_head({kind!r})"
    here = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    return int(done.stdout.split()[-1])


def run_head(kind: str) -> None:
    """The loss head at vocabulary 50304, 2048 tokens of width 384; prints the growth of the peak."""
    torch.manual_seed(0)
    hidden = torch.randn(2048, 384, requires_grad=True)
    weight = torch.randn(50_304, 384, requires_grad=True)
    targets = torch.randint(50_257, (2048,))
    # Warm the thread pools up, so that their memory is not counted.
    chunked_cross_entropy(hidden[:8], weight[:64], targets[:8] % 64, 64).backward()
    hidden.grad = weight.grad = None
    before = reset_peak()
    if kind == "plain":
        torch.nn.functional.cross_entropy(hidden @ weight.t(), targets).backward()
    else:
        chunked_cross_entropy(hidden, weight, targets, 50_257).backward()
    print(peak_bytes() - before)


def bench_head() -> None:
    """Peak memory of the loss head."""
    plain, ours = head_memory("plain"), head_memory("chunked")
    print(f"# loss head at vocabulary 50304: plain {plain / 1e6:.0f} MB, chunked {ours / 1e6:.0f} MB")
    row("loss head, peak memory against plain", ours / plain, 0.2, at_least=False)


def bench_residual(scratch: Path, rounds: int) -> None:
    """A training step with hyper-connections against the plain one, default dtype."""
    plain = open_session(scratch / "plain")
    connected = open_session(scratch / "mhc", model__residual="mhc")
    times: dict[str, list[float]] = {"plain": [], "mhc": []}
    for _ in range(rounds + 2):
        times["plain"].append(busy(plain.step))
        times["mhc"].append(busy(connected.step))
    plain.close()
    connected.close()
    best = {name: min(values[2:]) for name, values in times.items()}
    print(
        f"# processor time per step: plain {best['plain'] * 1e3:.0f} ms, mHC n=4 {best['mhc'] * 1e3:.0f} ms"
    )
    row("step with mHC n=4, against plain residuals", best["mhc"] / best["plain"], 1.35, at_least=False)


def busy(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def bench_dpo(scratch: Path, rounds: int) -> None:
    """A DPO step with cached references against an SFT step of the same tokens."""
    import json

    from gputrain.tuning import Tuning

    session = open_session(scratch / "base", model__vocab=257)
    session.trainer.progress.step = 1
    session.trainer._save("regular")
    session.close()
    words = english(200_000)
    said = [words[900 * n : 900 * n + 160] for n in range(200)]
    lines = {
        "sft": [{"prompt": "Go on.", "completion": text} for text in said],
        "dpo": [
            {"prompt": "Go on.", "chosen": a, "rejected": b}
            for a, b in zip(said[::2], said[1::2], strict=True)
        ],
    }
    sessions = {}
    for stage, batch in (("sft", 8), ("dpo", 4)):
        data = scratch / f"{stage}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines[stage]))
        values = {
            **SHAPE, "tune.stage": stage, "tune.base": str(scratch / "base"), "data.path": (str(data),),
            "tune.template": "chatml", "tune.max_tokens": 256, "train.batch_size": batch, "train.steps": 10_000,
        }  # fmt: skip
        run, stop = RunDir(scratch / stage), StopSignal()
        heart = Heartbeat(run.path / "status.json", 60)
        world = World(0, 1, 0, torch.device("cpu"))
        task = Tuning(from_layers([Layer("bench", values)])[0], world)
        sessions[stage] = Session(Trainer(task, run, heart, stop, world, "auto"), run, heart, stop)
    times: dict[str, list[float]] = {"sft": [], "dpo": []}
    for _ in range(rounds + 2):
        for stage, one in sessions.items():
            times[stage].append(busy(one.step))
    for one in sessions.values():
        one.close()
    best = {stage: min(values[2:]) for stage, values in times.items()}
    print(f"# processor time per step: SFT {best['sft'] * 1e3:.0f} ms, DPO {best['dpo'] * 1e3:.0f} ms")
    row("DPO step with cached references, against SFT", best["dpo"] / best["sft"], 1.6, at_least=False)


def bench_memory(rounds: int) -> None:
    """MONETA in chunks against the loop over tokens, forward and backward: batch 4, 512 tokens, width 64."""
    from gputrain.miras import Rule, scan

    q, k, v = torch.nn.functional.normalize(torch.randn(3, 4, 1, 512, 64), dim=-1).requires_grad_().unbind(0)
    rate, keep = torch.full((4, 1, 512), 0.1), torch.full((4, 1, 512), -0.02)
    start = torch.eye(64).expand(4, 1, 64, 64)

    def read(chunk: int) -> None:
        answer, _ = scan(Rule("moneta"), (start,), q, k, v, rate, keep, rate, chunk=chunk)
        answer.square().mean().backward(retain_graph=True)

    times = {
        chunk: min(busy(lambda c=chunk: read(c)) for _ in range(max(3, rounds // 2))) for chunk in (1, 16, 64)
    }
    shown = ", ".join(f"chunks of {chunk} {4 * 512 / seconds:,.0f}" for chunk, seconds in times.items())
    print(f"# MONETA, tokens per second of processor time: {shown}")
    row("MONETA in chunks of 64, against token by token", times[1] / times[64], 10, at_least=True)


def english(size: int) -> str:
    """About `size` characters of English: Python's own help topics, again and again with a number each."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return "\n\n".join(f"{number} {text}" for number in range(-(-size // len(text))))[:size]


def bench_shard(scratch: Path) -> None:
    """40 MB of text to shards, against the raw speed of the tokenizers library on the same documents."""
    import contextlib
    import io

    import tokenizers

    from gputrain.cli import main as command

    text, folder = scratch / "text.txt", scratch / "tokenizer"
    text.write_text(english(40_000_000))
    documents = text.read_text().split("\n\n")
    path = str(folder / "tokenizer.json")
    with contextlib.redirect_stdout(io.StringIO()):
        command(["tokenizer", str(text), "--separator", "\\n\\n", "--vocab", "8192", "--out", str(folder)])
    model = tokenizers.Tokenizer.from_file(path)

    def raw() -> None:
        for begin in range(0, len(documents), 8192):
            model.encode_batch_fast(documents[begin : begin + 8192], add_special_tokens=False)

    def ours(number: int) -> None:
        out = str(scratch / f"shards{number}")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command(["shard", str(text), "--separator", "\\n\\n", "--tokenizer", path, "--out", out])

    theirs, mine, work = [], [], []
    for number in range(3):
        before = time.process_time()
        theirs.append(timed(raw))
        between = time.process_time()
        mine.append(timed(lambda n=number: ours(n)))
        work.append((between - before) / (time.process_time() - between))
    print(
        f"# 40 MB, {len(documents):,} documents: library {min(theirs):.1f} s, ours {min(mine):.1f} s; "
        f"by processor time {max(work):.2f} x"
    )
    row("sharding 40 MB, against the raw library", min(theirs) / min(mine), 0.9, at_least=True)


def bench_grow(scratch: Path) -> None:
    """From the 22m profile to 150m's shape: seconds, and memory against the size of the new checkpoint."""
    code = (
        "import sys; from pathlib import Path; import gputrain.grow\n"
        "from bench_trainer import peak_bytes, reset_peak; from gputrain.cli import main; import time\n"
        "before, began, work = reset_peak(), time.perf_counter(), time.process_time()\n"
        "main(sys.argv[1:]); print(time.perf_counter() - began, time.process_time() - work, peak_bytes() - before)"
    )
    small = {"model__layers": 12, "model__tied": False, "optim__name": "muon", "train__batch_size": 1}
    session = open_session(scratch / "small", **small)
    session.step()
    session.trainer.progress.step += 1
    session.trainer._save("regular")
    session.close()
    shape = ["model.layers=16", "model.width=768", "model.heads=12", "model.ffn=2048", "model.vocab=256"]
    words = [word for value in shape for word in ("--set", value)]
    command = [
        sys.executable,
        "-c",
        code,
        "grow",
        str(scratch / "small"),
        "--out",
        str(scratch / "grown"),
        *words,
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    seconds, work, added = (float(word) for word in done.stdout.splitlines()[-1].split())
    size = sum(path.stat().st_size for path in (scratch / "grown").iterdir())
    print(f"# grown to {size / 1e6:.0f} MB in {seconds:.1f} s, {work:.1f} s of processor time")
    row("growing 22M to the shape of 150M", seconds, 20, at_least=False, unit="s")
    row("its peak memory, against the new checkpoint", added / size, 2, at_least=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    parser.add_argument(
        "--only",
        choices=["throughput", "save", "head", "mhc", "moneta", "dpo", "shard", "grow"],
        help="one benchmark",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"# torch {torch.__version__}, {args.threads} threads, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="gputrain-bench-") as scratch:
        if args.only in (None, "throughput"):
            bench_throughput(Path(scratch), args.rounds)
        if args.only in (None, "save"):
            bench_save(Path(scratch), args.rounds)
        if args.only in (None, "head"):
            bench_head()
        if args.only in (None, "mhc"):
            bench_residual(Path(scratch), args.rounds)
        if args.only in (None, "moneta"):
            bench_memory(args.rounds)
        if args.only in (None, "dpo"):
            bench_dpo(Path(scratch), args.rounds)
        if args.only in (None, "shard"):
            bench_shard(Path(scratch))
        if args.only in (None, "grow"):
            bench_grow(Path(scratch))
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
