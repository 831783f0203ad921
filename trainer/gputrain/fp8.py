"""Linear maps in 8-bit floating point with one scale per tensor, computed on the spot.

Inputs and weights are e4m3, gradients e5m2, products accumulate in float32 (Micikevicius et al.
2022, "FP8 formats for deep learning"). Worth it on Hopper and later, for wide layers only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gputrain.errors import ConfigError
from gputrain.layers import Linear
from gputrain.model import GPT

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2
MIN_CAPABILITY = (8, 9)
"""Ada and Hopper are the first with 8-bit tensor cores."""


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x as 8-bit values and the float32 scale that gives x back."""
    limit = torch.finfo(dtype).max
    scale = x.detach().abs().amax().float().clamp(min=1e-12) / limit
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


def scaled_product(
    a: Tensor, b: Tensor, dtype_a: torch.dtype, dtype_b: torch.dtype, out: torch.dtype
) -> Tensor:
    """a (m, k) times b (k, n) through 8 bits; k and n must be multiples of 16."""
    a8, scale_a = quantise(a, dtype_a)
    b8, scale_b = quantise(b, dtype_b)
    # The product wants its second operand column by column.
    columns = b8.t().contiguous().t()
    product: Tensor = torch._scaled_mm(  # noqa: SLF001
        a8.contiguous(), columns, scale_a=scale_a, scale_b=scale_b, out_dtype=out
    )
    return product


class Float8Product(torch.autograd.Function):
    """x @ weight.T with all three products of forward and backward in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return scaled_product(x, weight.t(), FORWARD, FORWARD, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = scaled_product(grads[0], weight, BACKWARD, FORWARD, x.dtype)
        grad_weight = scaled_product(grads[0].t(), x, BACKWARD, FORWARD, x.dtype)
        return grad_x, grad_weight.to(weight.dtype)


class Float8Linear(Linear):
    """A `Linear` whose products are done in 8 bits; the parameter stays float32."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out: Tensor = Float8Product.apply(flat, self.weight)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], -1)


def convert(model: GPT, device: torch.device, tokens: int) -> None:
    """Let the maps inside the blocks compute in 8 bits. Names and parameters do not change.

    Raises ConfigError where the hardware has no 8-bit products or a size is not a multiple of 16.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        raise ConfigError("system.fp8 needs compute capability 8.9 (Ada, Hopper) or later.")
    if tokens % 16:
        raise ConfigError(f"system.fp8 needs batch_size × context ({tokens}) to be a multiple of 16.")
    for name, module in model.blocks.named_modules():
        if isinstance(module, nn.Linear) and max(module.weight.shape[0] % 16, module.weight.shape[1] % 16):
            raise ConfigError(
                f"system.fp8 needs multiples of 16; blocks.{name} is {tuple(module.weight.shape)}."
            )
        if type(module) is Linear:
            module.__class__ = Float8Linear
