"""Optimisers and their parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from gputrain.config import OptimConfig
from gputrain.errors import ConfigError


def build_optimisers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest.

    Matrices are decayed; gains, biases and the memories' starts are not. Maps of the residual scheme are
    no transformations of the width and stay with AdamW. Every group carries its peak rate as `peak_lr`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [n for n, p in named if p.dim() == 2 and "blocks." in n and n.endswith(".weight")]
    muon = [p for n, p in named if config.name == "muon" and n in set(matrices)]
    taken = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() == 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )
    ]
    if muon:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"optim.name = muon needs torch 2.9 or later; this is {torch.__version__}.")
        optimisers.append(
            # Updates are scaled to the size of AdamW's, so that one learning rate suits both
            # (Liu et al. 2025, "Muon is scalable for LLM training").
            torch.optim.Muon(
                muon,
                lr=config.muon_lr or config.lr,
                weight_decay=config.weight_decay,
                momentum=config.muon_momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers


def step_all(optimisers: list[torch.optim.Optimizer], share: float) -> None:
    """One update at `share` of the peak rates; the gradients are gone afterwards."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * share
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def drop_gradients(optimisers: list[torch.optim.Optimizer]) -> None:
    """Forget the gradients."""
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)


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
