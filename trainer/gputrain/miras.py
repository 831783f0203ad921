"""Memories that learn while they read: MONETA, Yaad and Memora (MIRAS, arXiv 2504.13173).

Each head has a small network M whose weights are the state. For every token it takes a gradient step
on how badly M(key) recalls the value, forgets a little, and answers M(query):

    A_t = α_t A_{t-1} − η_t ∇ℓ(W; k_t, v_t),    W = read(A),    y_t = M_t(q_t)

=======  ======================================================  =================================
rule     error that is punished, e = M(k) − v                     W from the accumulator A
=======  ======================================================  =================================
moneta   ‖e‖_p^p                                                   A / max(‖A‖_q, 1)^(q−2)
yaad     ½‖e‖² up to δ_t, beyond that δ_t ‖e‖_1                     A
memora   ½‖e‖²                                                     softmax(A) over each row
=======  ======================================================  =================================

Gradients are taken at W as it was at the start of a chunk of tokens (section 5.3 of the paper), which
turns the recurrence inside a chunk into products of matrices. The length of a chunk changes the
function that is computed; it is a setting of the model, not of the machine.

As in the paper: M is a matrix or a residual MLP of two layers with expansion 4; short convolutions;
keys and queries of length 1; output norm and gate. Different: α and η are one number per head and
token, not per channel; ‖A‖_q is floored at 1, because for q = 4 a small A would give a huge W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gputrain.config import ModelConfig
from gputrain.kernels import rotate
from gputrain.layers import Linear, RMSNorm

STEEP = 10.0
"""Sign(x) is tanh(STEEP · x), as in the paper, so that it has a gradient."""
KERNEL = 4
"""Tokens that the short convolutions see."""
RANK = 32
"""Width of the bottleneck through which the rates are computed."""


@dataclass(frozen=True)
class Rule:
    """What is punished and how weights are read from the accumulator."""

    name: str
    p: float = 3.0
    q: float = 4.0

    def error_gradient(self, error: Tensor, threshold: Tensor) -> Tensor:
        """∂ℓ/∂M(k) for errors (…, tokens, dim); `threshold` (…, tokens, 1) is Yaad's δ."""
        if self.name == "moneta":
            size = (error.square() + 1e-6).pow((self.p - 1) / 2)
            return self.p * torch.tanh(STEEP * error) * size
        if self.name == "yaad":
            within = torch.linalg.vector_norm(error, dim=-1, keepdim=True) <= threshold
            return torch.where(within, error, threshold * torch.tanh(STEEP * error))
        return error

    def scale(self, accumulator: Tensor) -> Tensor | None:
        """The number per matrix by which a linear reading multiplies; None where reading is not linear."""
        if self.name == "memora":
            return None
        if self.name == "yaad":
            return torch.ones_like(accumulator[..., :1, :1])
        norm = accumulator.abs().pow(self.q).sum((-2, -1), keepdim=True).pow(1 / self.q)
        return norm.clamp_min(1.0).pow(2 - self.q)

    def read(self, accumulator: Tensor) -> Tensor:
        """W of an accumulator (…, out, in)."""
        scale = self.scale(accumulator)
        return accumulator.softmax(-1) if scale is None else accumulator * scale


@dataclass(frozen=True)
class Chunk:
    """Steps that were taken on one matrix within a chunk: those of token i are outer(out_i, in_i)."""

    rule: Rule
    accumulator: Tensor
    """At the start of the chunk: (…, out, in)."""
    outs: Tensor
    ins: Tensor
    decay: Tensor
    """log Π α up to and including each token: (…, tokens)."""
    rates: Tensor
    """η: (…, tokens)."""

    def apply(self, x: Tensor) -> Tensor:
        """W_t x_t for every token t of the chunk; the reading's scale is that of the chunk's start.

        Memora's reading is not linear: its whole chunk is answered from the start of the chunk.
        """
        scale = self.rule.scale(self.accumulator)
        if scale is None:
            return x @ self.rule.read(self.accumulator).mT
        since = (self.decay[..., :, None] - self.decay[..., None, :]).tril()
        weights = (since.exp() * self.rates[..., None, :]).tril()
        start = self.decay.exp()[..., None] * (x @ self.accumulator.mT)
        return scale * (start - (weights * (x @ self.ins.mT)) @ self.outs)

    def end(self) -> Tensor:
        """The accumulator after the chunk."""
        last = self.decay[..., -1:]
        weights = (last - self.decay).exp() * self.rates
        return last.exp()[..., None] * self.accumulator - (self.outs * weights[..., None]).mT @ self.ins


State = tuple[Tensor, ...]


def scan(
    rule: Rule,
    state: State,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Tensor,
    log_keep: Tensor,
    thresholds: Tensor,
    *,
    chunk: int,
    detach_every: int = 0,
) -> tuple[Tensor, State]:
    """Answers to the queries, and the state after the last token.

    q, k, v are (batch, heads, tokens, dim); rates, log_keep and thresholds (batch, heads, tokens) are
    η, log α and δ. `state` is one accumulator, or two for the MLP. With `detach_every` no gradient
    flows back over multiples of so many tokens, a multiple of `chunk`.
    """
    answers = []
    for begin in range(0, q.shape[2], chunk):
        if detach_every and begin and begin % detach_every == 0:
            state = tuple(matrix.detach() for matrix in state)
        here = slice(begin, begin + chunk)
        decay, rate, threshold = (
            log_keep[:, :, here].cumsum(-1),
            rates[:, :, here],
            thresholds[:, :, here, None],
        )
        step = _step_matrix if len(state) == 1 else _step_mlp
        answer, state = step(rule, state, q[:, :, here], k[:, :, here], v[:, :, here], decay, rate, threshold)
        answers.append(answer)
    return torch.cat(answers, dim=2), state


