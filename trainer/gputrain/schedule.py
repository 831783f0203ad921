"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math

from gputrain.config import OptimConfig


def rate_share(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate, as a share of the peak, of the step after `step` finished ones of `total_steps`.

    ``cosine`` (Loshchilov and Hutter 2017) falls from the end of the warm-up on; ``wsd``, warm-up,
    stable, decay (Hu et al. 2024, MiniCPM), stays at the peak until the last `decay` share of the
    run and then falls linearly, so that a run can be prolonged from any checkpoint before it.
    """
    warmup = math.ceil(config.warmup * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay = max(1, round(config.decay * total_steps))
        share = min(1.0, max(0.0, (total_steps - step) / decay))
    return config.final_lr + (1 - config.final_lr) * share
