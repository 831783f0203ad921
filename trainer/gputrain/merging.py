"""A base and its adapters put together: as weights, or as one adapter in the format of `peft`."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gputrain.bases import Base, find_adapters, find_base, read_adapter
from gputrain.checkpoint import Loaded, paths_of
from gputrain.config import ModelConfig
from gputrain.errors import CheckpointError, ConfigError, StorageError
from gputrain.export_hf import LAYER_NAMES, write_tensors
from gputrain.files import write_durable
from gputrain.lora import Adapter
from gputrain.slices import view_tensors
from gputrain.trained import model_config

BESIDE = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""Files of a Hugging Face model that go along unchanged."""


def is_tuned(loaded: Loaded) -> bool:
    """Whether a checkpoint holds adapters."""
    return "tune.stage" in loaded.state.get("identity", {})


def whole(loaded: Loaded, base: str = "", adapters: Sequence[str] = ()) -> tuple[Base, list[Adapter]]:
    """The base of a tuning run and all adapters, its own last.

    Where they lie is as the run's ``config.toml`` says, unless it is given. Raises ConfigError or
    CheckpointError when the base is not there or is another one.
    """
    try:
        settings = tomllib.loads((loaded.path.parent.parent / "config.toml").read_text())["tune"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        settings = {"base": "", "adapters": []}
    name = base or str(settings["base"])
    if not name:
        raise ConfigError(f"{loaded.path} holds adapters; give their base with --base.")
    try:
        found = find_base(name)
    except ConfigError as error:
        raise ConfigError(f"{error} The adapters need their base; say with --base where it is.") from error
    if found.sha256 != loaded.state["identity"]["tune.base_sha256"]:
        raise CheckpointError(f"The adapter {loaded.path} is for another base than {name}.")
    earlier = find_adapters(list(adapters) or list(settings["adapters"]), found)
    if len(earlier) != len(loaded.state["identity"]["tune.adapters"]):
        raise CheckpointError(
            f"{loaded.path} was trained on top of other adapters; give them with --adapter."
        )
    return found, [*earlier, read_adapter(loaded)]


@torch.no_grad()
def add_deltas(tensors: dict[str, Tensor], adapters: Sequence[Adapter]) -> set[str]:
    """Add the adapters to the matrices ``NAME.weight`` that are there; returns the names it found."""
    found = set()
    for name in {name for adapter in adapters for name in adapter.pairs}:
        weight = tensors.get(f"{name}.weight")
        if weight is None:
            continue
        # Summed in float32 and rounded once, whatever the dtype of the file.
        total = weight.float()
        for adapter in adapters:
            if name in adapter.pairs:
                total = total + adapter.delta(name)
        tensors[f"{name}.weight"] = total.to(weight.dtype)
        found.add(name)
    return found


def merged_own(base: Base, adapters: Sequence[Adapter]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A base of ours with its adapters: settings and parameters."""
    assert base.own is not None  # noqa: S101 - asked before
    tensors = view_tensors(paths_of(base.own, "model"))
    _all_found(add_deltas(tensors, adapters), adapters, base)
    return model_config(base.own), tensors


def write_merged(base: Base, adapters: Sequence[Adapter], out: Path) -> None:
    """A Hugging Face base with its adapters, file by file, so that one file at a time is in memory.

    Raises StorageError when the disk is too small, CheckpointError when names do not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(base.path.glob("*.safetensors"))
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(out).free
    if free < needed:
        raise StorageError(f"{out} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free.")
    found: set[str] = set()
    for path in files:
        tensors = view_tensors([path])
        found |= add_deltas(tensors, adapters)
        write_tensors(out / path.name, tensors)
    _all_found(found, adapters, base)
    for pattern in BESIDE:
        for path in base.path.glob(pattern):
            write_durable(out / path.name, path.read_bytes())


def _all_found(found: set[str], adapters: Sequence[Adapter], base: Base) -> None:
    missing = sorted({name for adapter in adapters for name in adapter.pairs} - found)
    if missing:
        raise CheckpointError(
            f"{base.path} has no matrix {missing[0]}.weight in its files ({len(missing)} in all): this architecture "
            "names them otherwise. Write the adapter with --adapter-only and merge it with peft."
        )


def one_adapter(adapters: Sequence[Adapter]) -> Adapter:
    """Several adapters as one: the sum of low-rank maps is a map of the summed rank."""
    names = sorted({name for adapter in adapters for name in adapter.pairs})
    ranks = [next(iter(adapter.pairs.values()))[0].shape[0] for adapter in adapters]
    pairs = {}
    for name in names:
        a, b = next(adapter.pairs[name] for adapter in adapters if name in adapter.pairs)
        parts = [
            adapter.pairs.get(name, (torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)))
            for adapter, rank in zip(adapters, ranks, strict=True)
        ]
        scaled = [adapter.scale * part[1] for adapter, part in zip(adapters, parts, strict=True)]
        pairs[name] = (torch.cat([part[0] for part in parts]), torch.cat(scaled, dim=1))
    return Adapter(pairs, 1.0)


def write_peft(base: Base, adapters: Sequence[Adapter], out: Path) -> None:
    """All adapters as one that `peft` reads, for the base (ours: as `gputrain export` writes it)."""
    joined = one_adapter(adapters)
    names = {name: hf_name(name) if base.own else name for name in joined.pairs}
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in joined.pairs.items():
        tensors[f"base_model.model.{names[name]}.lora_A.weight"] = a
        tensors[f"base_model.model.{names[name]}.lora_B.weight"] = b
    rank = next(iter(joined.pairs.values()))[0].shape[0]
    about: Mapping[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.path),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in names.values()}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "adapter_model.safetensors", tensors)
    write_durable(out / "adapter_config.json", (json.dumps(about, indent=1) + "\n").encode())


def hf_name(name: str) -> str:
    """A linear map of ours by Hugging Face's name. Raises ConfigError if it has none."""
    _, layer, rest = name.split(".", 2)
    if rest not in LAYER_NAMES:
        raise ConfigError(f"transformers has no map like {name}; this model cannot be exported to it.")
    return f"model.layers.{layer}.{LAYER_NAMES[rest]}"
