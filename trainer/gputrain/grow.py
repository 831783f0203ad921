"""`gputrain grow`: a checkpoint of a larger model that computes what the smaller one does."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gputrain.checkpoint import MANIFEST, Loaded, make_manifest, open_checkpoint, paths_of
from gputrain.config import ModelConfig
from gputrain.errors import ConfigError, StorageError
from gputrain.estimate import count_parameters
from gputrain.files import fsync_dir, to_json, write_durable
from gputrain.growth import Growth, grow_parameters, grown_config
from gputrain.model import GPT
from gputrain.saver import block_of_memory
from gputrain.slices import DTYPE_NAME, DTYPE_OF, view_tensors
from gputrain.tensorfile import BLOCK, FileHash, encode_header, hash_bytes, plan_layout, write_hashed
from gputrain.trained import load_model, model_config, open_trained

LIMIT = 1e-4
"""Largest difference in logits and loss between the two models, in float32."""


@dataclass(frozen=True)
class Grown:
    """What came of it."""

    path: Path
    config: ModelConfig
    parameters: tuple[int, int]
    """Before and after."""
    logit_difference: float
    """Largest absolute difference over the old vocabulary."""
    loss_difference: float
    """In nats per token, over the old vocabulary."""


def grow(source: Path, wanted: Callable[[ModelConfig], ModelConfig], out: Path, seed: int = 0) -> Grown:
    """Write the grown checkpoint to the new directory `out`, optimiser and progress included.

    `wanted` says what the model of `source` should become. Raises ConfigError when that cannot be, or
    when the two models disagree; CheckpointError when `source` is damaged; StorageError when the disk
    is too small.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; growing writes a new directory.")
    loaded = open_trained(source)
    old = model_config(loaded)
    new = grown_config(old, wanted(old))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        _write(loaded, old, new, temporary, seed)
        differences = _compare(loaded, open_checkpoint(temporary))
        if max(differences) > LIMIT:
            raise ConfigError(
                f"The grown model differs: logits by {differences[0]:.1e}, loss by {differences[1]:.1e} "
                f"(limit {LIMIT:.0e}). Nothing was written; this is a defect, please report the two shapes."
            )
        temporary.rename(out)
        fsync_dir(out.parent)
    except OSError as error:
        raise StorageError(
            f"Cannot write {out}: {error.strerror}. Make room, or give another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = (count_parameters(old).total, count_parameters(new).total)
    return Grown(out, new, counts, *differences)


def _write(loaded: Loaded, old: ModelConfig, new: ModelConfig, directory: Path, seed: int) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in GPT(new).named_parameters()}
    growth = Growth(old, new, seed)
    weights = view_tensors(paths_of(loaded, "model"))
    history = view_tensors(paths_of(loaded, "optim"))
    run_id = uuid.uuid4().hex
    metadata = {"format": "pt", "step": str(loaded.state["step"]), "run_id": run_id}

    def model_file(out: Mapping[str, Tensor]) -> None:
        grow_parameters(weights, old, new, out, seed)

    def optim_file(out: Mapping[str, Tensor]) -> None:
        for full, target in out.items():
            kind, _, name = full.partition("/")
            if full in history:
                growth.state(kind, name, history[full], target)
            else:
                target.zero_()

    dtype = next(iter(weights.values())).dtype
    model_shapes = {name: (DTYPE_NAME[dtype], shape) for name, shape in shapes.items()}
    files = [
        _write_tensors(directory / "model.safetensors", model_shapes, metadata, model_file),
        _write_tensors(directory / "optim.safetensors", optim_shapes(history, shapes), metadata, optim_file),
    ]
    identity = {**loaded.state["identity"], **{f"model.{k}": v for k, v in asdict(new).items()}}
    state = to_json(
        {**loaded.state, "run_id": run_id, "identity": identity, "grown_from": loaded.manifest_sha256}
    )
    write_durable(directory / "state.json", state)
    named = [*zip(("model.safetensors", "optim.safetensors"), files, strict=True)]
    named.append(("state.json", hash_bytes(state)))
    kept = ("wall_s", "world_size", "config_sha256", "data_sha256", "val")
    facts = {key: loaded.manifest.get(key) for key in kept}
    step, tokens = int(loaded.state["step"]), int(loaded.state["tokens"])
    manifest = make_manifest(run_id, step, tokens, "grown", named, facts, created=time.time())
    write_durable(directory / MANIFEST, manifest)
    fsync_dir(directory)


def optim_shapes(
    history: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, types and shapes of the grown optimiser's tensors.

    A layer that is new is kept like the first one, a head that is new like the embedding.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        like = ".".join(["blocks", "0", *parts[2:]]) if parts[0] == "blocks" else name
        if not any(key.endswith(f"/{like}") for key in history):
            like = "embed.weight"
        for key, tensor in history.items():
            kind, _, of = key.partition("/")
            if of == like:
                found[f"{kind}/{name}"] = (DTYPE_NAME[tensor.dtype], shape if tensor.dim() else ())
    return found


def _write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    fill: Callable[[Mapping[str, Tensor]], None],
) -> FileHash:
    """Fill new tensors in the memory that is then written, so that they exist once."""
    entries = plan_layout((name, dtype, shape) for name, (dtype, shape) in shapes.items())
    memory = block_of_memory(entries[-1].end if entries else 0, pin=False)
    fill({e.name: memory[e.begin : e.end].view(DTYPE_OF[e.dtype]).view(e.shape) for e in entries})
    return write_hashed(path, encode_header(entries, metadata, align=BLOCK), memory.numpy().data)


@torch.no_grad()
def _compare(before: Loaded, after: Loaded) -> tuple[float, float]:
    """Largest difference of logits, and difference of loss, on a fixed batch of old tokens."""
    old = model_config(before)
    length = min(128, old.context)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(old.vocab, (2, length), generator=generator)
    # One model at a time: the larger one may be most of the memory.
    first = load_model(before).logits(tokens)
    second = load_model(after).logits(tokens)[..., : old.vocab]
    losses = [float(cross_entropy(x[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())) for x in (first, second)]
    return float((first - second).abs().max()), abs(losses[0] - losses[1])


def as_text(grown: Grown) -> str:
    """The result for a person, with the command that goes on."""
    before, after = grown.parameters
    changed = {k: v for k, v in asdict(grown.config).items() if v != getattr(ModelConfig(), k)}
    settings = " ".join(
        f"--set model.{key}={json.dumps(value).strip(chr(34))}" for key, value in changed.items()
    )
    return (
        f"{grown.path}: {before / 1e6:,.1f} M parameters have become {after / 1e6:,.1f} M\n"
        f"largest difference of logits {grown.logit_difference:.1e}, of loss {grown.loss_difference:.1e}\n"
        f"weights into a new run:  gputrain train --out NEW --set train.init={grown.path} {settings}\n"
        f"go on with the same data, optimiser and step:  … --resume {grown.path} instead of train.init"
    )
