"""Low-rank adapters (LoRA, arXiv 2106.09685): W' = W + (alpha / rank) · B · A, with W frozen.

A begins random and B with zeros, so that a new adapter changes nothing, to the bit. One
implementation serves our models and those of `transformers`: what is adapted is a linear map.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gputrain.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Adapter:
    """The matrices of one tuning run: ``{"blocks.0.mixer.q": (A, B)}`` and their scale."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scale: float

    def delta(self, name: str) -> Tensor:
        """What the adapter adds to the map `name`: (outputs, inputs), float32."""
        a, b = self.pairs[name]
        return self.scale * (b.float() @ a.float())


class LoraLinear(nn.Module):
    """A frozen linear map, adapters that are finished, and one that is trained."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale, self.dropout = alpha / rank, dropout
        self.earlier: list[tuple[Tensor, Tensor, float]] = []
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for a, b, scale in self.earlier:
            y = _added(y, x, a, b, scale)
        if self.on:
            inputs = F.dropout(x, self.dropout, self.training) if self.dropout else x
            y = _added(y, inputs, self.lora_a, self.lora_b, self.scale)
        return y


def _added(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """y + scale · x Aᵀ Bᵀ."""
    inner = F.linear(x, a.to(x.dtype))
    flat = torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), b.to(x.dtype).t(), alpha=scale)
    return flat.view_as(y)


def attach(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    head: nn.Module | None,
) -> dict[str, LoraLinear]:
    """Freeze `model` and put an adapter on its linear maps, but not on `head`; returns them by name.

    Raises ConfigError when there is none, or when one of `targets` names none.
    """
    model.requires_grad_(False)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    for target in targets:
        if not any(name.rsplit(".", 1)[-1] == target for name in linear):
            known = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ConfigError(
                f"tune.targets: the base has no linear map {target!r}; it has {', '.join(known)}."
            )
    chosen = {n: m for n, m in linear.items() if not targets or n.rsplit(".", 1)[-1] in targets}
    if not chosen:
        raise ConfigError(f"{type(model).__name__} has no linear maps that adapters could be put on.")
    adapted = {}
    for name, base in sorted(chosen.items()):
        parent, _, leaf = name.rpartition(".")
        adapted[name] = LoraLinear(base, rank, alpha, dropout).to(base.weight.device)
        setattr(model.get_submodule(parent), leaf, adapted[name])
    return adapted


@torch.no_grad()
def start_from(adapted: Mapping[str, LoraLinear], seed: int) -> None:
    """A uniform within ±1/√inputs (as a linear layer begins), B zero."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(adapted):
        layer = adapted[name]
        bound = 1 / math.sqrt(layer.lora_a.shape[1])
        layer.lora_a.copy_(torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator))
        layer.lora_b.zero_()


def put_before(adapted: Mapping[str, LoraLinear], adapter: Adapter) -> None:
    """Make a finished adapter part of the frozen base. Raises CheckpointError if it does not fit."""
    for name, (a, b) in adapter.pairs.items():
        layer = adapted.get(name)
        if layer is None or a.shape[1] != layer.base.in_features or b.shape[0] != layer.base.out_features:
            raise CheckpointError(f"The adapter is for another base: {name} does not fit.")
        device = layer.lora_a.device
        layer.earlier.append((a.to(device), b.to(device), adapter.scale))


@contextlib.contextmanager
def without(adapted: Mapping[str, LoraLinear]) -> Iterator[None]:
    """The model as it was before the adapter that is being trained."""
    for layer in adapted.values():
        layer.on = False
    try:
        yield
    finally:
        for layer in adapted.values():
            layer.on = True


def as_adapter(tensors: Mapping[str, Tensor], scale: float) -> Adapter:
    """An adapter from the tensors of a checkpoint. Raises CheckpointError if they are no pairs."""
    names = sorted({name.rpartition(".")[0] for name in tensors})
    try:
        return Adapter({n: (tensors[f"{n}.lora_a"], tensors[f"{n}.lora_b"]) for n in names}, scale)
    except KeyError as error:
        raise CheckpointError(f"The adapter is incomplete: {error} is missing.") from error
