"""A tiny run, ways to start it, and readers of what it leaves."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gputrain.sharding import ShardWriter, TokenForm, write_shards
from gputrain.tokenizer import ByteTokenizer

TINY: dict[str, object] = {
    "model.layers": 2,
    "model.width": 32,
    "model.heads": 4,
    "model.kv_heads": 2,
    "model.context": 32,
    "train.steps": 20,
    "train.batch_size": 2,
    "train.tokens_per_step": 128,
    "train.log_every": 1,
    "train.eval_windows": 4,
    "optim.lr": 3e-3,
    "system.threads": 1,
    "system.device": "cpu",
    "checkpoint.min_free_bytes": 0,
}
"""A model of a few thousand parameters, 20 steps of 2 micro-batches."""


def set_options(values: Mapping[str, object]) -> list[str]:
    """The values as ``--set`` options."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def start(
    out: Path, values: Mapping[str, object], *extra: str, limits: Mapping[int, int] | None = None
) -> subprocess.Popen[str]:
    """Start ``gputrain train`` in a process of its own, with resource limits if given."""

    def limit() -> None:
        for number, soft in (limits or {}).items():
            resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))

    command = [sys.executable, "-W", "error", "-m", "gputrain", "train", "--out", str(out)]
    return subprocess.Popen(
        [*command, *set_options(values), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit if limits else None,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def done(out: Path) -> dict[str, Any]:
    """The verdict of a finished run."""
    verdict: dict[str, Any] = json.loads((out / "DONE.json").read_text())
    return verdict


def losses(out: Path) -> dict[int, float]:
    """Loss by step; a step that was repeated after a restart counts once, the later value."""
    return {record["step"]: record["loss"] for record in lines(out / "metrics.jsonl")}


def byte_shards(
    documents: Sequence[str], out: Path, *, val_ratio: float = 0.1, tokens: int = 5000
) -> dict[str, Any]:
    """Documents as byte shards in `out`; returns the manifest."""
    writer = ShardWriter(out, TokenForm(ByteTokenizer(), tokens), val_ratio=val_ratio)
    return write_shards(lambda skip: iter(documents[skip:]), writer)
