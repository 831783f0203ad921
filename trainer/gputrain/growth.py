"""Make a larger model from a trained one without changing what it computes.

Width, depth, vocabulary and MLP may grow. The rules (after Net2Net, arXiv 1511.05641, and LEMON,
2310.07999) for a network of RMSNorm, RoPE, grouped queries and a gated MLP:

- The size of a head stays; there are more heads. Rotation and score scale depend on it.
- With g₁ → g₂ query heads per key head, query head h becomes head (h div g₁) · g₂ + h mod g₁.
- The mean square of a vector that got zeros appended shrinks by d₁/d₂: gains of norms are multiplied
  by √(d₁/d₂) and their epsilon by d₁/d₂ (`grown_config`). Under QK-norm, whose vectors keep their
  size, the maps in front of it are multiplied by √(d₁/d₂) to go with the new epsilon.
- What writes into the new part of the stream, or is fed by new units, is zero; what reads from it is
  random. All zeros would be exact too, but most of the new parameters would never get a gradient.
- New layers end in zero maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gputrain.config import ModelConfig
from gputrain.errors import ConfigError
from gputrain.estimate import ffn_width
from gputrain.order import derive_seed

STD = 0.02
APART = -30.0
"""Logit that keeps the streams of a new layer's hyper-connection from mixing: e^-30 is below rounding."""


def kv_heads(model: ModelConfig) -> int:
    """Key heads."""
    return model.kv_heads or model.heads


