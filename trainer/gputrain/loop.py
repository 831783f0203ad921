"""The training loop: one step after the other until the plan is fulfilled."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gputrain.checkpoint import Loaded, load_kind, open_checkpoint
from gputrain.errors import ConfigError, DivergedError, ExitCode, StorageError
from gputrain.guard import Verdict, judge
from gputrain.identity import compare_identity
from gputrain.keeper import KINDS, Keeper
from gputrain.objective import Objective
from gputrain.optim import drop_gradients, step_all
from gputrain.order import derive_seed
from gputrain.progress import Progress, StepResult, restore_progress
from gputrain.report import Reporter
from gputrain.resume import choose_checkpoint, newest_of_run
from gputrain.rundir import Control, Heartbeat, Phase, RunDir
from gputrain.schedule import rate_share
from gputrain.signals import StopSignal
from gputrain.world import World


class Trainer:
    """Model, optimiser and files of one run, and the loop over steps towards its objective."""

    def __init__(
        self, task: Objective, run: RunDir, heart: Heartbeat, stop: StopSignal, world: World, resume: str
    ) -> None:
        self.task, self.run, self.heart, self.stop, self.world = task, run, heart, stop, world
        self.config, self.plan = task.config, task.plan
        self.progress = Progress()
        self.resumed = world.share(lambda: self._choose(resume))
        task.prepare(run)
        self.built = task.build(initialise=self.resumed is None)
        self.tensors = self.built.tensors()
        if self.resumed is not None:
            self.load(self.resumed)
        elif task.warm:
            self._warm_start(Path(task.warm))
        session = world.share(lambda: uuid.uuid4().hex[:8])
        self.keeper = Keeper(
            self.config, run, world, self.tensors, task.identity, self.resumed, session=session
        )
        self.saver = self.keeper.saver
        self.last_val: dict[str, float] | None = None
        self.report = Reporter(self.config, run, heart, world, self.plan, self.progress.step)

    def _choose(self, resume: str) -> Loaded | None:
        """The checkpoint to go on from. Raises ConfigError when it is of another run's making."""
        loaded = choose_checkpoint(self.run, resume)
        differences = compare_identity(loaded.state.get("identity", {}), self.task.identity) if loaded else []
        if loaded and differences:
            raise ConfigError(
                f"{loaded.path} was trained with other settings:\n  "
                + "\n  ".join(differences)
                + "\nGive the old values, or another --out to begin a new run."
            )
        return loaded

    def _warm_start(self, source: Path) -> None:
        """Begin with the weights of another run."""
        warm = self.world.share(lambda: open_checkpoint(newest_of_run(source)))
        self._load_kinds(warm, [self.built.kind])
        self.run.event("warm_start", path=str(warm.path), manifest_sha256=warm.manifest_sha256)

    def load(self, loaded: Loaded) -> None:
        """Copy a checkpoint into model, optimiser and progress."""
        self._load_kinds(loaded, [self.built.kind, "optim"])
        self.progress = restore_progress(loaded.state)

    def _load_kinds(self, loaded: Loaded, kinds: list[str]) -> None:
        """Sharded processes read their rows; otherwise the leader reads and the others copy from it."""
        for kind in kinds:
            if self.built.sharded:
                load_kind(loaded, kind, self.tensors[kind])
            else:
                self.world.share(lambda kind=kind: load_kind(loaded, kind, self.tensors[kind]))  # type: ignore[misc]
                self.world.copy_from_leader([piece.tensor for piece in self.tensors[kind].values()])

    @property
    def tokens(self) -> int:
        """Tokens read so far."""
        return self.task.tokens(self.progress.next_sample)

    def close(self) -> None:
        """End the threads; a checkpoint that is being written is finished first."""
        self.task.close()
        self.report.close()
        self.saver.wait()

    def train(self) -> ExitCode:
        """Run steps until the plan is fulfilled or a stop is asked for."""
        run, plan = self.run, self.plan
        run.describe(self.config)
        run.reopen()
        self._announce()
        self.heart.update(
            phase=Phase.COMPILING if self.built.compiled else Phase.TRAINING,
            step=self.progress.step,
            total_steps=plan.total_steps,
        )
        while self.progress.step < plan.total_steps:
            self._pause_if_asked()
            if self.world.size == 1 and self._asked_to_stop():
                return self._preempted(self.stop.name)
            began = time.monotonic()
            result = self._step()
            if result is None:
                return self._preempted(self.stop.name)
            progress = self.progress
            progress.step += 1
            progress.next_sample += plan.windows_per_step
            progress.trained_s += time.monotonic() - began
            progress.guard = result.guard
            last = progress.step == plan.total_steps
            self.heart.update(phase=Phase.TRAINING)
            self.report.step(progress.step, self.tokens, result, self.saver.postponed)
            if result.verdict is not Verdict.UPDATE:
                self._recover(result)
                self.report.restarted(self.progress.step)
                continue
            every = self.config.train.eval_every
            if last or (every and progress.step % every == 0):
                go_on = self.report.pause_clock()
                self._evaluate()
                go_on()
            if not last and result.save_kind:
                self._save(result.save_kind)
                if run.requested(Control.CHECKPOINT):
                    run.acknowledge(Control.CHECKPOINT, step=progress.step)
            if not last and result.stop:
                return self._preempted(self.stop.name or "a signal to another process")
        return self._finish()

    def _step(self) -> StepResult | None:
        """Gradients of one optimiser step, judged and applied; None if asked to stop in it.

        All randomness is reseeded per micro-batch from its place in the run, so there is no
        generator state that a resume could get wrong.
        """
        config, plan, size = self.config, self.plan, self.config.train.batch_size
        runner, optimisers = self.built.runner, self.built.optimisers
        total = torch.zeros((), device=self.world.device)
        start = self.progress.next_sample + self.world.rank * plan.windows_per_process
        for micro in range(plan.micro_batches):
            first, last = start + micro * size, micro == plan.micro_batches - 1
            torch.manual_seed(derive_seed(config.train.seed, first))
            next_first = first + size if not last else start + plan.windows_per_step
            batch = self.task.batch(first, size, next_first)
            with self.world.accumulating(runner, last=last):
                loss = runner(*batch) / plan.micro_batches
                loss.backward()
            total += loss.detach()
            if self.stop and self.world.size == 1:
                # The half-made gradients are dropped; the state is still that of the last step.
                drop_gradients(optimisers)
                return None
        limit = config.optim.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.built.model.parameters(), limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        wanted = self.keeper.wanted(self.progress) if self.world.leader else 0
        stop = self.world.size > 1 and self._asked_to_stop()
        summed, stops, kind = self.world.sum([float(total), float(stop), wanted])
        loss_now = summed / self.world.size
        verdict, guard = judge(self.progress.guard, config.optim, loss_now, float(norm))
        share = rate_share(config.optim, self.progress.step, plan.total_steps)
        self.report.stalled(self.saver.copied())
        if verdict is Verdict.UPDATE:
            step_all(optimisers, share)
        else:
            drop_gradients(optimisers)
        rate = share * config.optim.lr
        return StepResult(loss_now, float(norm), rate, verdict, guard, KINDS[int(kind)], stops > 0)

    def _recover(self, result: StepResult) -> None:
        """Act on a step that was not applied. Raises DivergedError when nothing helps."""
        step, facts = self.progress.step, {"loss": result.loss, "grad_norm": result.norm}
        if result.verdict is Verdict.SKIP:
            self.run.event("step_skipped", step=step, **facts)
            return
        self.saver.wait()
        loaded = None
        if result.verdict is Verdict.ROLL_BACK:
            loaded = self.world.share(lambda: choose_checkpoint(self.run, "auto"))
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
        self.keeper.went_back(self.progress.step)
        self.run.event("rolled_back", from_step=step, step=self.progress.step, **facts)
        self.report.say(f"step {step} went wrong (loss {result.loss}); back to step {self.progress.step}")

    def _announce(self) -> None:
        count = sum(p.numel() for p in self.built.parameters.values())
        facts: dict[str, Any] = {
            "step": self.progress.step,
            "parameters": count,
            "device": str(self.world.device),
            "processes": self.world.size,
            "dtype": str(self.built.dtype).removeprefix("torch."),
            "config_sha256": self.config.sha256(),
            "data_sha256": self.task.data_sha256,
        }
        if self.resumed is None:
            self.run.event("started", **facts)
            verb = "start"
        else:
            self.run.event("resumed", manifest_sha256=self.resumed.manifest_sha256, **facts)
            verb = f"resume from {self.resumed.path.name}"
        where = f"{self.world.size} × {self.world.device.type}" if self.world.size > 1 else self.world.device
        self.report.say(
            f"{verb}: {count / 1e6:.2f}M parameters on {where} {facts['dtype']}, "
            f"{self.plan.total_steps} steps of {self.plan.tokens_per_step} tokens, "
            f"data {self.task.name}"
        )

    def _evaluate(self) -> None:
        """Measure on what is held out, if anything is."""
        self.heart.update(phase=Phase.EVALUATING)
        found = self.task.evaluate(self.built)
        if found is not None:
            self.last_val = found
            best = self.progress.best_val
            self.progress.best_val = found["loss"] if best is None else min(best, found["loss"])
            self.report.evaluated(self.progress.step, found)
        self.heart.update(phase=Phase.TRAINING)

    def _asked_to_stop(self) -> bool:
        """Whether this process knows a reason to stop; only the leader looks at files."""
        if not self.stop and self.run.requested(Control.STOP):
            self.run.acknowledge(Control.STOP, step=self.progress.step)
            self.stop.name = "control/stop"
        ahead = self.progress.step + (1 if self.world.size > 1 else 0)
        if self.world.leader and 0 < self.config.train.until <= ahead:
            self.stop.name = self.stop.name or "train.until"
        return bool(self.stop)

    def _pause_if_asked(self) -> None:
        go_on = self.report.pause_clock()
        while not self.stop and self.run.requested(Control.PAUSE):
            self.heart.update(phase=Phase.PAUSED)
            time.sleep(0.2)
        go_on()

    def _save(self, kind: str) -> None:
        facts = {"data_sha256": self.task.data_sha256, "val": self.last_val}
        self.report.stalled(self.keeper.save(kind, self.progress, self.tokens, facts))
        self.heart.update(last_ckpt_step=self.progress.step, last_ckpt_unix=time.time())

    def _preempted(self, reason: str) -> ExitCode:
        self.heart.update(phase=Phase.DRAINING)
        self.run.event("stopping", reason=reason, step=self.progress.step)
        if not self.keeper.durable(self.progress.step):
            self._save("preempt")
        if not self.keeper.durable(self.progress.step):
            self.report.say("warning: the last steps could not be saved; events.jsonl says why")
        self.report.say(f"stopped by {reason} at step {self.progress.step}; run again to go on")
        self.run.event("stopped", reason=reason, step=self.progress.step)
        return ExitCode.PREEMPTED

    def _finish(self) -> ExitCode:
        self.heart.update(phase=Phase.SAVING)
        saved = self.keeper.as_resumed(self.progress.step)
        if saved is not None and self.resumed is not None:
            self.last_val = self.last_val or self.resumed.manifest.get("val")
        else:
            self.saver.wait()
            self._save("final")
            self.saver.wait()
            saved = self.saver.last
        if not self.world.leader:
            return ExitCode.DONE
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
        self.report.say(f"done: step {self.progress.step}, {saved.path.name}, {saved.bytes} bytes")
        return ExitCode.DONE
