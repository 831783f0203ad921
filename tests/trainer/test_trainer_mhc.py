"""Hyper-connections are what the paper says, and the plain network where they are switched off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainer_runs import done, losses

from gputrain.config import Config, ModelConfig, from_layers
from gputrain.environment import environment_layers
from gputrain.errors import ConfigError
from gputrain.model import GPT
from gputrain.optim import build_optimisers
from gputrain.residual import HyperConnection, normed_projection, sinkhorn
from gputrain.session import run_training

SMALL = ModelConfig(layers=6, width=32, heads=4, context=24, vocab=50, norm_eps=1e-20)
MHC = dataclasses.replace(SMALL, residual="mhc")


def build(config: ModelConfig) -> GPT:
    gpt = GPT(config, torch.float64)
    gpt.initialise(0)
    return gpt.double()


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_with_alpha_zero_it_is_the_plain_network(streams: int) -> None:
    tokens = torch.randint(50, (2, 24))
    connected = build(dataclasses.replace(MHC, mhc_alpha=0.0, mhc_streams=streams))
    difference = (connected.logits(tokens).double() - build(SMALL).logits(tokens).double()).abs().max()
    assert connected.hidden(tokens).sub(build(SMALL).hidden(tokens)).abs().max() < 1e-12
    assert difference < 1e-6, "logits are given in float32"
    moved = build(dataclasses.replace(MHC, mhc_alpha=0.5, mhc_streams=streams))
    assert (moved.logits(tokens) - connected.logits(tokens)).abs().max() > 1e-4


def test_the_maps_are_the_papers_formulas() -> None:
    """Equations 7 to 9 written out for one token at a time."""
    layer = HyperConnection(dataclasses.replace(MHC, mhc_alpha=0.7)).double()
    layer.initialise(torch.Generator().manual_seed(1))
    layer.bias.data.normal_()
    stream = torch.randn(5, 4, 32, dtype=torch.float64)
    read, write, mix = layer.maps(stream)
    for token in range(5):
        flat = stream[token].flatten()
        normed = flat / flat.square().mean().sqrt()
        raw = layer.alpha[0] * (layer.phi @ normed) + layer.bias
        matrix = raw[8:].view(4, 4).exp()
        for _ in range(20):
            matrix = matrix / matrix.sum(0, keepdim=True)
            matrix = matrix / matrix.sum(1, keepdim=True)
        assert torch.allclose(read[:, token], raw[:4].sigmoid(), atol=1e-12)
        assert torch.allclose(write[:, token], 2 * raw[4:8].sigmoid(), atol=1e-12)
        assert torch.allclose(mix[:, :, token], matrix, atol=1e-12)
        branch = torch.randn(32, dtype=torch.float64)
        expected = matrix @ stream[token] + (2 * raw[4:8].sigmoid())[:, None] * branch
        out = layer(stream[None, token : token + 1], lambda _, b=branch: b.view(1, 1, 32))
        assert torch.allclose(out[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize(("spread", "bound"), [(0.1, 1e-6), (1.0, 5e-3), (3.0, 0.2)])
def test_twenty_rounds_of_sinkhorn_leave_rows_exact_and_columns_close(spread: float, bound: float) -> None:
    logits = spread * torch.randn(4, 4, 10_000, generator=torch.Generator().manual_seed(0))
    mix = sinkhorn(logits, 20)
    assert mix.min() >= 0
    assert (mix.sum(1) - 1).abs().max() < 1e-6
    assert (mix.sum(0) - 1).abs().max() < bound


def test_sixty_mixings_in_a_row_amplify_nothing() -> None:
    """The paper's figure 3: hyper-connections without the constraint reach gains of thousands."""
    total = torch.eye(4).expand(100, 4, 4)
    for seed in range(60):
        logits = torch.randn(4, 4, 100, generator=torch.Generator().manual_seed(seed))
        total = sinkhorn(logits, 20).permute(2, 0, 1) @ total
    assert total.abs().sum(1).max() < 1.6
    assert total.abs().sum(2).max() < 1 + 1e-4


def test_our_gradients_are_autograds() -> None:
    stream = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    phi = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normed_projection, (stream, phi))
    logits = torch.randn(3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, 7), (logits,))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[300.0, -300.0], [300.0, -300.0]])[:, :, None]
    assert sinkhorn(logits, 20).isfinite().all()


def test_every_map_learns_once_the_streams_differ() -> None:
    gpt = build(MHC)
    gpt(torch.randint(50, (2, 24)), torch.randint(50, (2, 24))).backward()
    for name, parameter in gpt.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    last = gpt.blocks[-1].mlp_residual
    assert last.phi.grad[8:].abs().sum() > 0, "the mixing part too"


def test_muon_leaves_the_maps_to_adamw() -> None:
    gpt = GPT(MHC)
    gpt.initialise(0)
    config = from_layers([])[0].optim
    _, muon = build_optimisers(gpt, dataclasses.replace(config, name="muon"))
    maps = {id(p) for n, p in gpt.named_parameters() if "residual" in n}
    assert not maps & {id(p) for group in muon.param_groups for p in group["params"]}


@pytest.mark.parametrize("recompute", [False, True])
def test_nine_and_eleven_steps_equal_twenty(
    tmp_path: Path, tiny: Callable[..., Config], recompute: bool
) -> None:
    changes = {"model.residual": "mhc", "model.dropout": 0.1, "system.recompute": recompute}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(tiny(changes), whole, "auto")
    run_training(tiny({**changes, "train.until": 9}), parts, "auto")
    run_training(tiny(changes), parts, "auto")
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
    assert losses(whole)[20] < losses(whole)[1] - 0.5


def test_the_switches_of_note_1_select_it() -> None:
    names = {"EXPERIMENTAL_MHC": "1", "MHC_N": "2", "MHC_MODE": "mhc", "MHC_SINKHORN": "1"}
    model = from_layers(environment_layers({**names, "MHC_SINKHORN_ITERS": "10"}))[0].model
    assert (model.residual, model.mhc_streams, model.mhc_iterations) == ("mhc", 2, 10)
    assert from_layers(environment_layers({"EXPERIMENTAL_MHC": "0"}))[0].model.residual == "plain"
    for wrong in ({"MHC_SINKHORN": "0"}, {"MHC_MODE": "static"}):
        with pytest.raises(ConfigError, match=r"\$MHC_"):
            environment_layers(wrong)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
def test_a_compiled_model_learns_the_same(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    for name, flag in (("eager", "off"), ("compiled", "on")):
        values = {"system.compile": flag, "system.dtype": "float32", "model.residual": "mhc"}
        run_training(tiny({**values, "model.kv_heads": 4}), tmp_path / name, "auto")
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    assert all(compiled[step] == pytest.approx(eager[step], abs=5e-4) for step in eager)
