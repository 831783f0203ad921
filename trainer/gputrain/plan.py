"""`gputrain plan`: what a profile needs and costs on a GPU, before any is rented."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from gputrain.config import Config
from gputrain.estimate import (
    checkpoint_bytes,
    count_parameters,
    disk_bytes,
    expected_mfu,
    flops_per_token,
    largest_batch,
    step_memory,
)
from gputrain.hardware import GPU

GB = 1e9


@dataclass(frozen=True)
class Forecast:
    """Numbers of a run on one kind of GPU."""

    parameters: int
    fits: bool
    largest_batch: int
    """Windows per micro-batch that fit one GPU."""
    memory_bytes: int
    """At that batch, or at one window if nothing fits."""
    tokens_per_second: float
    mfu: float
    tokens_in_hours: float
    hours_for_run: float | None
    checkpoint_bytes: int
    disk_bytes: int
    usd_per_billion_tokens: float | None


def forecast(config: Config, gpu: GPU, count: int, hours: float, usd_per_hour: float | None) -> Forecast:
    """What to expect of `count` cards for `hours`, at `usd_per_hour` for all of them together."""
    shards = count if config.system.parallel == "fsdp" else 1
    parameters = count_parameters(config.model).total
    batch = largest_batch(config, gpu.memory_bytes, shards=shards)
    mfu = expected_mfu(parameters) * (0.75 if config.system.recompute else 1.0)
    speed = gpu.peak_flops * count * mfu / flops_per_token(config.model)
    return Forecast(
        parameters=parameters,
        fits=batch >= 1,
        largest_batch=batch,
        memory_bytes=step_memory(config, max(1, batch), shards=shards).total,
        tokens_per_second=speed,
        mfu=mfu,
        tokens_in_hours=speed * hours * 3600,
        hours_for_run=config.train.tokens / speed / 3600 if config.train.tokens else None,
        checkpoint_bytes=checkpoint_bytes(config),
        disk_bytes=disk_bytes(config, hours),
        usd_per_billion_tokens=usd_per_hour * 1e9 / speed / 3600 if usd_per_hour is not None else None,
    )


def render(config: Config, gpu: GPU, count: int, hours: float, found: Forecast) -> str:
    """The forecast as text for a person."""
    model = config.model
    shape = f"{model.layers} layers × {model.width}, context {model.context}, vocabulary {model.vocab}"
    lines = [
        f"model       {found.parameters / 1e6:,.1f} M parameters: {shape}, {config.optim.name}",
        f"GPU         {count} × {gpu.name}, {gpu.memory_bytes >> 30} GiB, {gpu.peak_flops / 1e12:,.0f} TFLOP/s bf16 dense",
    ]
    if found.fits:
        lines.append(
            f"memory      fits: {found.largest_batch} windows per micro-batch, {found.memory_bytes / GB:,.1f} GB"
        )
    else:
        again = largest_batch(
            replace(config, system=replace(config.system, recompute=True)), gpu.memory_bytes
        )
        hint = "--set system.recompute=true would" if again else "shard it (--gpus N, system.parallel=fsdp)"
        lines.append(f"memory      does not fit: one window needs {found.memory_bytes / GB:,.1f} GB; {hint}")
    each = found.tokens_in_hours / found.parameters
    lines += [
        f"speed       about {found.tokens_per_second:,.0f} tokens/s, if {found.mfu:.0%} of peak is reached (an expectation)",
        f"{f'in {hours:g} h':<12}{found.tokens_in_hours / 1e9:,.2f} billion tokens, {each:,.1f} per parameter (20: optimal)",
    ]
    if found.hours_for_run is not None:
        lines.append(
            f"whole run   {config.train.tokens / 1e9:,.2f} billion tokens in {found.hours_for_run:,.1f} h"
        )
    if found.usd_per_billion_tokens is None:
        lines.append("cost        give --price USD_PER_HOUR for the cost per billion tokens")
    else:
        lines.append(f"cost        {found.usd_per_billion_tokens:,.2f} USD per billion tokens")
    lines.append(f"host RAM    {found.checkpoint_bytes / GB:,.1f} GB pinned for snapshots, beside the usual")
    policy = config.checkpoint
    lines.append(
        f"disk        {math.ceil(found.disk_bytes / GB)} GB for checkpoints of {found.checkpoint_bytes / GB:,.2f} GB "
        f"(last {policy.keep_last} + {policy.keep_milestones} milestones), and the data"
    )
    return "\n".join(lines)


def as_json(found: Forecast) -> str:
    """The forecast for programs."""
    return json.dumps(found.__dict__)
