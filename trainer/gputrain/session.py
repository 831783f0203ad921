"""One process's part in a run: join the others, take the directory, train, leave the verdict."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from gputrain.config import Config
from gputrain.errors import ExitCode, TrainerError
from gputrain.loop import Trainer
from gputrain.objective import Objective
from gputrain.pretraining import Pretraining
from gputrain.rundir import Heartbeat, Phase, RunDir
from gputrain.signals import StopSignal
from gputrain.world import RankLostError, World, is_loss, join_world

Opener = Callable[[Config, World], Objective]
"""Makes the objective of a run once the processes have met. Raises TrainerError."""


def run_training(config: Config, out: Path, resume: str, opener: Opener = Pretraining) -> ExitCode:
    """Train in `out` until the end, a stop request or an error, and record the verdict there."""
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    if config.system.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    world = join_world(config)
    try:
        run = world.share(lambda: RunDir(out)) if world.size == 1 else _shared_run(world, out)
        return _recorded(config, run, world, resume, opener)
    finally:
        world.close()


def _shared_run(world: World, out: Path) -> RunDir:
    """The leader's directory; the others learn whether it could be had."""
    held: list[RunDir] = []

    def take() -> str:
        held.append(RunDir(out))
        return held[0].run_id

    run_id = world.share(take)
    return held[0] if held else RunDir(out, follower_of=run_id)


def _recorded(config: Config, run: RunDir, world: World, resume: str, opener: Opener) -> ExitCode:
    """Train, and leave the verdict in the run directory."""
    heart = Heartbeat(run.path / "status.json", config.system.heartbeat_seconds, enabled=world.leader)
    stop = StopSignal()
    trainer: Trainer | None = None
    try:
        task = opener(config, world)
        trainer = Trainer(task, run, heart, stop, world, resume)
        code = trainer.train()
        world.barrier()
    except TrainerError as error:
        heart.update(phase=Phase.FAILED)
        run.event("failed", error=str(error), exit_code=int(error.exit_code))
        if not isinstance(error, RankLostError):
            run.fail(error=str(error), exit_code=int(error.exit_code))
        raise
    except BaseException as error:
        # Not FAILED.json: a crash is for whoever started us to repeat.
        heart.update(phase=Phase.FAILED)
        run.event("crashed", error=f"{type(error).__name__}: {error}")
        if world.size > 1 and is_loss(error):
            raise RankLostError(
                f"Another process of this run is gone ({error}). Start again to go on."
            ) from error
        raise
    finally:
        if trainer is not None:
            trainer.close()
        heart.close()
        run.close()
        stop.restore()
    return code