def _step_matrix(
    rule: Rule, state: State, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, threshold: Tensor
) -> tuple[Tensor, State]:
    """One chunk of a memory that is one matrix: M(x) = W x."""
    (accumulator,) = state
    recalled = k @ rule.read(accumulator).mT
    steps = Chunk(rule, accumulator, rule.error_gradient(recalled - v, threshold), k, decay, rate)
    return steps.apply(q), (steps.end(),)


def _step_mlp(
    rule: Rule, state: State, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, threshold: Tensor
) -> tuple[Tensor, State]:
    """One chunk of a memory of two layers: M(x) = x + norm(W₁ gelu(W₂ x))."""
    upper, lower = (rule.read(accumulator) for accumulator in state)
    inner = k @ lower.mT
    hidden = F.gelu(inner)
    normed, deviation = _norm(hidden @ upper.mT)
    grad = rule.error_gradient(k + normed - v, threshold)
    # Back through the norm, the upper layer and the GELU.
    grad = grad - grad.mean(-1, keepdim=True) - normed * (grad * normed).mean(-1, keepdim=True)
    grad_upper = grad / deviation
    grad_lower = (grad_upper @ upper) * _gelu_slope(inner)
    above = Chunk(rule, state[0], grad_upper, hidden, decay, rate)
    below = Chunk(rule, state[1], grad_lower, k, decay, rate)
    answer = q + _norm(above.apply(F.gelu(below.apply(q))))[0]
    return answer, (above.end(), below.end())


def _norm(x: Tensor) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 over the last dimension, and its standard deviation."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation, deviation


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


class ShortConv(nn.Module):
    """Each channel's weighted sum over the last `KERNEL` tokens; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.empty(KERNEL, 1, width))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Only the token itself."""
        self.taps.zero_()
        self.taps[-1] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        taps, tokens = self.taps.to(x.dtype), x.shape[1]
        padded = F.pad(x, (0, 0, KERNEL - 1, 0))
        out: Tensor = sum(padded[:, j : j + tokens] * taps[j] for j in range(KERNEL))  # type: ignore[assignment]
        return out


class MemoryMixer(nn.Module):
    """The block around the memory, for all three rules. The memory itself works in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, dim = config.heads, config.width // config.heads
        self.heads, self.dim = heads, dim
        self.rule = Rule(config.mixer, config.memory_p, config.memory_q)
        self.chunk, self.detach_every = config.memory_chunk, config.memory_detach
        self.q, self.k, self.v = (Linear(config.width, config.width) for _ in range(3))
        self.q_conv, self.k_conv, self.v_conv = (ShortConv(config.width) for _ in range(3))
        # η, α and Yaad's δ of each head.
        self.rates_in = nn.Parameter(torch.empty(RANK, config.width))
        self.rates_out = nn.Parameter(torch.empty(3 * heads, RANK))
        self.rates_bias = nn.Parameter(torch.empty(3, heads))
        shapes = [(dim, dim)] if config.memory == "matrix" else [(dim, 4 * dim), (4 * dim, dim)]
        self.starts = nn.ParameterList(nn.Parameter(torch.empty(heads, *shape)) for shape in shapes)
        self.norm = RMSNorm(dim, config.norm_eps)
        self.gate, self.o = Linear(config.width, config.width), Linear(config.width, config.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Keep nearly all (α ≈ 0.98), learn half (η ≈ 0.5); a matrix begins as the identity."""
        self.rates_in.normal_(std=0.02, generator=generator)
        self.rates_out.normal_(std=0.02, generator=generator)
        self.rates_bias.copy_(torch.tensor([0.0, 4.0, 1.0])[:, None].expand(3, self.heads))
        if len(self.starts) == 1:
            self.starts[0].copy_(torch.eye(self.dim).expand(self.heads, -1, -1))
            return
        for start in self.starts:
            start.normal_(std=start.shape[-1] ** -0.5, generator=generator)

    def _heads(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.view(batch, tokens, self.heads, self.dim).transpose(1, 2).to(wide)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k = (self._heads(conv(proj(x))) for conv, proj in ((self.q_conv, self.q), (self.k_conv, self.k)))
        v = self._heads(self.v_conv(self.v(x)))
        q, k = rotate(F.normalize(q, dim=-1), cos, sin), rotate(F.normalize(k, dim=-1), cos, sin)
        narrow = F.linear(F.linear(x, self.rates_in.to(x.dtype)), self.rates_out.to(x.dtype))
        raw = narrow.view(batch, tokens, 3, self.heads).to(v.dtype)
        eta, keep, delta = (raw + self.rates_bias).permute(2, 0, 3, 1)
        state = tuple(start.to(v.dtype).expand(batch, -1, -1, -1) for start in self.starts)
        answer, _ = scan(
            self.rule,
            state,
            q,
            k,
            v,
            eta.sigmoid(),
            F.logsigmoid(keep),
            F.softplus(delta),
            chunk=self.chunk,
            detach_every=self.detach_every,
        )
        y = self.norm(answer).transpose(1, 2).reshape(batch, tokens, width).to(x.dtype)
        out: Tensor = self.o(y * self.gate(x).sigmoid())
        return out