def grown_config(old: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """The configuration of the grown model: `wanted` with the epsilon that growth asks for.

    Raises ConfigError naming everything that cannot be grown from `old`.
    """
    same = ("mixer", "residual", "mlp", "qk_norm", "rope_base", "mhc_streams", "mhc_iterations")
    pairs = [(key, getattr(old, key), getattr(wanted, key)) for key in same]
    wrong = [f"model.{key} must stay {a!r}, not {b!r}" for key, a, b in pairs if a != b]
    if old.mixer != "attention":
        wrong.append(f"models with the mixer {old.mixer} cannot be grown")
    if wanted.tied and not old.tied:
        wrong.append("model.tied must stay false")
    if old.width // old.heads != wanted.width // wanted.heads:
        wrong.append(
            f"the size of a head must stay {old.width // old.heads}, not {wanted.width // wanted.heads}: "
            f"give {wanted.width * old.heads // old.width} heads for width {wanted.width}"
        )
    sizes = {
        "width": (old.width, wanted.width),
        "layers": (old.layers, wanted.layers),
        "vocab": (old.vocab, wanted.vocab),
        "kv_heads": (kv_heads(old), kv_heads(wanted)),
        "ffn": (ffn_width(old), ffn_width(wanted)),
        "heads per key head": (old.heads // kv_heads(old), wanted.heads // kv_heads(wanted)),
    }
    wrong += [f"model.{key} must not shrink from {a} to {b}" for key, (a, b) in sizes.items() if b < a]
    if wrong:
        raise ConfigError("This model cannot be grown into that one:\n  " + "\n  ".join(wrong))
    return replace(wanted, norm_eps=old.norm_eps * old.width / wanted.width)


@dataclass(frozen=True)
class Placement:
    """Where a tensor's old values go in the new one, how they are scaled, and what the rest is."""

    index: tuple[Tensor, ...]
    """For each dimension, the new place of each old index."""
    scale: float = 1.0
    std: float = 0.0
    """Deviation of the new values; 0 makes them `fill`."""
    fill: float = 0.0


class Growth:
    """The map from the parameters of one model to those of a larger one."""

    def __init__(self, old: ModelConfig, new: ModelConfig, seed: int = 0) -> None:
        self.old, self.new, self.seed = old, new, seed
        self.shrink = math.sqrt(old.width / new.width)
        dim = old.width // old.heads
        before, after = old.heads // kv_heads(old), new.heads // kv_heads(new)
        heads = torch.arange(old.heads)
        places = heads // before * after + heads % before
        self.width = torch.arange(old.width)
        self.queries = (places[:, None] * dim + torch.arange(dim)).flatten()
        self.keys = torch.arange(kv_heads(old) * dim)
        self.units = torch.arange(ffn_width(old))
        self.words = torch.arange(old.vocab)

    def placement(self, name: str) -> Placement:
        """The rule for a parameter of the old model."""
        kind = name.split(".", 2)[-1] if name.startswith("blocks.") else name
        heads_scale = self.shrink if self.old.qk_norm else 1.0
        if kind in ("mixer_norm.weight", "mlp_norm.weight", "norm.weight"):
            return Placement((self.width,), self.shrink, fill=self.shrink)
        n = self.old.mhc_streams
        streams = (torch.arange(n)[:, None] * self.new.width + self.width).flatten()
        rules = {
            "embed.weight": Placement((self.words, self.width)),
            "head.weight": Placement((self.words, self.width), std=STD),
            "mixer.q.weight": Placement((self.queries, self.width), heads_scale, std=STD),
            "mixer.k.weight": Placement((self.keys, self.width), heads_scale, std=STD),
            "mixer.v.weight": Placement((self.keys, self.width), std=STD),
            "mixer.o.weight": Placement((self.width, self.queries)),
            "mlp.gate.weight": Placement((self.units, self.width), std=STD),
            "mlp.up.weight": Placement((self.units, self.width), std=STD),
            "mlp.down.weight": Placement((self.width, self.units)),
            "phi": Placement((torch.arange(2 * n + n * n), streams), self.shrink, std=STD),
        }
        return rules.get(kind.removeprefix("mixer_residual.").removeprefix("mlp_residual."), Placement(()))

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, *name.encode()))

    @torch.no_grad()
    def parameter(self, name: str, old: Tensor, out: Tensor) -> None:
        """Fill `out`, a parameter of the new model, from the old one of the same name."""
        rule = self.placement(name)
        if rule.std:
            out.copy_(torch.randn(out.shape, generator=self._generator(name)) * rule.std)
        else:
            out.fill_(rule.fill)
        if name == "embed.weight" and self.new.vocab > self.old.vocab:
            new_words = out[self.old.vocab :, : self.old.width]
            new_words.copy_(torch.randn(new_words.shape, generator=self._generator(name)) * STD)
        self._place(rule, old * rule.scale, out)

    @torch.no_grad()
    def state(self, kind: str, name: str, old: Tensor, out: Tensor) -> None:
        """Fill `out`, a tensor of the new optimiser; what was never trained has no history."""
        if old.dim() == 0:
            out.copy_(old)
            return
        rule = self.placement(name)
        # A parameter that is c times as large has gradients 1/c as large.
        power = 2 if kind == "exp_avg_sq" else 1
        out.zero_()
        self._place(rule, old / rule.scale**power, out)

    def _place(self, rule: Placement, old: Tensor, out: Tensor) -> None:
        if not rule.index:
            out.copy_(old)
            return
        rows = old[: len(rule.index[0])]
        if len(rule.index) == 1:
            out[rule.index[0]] = rows.to(out.dtype)
        else:
            out[rule.index[0][:, None], rule.index[1]] = rows.to(out.dtype)

    @torch.no_grad()
    def fresh(self, name: str, out: Tensor) -> None:
        """Fill a parameter of a layer that the old model does not have, so that it changes nothing."""
        if name.endswith(("mixer.o.weight", "mlp.down.weight")):
            out.zero_()
        elif name.endswith("_residual.alpha"):
            out.fill_(self.new.mhc_alpha)
        elif name.endswith("_residual.bias"):
            n = self.new.mhc_streams
            out.zero_()
            out[2 * n :] = (APART * (1 - torch.eye(n))).flatten()
        elif out.dim() < 2:
            out.fill_(1.0)
        else:
            out.copy_(torch.randn(out.shape, generator=self._generator(name)) * STD)


def untie(parameters: Mapping[str, Tensor], new: ModelConfig) -> dict[str, Tensor]:
    """The old parameters, with a head of its own where the new model has one and the old one not."""
    if new.tied or "head.weight" in parameters:
        return dict(parameters)
    return {**parameters, "head.weight": parameters["embed.weight"]}


def grow_parameters(
    old: Mapping[str, Tensor],
    old_config: ModelConfig,
    new_config: ModelConfig,
    out: Mapping[str, Tensor],
    seed: int = 0,
) -> None:
    """Fill the parameters `out` of the new model; `new_config` comes from `grown_config`."""
    growth, source = Growth(old_config, new_config, seed), untie(old, new_config)
    for name, target in out.items():
        if name in source:
            growth.parameter(name, source[name], target)
        else:
            growth.fresh(name, target)
