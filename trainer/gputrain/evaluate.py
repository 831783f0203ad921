"""Loss on held-out text."""

from __future__ import annotations

import math

import torch

from gputrain.data import Windows, as_batch
from gputrain.model import GPT
from gputrain.world import World


@torch.no_grad()
def held_out_loss(model: GPT, windows: Windows, limit: int, batch_size: int, world: World) -> float | None:
    """Mean loss in nats per token over the first `limit` windows; None if they fill no batch.

    Every process takes its share and gets the same result.
    """
    # Whole batches only: a last smaller one would be compiled for itself.
    batches = min(limit, len(windows)) // batch_size
    if batches == 0:
        return None
    model.eval()
    total = 0.0
    # Sharded processes must run the same number of batches; the surplus ones count nothing.
    for turn in range(-(-batches // world.size)):
        batch = turn * world.size + world.rank
        first = min(batch, batches - 1) * batch_size
        inputs, targets = as_batch([windows.read(i) for i in range(first, first + batch_size)])
        loss = model(inputs.to(world.device), targets.to(world.device))
        total += float(loss) if batch < batches else 0.0
    model.train()
    (total,) = world.sum([total])
    return total / batches


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """A loss that does not depend on the tokenizer."""
    return nats_per_token / math.log(2) / bytes_per_token
