"""The model computes what its options say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.functional import rms_norm as rms_norm_plain
from trainer_runs import losses

from gputrain import fp8
from gputrain.config import Config, ModelConfig
from gputrain.errors import ConfigError
from gputrain.kernels import attend, rms_norm, rotate
from gputrain.loss import chunked_cross_entropy
from gputrain.model import GPT, rope_table
from gputrain.session import run_training

SMALL = ModelConfig(layers=2, width=32, heads=4, context=24, vocab=50)


def model(**changes: object) -> GPT:
    gpt = GPT(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]
    gpt.initialise(0)
    return gpt.double()


def double(gpt: GPT) -> GPT:
    gpt.dtype = torch.float64
    return gpt


OPTIONS = [
    {},
    {"kv_heads": 2},
    {"kv_heads": 1, "qk_norm": True},
    {"mlp": "relu2", "tied": False},
    {"ffn": 40},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_no_token_sees_the_future(options: dict[str, object]) -> None:
    gpt = double(model(**options))
    tokens = torch.randint(50, (2, 24))
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 50
    before, after = gpt.logits(tokens), gpt.logits(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_gets_a_gradient(options: dict[str, object]) -> None:
    gpt = double(model(**options))
    gpt(torch.randint(50, (2, 24)), torch.randint(50, (2, 24))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gpt.parameters())


def test_positions_are_relative() -> None:
    """RoPE: attention scores depend on distances, so a repeated text repeats its hidden states."""
    cos, sin = (table.double() for table in rope_table(64, 8, 10_000.0))
    q, k = torch.randn(2, 8, dtype=torch.float64)
    scores = (rotate(q.expand(1, 1, 64, 8), cos, sin) @ rotate(k.expand(1, 1, 64, 8), cos, sin).mT)[0, 0]
    for distance in (0, 1, 7, 30):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-6)


def test_grouped_queries_equal_repeated_key_heads() -> None:
    grouped, full = double(model(kv_heads=2)), double(model(kv_heads=4))
    full.load_state_dict(
        {
            name: tensor.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
            if name.endswith(("mixer.k.weight", "mixer.v.weight"))
            else tensor
            for name, tensor in grouped.state_dict().items()
        }
    )
    tokens = torch.randint(50, (2, 24))
    assert torch.allclose(grouped.logits(tokens), full.logits(tokens), atol=1e-12)


def test_the_vocabulary_is_padded_to_64_and_the_padding_is_never_predicted() -> None:
    gpt = double(model())
    assert gpt.embed.weight.shape[0] == 64
    tokens = torch.randint(50, (2, 24))
    assert gpt.logits(tokens).shape[-1] == 50
    plain = cross_entropy(gpt.logits(tokens).double().flatten(0, 1), tokens.flatten())
    assert gpt(tokens, tokens).item() == pytest.approx(plain.item(), abs=1e-6)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_chunked_cross_entropy_equals_the_plain_one(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gputrain.loss.rows_per_chunk", lambda _: chunk)
    hidden = torch.randn(100, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(64, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (100,))
    plain = cross_entropy((hidden @ weight.t())[:, :50], targets) * 3
    expected = torch.autograd.grad(plain, (hidden, weight))
    ours = chunked_cross_entropy(hidden, weight, targets, 50) * 3
    # The loss itself is accumulated in float32.
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    for mine, theirs in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_our_norm_and_rotation_have_the_right_gradients() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(8, dtype=torch.float64, requires_grad=True)
    plain = rms_norm_plain(x, (8,), gain, 1e-5)
    assert torch.allclose(rms_norm(x, gain, 1e-5), plain, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-5), (x, gain))
    cos, sin = torch.randn(2, 5, 4, dtype=torch.float64)
    left, right = x.chunk(2, dim=-1)
    expected = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    assert torch.allclose(rotate(x, cos, sin), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a: rotate(a, cos, sin), (x,))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tokens", [1, 48, 49])
def test_short_attention_equals_the_fused_one(
    kv_heads: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = torch.randn(2, 4, tokens, 16, requires_grad=True)
    k, v = torch.randn(2, 2, kv_heads, tokens, 16, requires_grad=True)
    up = torch.randn_like(q)
    short = attend(q, k, v, 0.0)
    narrow = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), 0.0).float()
    short_grads = torch.autograd.grad(short, (q, k, v), up)
    monkeypatch.setattr("gputrain.kernels.SHORT", 0)
    fused = attend(q, k, v, 0.0)
    assert torch.allclose(short, fused, atol=1e-5)
    assert torch.allclose(narrow, fused, atol=0.05)
    for mine, theirs in zip(short_grads, torch.autograd.grad(fused, (q, k, v), up), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_recomputed_activations_change_nothing(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    for name, recompute in (("kept", False), ("again", True)):
        values = {"system.recompute": recompute, "model.dropout": 0.1, "system.dtype": "float32"}
        run_training(tiny(values), tmp_path / name, "auto")
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")


def test_weights_stay_float32_while_activations_are_bfloat16() -> None:
    gpt = GPT(SMALL, torch.bfloat16)
    gpt.initialise(0)
    tokens = torch.randint(50, (2, 24))
    assert gpt.hidden(tokens).dtype == torch.bfloat16
    gpt(tokens, tokens).backward()
    assert {p.dtype for p in gpt.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in gpt.parameters() if p.grad is not None} == {torch.float32}


def test_fp8_trains_close_to_bfloat16(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    for name, flag in (("bf16", False), ("fp8", True)):
        run_training(tiny({"system.fp8": flag, "system.dtype": "bfloat16"}), tmp_path / name, "auto")
    wide, narrow = losses(tmp_path / "bf16"), losses(tmp_path / "fp8")
    assert narrow != wide, "8 bits were used"
    assert narrow[20] == pytest.approx(wide[20], abs=0.05)


def test_fp8_refuses_sizes_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 16; blocks.0.mlp.up is \(40, 32\)"):
        fp8.convert(GPT(dataclasses.replace(SMALL, ffn=40, mlp="relu2")), torch.device("cpu"), 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
@pytest.mark.parametrize(
    "changes", [{}, {"residual": "mhc"}, {"mixer": "moneta", "memory_chunk": 8, "memory_detach": 8}]
)
def test_the_compiler_sees_one_graph(changes: dict[str, object]) -> None:
    tokens = torch.randint(50, (2, 24))
    found = torch._dynamo.explain(GPT(dataclasses.replace(SMALL, layers=1, **changes)))(tokens, tokens)  # type: ignore[arg-type]
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
def test_a_compiled_model_learns_the_same(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    for name, flag in (("eager", "off"), ("compiled", "on")):
        values = {"system.compile": flag, "system.dtype": "float32", "model.kv_heads": 4}
        run_training(tiny(values), tmp_path / name, "auto")
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    assert all(compiled[step] == pytest.approx(eager[step], abs=2e-4) for step in eager)
