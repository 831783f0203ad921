"""The two maps that everything is built from: a linear one and a norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gputrain.kernels import rms_norm


class Linear(nn.Linear):
    """A bias-free linear map whose weight is cast to the dtype of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a gain (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
