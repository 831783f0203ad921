"""The training run, from top to bottom."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gputrain import fp8
from gputrain.checkpoint import (
    Image,
    Loaded,
    Saved,
    Saver,
    SaveRequest,
    load_tensors,
    open_checkpoint,
)
from gputrain.clock import SaveClock, due
from gputrain.config import Config
from gputrain.data import Prefetcher, Sampler, Windows, as_batch, open_data
from gputrain.errors import CheckpointError, ConfigError, DivergedError, ExitCode, StorageError, TrainerError
from gputrain.guard import Guard, Verdict, judge
from gputrain.identity import compare_identity, identity
from gputrain.model import GPT
from gputrain.optim import build_optimisers, drop_gradients, initialise_state, named_state, step_all
from gputrain.order import derive_seed
from gputrain.resume import choose_checkpoint, newest_of_run
from gputrain.rundir import Control, Heartbeat, Phase, RunDir, finite
from gputrain.schedule import rate_share
from gputrain.signals import StopSignal


@dataclass
class Progress:
    """Where the run is; all of it is saved."""

    step: int = 0
    next_sample: int = 0
    trained_s: float = 0.0
    last_milestone_s: float = 0.0
    best_val: float | None = None
    guard: Guard = field(default_factory=Guard)


@dataclass(frozen=True)
class StepResult:
    """One step as it was measured and judged."""

    loss: float
    norm: float
    rate: float
    verdict: Verdict
    guard: Guard


@dataclass(frozen=True)
class Plan:
    """Lengths that follow from configuration and data."""

    windows_per_step: int
    micro_batches: int
    total_steps: int
    tokens_per_step: int


def make_plan(config: Config, windows_per_epoch: int, world_size: int = 1) -> Plan:
    """Turn tokens, epochs and batch sizes into steps. Raises ConfigError if they do not divide."""
    micro_windows = config.train.batch_size * world_size
    tokens = config.train.tokens_per_step or micro_windows * config.model.context
    windows = tokens // config.model.context
    if tokens % (micro_windows * config.model.context):
        unit = micro_windows * config.model.context
        near = max(1, round(tokens / unit)) * unit
        raise ConfigError(
            f"train.tokens_per_step ({tokens}) must be a multiple of batch_size × processes × "
            f"context = {config.train.batch_size} × {world_size} × {config.model.context}; "
            f"the nearest is {near}."
        )
    steps = config.train.steps
    if not steps and config.train.tokens:
        steps = math.ceil(config.train.tokens / tokens)
    if not steps:
        steps = max(1, int(config.train.epochs * windows_per_epoch) // windows)
    return Plan(windows, windows // micro_windows, steps, tokens)


def run_training(config: Config, out: Path, resume: str) -> ExitCode:
    """Train in `out` until the end, a stop request or an error, and record the verdict there."""
    run = RunDir(out)
    heart = Heartbeat(run.path / "status.json", config.system.heartbeat_seconds)
    stop = StopSignal()
    try:
        trainer = Trainer(config, run, heart, stop, resume)
        try:
            code = trainer.train()
        finally:
            trainer.close()
    except TrainerError as error:
        heart.update(phase=Phase.FAILED)
        run.event("failed", error=str(error), exit_code=int(error.exit_code))
        run.fail(error=str(error), exit_code=int(error.exit_code))
        raise
    except BaseException as error:
        # Not FAILED.json: a crash is for whoever started us to repeat.
        heart.update(phase=Phase.FAILED)
        run.event("crashed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        heart.close()
        run.close()
        stop.restore()
    return code


def choose_device(config: Config) -> torch.device:
    """The device to train on. Raises ConfigError when CUDA is asked for and absent."""
    name = config.system.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("system.device is cuda, but torch sees no CUDA device.")
    return torch.device(name)


def choose_dtype(config: Config, device: torch.device) -> torch.dtype:
    """The dtype of activations: bfloat16 where the hardware multiplies it natively."""
    if config.system.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.system.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32  # noqa: SLF001


def wants_compile(config: Config, device: torch.device) -> bool:
    """Whether to use torch.compile."""
    return config.system.compile == "on" or (config.system.compile == "auto" and device.type == "cuda")


class Trainer:
    """Model, optimiser, data and files of one run, and the loop over steps."""

    def __init__(self, config: Config, run: RunDir, heart: Heartbeat, stop: StopSignal, resume: str) -> None:
        self.run, self.heart, self.stop = run, heart, stop
        if config.system.threads:
            torch.set_num_threads(config.system.threads)
        self.data = open_data(config.data, full=config.data.verify)
        vocab = config.model.vocab or self.data.vocab
        if vocab < self.data.vocab:
            raise ConfigError(f"model.vocab is {vocab}, but the data has {self.data.vocab} token ids.")
        self.config = config = replace(config, model=replace(config.model, vocab=vocab))
        self.sampler = Sampler(self.data, config.model.context, config.train.seed)
        self.val_windows = Windows(self.data.val, config.model.context)
        self.plan = make_plan(config, self.sampler.windows_per_epoch)
        self.identity = identity(config, self.data.sha256, self.plan.tokens_per_step)

        self.device = choose_device(config)
        self.dtype = choose_dtype(config, self.device)
        self.batches = Prefetcher(self.sampler, self.device)
        torch.manual_seed(config.train.seed)
        self.model = GPT(config.model, self.dtype, recompute=config.system.recompute).to(self.device)
        if config.system.fp8:
            fp8.convert(self.model, self.device, config.train.batch_size * config.model.context)
        self.optimisers = build_optimisers(self.model, config.optim)
        initialise_state(self.optimisers)
        self.parameters = dict(self.model.named_parameters())
        self.optim_state = named_state(self.model, self.optimisers)
        self.compiled = wants_compile(config, self.device)
        if self.compiled:
            self.model.compile(dynamic=False)
        self.progress = Progress()
        self.resumed = self._resume(resume)
        pin = self.device.type == "cuda"
        self.saver = Saver(
            run,
            config.checkpoint,
            [
                Image("model.safetensors", self.parameters, pin=pin),
                Image("optim.safetensors", self.optim_state, pin=pin),
            ],
        )
        own = self.resumed is not None and self.resumed.path.parent == run.ckpt
        self.last_saved_step = self.progress.step if own else -1
        self.last_val: dict[str, float] | None = None
        self.tokens_per_second = 0.0

    def _resume(self, resume: str) -> Loaded | None:
        loaded = choose_checkpoint(self.run, resume)
        if loaded is None:
            if self.config.train.init:
                warm = open_checkpoint(newest_of_run(Path(self.config.train.init)))
                load_tensors(warm.path / "model.safetensors", self.parameters)
                self.run.event("warm_start", path=str(warm.path), manifest_sha256=warm.manifest_sha256)
            return None
        differences = compare_identity(loaded.state.get("identity", {}), self.identity)
        if differences:
            raise ConfigError(
                f"{loaded.path} was trained with other settings:\n  "
                + "\n  ".join(differences)
                + "\nGive the old values, or another --out to begin a new run."
            )
        self.load(loaded)
        return loaded

    def load(self, loaded: Loaded) -> None:
        """Copy a checkpoint into model, optimiser and progress."""
        load_tensors(loaded.path / "model.safetensors", self.parameters)
        load_tensors(loaded.path / "optim.safetensors", self.optim_state)
        try:
            saved = dict(loaded.state["progress"])
            self.progress = Progress(**{**saved, "guard": Guard(**saved["guard"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{loaded.path}/state.json lacks {error}.") from error

    @property
    def tokens(self) -> int:
        """Tokens read so far."""
        return self.progress.next_sample * self.config.model.context

    def close(self) -> None:
        """End the threads; a checkpoint that is being written is finished first."""
        self.batches.close()
        self.saver.wait()

    def train(self) -> ExitCode:
        """Run steps until the plan is fulfilled or a stop is asked for."""
        run, plan = self.run, self.plan
        run.describe(self.config)
        run.reopen()
        self._announce()
        self.heart.update(
            phase=Phase.COMPILING if self.compiled else Phase.TRAINING,
            step=self.progress.step,
            total_steps=plan.total_steps,
        )
        timer, timed_step = time.monotonic(), self.progress.step
        while self.progress.step < plan.total_steps:
            if self._asked_to_stop():
                return self._preempted()
            began = time.monotonic()
            result = self._step()
            if result is None:
                return self._preempted()
            now = time.monotonic()
            progress = self.progress
            progress.step += 1
            progress.next_sample += plan.windows_per_step
            progress.trained_s += now - began
            progress.guard = result.guard
            self.heart.update(
                phase=Phase.TRAINING, step=progress.step, last_step_unix=time.time(), loss=result.loss
            )
            last = progress.step == plan.total_steps
            if last or progress.step % self.config.train.log_every == 0:
                done_tokens = (progress.step - timed_step) * plan.tokens_per_step
                self.tokens_per_second = done_tokens / max(1e-9, now - timer)
                timer, timed_step = now, progress.step
                self._log(result)
            if result.verdict is not Verdict.UPDATE:
                self._recover(result)
                timer, timed_step = time.monotonic(), self.progress.step
                continue
            every = self.config.train.eval_every
            if last or (every and progress.step % every == 0):
                self._evaluate()
                timer, timed_step = time.monotonic(), progress.step
            if not last:
                self._save_if_due()
        return self._finish()

    def _step(self) -> StepResult | None:
        """Gradients of one optimiser step, judged and applied; None if asked to stop in it.

        All randomness is reseeded per micro-batch from its place in the run, so there is no
        generator state that a resume could get wrong.
        """
        config, plan, size = self.config, self.plan, self.config.train.batch_size
        total = torch.zeros((), device=self.device)
        for micro in range(plan.micro_batches):
            first = self.progress.next_sample + micro * size
            torch.manual_seed(derive_seed(config.train.seed, first))
            inputs, targets = self.batches.batch(first, size, first + size)
            loss = self.model(inputs, targets) / plan.micro_batches
            loss.backward()
            total += loss.detach()
            if self.stop:
                # The half-made gradients are dropped; the state is still that of the last step.
                drop_gradients(self.optimisers)
                return None
        limit = config.optim.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        verdict, guard = judge(self.progress.guard, config.optim, float(total), norm)
        share = rate_share(config.optim, self.progress.step, plan.total_steps)
        if verdict is Verdict.UPDATE:
            step_all(self.optimisers, share)
        else:
            drop_gradients(self.optimisers)
        return StepResult(float(total), norm, share * config.optim.lr, verdict, guard)

    def _recover(self, result: StepResult) -> None:
        """Act on a step that was not applied. Raises DivergedError when nothing helps."""
        step, facts = self.progress.step, {"loss": finite(result.loss), "grad_norm": finite(result.norm)}
        if result.verdict is Verdict.SKIP:
            self.run.event("step_skipped", step=step, **facts)
            return
        self.saver.wait()
        loaded = choose_checkpoint(self.run, "auto") if result.verdict is Verdict.ROLL_BACK else None
        if loaded is None:
            rollbacks = result.guard.rollbacks
            raise DivergedError(
                f"The run diverged at step {step} (loss {result.loss}, gradient norm {result.norm}) after "
                f"{rollbacks} rollbacks. Lower optim.lr, or go back with --resume STEP."
            )
        ahead = self.progress.next_sample
        self.load(loaded)
        # The data after the checkpoint is not repeated: it may be what broke the run.
        self.progress.next_sample = ahead
        self.progress.guard = replace(self.progress.guard, rollbacks=result.guard.rollbacks)
        self.last_saved_step = self.progress.step
        self.run.event("rolled_back", from_step=step, step=self.progress.step, **facts)
        say(f"step {step} went wrong (loss {result.loss}); back to step {self.progress.step}")

    def _announce(self) -> None:
        count = sum(p.numel() for p in self.model.parameters())
        facts: dict[str, Any] = {
            "step": self.progress.step,
            "parameters": count,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "config_sha256": self.config.sha256(),
            "data_sha256": self.data.sha256,
        }
        if self.resumed is None:
            self.run.event("started", **facts)
            verb = "start"
        else:
            self.run.event("resumed", manifest_sha256=self.resumed.manifest_sha256, **facts)
            verb = f"resume from {self.resumed.path.name}"
        say(
            f"{verb}: {count / 1e6:.2f}M parameters on {self.device} {facts['dtype']}, "
            f"{self.plan.total_steps} steps of {self.plan.tokens_per_step} tokens, "
            f"data {self.data.name}"
        )

    def _log(self, result: StepResult) -> None:
        progress, plan = self.progress, self.plan
        self.run.metrics.append(
            {
                "step": progress.step,
                "loss": finite(result.loss),
                "lr": result.rate,
                "grad_norm": finite(result.norm),
                "tokens": self.tokens,
                "tokens_per_second": round(self.tokens_per_second, 1),
                "time": time.time(),
            }
        )
        left = (plan.total_steps - progress.step) * plan.tokens_per_step
        self.heart.update(
            tokens=self.tokens,
            tok_s=round(self.tokens_per_second, 1),
            eta_s=round(left / max(1e-9, self.tokens_per_second), 1),
        )
        say(
            f"step {progress.step}/{plan.total_steps} loss {result.loss:.3f} lr {result.rate:.1e} "
            f"{self.tokens_per_second:.1e} tok/s"
        )

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Loss on the held-out windows, in nats per token and bits per byte."""
        size = self.config.train.batch_size
        # Whole batches only: a last smaller one would be compiled for itself.
        count = min(self.config.train.eval_windows, len(self.val_windows)) // size * size
        if count == 0:
            return
        self.heart.update(phase=Phase.EVALUATING)
        self.model.eval()
        total = 0.0
        for first in range(0, count, size):
            windows = [self.val_windows.read(i) for i in range(first, first + size)]
            inputs, targets = as_batch(windows)
            loss = self.model(inputs.to(self.device), targets.to(self.device))
            total += float(loss) * len(windows)
        self.model.train()
        loss = total / count
        bits = loss / math.log(2) / self.data.bytes_per_token
        self.last_val = {"loss": loss, "bits_per_byte": bits}
        best = self.progress.best_val
        self.progress.best_val = loss if best is None else min(best, loss)
        self.run.event("evaluated", step=self.progress.step, **self.last_val)
        say(f"step {self.progress.step} val_loss {loss:.4f} bits_per_byte {bits:.4f}")
        self.heart.update(phase=Phase.TRAINING)

    def _asked_to_stop(self) -> bool:
        if not self.stop and self.run.requested(Control.STOP):
            self.run.acknowledge(Control.STOP, step=self.progress.step)
            self.stop.name = "control/stop"
        if 0 < self.config.train.until <= self.progress.step:
            self.stop.name = self.stop.name or "train.until"
        while not self.stop and self.run.requested(Control.PAUSE):
            self.heart.update(phase=Phase.PAUSED)
            time.sleep(0.2)
        return bool(self.stop)

    def _save_if_due(self) -> None:
        requested = self.run.requested(Control.CHECKPOINT)
        clock = SaveClock(
            step=self.progress.step,
            last_saved_step=self.last_saved_step,
            since_last_s=time.monotonic() - self.saver.last_finished,
            trained_s=self.progress.trained_s,
            last_milestone_s=self.progress.last_milestone_s,
            requested=requested,
        )
        wanted = due(self.config.checkpoint, clock)
        if wanted is not None and self.saver.ready(wait=wanted.exact):
            self._save(wanted.kind)
            if requested:
                self.run.acknowledge(Control.CHECKPOINT, step=self.progress.step)

    def _save(self, kind: str) -> None:
        progress = self.progress
        if kind == "milestone":
            progress.last_milestone_s = progress.trained_s
        tokens = self.tokens
        state = {
            "step": progress.step,
            "tokens": tokens,
            "progress": asdict(progress),
            "identity": self.identity,
            "rng": {"scheme": "reseeded per micro-batch from (seed, sample)"},
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        }
        facts = {
            "wall_s": round(progress.trained_s, 3),
            "world_size": 1,
            "config_sha256": self.config.sha256(),
            "data_sha256": self.data.sha256,
            "val": self.last_val,
        }
        self.saver.save(SaveRequest(progress.step, tokens, kind, state, facts))
        self.last_saved_step = progress.step

    def _preempted(self) -> ExitCode:
        self.heart.update(phase=Phase.DRAINING)
        self.run.event("stopping", reason=self.stop.name, step=self.progress.step)
        self.saver.wait()
        if self.progress.step != self.last_saved_step:
            self._save("preempt")
            self.saver.wait()
        say(f"stopped by {self.stop.name} at step {self.progress.step}; run again to go on")
        self.run.event("stopped", reason=self.stop.name, step=self.progress.step)
        return ExitCode.PREEMPTED

    def _already_saved(self) -> Saved | None:
        """The checkpoint this process resumed from, if nothing was trained since."""
        loaded = self.resumed
        if loaded is None or loaded.manifest["step"] != self.progress.step:
            return None
        if loaded.path.parent != self.run.ckpt:
            return None
        self.saver.snapshot()
        self.last_val = self.last_val or loaded.manifest.get("val")
        return Saved(
            self.progress.step,
            loaded.path,
            loaded.manifest_sha256,
            int(loaded.manifest["total_bytes"]),
            str(loaded.manifest["kind"]),
        )

    def _finish(self) -> ExitCode:
        self.heart.update(phase=Phase.SAVING)
        saved = self._already_saved()
        if saved is None:
            self.saver.wait()
            self._save("final")
            self.saver.wait()
            saved = self.saver.last
        if saved is None or saved.step != self.progress.step:
            raise StorageError(
                "Training is complete, but its last checkpoint could not be written; events.jsonl "
                "says why. Free some disk space and run the same command again."
            )
        digests = self.saver.digests()
        self.run.finish(
            reason="steps",
            final_step=self.progress.step,
            final_ckpt=f"ckpt/{saved.path.name}",
            manifest_sha256=saved.manifest_sha256,
            state_sha256=digests,
            metrics=self.last_val or {},
        )
        self.run.event("done", step=self.progress.step, dir=f"ckpt/{saved.path.name}", state_sha256=digests)
        self.heart.update(phase=Phase.DONE)
        say(f"done: step {self.progress.step}, {saved.path.name}, {saved.bytes} bytes")
        return ExitCode.DONE


say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
