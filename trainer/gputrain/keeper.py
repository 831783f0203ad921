"""Which state of the run is kept when, and whether it is on disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from gputrain.checkpoint import Loaded
from gputrain.clock import SaveClock, due
from gputrain.config import Config
from gputrain.progress import Progress
from gputrain.rundir import Control, RunDir
from gputrain.saver import Saved, Saver, SaveRequest
from gputrain.slices import Slice
from gputrain.world import World

KINDS = ("", "regular", "milestone")
"""Checkpoint kinds by the number under which the leader announces them."""


class Keeper:
    """Decides when to save, describes the state, and knows which step is durable."""

    def __init__(
        self,
        config: Config,
        run: RunDir,
        world: World,
        tensors: Mapping[str, Mapping[str, Slice]],
        identity: Mapping[str, Any],
        resumed: Loaded | None,
        *,
        session: str,
    ) -> None:
        self._config, self._run, self._world, self._identity = config, run, world, identity
        self.saver = Saver(run, config.checkpoint, world, tensors, session=session)
        own = resumed is not None and resumed.path.parent == run.ckpt
        self._resumed = resumed if own else None
        self._last_step = self._resumed_step
        self._writes = world.leader or any(s.partial for kind in tensors.values() for s in kind.values())

    @property
    def _resumed_step(self) -> int:
        return int(self._resumed.state["step"]) if self._resumed is not None else -1

    def wanted(self, progress: Progress) -> int:
        """The number of the kind of checkpoint to make after the step that is being done; 0 for none."""
        clock = SaveClock(
            step=progress.step + 1,
            last_saved_step=self._last_step,
            since_last_s=time.monotonic() - self.saver.last_finished,
            trained_s=progress.trained_s,
            last_milestone_s=progress.last_milestone_s,
            requested=self._run.requested(Control.CHECKPOINT),
        )
        wanted = due(self._config.checkpoint, clock)
        if wanted is None or not self.saver.ready(wait=wanted.exact):
            return 0
        return KINDS.index(wanted.kind)

    def save(self, kind: str, progress: Progress, tokens: int, facts: Mapping[str, Any]) -> float:
        """Begin to save the state as it is now; returns how long that held up the caller, in milliseconds."""
        if kind == "milestone":
            progress.last_milestone_s = progress.trained_s
        state = {
            "step": progress.step,
            "tokens": tokens,
            "run_id": self._run.run_id,
            "progress": asdict(progress),
            "identity": dict(self._identity),
            "rng": {"scheme": "reseeded per micro-batch from (seed, sample)"},
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        }
        about = {
            "wall_s": round(progress.trained_s, 3),
            "world_size": self._world.size,
            "config_sha256": self._config.sha256(),
            **facts,
        }
        began = time.monotonic()
        if self._writes:
            self.saver.save(SaveRequest(progress.step, tokens, kind, state, about))
        self._last_step = progress.step
        return (time.monotonic() - began) * 1000

    def went_back(self, step: int) -> None:
        """The run is at an earlier checkpoint again."""
        self._last_step = step

    def durable(self, step: int) -> bool:
        """Whether the state of `step` is in a committed checkpoint; waits for a save in flight."""
        self.saver.wait()
        last = self.saver.last.step if self.saver.last is not None else self._resumed_step
        return self._world.share(lambda: last == step)

    def as_resumed(self, step: int) -> Saved | None:
        """The checkpoint this process began from, if nothing was trained since."""
        loaded = self._resumed
        if loaded is None or self._resumed_step != step:
            return None
        self.saver.snapshot()
        manifest = loaded.manifest
        size, kind = int(manifest["total_bytes"]), str(manifest["kind"])
        return Saved(step, loaded.path, loaded.manifest_sha256, size, kind)
