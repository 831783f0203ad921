"""What to do with a step that went wrong: a pure decision."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace

from gputrain.config import OptimConfig

MEMORY = 0.98
"""Decay of the running mean of the gradient norm."""
SETTLED = 50
"""Good steps before a norm can be called a spike."""


class Verdict(enum.Enum):
    """What the loop does with the gradients it has."""

    UPDATE = "update"
    SKIP = "skip"
    ROLL_BACK = "roll back"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Guard:
    """What is remembered between steps; part of the checkpoint."""

    mean_norm: float = 0.0
    good_steps: int = 0
    bad_in_a_row: int = 0
    rollbacks: int = 0


def judge(guard: Guard, config: OptimConfig, loss: float, norm: float) -> tuple[Verdict, Guard]:
    """Judge a step by its loss (nats) and gradient norm before it is applied.

    A non-finite value or a spike skips the step; `patience` bad steps in a row roll back to the last
    checkpoint, and after `max_rollbacks` of those the run has diverged.
    """
    finite = math.isfinite(loss) and math.isfinite(norm)
    spike = guard.good_steps >= SETTLED and norm > config.spike * guard.mean_norm > 0
    if finite and not spike:
        weight = max(1 - MEMORY, 1 / (guard.good_steps + 1))
        mean = guard.mean_norm + weight * (norm - guard.mean_norm)
        return Verdict.UPDATE, replace(guard, mean_norm=mean, good_steps=guard.good_steps + 1, bad_in_a_row=0)
    bad = guard.bad_in_a_row + 1
    if bad < config.patience:
        return Verdict.SKIP, replace(guard, bad_in_a_row=bad)
    if guard.rollbacks < config.max_rollbacks:
        return Verdict.ROLL_BACK, replace(guard, bad_in_a_row=0, rollbacks=guard.rollbacks + 1)
    return Verdict.GIVE_UP, replace(guard, bad_in_a_row=bad)
