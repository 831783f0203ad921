"""Memories that learn while they read: the fast form is the slow one, for every rule."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, normalize
from trainer_runs import done, losses

from gputrain.config import Config, ModelConfig
from gputrain.errors import ConfigError
from gputrain.miras import Rule, State, scan
from gputrain.model import GPT
from gputrain.session import run_training

RULES = ["moneta", "yaad", "memora"]
MEMORIES = ["matrix", "mlp"]
BOTH = list(itertools.product(RULES, MEMORIES))
BATCH, HEADS, TOKENS, DIM = 2, 3, 24, 6


def draw(memory: str, *, tokens: int = TOKENS) -> tuple[State, dict[str, Tensor]]:
    """A random state and random inputs of `scan` in float64.

    Little is forgotten: a small MLP behind a norm makes chaos of rounding errors.
    """
    torch.manual_seed(7)
    shapes = [(DIM, DIM)] if memory == "matrix" else [(DIM, 4 * DIM), (4 * DIM, DIM)]
    state = tuple(torch.randn(BATCH, HEADS, *s, dtype=torch.float64) * s[-1] ** -0.5 for s in shapes)
    q, k, v = normalize(torch.randn(3, BATCH, HEADS, tokens, DIM, dtype=torch.float64), dim=-1)
    rates, keep, threshold = torch.rand(3, BATCH, HEADS, tokens, dtype=torch.float64)
    inputs = {"q": q, "k": k, "v": v, "rates": rates / 20, "log_keep": (0.9 + 0.1 * keep).log()}
    return state, {**inputs, "thresholds": threshold + 0.5}


def recall(weights: State, x: Tensor) -> Tensor:
    """M(x) for x (batch, heads, dim)."""
    if len(weights) == 1:
        return torch.einsum("bhoi,bhi->bho", weights[0], x)
    upper, lower = weights
    hidden = gelu(torch.einsum("bhoi,bhi->bho", lower, x))
    return x + layer_norm(torch.einsum("bhoi,bhi->bho", upper, hidden), (DIM,), eps=1e-6)


def one_by_one(rule: Rule, state: State, chunk: int, inputs: dict[str, Tensor]) -> tuple[Tensor, State]:
    """The definition: token by token, inner gradients by autograd, anchored at the chunk's start."""
    answers, tokens = [], inputs["q"].shape[2]
    accumulators = anchor = list(state)
    for t in range(tokens):
        if t % chunk == 0:
            anchor = list(accumulators)
        q, k, v, eta, log_alpha, delta = (value[:, :, t] for value in inputs.values())
        weights = [rule.read(a).detach().requires_grad_() for a in anchor]
        recalled = recall(tuple(weights), k)
        slope = rule.error_gradient((recalled - v).detach(), delta[..., None])
        grads = torch.autograd.grad((recalled * slope).sum(), weights)
        rate, keep = eta[..., None, None], log_alpha.exp()[..., None, None]
        accumulators = [keep * a - rate * g for a, g in zip(accumulators, grads, strict=True)]
        if rule.name == "memora":
            now = tuple(rule.read(a) for a in anchor)
        else:
            now = tuple(a * rule.scale(b) for a, b in zip(accumulators, anchor, strict=True))
        answers.append(recall(now, q))
    return torch.stack(answers, dim=2), tuple(accumulators)


@pytest.mark.parametrize(("name", "memory"), BOTH)
@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
def test_chunks_equal_tokens_one_by_one(name: str, memory: str, chunk: int) -> None:
    state, inputs = draw(memory)
    fast, fast_end = scan(Rule(name), state, **inputs, chunk=chunk)
    slow, slow_end = one_by_one(Rule(name), state, chunk, inputs)
    assert (fast - slow).abs().max() < 1e-12 * max(1.0, slow.abs().max())
    for a, b in zip(fast_end, slow_end, strict=True):
        assert (a - b).abs().max() < 1e-12 * max(1.0, b.abs().max())


@pytest.mark.parametrize(("name", "memory"), BOTH)
def test_a_sequence_can_be_read_in_two_parts(name: str, memory: str) -> None:
    state, inputs = draw(memory)
    whole, whole_end = scan(Rule(name), state, **inputs, chunk=4)
    first, middle = scan(Rule(name), state, **{k: v[:, :, :12] for k, v in inputs.items()}, chunk=4)
    second, end = scan(Rule(name), middle, **{k: v[:, :, 12:] for k, v in inputs.items()}, chunk=4)
    assert torch.equal(torch.cat((first, second), dim=2), whole)
    assert all(torch.equal(a, b) for a, b in zip(end, whole_end, strict=True))


