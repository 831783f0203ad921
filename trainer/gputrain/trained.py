"""A trained model from a checkpoint, for everything but training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from gputrain.checkpoint import Loaded, load_kind, open_checkpoint
from gputrain.config import ModelConfig
from gputrain.errors import CheckpointError
from gputrain.model import GPT
from gputrain.resume import newest_of_run
from gputrain.slices import slices_of


def open_trained(source: Path) -> Loaded:
    """The checkpoint at `source`, or the newest one of the run there, with its hashes checked.

    Raises CheckpointError.
    """
    if not source.exists():
        raise CheckpointError(f"There is no checkpoint or run at {source}.")
    return open_checkpoint(newest_of_run(source))


def model_config(loaded: Loaded) -> ModelConfig:
    """The model's settings; those that are newer than the checkpoint have their defaults.

    Raises CheckpointError for a checkpoint that does not say them.
    """
    identity = loaded.state.get("identity", {})
    known = {field.name for field in fields(ModelConfig)}
    values = {k.removeprefix("model."): v for k, v in identity.items() if k.startswith("model.")}
    if "tune.stage" in identity:
        raise CheckpointError(
            f"{loaded.path} holds adapters, not a model: `gputrain export {loaded.path} --out DIR` puts them "
            "together with their base."
        )
    if not values.get("vocab") or not values.keys() <= known:
        raise CheckpointError(f"{loaded.path} does not describe a model that this gputrain knows.")
    return ModelConfig(**values)


def load_model(loaded: Loaded, dtype: torch.dtype = torch.float32, device: str = "cpu") -> GPT:
    """The model of a checkpoint with its weights, ready to be read from; activations in `dtype`."""
    with torch.device("meta"):
        model = GPT(model_config(loaded), dtype)
    model.to_empty(device="cpu")
    model.initialise(None)
    load_kind(loaded, "model", slices_of(dict(model.named_parameters())))
    return model.to(device).eval().requires_grad_(False)


def tokenizer_file(source: Path) -> Path | None:
    """The tokenizer.json that lies with a run or checkpoint."""
    places = [source / "tokenizer.json", source.parent.parent / "tokenizer.json"]
    return next((place for place in places if place.is_file()), None)
