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


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention: q (batch, heads, tokens, head_dim), k and v with as many or fewer heads.

    Torch's fused kernel everywhere, except for short contexts on a CPU, where its backward pass is
    slow: measured at 256 tokens, plain products take 0.86 of its time in float32, 0.41 in bfloat16.
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
    # The first half of the queries sees only the first half of the keys: a quarter less work.
    half = (tokens + 1) // 2
    parts = [_attend_rows(queries, keys, values, 0, half), _attend_rows(queries, keys, values, half, tokens)]
    return torch.cat(parts, dim=2).view(batch, heads, tokens, dim)


def _attend_rows(queries: Tensor, keys: Tensor, values: Tensor, begin: int, end: int) -> Tensor:
    """Attention of the queries ``begin … end - 1``: (pairs, groups, end - begin, head_dim).

    Query heads that share a key head are stacked along the tokens.
    """
    pairs, groups, _, dim = queries.shape
    rows = queries[:, :, begin:end].reshape(pairs, groups * (end - begin), dim)
    mask = torch.full((end - begin, end), float("-inf"), dtype=rows.dtype).triu_(begin + 1).repeat(groups, 1)
    scores = torch.baddbmm(mask.expand(pairs, -1, -1), rows, keys[:, :end].mT, alpha=dim**-0.5)
    return torch.bmm(scores.softmax(-1), values[:, :end]).view(pairs, groups, end - begin, dim)
