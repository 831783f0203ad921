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


def due(config: CheckpointConfig, clock: SaveClock) -> str | None:
    """The kind of checkpoint that is due after this step, or None."""
    if clock.step == clock.last_saved_step:
        return None
    if clock.trained_s - clock.last_milestone_s >= config.milestone_seconds > 0:
        return "milestone"
    timed = config.every_seconds > 0 and clock.since_last_s >= config.every_seconds
    stepped = config.every_steps > 0 and clock.step % config.every_steps == 0
    return "regular" if timed or stepped or clock.requested else None
