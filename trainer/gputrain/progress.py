"""Where a run is and how long it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gputrain.config import Config
from gputrain.errors import CheckpointError, ConfigError
from gputrain.guard import Guard, Verdict


@dataclass
class Progress:
    """What changes with every step besides tensors; all of it is saved."""

    step: int = 0
    next_sample: int = 0
    """First sample that was not read yet: the whole state of the data."""
    trained_s: float = 0.0
    """Training time of all processes of this run so far, in seconds."""
    last_milestone_s: float = 0.0
    best_val: float | None = None
    guard: Guard = field(default_factory=Guard)


def restore_progress(state: dict[str, Any]) -> Progress:
    """Progress from `state.json`. Raises CheckpointError if it is not all there."""
    try:
        saved = dict(state["progress"])
        return Progress(**{**saved, "guard": Guard(**saved["guard"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"state.json of the checkpoint is incomplete: {error}.") from error


@dataclass(frozen=True)
class StepResult:
    """One step as it was measured and judged."""

    loss: float
    norm: float
    rate: float
    verdict: Verdict
    guard: Guard
    save_kind: str = ""
    """The checkpoint that the leader wants after this step; empty for none."""
    stop: bool = False
    """Whether any process was asked to stop."""


@dataclass(frozen=True)
class Plan:
    """Lengths that follow from configuration, data and number of processes."""

    windows_per_step: int
    windows_per_process: int
    micro_batches: int
    total_steps: int
    tokens_per_step: int


def make_plan(config: Config, windows_per_epoch: int, world_size: int = 1) -> Plan:
    """Turn tokens, epochs and batch sizes into steps. Raises ConfigError if they do not divide."""
    context, batch = config.model.context, config.train.batch_size
    unit = batch * world_size * context
    tokens = config.train.tokens_per_step or unit
    if tokens % unit:
        raise ConfigError(
            f"train.tokens_per_step ({tokens}) must be a multiple of batch_size × processes × context = "
            f"{batch} × {world_size} × {context}; the nearest is {max(1, round(tokens / unit)) * unit}."
        )
    windows = tokens // context
    steps = config.train.steps
    if not steps and config.train.tokens:
        steps = math.ceil(config.train.tokens / tokens)
    if not steps:
        steps = max(1, int(config.train.epochs * windows_per_epoch) // windows)
    return Plan(windows, windows // world_size, windows // (batch * world_size), steps, tokens)
