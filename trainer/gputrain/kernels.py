"""Normalisation and rotation with a backward pass of their own, for eager mode.

Autograd of the composite forms keeps several float32 copies per norm and goes over memory many
times; these keep the input and one number per row. Under torch.compile the plain forms are used:
the compiler fuses those better.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class RMSNormFunction(torch.autograd.Function):
    """x / rms(x) · gain over the last dimension, computed in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        out: Tensor = (x * scale).mul_(gain).to(x.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, scale = ctx.saved_tensors
        grad, gain_wide, rows = grads[0], gain.to(scale.dtype), scale.reshape(-1)
        # Both sums, over features and over tokens, are matrix-vector products of one tensor.
        product = (grad * x).to(scale.dtype).flatten(0, -2)
        shrink = torch.mv(product, gain_wide).mul_(rows**3).div_(-x.shape[-1])
        grad_gain = torch.mv(product.t(), rows)
        grad_x = (grad * scale).mul_(gain_wide).addcmul_(x, shrink.view_as(scale))
        return grad_x.to(x.dtype), grad_gain.to(gain.dtype), None


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) · gain over the last dimension (Zhang and Sennrich 2019); gain is float32."""
    if x.is_cuda or torch.compiler.is_compiling():
        return F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), eps)
    out: Tensor = RMSNormFunction.apply(x, gain, eps)  # type: ignore[no-untyped-call]
    return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half = x.shape[-1] // 2
    left, right = x[..., :half], x[..., half:]
    out = torch.empty_like(x)
    torch.mul(left, cos, out=out[..., :half]).addcmul_(right, sin, value=-sign)
    torch.mul(right, cos, out=out[..., half:]).addcmul_(left, sin, value=sign)
    return out


class RotateFunction(torch.autograd.Function):
    """A rotation; its gradient is the rotation back, which needs no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), half-split, for x of shape (batch, heads, tokens, head_dim)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if torch.compiler.is_compiling():
        left, right = x.chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    out: Tensor = RotateFunction.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


SHORT = 512
"""Longest context for which plain matrix products beat the fused kernel on a CPU."""
ROWS = 64
"""Queries of a head that attend together; each such block sees only the keys up to its own end."""


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention: q (batch, heads, tokens, head_dim), k and v with as many or fewer heads.

    Torch's fused kernel everywhere, except for short contexts on a CPU, where its backward pass is
    slow: measured at 256 tokens, plain products take 0.79 of its time in float32, 0.39 in bfloat16.
    """
    batch, heads, tokens, dim = q.shape
    short = q.device.type == "cpu" and tokens <= SHORT and q.dtype in (torch.bfloat16, torch.float32)
    if dropout or not short or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, enable_gqa=k.shape[1] != heads
        )
    pairs, groups = batch * k.shape[1], heads // k.shape[1]
    queries = q.reshape(pairs, groups, tokens, dim)
    keys, values = k.reshape(pairs, tokens, dim), v.reshape(pairs, tokens, dim)
    out: Tensor = ShortAttention.apply(queries, keys, values)  # type: ignore[no-untyped-call]
    return out.view(batch, heads, tokens, dim)


class ShortAttention(torch.autograd.Function):
    """Causal attention of ``q (pairs, groups, tokens, dim)`` to ``k, v (pairs, tokens, dim)``.

    A pair is a key head of a window; the query heads that share it are its groups, stacked along the
    rows of one product. A block of rows is multiplied only with the keys it may see, so that little
    more than half of the square is computed.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pairs, groups, tokens, dim = q.shape
        out, kept = torch.empty_like(q), []
        mask = torch.full((ROWS, ROWS), float("-inf"), dtype=q.dtype).triu_(1)
        for begin in range(0, tokens, ROWS):
            end = min(begin + ROWS, tokens)
            scores = torch.bmm(_stacked(q, begin, end).mul_(dim**-0.5), k[:, :end].mT)
            diagonal = scores.view(pairs, groups, end - begin, end)[..., begin:]
            diagonal += mask[: end - begin, : end - begin]
            weights = scores.softmax(-1)
            kept.append(weights)
            out[:, :, begin:end] = torch.bmm(weights, v[:, :end]).view(pairs, groups, end - begin, dim)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        dim = q.shape[-1]
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for number, weights in enumerate(kept):
            begin, end = number * ROWS, weights.shape[-1]
            above = _stacked(grads[0], begin, end)
            grad_v[:, :end].baddbmm_(weights.mT, above)
            reached = torch.bmm(above, v[:, :end].mT)
            scores = torch._softmax_backward_data(reached, weights, -1, weights.dtype)  # noqa: SLF001
            scores *= dim**-0.5
            grad_q[:, :, begin:end] = torch.bmm(scores, k[:, :end]).view_as(grad_q[:, :, begin:end])
            grad_k[:, :end].baddbmm_(scores.mT, _stacked(q, begin, end))
        return grad_q, grad_k, grad_v


def _stacked(x: Tensor, begin: int, end: int) -> Tensor:
    """Rows ``begin … end - 1`` of all groups below each other, as a copy: (pairs, groups · rows, dim)."""
    return x[:, :, begin:end].clone(memory_format=torch.contiguous_format).flatten(1, 2)
