"""How a branch joins the stream that runs through the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gputrain.config import ModelConfig

TINY = 1e-20
"""Epsilon of the paper's norm."""

Branch = Callable[[Tensor], Tensor]


class Residual(Protocol):
    """A residual scheme: a module per sublayer, ``residual(stream, branch) -> stream``."""

    def __init__(self, config: ModelConfig) -> None:
        """The module of one sublayer."""

    def __call__(self, x: Tensor, branch: Branch) -> Tensor:
        """The stream after a sublayer."""

    @staticmethod
    def enter(x: Tensor, config: ModelConfig) -> Tensor:
        """The stream that begins with embeddings (batch, tokens, width)."""

    @staticmethod
    def leave(stream: Tensor) -> Tensor:
        """What the head reads of the last stream: (batch, tokens, width)."""


class PlainResidual(nn.Module):
    """x + branch(x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    @staticmethod
    def enter(x: Tensor, config: ModelConfig) -> Tensor:
        return x

    @staticmethod
    def leave(stream: Tensor) -> Tensor:
        return stream

    def forward(self, x: Tensor, branch: Branch) -> Tensor:
        return x + branch(x)


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """exp(logits) with columns and rows normalised in turn: (n, n, …), approximately doubly stochastic.

    Rows (dimension 1 sums) are normalised last and add up to 1; columns do so in the limit. Matrices
    are the first two dimensions, so that the many tokens lie side by side.
    """
    start = (logits - logits.amax(dim=(0, 1), keepdim=True)).exp()
    if torch.compiler.is_compiling():
        return _rounds(start, iterations)[-1][0]
    out: Tensor = Normalised.apply(start, iterations)  # type: ignore[no-untyped-call]
    return out


def _rounds(matrix: Tensor, iterations: int) -> list[tuple[Tensor, Tensor]]:
    """Each quotient of the rounds with the sums by which it was divided."""
    steps = []
    for turn in range(2 * iterations):
        total = matrix.sum(turn % 2, keepdim=True).clamp_min(1e-20)
        matrix = matrix / total
        steps.append((matrix, total))
    return steps


class Normalised(torch.autograd.Function):
    """Sinkhorn's rounds; their gradient from the quotients and sums, in half of autograd's passes."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        steps = _rounds(matrix, iterations)
        ctx.save_for_backward(*(tensor for step in steps for tensor in step))
        return steps[-1][0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # What comes back from products per token has the tokens first; the rounds want them last.
        grad, kept = grads[0].contiguous(), ctx.saved_tensors
        for turn in range(len(kept) // 2 - 1, -1, -1):
            quotient, total = kept[2 * turn : 2 * turn + 2]
            grad = (grad - (grad * quotient).sum(turn % 2, keepdim=True)).div_(total)
        return grad, None


class NormedProjection(torch.autograd.Function):
    """φ · x / rms(x) for every row x of a stream, in float32: (outputs, tokens).

    The norm divides after the product, one number per token; autograd would go over the whole stream
    several more times.
    """

    @staticmethod
    def forward(ctx: Any, stream: Tensor, phi: Tensor) -> Tensor:
        wide = torch.promote_types(stream.dtype, torch.float32)
        square = torch.linalg.vector_norm(stream, dim=1, dtype=wide).square_()
        scale = square.div_(stream.shape[1]).add_(TINY).rsqrt_()
        out = F.linear(phi.to(stream.dtype), stream).to(wide).mul_(scale)
        ctx.save_for_backward(stream, phi, scale, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        stream, phi, scale, out = ctx.saved_tensors
        inner = (grads[0] * scale).to(stream.dtype)
        shrink = (grads[0] * out).sum(0).mul_(scale.square()).div_(-stream.shape[1])
        grad = torch.mm(inner.t(), phi.to(stream.dtype)).addcmul_(stream, shrink[:, None].to(stream.dtype))
        return grad, torch.mm(inner, stream).to(phi.dtype)


def normed_projection(stream: Tensor, phi: Tensor) -> Tensor:
    """`NormedProjection`, or its plain form where the compiler does better."""
    if not torch.compiler.is_compiling():
        out: Tensor = NormedProjection.apply(stream, phi)  # type: ignore[no-untyped-call]
        return out
    wide = stream.to(torch.promote_types(stream.dtype, torch.float32))
    scale = (wide.square().mean(1) + TINY).rsqrt()
    return F.linear(phi.to(stream.dtype), stream).to(wide.dtype) * scale


class Read(torch.autograd.Function):
    """What a branch reads: Σᵢ weight[t, i] · stream[t, i], row by row (products of so small matrices are slower)."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(stream, weight)
        return _weighted(stream, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        stream, weight = ctx.saved_tensors
        rows = grads[0].unsqueeze(1)
        return weight.unsqueeze(2) * rows, (stream * rows).sum(2)


class Join(torch.autograd.Function):
    """mix · stream + write ⊗ branch for every token: (tokens, n, width)."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, mix: Tensor, branch: Tensor, write: Tensor) -> Tensor:
        ctx.save_for_backward(stream, mix, branch, write)
        added = write.unsqueeze(2) * branch.unsqueeze(1)
        return torch.baddbmm(added, mix, stream)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stream, mix, branch, write = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_write = (grad * branch.unsqueeze(1)).sum(2)
        return torch.bmm(mix.mT, grad), torch.bmm(grad, stream.mT), _weighted(grad, write), to_write


def _weighted(stream: Tensor, weight: Tensor) -> Tensor:
    """Σᵢ weight[t, i] · stream[t, i]: (tokens, width)."""
    out = stream[:, 0] * weight[:, :1]
    for copy in range(1, stream.shape[1]):
        out.addcmul_(stream[:, copy], weight[:, copy : copy + 1])
    return out


class HyperConnection(nn.Module):
    """Manifold-constrained hyper-connections (mHC, arXiv 2512.24880, equations 3 and 7 to 9).

    The stream is n copies of the width, (batch, tokens, n, width). Per token a map reads one branch
    input from them, a second one writes the branch's output back, and a doubly stochastic matrix mixes
    them, so that the signal neither grows nor fades over the layers. All three are computed from the
    stream itself, in float32: sigmoid, twice sigmoid, and Sinkhorn of α · (norm(stream) φ) + b.

    The paper leaves open how b and φ begin and how the stream begins and ends: here b is 0, φ uniform
    (Xavier), the stream begins with n copies and ends with their mean. Where α is 0 the network is
    then the plain one: the branch reads a multiple of x and begins with a norm.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.mhc_streams
        self.streams, self.iterations, self.alpha_start = n, config.mhc_iterations, config.mhc_alpha
        self.phi = nn.Parameter(torch.empty(2 * n + n * n, n * config.width))
        self.alpha = nn.Parameter(torch.empty(3))
        self.bias = nn.Parameter(torch.empty(2 * n + n * n))

    @staticmethod
    def enter(x: Tensor, config: ModelConfig) -> Tensor:
        return x.unsqueeze(2).expand(-1, -1, config.mhc_streams, -1)

    @staticmethod
    def leave(stream: Tensor) -> Tensor:
        return stream.mean(2)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """φ uniform, α at its configured start, b zero."""
        limit = (6 / sum(self.phi.shape)) ** 0.5
        self.phi.uniform_(-limit, limit, generator=generator)
        self.alpha.fill_(self.alpha_start)
        self.bias.zero_()

    def maps(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For tokens (tokens, n, width): read (n, tokens), write (n, tokens), mix (n, n, tokens)."""
        n, projected = self.streams, normed_projection(stream.flatten(1), self.phi)
        gates = zip(self.alpha.unbind(), (n, n, n * n), strict=True)
        scale = torch.cat([gate.expand(count) for gate, count in gates])
        read, write, mix = torch.split(projected * scale[:, None] + self.bias[:, None], [n, n, n * n])
        mixed = sinkhorn(mix.view(n, n, -1), self.iterations)
        return read.sigmoid(), 2 * write.sigmoid(), mixed

    def forward(self, x: Tensor, branch: Branch) -> Tensor:
        batch, tokens, n, width = x.shape
        stream = x.reshape(-1, n, width)
        read, write, mix = (part.to(x.dtype) for part in self.maps(stream))
        if torch.compiler.is_compiling():
            inputs = torch.bmm(read.t().unsqueeze(1), stream).view(batch, tokens, width)
            added = write.t().unsqueeze(2) * branch(inputs).reshape(-1, 1, width)
            return torch.baddbmm(added, mix.permute(2, 0, 1), stream).view(batch, tokens, n, width)
        inputs = Read.apply(stream, read.t().contiguous()).view(batch, tokens, width)  # type: ignore[no-untyped-call]
        parts = (mix.permute(2, 0, 1).contiguous(), branch(inputs).reshape(-1, width), write.t().contiguous())
        out: Tensor = Join.apply(stream, *parts)  # type: ignore[no-untyped-call]
        return out.view(batch, tokens, n, width)


RESIDUALS: dict[str, type[PlainResidual | HyperConnection]] = {
    "plain": PlainResidual,
    "mhc": HyperConnection,
}
"""Ways to join a branch with the stream; one module per sublayer."""
