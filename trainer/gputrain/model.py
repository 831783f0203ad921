"""A decoder-only transformer: RMSNorm, RoPE, grouped-query attention, SwiGLU or ReLU².

Parameters are float32 and are cast to the dtype of the activations where they are used; that is
the whole precision policy (no autocast). Mixers and residual schemes are looked up by name, so a
new one is a function in a table and not a subclass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gputrain.config import ModelConfig
from gputrain.estimate import ffn_width, padded_vocab
from gputrain.kernels import attend, rotate
from gputrain.layers import Linear, RMSNorm
from gputrain.loss import chunked_cross_entropy
from gputrain.miras import MemoryMixer
from gputrain.residual import RESIDUALS


def rope_table(context: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al. 2021), half-split: two (context, head_dim/2)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(context, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


class KeyCache:
    """Keys and values of one layer for up to `context` tokens: (batch, kv_heads, tokens, head_dim)."""

    def __init__(self, context: int) -> None:
        self._context, self._length = context, 0
        self._kept: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of the next tokens; returns all."""
        if self._kept is None:
            batch, heads, _, dim = k.shape
            self._kept = (
                k.new_empty(batch, heads, self._context, dim),
                v.new_empty(batch, heads, self._context, dim),
            )
        end = self._length + k.shape[2]
        for kept, new in zip(self._kept, (k, v), strict=True):
            kept[:, :, self._length : end] = new
        self._length = end
        return self._kept[0][:, :, :end], self._kept[1][:, :, :end]


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.head_dim = config.width // config.heads
        self.dropout = config.dropout
        self.q = Linear(config.width, config.width)
        self.k = Linear(config.width, self.kv_heads * self.head_dim)
        self.v = Linear(config.width, self.kv_heads * self.head_dim)
        self.o = Linear(config.width, config.width)
        self.cache: KeyCache | None = None
        """Set while sampling: keys and values of the tokens before."""
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.cache is not None:
            k, v = self.cache.extend(k, v)
        if q.shape[2] == k.shape[2]:
            y = attend(q, k, v, self.dropout if self.training else 0.0)
        else:
            # One token after those in the cache: it sees them all.
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv_heads != self.heads)
        out: Tensor = self.o(y.transpose(1, 2).reshape(batch, tokens, width))
        return out


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020) or squared ReLU (So et al. 2021)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = ffn_width(config)
        self.gate = Linear(config.width, hidden) if config.mlp == "swiglu" else None
        self.up = Linear(config.width, hidden)
        self.down = Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        up: Tensor = self.up(x)
        hidden = F.relu(up).square() if self.gate is None else F.silu(self.gate(x)) * up
        out: Tensor = self.down(hidden)
        return out


MIXERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "attention": Attention,
    "moneta": MemoryMixer,
    "yaad": MemoryMixer,
    "memora": MemoryMixer,
}
"""Ways to mix tokens: ``mixer(x, cos, sin) -> y``, all (batch, tokens, width)."""


class Block(nn.Module):
    """One layer: mixer and MLP, each behind a norm and joined by the residual scheme."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.width, config.norm_eps)
        self.mixer = MIXERS[config.mixer](config)
        self.mixer_residual = RESIDUALS[config.residual](config)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_residual = RESIDUALS[config.residual](config)
        self.dropout = config.dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def mix(stream: Tensor) -> Tensor:
            return self._drop(self.mixer(self.mixer_norm(stream), cos, sin))

        def think(stream: Tensor) -> Tensor:
            return self._drop(self.mlp(self.mlp_norm(stream)))

        x = self.mixer_residual(x, mix)
        out: Tensor = self.mlp_residual(x, think)
        return out


@runtime_checkable
class SelfInitialised(Protocol):
    """A module that knows how its own parameters begin."""

    def initialise(self, generator: torch.Generator) -> None:
        """Fill them."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of every module."""


class GPT(nn.Module):
    """The whole model. `config.vocab` must be set; parameters are undefined until `initialise`."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, *, recompute: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.recompute = recompute
        """Keep only the inputs of blocks and compute the rest again in the backward pass."""
        self.embed = nn.Embedding(padded_vocab(config), config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        scheme = RESIDUALS[config.residual]
        # Functions rather than the class: the compiler follows calls of these without a break.
        self.enter, self.leave = scheme.enter, scheme.leave
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else Linear(config.width, padded_vocab(config))
        half = config.width // config.heads // 2
        self.register_buffer("cos", torch.empty(config.context, half), persistent=False)
        self.register_buffer("sin", torch.empty(config.context, half), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int | None) -> None:
        """Fill the rotation table, gains with 1 and matrices with Normal(0, 0.02) drawn from `seed`.

        Maps that write into the stream are scaled by 1/sqrt(2 layers) (Radford et al. 2019). Without
        a seed the matrices are left as they are.
        """
        config = self.config
        tables = rope_table(config.context, config.width // config.heads, config.rope_base)
        for buffer, table in zip((self.cos, self.sin), tables, strict=True):
            buffer.copy_(table)
        generator = torch.Generator().manual_seed(seed or 0)
        own = [m for m in self.modules() if m is not self and isinstance(m, SelfInitialised)]
        later = {id(p) for module in own for p in module.parameters(recurse=False)}
        for name, parameter in self.named_parameters():
            if id(parameter) in later:
                continue
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            elif seed is not None:
                writes = name.endswith(("mixer.o.weight", "mlp.down.weight"))
                scale = 1 / math.sqrt(2 * config.layers) if writes else 1.0
                parameter.normal_(std=0.02 * scale, generator=generator)
        for module in own:
            module.initialise(generator)

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into logits: (padded vocabulary, width)."""
        return self.embed.weight if self.head is None else self.head.weight

    def hidden(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Normalised hidden states (batch, tokens, width) of token ids (batch, tokens).

        `start` is the position of the first, above 0 only with caches (`gputrain.sampling`).
        """
        length = tokens.shape[1]
        x = self.enter(self.embed(tokens).to(self.dtype), self.config)
        cos, sin = self.cos[start : start + length], self.sin[start : start + length]
        for block in self.blocks:
            # The reentrant variant of checkpoint loses gradients behind frozen embeddings.
            again = self.recompute and self.training
            x = checkpoint(block, x, cos, sin, use_reentrant=False) if again else block(x, cos, sin)
        out: Tensor = self.norm(self.leave(x))
        return out

    def logits(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Logits (batch, tokens, vocabulary) in float32, without the padding rows."""
        out = F.linear(self.hidden(tokens, start), self.head_weight.to(self.dtype))
        return out[..., : self.config.vocab].float()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token."""
        hidden = self.hidden(tokens).flatten(0, 1)
        return chunked_cross_entropy(hidden, self.head_weight, targets.flatten(), self.config.vocab)
