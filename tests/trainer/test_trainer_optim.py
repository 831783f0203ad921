"""Optimisers, the learning rate, and what happens when a step goes wrong."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_runs import done, lines, losses

from gputrain.config import Config, ModelConfig, OptimConfig
from gputrain.errors import DivergedError, ExitCode
from gputrain.guard import SETTLED, Guard, Verdict, judge
from gputrain.model import GPT
from gputrain.optim import build_optimisers, initialise_state, named_state
from gputrain.schedule import rate_share
from gputrain.session import run_training

Make = Callable[..., Config]


@given(st.sampled_from(["cosine", "wsd", "constant"]), st.integers(1, 5000), st.floats(0, 0.5))
def test_the_rate_stays_between_zero_and_the_peak(name: str, total: int, warmup: float) -> None:
    config = OptimConfig(schedule=name, warmup=warmup)
    shares = [rate_share(config, step, total) for step in range(0, total, max(1, total // 50))]
    assert all(0 < share <= 1 for share in shares)


def test_schedules_have_their_shapes() -> None:
    cosine = OptimConfig(schedule="cosine", warmup=0.1, final_lr=0.1)
    assert [rate_share(cosine, step, 100) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert rate_share(cosine, 55, 100) == pytest.approx(0.55)
    assert rate_share(cosine, 100, 100) == pytest.approx(0.1)
    wsd = OptimConfig(schedule="wsd", warmup=0.1, decay=0.2, final_lr=0.0)
    assert [rate_share(wsd, step, 100) for step in (10, 80, 90, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = GPT(ModelConfig(layers=1, width=32, heads=4, context=8, vocab=64, tied=False))
    adamw, muon = build_optimisers(model, OptimConfig(name="muon", muon_lr=0.01))
    names = {id(p): n for n, p in model.named_parameters()}
    of_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    of_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {n for n in names.values() if n.startswith("blocks.0.m") and "norm" not in n}
    assert of_muon | of_adamw == set(names.values())
    assert not of_muon & of_adamw
    undecayed = [g for g in adamw.param_groups if g["weight_decay"] == 0]
    assert all(p.dim() == 1 for group in undecayed for p in group["params"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_creating_the_optimiser_state_early_changes_no_update(name: str) -> None:
    results = []
    for early in (False, True):
        model = GPT(ModelConfig(layers=1, width=32, heads=4, context=8, vocab=64))
        model.initialise(0)
        optimisers = build_optimisers(model, OptimConfig(name=name))
        if early:
            initialise_state(optimisers)
            assert all(t.abs().sum() == 0 for t in named_state(model, optimisers).values())
        for _ in range(3):
            model(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)).backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def test_the_guard_skips_then_rolls_back_then_gives_up() -> None:
    config, guard = OptimConfig(patience=2, max_rollbacks=1), Guard()
    verdicts = []
    for loss in [3.0, math.nan, 3.0, math.inf, math.nan, math.nan, math.nan]:
        verdict, guard = judge(guard, config, loss, 1.0)
        verdicts.append(verdict.value)
    assert verdicts == ["update", "skip", "update", "skip", "roll back", "skip", "give up"]


def test_a_spike_is_judged_by_the_running_norm() -> None:
    config, settled = OptimConfig(spike=10), Guard(mean_norm=1.0, good_steps=SETTLED)
    assert judge(settled, config, 3.0, 9.0)[0] is Verdict.UPDATE
    assert judge(settled, config, 3.0, 11.0)[0] is Verdict.SKIP
    assert judge(replace(settled, good_steps=3), config, 3.0, 11.0)[0] is Verdict.UPDATE


def poison(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Make the loss NaN at the given forward passes of this process."""
    original, counter = GPT.forward, itertools.count(1)

    def forward(self: GPT, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = original(self, tokens, targets)
        return loss * math.nan if next(counter) in calls else loss

    monkeypatch.setattr(GPT, "forward", forward)


def test_a_nan_step_is_skipped_and_training_goes_on(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {11})  # two micro-batches a step: the sixth
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.DONE
    assert [e["step"] for e in lines(tmp_path / "events.jsonl") if e["event"] == "step_skipped"] == [6]
    assert losses(tmp_path)[6] is None, "JSON has no NaN"
    assert losses(tmp_path)[20] < losses(tmp_path)[1]


def test_after_k_bad_steps_the_run_goes_back_and_leaves_that_data_out(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {15, 17, 19})
    assert run_training(tiny({"checkpoint.every_steps": 5}), tmp_path, "auto") == ExitCode.DONE
    back = [e for e in lines(tmp_path / "events.jsonl") if e["event"] == "rolled_back"]
    assert [(e["from_step"], e["step"]) for e in back] == [(10, 5)]
    state = json.loads((tmp_path / "ckpt" / "step-000000020" / "state.json").read_text())
    assert state["progress"]["next_sample"] == 25 * 4, "five steps' worth of data was not used"
    assert done(tmp_path)["final_step"] == 20


def test_a_run_that_stays_broken_has_diverged(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(15, 1000)))
    with pytest.raises(DivergedError, match=r"diverged at step 8 .* after 2 rollbacks"):
        run_training(tiny({"checkpoint.every_steps": 5}), tmp_path, "auto")
    assert json.loads((tmp_path / "FAILED.json").read_text())["exit_code"] == ExitCode.DIVERGED
