"""Everything the leader tells about a run: console, metrics, heartbeat, watchers."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from gputrain.config import Config
from gputrain.console import Console
from gputrain.estimate import flops_per_token
from gputrain.hardware import peak_flops
from gputrain.progress import Plan, StepResult
from gputrain.rundir import Heartbeat, RunDir
from gputrain.watch import Watcher, curves, open_watchers
from gputrain.world import World

EMA = 0.9


class Reporter:
    """Reports steps of one process's life. Silent on all processes but the leader."""

    def __init__(
        self, config: Config, run: RunDir, heart: Heartbeat, world: World, plan: Plan, first_step: int
    ) -> None:
        self._config, self._run, self._heart, self._world, self._plan = config, run, heart, world, plan
        self._clock, self._clocked_step = time.monotonic(), first_step
        self._last_step = self._clock
        self._step_s_ema: float | None = None
        self._stall_ms = 0.0
        self.tokens_per_second = 0.0
        self._watchers: list[Watcher] = []
        self._console: Console | None = None
        self._peak = config.watch.peak_flops or (
            peak_flops(torch.cuda.get_device_name(world.device)) if world.device.type == "cuda" else None
        )
        if not world.leader:
            return
        name = config.watch.name or run.path.name
        log = Path(config.watch.log_dir, f"{name}.log") if config.watch.log_dir else run.path / "log.txt"
        self._console = Console(log, tee=config.watch.tee, total_steps=plan.total_steps)
        self._watchers = open_watchers(config, run.path, run.run_id, name, first_step, self._complain)

    def _complain(self, watcher: str, error: str) -> None:
        self._run.event("watch_failed", watcher=watcher, error=error)
        self.say(f"warning: {watcher} does not work and is left out: {error}")

    def say(self, text: str) -> None:
        """One line on the console and in the log."""
        if self._console is not None:
            self._console.say(text)

    def pause_clock(self) -> Callable[[], None]:
        """Leave what happens until the returned function is called out of throughput and step time."""
        began = time.monotonic()

        def go_on() -> None:
            lost = time.monotonic() - began
            self._clock += lost
            self._last_step += lost

        return go_on

    def stalled(self, milliseconds: float) -> None:
        """Count time that a save held up the loop."""
        self._stall_ms += milliseconds

    def restarted(self, step: int) -> None:
        """The step went back; throughput is counted from here."""
        self._clock, self._clocked_step = time.monotonic(), step

    def step(self, step: int, tokens: int, result: StepResult, postponed: int) -> None:
        """Report a finished step; writes metrics when it is its turn."""
        if not self._world.leader:
            return
        now = time.monotonic()
        took, self._last_step = now - self._last_step, now
        self._step_s_ema = took if self._step_s_ema is None else EMA * self._step_s_ema + (1 - EMA) * took
        self._heart.update(
            step=step,
            last_step_unix=time.time(),
            step_s_ema=round(self._step_s_ema, 4),
            loss=result.loss,
            tokens=tokens,
        )
        if self._console is not None:
            self._console.advance(step, f"loss {result.loss:.3f} {self.tokens_per_second:.2g} tok/s")
        if step != self._plan.total_steps and step % self._config.train.log_every:
            return
        done = (step - self._clocked_step) * self._plan.tokens_per_step
        self.tokens_per_second = done / max(1e-9, now - self._clock)
        self._clock, self._clocked_step = now, step
        self._measure(step, tokens, result, postponed)

    def _measure(self, step: int, tokens: int, result: StepResult, postponed: int) -> None:
        speed = self.tokens_per_second
        mfu = None
        if self._peak:
            mfu = speed * flops_per_token(self._config.model) / (self._peak * self._world.size)
        record = {
            "step": step,
            "loss": result.loss,
            "lr": result.rate,
            "grad_norm": result.norm,
            "tokens": tokens,
            "tokens_per_second": round(speed, 1),
            "mfu": mfu,
            "memory_bytes": memory_bytes(self._world.device),
            "stall_ms": round(self._stall_ms, 3),
            "saves_postponed": postponed,
            "time": time.time(),
        }
        self._stall_ms = 0.0
        self._run.measure(record)
        left = (self._plan.total_steps - step) * self._plan.tokens_per_step
        self._heart.update(
            tok_s=round(speed, 1),
            mfu=mfu,
            eta_s=round(left / max(1e-9, speed), 1),
            gpu_mem=record["memory_bytes"] if self._world.device.type == "cuda" else None,
        )
        share = f" mfu {mfu:.1%}" if mfu is not None else ""
        self.say(
            f"step {step}/{self._plan.total_steps} loss {result.loss:.3f} lr {result.rate:.1e} {speed:.1e} tok/s{share}"
        )
        self._show(step, curves("train", record))

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Report a validation."""
        self._run.event("evaluated", step=step, **values)
        others = "".join(f" {name} {value:.4f}" for name, value in values.items() if name != "loss")
        self.say(f"step {step} val_loss {values['loss']:.4f}{others}")
        self._show(step, curves("val", values))

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        for watcher in list(self._watchers):
            try:
                watcher.show(step, values)
            except Exception as error:  # noqa: BLE001 - whatever breaks in a watcher, training goes on
                self._watchers.remove(watcher)
                self._complain(type(watcher).__name__, str(error))

    def close(self) -> None:
        """End the watchers and the console."""
        for watcher in self._watchers:
            with contextlib.suppress(Exception):
                watcher.close()
        if self._console is not None:
            self._console.close()


def memory_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
