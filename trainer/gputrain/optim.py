"""Optimisers and their parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from gputrain.config import OptimConfig


def build_optimisers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One optimiser per rule; matrices are decayed, gains are not.

    Tensor-valued state is keyed by parameter, so that checkpoints can name it.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
    return [adamw]


def initialise_state(optimisers: list[torch.optim.Optimizer]) -> None:
    """Create the optimisers' tensors without changing a parameter.

    A step with zero gradients and zero learning rate leaves parameters and moments as they are;
    only the step counters move, and those are put back to zero.
    """
    for optimiser in optimisers:
        rates = [group["lr"] for group in optimiser.param_groups]
        for group in optimiser.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        for state in optimiser.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"].zero_()


def named_state(model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """The optimisers' tensors as ``{"exp_avg/blocks.0…": tensor}``, sorted by name."""
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    found: dict[str, torch.Tensor] = {}
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    found[f"{key}/{names[parameter]}"] = value
    return dict(sorted(found.items()))