@pytest.mark.parametrize(("name", "memory"), BOTH)
def test_detaching_is_backpropagation_per_segment(name: str, memory: str) -> None:
    state, inputs = draw(memory)
    inputs = {key: value.requires_grad_() for key, value in inputs.items()}
    weights = torch.randn(BATCH, HEADS, TOKENS, DIM, dtype=torch.float64)

    def gradients(answer: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((answer * weights).sum(), list(inputs.values()), allow_unused=True))

    cut = gradients(scan(Rule(name), state, **inputs, chunk=4, detach_every=8)[0])
    parts, here = [], state
    for begin in range(0, TOKENS, 8):
        part = {key: value[:, :, begin : begin + 8] for key, value in inputs.items()}
        answer, here = scan(Rule(name), tuple(m.detach() for m in here), **part, chunk=4)
        parts.append(answer)
    segments = gradients(torch.cat(parts, dim=2))
    whole = gradients(scan(Rule(name), state, **inputs, chunk=4)[0])
    pairs = [(a, b) for a, b in zip(cut, segments, strict=True) if a is not None and b is not None]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)
    different = [not torch.allclose(a, b) for a, b in zip(cut, whole, strict=True) if a is not None]
    assert any(different), "without it gradients do flow back further"


def test_a_memory_learns_what_it_is_shown() -> None:
    """The same key with the same value again and again: at the end the memory answers with it."""
    key = normalize(torch.randn(1, 1, 1, DIM, dtype=torch.float64), dim=-1)
    value = torch.randn(1, 1, 1, DIM, dtype=torch.float64)
    keys, values = key.expand(1, 1, 200, DIM), value.expand(1, 1, 200, DIM)
    rate = torch.full((1, 1, 200), 0.1, dtype=torch.float64)
    start = torch.zeros(1, 1, DIM, DIM, dtype=torch.float64)
    answer, _ = scan(
        Rule("yaad"), (start,), keys, keys, values, rate, torch.zeros_like(rate), 99 + rate, chunk=4
    )
    assert (answer[0, 0, -1] - value[0, 0, 0]).abs().max() < 1e-3
    assert (answer[0, 0, 0] - value[0, 0, 0]).abs().max() > 0.1


SMALL = ModelConfig(layers=2, width=32, heads=4, context=24, vocab=50, memory_chunk=8, memory_detach=16)


@pytest.mark.parametrize(("name", "memory"), BOTH)
def test_in_the_model_no_token_sees_the_future_and_every_parameter_learns(name: str, memory: str) -> None:
    gpt = GPT(dataclasses.replace(SMALL, mixer=name, memory=memory), torch.float64)
    gpt.initialise(0)
    gpt.double()
    tokens = torch.randint(50, (2, 24))
    changed = tokens.clone()
    changed[:, 13:] = (changed[:, 13:] + 1) % 50
    before, after = gpt.logits(tokens), gpt.logits(changed)
    assert torch.allclose(before[:, :13], after[:, :13], atol=1e-12)
    assert not torch.allclose(before[:, 13:], after[:, 13:])
    gpt(tokens, tokens).backward()
    without = {n for n, p in gpt.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert without == set()
    silent = {n for n, p in gpt.named_parameters() if p.grad is not None and p.grad.abs().sum() == 0}
    assert silent == set()


@pytest.mark.parametrize(("name", "memory"), BOTH)
def test_nine_and_eleven_steps_equal_twenty(
    tmp_path: Path, tiny: Callable[..., Config], name: str, memory: str
) -> None:
    changes = {
        "model.mixer": name,
        "model.memory": memory,
        "model.memory_chunk": 8,
        "model.memory_detach": 16,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(tiny(changes), whole, "auto")
    run_training(tiny({**changes, "train.until": 9}), parts, "auto")
    run_training(tiny(changes), parts, "auto")
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
    assert losses(whole)[20] < losses(whole)[1] - 0.5


def test_the_chunk_is_part_of_the_model(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    changes = {"model.mixer": "moneta", "model.memory_chunk": 8, "model.memory_detach": 16, "train.until": 3}
    run_training(tiny(changes), tmp_path, "auto")
    with pytest.raises(ConfigError, match=r"model\.memory_chunk: 8 → 16"):
        run_training(tiny({**changes, "model.memory_chunk": 16}), tmp_path, "auto")
    with pytest.raises(ConfigError, match=r"memory_detach \(20\) must be a multiple"):
        tiny({"model.memory_chunk": 8, "model.memory_detach": 20})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
def test_a_compiled_model_learns_the_same(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    for name, flag in (("eager", "off"), ("compiled", "on")):
        values = {"system.compile": flag, "system.dtype": "float32", "model.mixer": "moneta"}
        run_training(tiny({**values, "model.memory_chunk": 16}), tmp_path / name, "auto")
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    assert all(compiled[step] == pytest.approx(eager[step], abs=5e-4) for step in eager)
