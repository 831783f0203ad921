"""When to save: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

from gputrain.config import CheckpointConfig


@dataclass(frozen=True)
class SaveClock:
    """What the decision looks at. Durations in seconds of the monotonic clock."""

    step: int
    last_saved_step: int
    since_last_s: float
    """Since the last completed save, or since the start of this process."""
    trained_s: float
    """Training time accumulated over all processes of this run."""
    last_milestone_s: float
    """`trained_s` of the last milestone."""
    requested: bool = False
    """The daemon asked for a checkpoint."""


@dataclass(frozen=True)
class Due:
    """A checkpoint that should be made now."""

    kind: str
    exact: bool
    """Asked for at this very step: wait for a save in flight rather than postpone."""


def due(config: CheckpointConfig, clock: SaveClock) -> Due | None:
    """The checkpoint that is due after this step, or None."""
    if clock.step == clock.last_saved_step:
        return None
    exact = config.every_steps > 0 and clock.step % config.every_steps == 0
    if clock.trained_s - clock.last_milestone_s >= config.milestone_seconds > 0:
        return Due("milestone", exact)
    timed = config.every_seconds > 0 and clock.since_last_s >= config.every_seconds
    return Due("regular", exact) if timed or exact or clock.requested else None
