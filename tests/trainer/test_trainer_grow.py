"""A grown model computes what the small one did, and all of it can learn."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from check_run import check
from torch.nn.functional import linear
from trainer_runs import losses

from gputrain.checkpoint import open_checkpoint
from gputrain.cli import main
from gputrain.config import Config, ModelConfig
from gputrain.errors import ConfigError, ExitCode
from gputrain.growth import grow_parameters, grown_config
from gputrain.model import GPT
from gputrain.session import run_training
from gputrain.slices import view_tensors
from gputrain.trained import load_model, model_config, open_trained

OLD = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, context=24, vocab=50)
Change = dict[str, object]

GROWTHS: list[tuple[Change, Change]] = [
    ({}, {"width": 48, "heads": 6, "kv_heads": 3}),
    ({}, {"width": 64, "heads": 8, "kv_heads": 2}),  # more query heads for each key head
    ({}, {"width": 96, "heads": 12, "kv_heads": 4, "layers": 5, "ffn": 320}),
    ({"tied": False}, {"width": 64, "heads": 8, "kv_heads": 4, "tied": False}),
    ({"kv_heads": 0}, {"width": 64, "heads": 8, "tied": False, "kv_heads": 0}),
    ({"qk_norm": True}, {"width": 64, "heads": 8, "kv_heads": 4, "qk_norm": True, "layers": 3}),
    ({"mlp": "relu2"}, {"width": 64, "heads": 8, "kv_heads": 4, "mlp": "relu2"}),
    ({}, {"layers": 4}),
    ({}, {"vocab": 90, "width": 64, "heads": 8, "kv_heads": 4}),
    ({"residual": "mhc"}, {"residual": "mhc", "width": 64, "heads": 8, "kv_heads": 4}),
    ({"residual": "mhc"}, {"residual": "mhc", "layers": 4}),
]


def trained(config: ModelConfig, dtype: torch.dtype) -> GPT:
    """A model whose parameters are far from their start: gains not 1, nothing 0."""
    gpt = GPT(config, dtype)
    gpt.initialise(0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator) * (parameter.std() + 0.1)
    return gpt.to(dtype)


def grown(old: GPT, wanted: ModelConfig, dtype: torch.dtype) -> GPT:
    """The model that `old` grows into."""
    config = grown_config(old.config, wanted)
    gpt = GPT(config, dtype).to(dtype)
    gpt.initialise(1)
    out = {name: p.detach() for name, p in gpt.named_parameters()}
    grow_parameters({n: p.detach() for n, p in old.named_parameters()}, old.config, config, out)
    return gpt


@pytest.mark.parametrize(("before", "after"), GROWTHS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_logits_stay_the_same(before: Change, after: Change, dtype: torch.dtype, limit: float) -> None:
    old_config = dataclasses.replace(OLD, **before)  # type: ignore[arg-type]
    old = trained(old_config, dtype)
    new = grown(old, dataclasses.replace(OLD, **after), dtype)  # type: ignore[arg-type]
    tokens = torch.randint(50, (2, 24))
    with torch.no_grad():
        first, second = (linear(m.hidden(tokens), m.head_weight)[..., :50] for m in (old, new))
    assert first.abs().max() > 0.5
    assert (first - second).abs().max() < limit * max(1.0, float(first.abs().max()))


@pytest.mark.parametrize("tied", [True, False])
def test_nearly_all_new_parameters_get_a_gradient_within_two_steps(tied: bool) -> None:
    old = trained(dataclasses.replace(OLD, tied=tied), torch.float64)
    wanted = dataclasses.replace(OLD, tied=tied, width=64, heads=8, kv_heads=4, layers=3)
    new = grown(old, wanted, torch.float64)
    start = {name: p.detach().clone() for name, p in new.named_parameters()}
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in new.named_parameters()}
    optimiser = torch.optim.SGD(new.parameters(), lr=0.1)
    for _ in range(2):
        tokens = torch.arange(64).view(4, 16) % 50
        new(tokens, (tokens * 7 + 1) % 50).backward()
        for name, parameter in new.named_parameters():
            assert parameter.grad is not None
            reached[name] |= parameter.grad != 0
        optimiser.step()
        optimiser.zero_grad()
    # Rows of the vocabulary's padding are never predicted and never read.
    words = {"embed.weight", "head.weight"}
    seen = [mask[:50] if name in words else mask for name, mask in reached.items()]
    assert sum(int(m.sum()) for m in seen) >= 0.99 * sum(m.numel() for m in seen)
    assert any(not torch.equal(start[n], p) for n, p in new.named_parameters())


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"width": 16, "heads": 2, "kv_heads": 1}, r"model\.width must not shrink from 32 to 16"),
        ({"width": 64, "heads": 4}, r"the size of a head must stay 8, not 16: give 8 heads for width 64"),
        ({"layers": 1}, r"model\.layers must not shrink from 2 to 1"),
        ({"kv_heads": 4}, r"heads per key head must not shrink from 2 to 1"),
        ({"mlp": "relu2"}, r"model\.mlp must stay 'swiglu'"),
        ({"tied": False, "rope_base": 5e5}, r"model\.rope_base must stay"),
    ],
)
def test_what_cannot_be_grown_is_refused(after: Change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grown_config(OLD, dataclasses.replace(OLD, **after))  # type: ignore[arg-type]


def test_memories_are_not_grown() -> None:
    moneta = dataclasses.replace(OLD, mixer="moneta")
    with pytest.raises(ConfigError, match="models with the mixer moneta cannot be grown"):
        grown_config(moneta, dataclasses.replace(moneta, layers=3))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_checkpoint_is_grown_with_its_optimiser_and_goes_on(
    tmp_path: Path, tiny: Callable[..., Config], optimiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, object] = {"optim.name": optimiser, "train.until": 10, "system.dtype": "float32"}
    run_training(tiny(small), tmp_path / "small", "auto")
    shape = [
        "--set",
        "model.width=64",
        "--set",
        "model.heads=8",
        "--set",
        "model.kv_heads=4",
        "--set",
        "model.layers=3",
    ]
    assert main(["grow", str(tmp_path / "small"), "--out", str(tmp_path / "grown"), *shape]) == 0
    assert "largest difference of logits" in capsys.readouterr().out
    loaded = open_trained(tmp_path / "grown")
    old = open_trained(tmp_path / "small")
    before, after = (view_tensors([x.path / "optim.safetensors"]) for x in (old, loaded))
    kind = "exp_avg" if optimiser == "adamw" else "momentum_buffer"
    name = f"{kind}/blocks.0.mlp.up.weight"
    rows, columns = before[name].shape
    assert torch.equal(after[name][:rows, :columns], before[name])
    assert after[name][rows:].abs().sum() == 0
    assert after[f"{kind}/blocks.2.mlp.up.weight"].abs().sum() == 0, "a new layer has no history"
    config = model_config(loaded)
    values = {f"model.{key}": value for key, value in dataclasses.asdict(config).items()}
    big = tiny({**small, **values, "train.until": 0})
    assert run_training(big, tmp_path / "big", str(tmp_path / "grown")) == ExitCode.DONE
    assert min(losses(tmp_path / "big")) == 11, "step, data and optimiser go on"
    run_training(tiny({**small, "train.until": 0}), tmp_path / "small", "auto")
    assert losses(tmp_path / "big")[11] == pytest.approx(losses(tmp_path / "small")[11], abs=1e-4)
    assert check(tmp_path / "big") == []
    warm = tiny({**small, **values, "train.until": 2, "train.init": str(tmp_path / "grown")})
    run_training(warm, tmp_path / "warm", "auto")
    assert losses(tmp_path / "warm")[1] < losses(tmp_path / "small")[1] - 0.3


def test_a_model_that_differs_is_never_left_behind(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(tiny({"train.until": 3}), tmp_path / "small", "auto")
    # The gains of the norms are not scaled, as in the tool of field note 1.
    monkeypatch.setattr("gputrain.growth.math", SimpleNamespace(sqrt=lambda _: 1.0))
    arguments = ["grow", str(tmp_path / "small"), "--out", str(tmp_path / "grown")]
    code = main(
        [*arguments, "--set", "model.width=64", "--set", "model.heads=8", "--set", "model.kv_heads=4"]
    )
    assert code == ExitCode.CONFIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_a_checkpoint_from_before_a_setting_existed_still_loads(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    run_training(tiny({"train.until": 5}), tmp_path, "auto")
    step = tmp_path / "ckpt" / "step-000000005"
    forget(step, ("model.mhc_streams", "model.memory_chunk", "model.residual"))
    loaded = open_checkpoint(step)
    assert model_config(loaded).residual == "plain"
    assert load_model(loaded).logits(torch.zeros(1, 4, dtype=torch.int64)).shape[1] == 4
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.DONE


def forget(step: Path, keys: tuple[str, ...]) -> None:
    """Make a checkpoint look as if it was written before some settings existed."""
    state = json.loads((step / "state.json").read_text())
    state["identity"] = {k: v for k, v in state["identity"].items() if k not in keys}
    content = json.dumps(state).encode()
    (step / "state.json").write_bytes(content)
    manifest = json.loads((step / "MANIFEST.json").read_text())
    for file in manifest["files"]:
        if file["path"] == "state.json":
            file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step / "MANIFEST.json").write_text(json.dumps(manifest))
