"""Estimates are held against the real model; profiles are what their names say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainer_runs import lines

from gputrain.cli import main
from gputrain.config import Config, ModelConfig, from_layers, profile_layer, profile_names
from gputrain.errors import ConfigError
from gputrain.estimate import (
    CHECKPOINT_OVERHEAD,
    block_activation_bytes,
    checkpoint_bytes,
    count_parameters,
    disk_bytes,
    flops_per_token,
    largest_batch,
    step_memory,
)
from gputrain.hardware import GPUS, find_gpu
from gputrain.model import GPT
from gputrain.session import run_training

SIZES = {"22m": 22e6, "124m": 124e6, "150m": 150e6, "1b": 1e9, "2b": 2e9, "4b": 4e9}


def profile(name: str, **changes: object) -> Config:
    config = from_layers([profile_layer(name)])[0]
    model = dataclasses.replace(config.model, vocab=config.model.vocab or 256)
    return dataclasses.replace(config, model=model)


@pytest.mark.parametrize("name", SIZES)
def test_a_profile_has_the_size_of_its_name_and_the_estimate_is_exact(name: str) -> None:
    config = profile(name)
    with torch.device("meta"):
        real = GPT(config.model)
    size = count_parameters(config.model)
    assert size.total == sum(p.numel() for p in real.parameters())
    assert size.total == pytest.approx(SIZES[name], rel=0.05)


def test_every_profile_is_known_and_ordered() -> None:
    assert profile_names() == ["nano", *SIZES, "miras-s", "miras-m", "miras-l"]


@pytest.mark.parametrize("name", ["miras-s", "miras-m", "miras-l"])
def test_the_sizes_of_field_note_2_are_there_and_counted(name: str) -> None:
    config = profile(name)
    with torch.device("meta"):
        real = GPT(config.model)
    assert count_parameters(config.model).total == sum(p.numel() for p in real.parameters())
    shape = {"miras-s": (768, 12), "miras-m": (1024, 24), "miras-l": (1536, 24)}
    assert (config.model.width, config.model.layers) == shape[name]
    assert largest_batch(config, find_gpu("H100").memory_bytes) >= config.train.batch_size


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_size_of_a_checkpoint_is_computed(
    tmp_path: Path, tiny: Callable[..., Config], optimiser: str
) -> None:
    config = tiny({"optim.name": optimiser, "model.vocab": 256})
    run_training(config, tmp_path, "auto")
    (saved,) = [e for e in lines(tmp_path / "events.jsonl") if e["event"] == "ckpt_complete"]
    assert 0 <= saved["bytes"] - checkpoint_bytes(config) <= CHECKPOINT_OVERHEAD


CHANGES: list[dict[str, object]] = [
    {},
    {"kv_heads": 2},
    {"mlp": "relu2"},
    {"qk_norm": True},
    {"width": 256, "heads": 4},
    {"residual": "mhc"},
    {"residual": "mhc", "mhc_streams": 2, "mhc_iterations": 5},
    *({"mixer": r, "memory": m} for r in ("moneta", "yaad", "memora") for m in ("matrix", "mlp")),
    {"mixer": "moneta", "memory_chunk": 16, "memory_detach": 0, "width": 256},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_activations_of_a_block_are_what_autograd_saves(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gputrain.kernels.SHORT", 0)  # the fused attention, as on a GPU
    base = ModelConfig(layers=1, width=128, heads=8, context=64, vocab=64)
    model = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
    gpt = GPT(model)
    gpt.initialise(0)
    inputs = gpt.enter(torch.randn(4, 64, model.width, requires_grad=True), model)
    seen: dict[int, torch.Tensor] = {}
    parameters = {p.data_ptr() for p in gpt.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # What is smaller than the tokens does not grow with them.
        if tensor.numel() >= 256 and tensor.data_ptr() not in parameters:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = gpt.blocks[0](inputs, gpt.cos[:64], gpt.sin[:64])
    saved = sum(t.untyped_storage().nbytes() for t in seen.values())
    assert out.requires_grad
    assert saved / 256 == pytest.approx(block_activation_bytes(model, 4), rel=0.1)


def test_recomputation_and_sharding_save_what_they_promise() -> None:
    config = profile("2b")
    kept = dataclasses.replace(config, system=dataclasses.replace(config.system, recompute=False))
    assert step_memory(config, 4).activations < step_memory(kept, 4).activations / 8
    assert step_memory(config, 4, shards=4).weights == step_memory(config, 4).weights // 4
    assert largest_batch(config, 24 << 30) == 0
    assert largest_batch(config, 24 << 30, shards=8) > 0


@pytest.mark.parametrize(
    ("name", "card"), [("150m", "RTX 4090"), ("1b", "H100"), ("2b", "H100"), ("4b", "H100")]
)
def test_each_profile_fits_the_card_it_is_for(name: str, card: str) -> None:
    config = profile(name)
    assert largest_batch(config, find_gpu(card).memory_bytes) >= config.train.batch_size


def test_the_disk_of_the_field_note_is_sized_right() -> None:
    """12 + 24 checkpoints of 12 GB do not fit the 150 GB that note 2 recommends."""
    config = profile("1b")
    size = checkpoint_bytes(config)
    assert disk_bytes(config, hours=48) == (12 + 24 + 2) * size + config.checkpoint.min_free_bytes
    assert disk_bytes(config, hours=0.5) == (6 + 2) * size + config.checkpoint.min_free_bytes


def test_flops_of_gpt2_small() -> None:
    """6 · 123.5M + 12 · 12 · 768 · 1024 = 0.854 GFLOP per token."""
    assert flops_per_token(profile("124m").model) == pytest.approx(0.854e9, rel=0.005)


def test_cards_are_found_by_any_usual_name() -> None:
    for name, expected in (
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("rtx_4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA L40S", "L40S"),
    ):
        assert find_gpu(name).name == expected
    assert {find_gpu(gpu.name).name for gpu in GPUS} == {gpu.name for gpu in GPUS}
    with pytest.raises(ConfigError, match=r"'RTX 4091' is not in the table; did you mean .*RTX 4090"):
        find_gpu("RTX 4091")


def test_plan_prints_what_fits_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "1b", "--gpu", "H100", "--hours", "10", "--price", "2.5"]) == 0
    text = capsys.readouterr().out
    for word in (
        "1,036.1 M parameters",
        "fits",
        "tokens/s",
        "USD per billion tokens",
        "disk",
        "an expectation",
    ):
        assert word in text
    assert main(["plan", "4b", "--gpu", "RTX 4090", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert main(["plan", "9b"]) == 78
