"""What makes two runs the same run: settings that may not change on resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gputrain.config import Config, ModelConfig


def identity(config: Config, data_sha256: str, tokens_per_step: int) -> dict[str, Any]:
    """The settings that decide which function is learned from what, in which order."""
    return {
        **{f"model.{key}": value for key, value in asdict(config.model).items()},
        "data.sha256": data_sha256,
        "optim.name": config.optim.name,
        "train.seed": config.train.seed,
        "train.tokens_per_step": tokens_per_step,
    }


def compare_identity(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line per difference, "key: saved → now"; empty when they are the same."""
    # A checkpoint from before a setting existed was made with what is now its default.
    shapes = any(key.startswith("model.") for key in now)
    defaults = {f"model.{key}": value for key, value in asdict(ModelConfig()).items()} if shapes else {}
    before = defaults | dict(saved)
    keys = sorted(before.keys() | now)
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}"
        for key in keys
        if before.get(key) != now.get(key)
    ]
