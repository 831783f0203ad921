"""Fine-tuning: the loop, resume and checkpoints of pre-training with two other losses.

SFT takes the cross-entropy of what the assistant said and nothing else. DPO (arXiv 2305.18290)
takes −log σ(β · ((log π(w) − log ref(w)) − (log π(l) − log ref(l)))), sums over the tokens of an
answer; the reference is the model without the adapter that is being trained, so that no second
model is held, and its log-probabilities are computed once and kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gputrain.bases import (
    LONGEST,
    Base,
    Language,
    adapter_sha256,
    chat_tokenizer,
    find_adapters,
    find_base,
    load_language,
)
from gputrain.build import Built, choose_dtype, settle_buckets
from gputrain.chat import Example, find_template
from gputrain.checkpoint import open_checkpoint
from gputrain.config import Config
from gputrain.errors import ConfigError
from gputrain.examples import Examples, Pair, Recipe, order, padded, read_conversations, read_pairs
from gputrain.files import read_json, replace_file, to_json
from gputrain.lora import LoraLinear, attach, put_before, start_from, without
from gputrain.loss import token_losses
from gputrain.optim import build_optimisers, initialise_state, named_state
from gputrain.progress import Plan
from gputrain.resume import newest_of_run
from gputrain.rundir import RunDir
from gputrain.trained import tokenizer_file
from gputrain.world import World

REFERENCE = "reference.json"
"""File in the run directory with the log-probabilities of the reference."""


class SftLoss(nn.Module):
    """Weighted sum of the losses of learned tokens."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def forward(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """`weights` float32 (count, tokens), 0 where nothing is learned."""
        hidden, picked = self.language.hidden(inputs), weights > 0
        losses = token_losses(hidden[picked], self.language.head_weight, targets[picked], self.language.vocab)
        return (losses * weights[picked]).sum()


class DpoLoss(nn.Module):
    """DPO of a batch whose first half is better and whose second half is worse."""

    def __init__(self, language: Language, adapted: Mapping[str, LoraLinear], beta: float) -> None:
        super().__init__()
        self.language, self._adapted, self._beta = language, dict(adapted), beta

    def scores(self, inputs: Tensor, targets: Tensor, learned: Tensor) -> Tensor:
        """Log-probability of each answer, float32 (count,)."""
        hidden = self.language.hidden(inputs)
        losses = token_losses(
            hidden[learned], self.language.head_weight, targets[learned], self.language.vocab
        )
        table = torch.zeros(inputs.shape, dtype=losses.dtype, device=losses.device)
        return -table.masked_scatter(learned, losses).sum(-1)

    @torch.no_grad()
    def reference(self, inputs: Tensor, targets: Tensor, learned: Tensor) -> Tensor:
        """The same by the model without the adapter."""
        with without(self._adapted):
            return self.scores(inputs, targets, learned)

    def margins(self, inputs: Tensor, targets: Tensor, learned: Tensor, reference: Tensor | None) -> Tensor:
        """β times how much more than the reference the model prefers the better answer: (pairs,)."""
        known = self.reference(inputs, targets, learned) if reference is None else reference
        better, worse = (self.scores(inputs, targets, learned) - known).chunk(2)
        return self._beta * (better - worse)

    def forward(
        self, inputs: Tensor, targets: Tensor, learned: Tensor, reference: Tensor | None = None
    ) -> Tensor:
        return -F.logsigmoid(self.margins(inputs, targets, learned, reference)).mean()


class Tuning:
    """An `Objective`: adapters on a base, for `tune.stage` sft or dpo. Raises TrainerError."""

    warm = ""

    def __init__(self, config: Config, world: World) -> None:
        _refuse(config)
        self._world = world
        self._loss: SftLoss | DpoLoss | None = None
        self._reference: list[tuple[float, float]] = []
        tune = config.tune
        self._base: Base = world.share(lambda: find_base(tune.base))
        self._adapters = find_adapters(tune.adapters, self._base)
        limit = tune.max_tokens or min(self._base.context, LONGEST)
        if limit > self._base.context and self._base.own:
            raise ConfigError(f"tune.max_tokens is {limit}, the base's context {self._base.context}.")
        recipe = Recipe(
            find_template(tune.template, self._base.folder),
            chat_tokenizer(self._base),
            tune.turns,
            limit,
            config.data.val_fraction,
        )
        self._items: Examples[Example] | Examples[Pair] = (
            read_conversations(config.data.path, recipe)
            if tune.stage == "sft"
            else read_pairs(config.data.path, recipe)
        )
        self.config = replace(config, model=replace(config.model, context=limit))
        self.name, self.data_sha256 = self._items.name, self._items.sha256
        self.plan = _plan(self.config, len(self._items.train), self._mean_tokens, world.size)
        self.identity: Mapping[str, Any] = {
            "tune.stage": tune.stage,
            "tune.base_sha256": self._base.sha256,
            "tune.adapters": [adapter_sha256(open_checkpoint(newest_of_run(Path(n)))) for n in tune.adapters],
            "tune.rank": tune.rank,
            "tune.alpha": tune.alpha,
            "tune.targets": list(tune.targets),
            "tune.beta": tune.beta if tune.stage == "dpo" else None,
            "tune.examples_per_step": self.plan.windows_per_step,
            "data.sha256": self.data_sha256,
            "optim.name": config.optim.name,
            "train.seed": config.train.seed,
        }

    @property
    def _mean_tokens(self) -> float:
        """Of an example as it is read: both answers of a pair."""
        return sum(_size(item) for item in self._items.train) / len(self._items.train)

    def prepare(self, run: RunDir) -> None:
        """Say what was left out, and remember where reference values are kept."""
        self._run = run
        tokenizer = tokenizer_file(self._base.path) if self._base.own else self._base.path / "tokenizer.json"
        if run.leader and tokenizer is not None:
            replace_file(run.path / "tokenizer.json", tokenizer.read_bytes())
        left = self._items.too_long
        if left:
            run.event("examples_left_out", too_long=left, max_tokens=self.config.model.context)
            if run.leader:
                print(f"note: {left} examples are too long ({self.config.model.context} tokens) and left out")

    def build(self, *, initialise: bool) -> Built:
        """Base, adapters and AdamW; with `initialise` the adapter changes nothing yet."""
        config, tune, world = self.config, self.config.tune, self._world
        dtype = choose_dtype(config, world.device)
        language = load_language(self._base, dtype, world.device, recompute=config.system.recompute)
        rows = max(int(item.tokens.max()) for example in self._items.train for item in _parts(example))
        if rows >= language.vocab:
            raise ConfigError(f"The tokenizer makes the id {rows}, the base has {language.vocab} rows.")
        adapted = attach(
            language.model,
            rank=tune.rank,
            alpha=tune.alpha,
            dropout=tune.dropout,
            targets=tune.targets,
            head=language.head,
        )
        if initialise:
            start_from(adapted, config.train.seed)
        for adapter in self._adapters:
            put_before(adapted, adapter)
        loss: SftLoss | DpoLoss = (
            SftLoss(language) if tune.stage == "sft" else DpoLoss(language, adapted, tune.beta)
        )
        self._loss = loss
        loss.train()
        optimisers = build_optimisers(language.model, config.optim)
        initialise_state(optimisers)
        if isinstance(loss, DpoLoss) and tune.reference == "cached":
            self._reference = self._known_reference(loss)
        if config.system.compile == "on":
            language.compile(dynamic=False)
        runner: nn.Module = loss
        if world.size > 1:
            devices = [world.device.index] if world.device.type == "cuda" else None
            runner = nn.parallel.DistributedDataParallel(
                loss, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            settle_buckets(runner, optimisers, self.batch(0, config.train.batch_size, 0))
        parameters = {n: p for n, p in language.model.named_parameters() if p.requires_grad}
        state = named_state(language.model, optimisers)
        compiled = config.system.compile == "on"
        return Built(
            language.model, runner, optimisers, dict(parameters), state, dtype, compiled, sharded=False,
            kind="adapter",
        )  # fmt: skip

    def batch(self, first: int, count: int, next_first: int) -> tuple[Tensor, ...]:
        chosen = order(self.config.train.seed, len(self._items.train), first, count)
        return self._tensors(chosen, first)

    def _tensors(self, chosen: list[int], first: int) -> tuple[Tensor, ...]:
        whole = self.config.model.context if self.config.system.compile == "on" else 0
        device = self._world.device
        if isinstance(self._loss, SftLoss):
            inputs, targets, learned = padded([_example(self._items.train[n]) for n in chosen], whole)
            weights = learned.float() * self._weight(first)
            return inputs.to(device), targets.to(device), weights.to(device)
        pairs = [_pair(self._items.train[n]) for n in chosen]
        tensors = padded([p.chosen for p in pairs] + [p.rejected for p in pairs], whole)
        batch = tuple(tensor.to(device) for tensor in tensors)
        if not self._reference:
            return batch
        known = [self._reference[n] for n in chosen]
        values = torch.tensor([k[0] for k in known] + [k[1] for k in known])
        return (*batch, values.to(device))

    def _weight(self, first: int) -> float:
        """Of one learned token, so that the step's loss is the mean over all learned tokens of the step.

        Every process can count them, because the order is a function.
        """
        size = self.plan.windows_per_step
        chosen = order(self.config.train.seed, len(self._items.train), first // size * size, size)
        learned = sum(int(_example(self._items.train[n]).learned.sum()) for n in chosen)
        return self.plan.micro_batches * self._world.size / learned

    def tokens(self, samples: int) -> int:
        return round(samples * self._mean_tokens)

    def _known_reference(self, loss: DpoLoss) -> list[tuple[float, float]]:
        """Log-probabilities of both answers of every pair, from the run directory or computed now.

        In the order and the batches of the first epoch, so that in its first step the reference is
        the model to the bit. Every process computes its share.
        """
        pairs, world, size = len(self._items.train), self._world, self.config.train.batch_size
        about = {
            "data_sha256": self.data_sha256,
            "base_sha256": self._base.sha256,
            "adapters": self.identity["tune.adapters"],
        }
        path = self._run.path / REFERENCE
        kept = world.share(lambda: read_json(path))
        if kept is not None and kept.get("about") == about and len(kept.get("pairs", [])) == pairs:
            return [(float(better), float(worse)) for better, worse in kept["pairs"]]
        found = [0.0] * (2 * pairs)
        loss.eval()
        for number, first in enumerate(range(0, pairs, size)):
            if number % world.size != world.rank:
                continue
            chosen = order(self.config.train.seed, pairs, first, min(size, pairs - first))
            values = loss.reference(*self._tensors(chosen, first)).tolist()
            for place, item in enumerate(chosen):
                found[2 * item], found[2 * item + 1] = values[place], values[len(chosen) + place]
        loss.train()
        summed = world.sum(found)
        result = list(zip(summed[::2], summed[1::2], strict=True))
        if world.leader:
            replace_file(path, to_json({"about": about, "pairs": result}))
        return result

    @torch.no_grad()
    def evaluate(self, built: Built) -> dict[str, float] | None:
        """Loss on what is held out; for DPO also the share of pairs it orders rightly, and their margin."""
        loss, size, world = self._loss, self.config.train.batch_size, self._world
        held_out = self._items.val[: self.config.train.eval_windows * size]
        if not held_out or loss is None:
            return None
        loss.eval()
        sums = [0.0, 0.0, 0.0, 0.0]
        for number, begin in enumerate(range(0, len(held_out), size)):
            if number % world.size != world.rank:
                continue
            items = held_out[begin : begin + size]
            if isinstance(loss, SftLoss):
                batch = [t.to(world.device) for t in padded([_example(item) for item in items])]
                learned = batch[2].float()
                sums[0] += float(loss(batch[0], batch[1], learned))
                sums[3] += float(learned.sum())
            else:
                pairs = [_pair(item) for item in items]
                batch = [
                    t.to(world.device)
                    for t in padded([p.chosen for p in pairs] + [p.rejected for p in pairs])
                ]
                margins = loss.margins(batch[0], batch[1], batch[2], None)
                sums[0] += float(-F.logsigmoid(margins).sum())
                sums[1] += float((margins > 0).sum())
                sums[2] += float(margins.sum())
                sums[3] += len(pairs)
        loss.train()
        total, right, margin, count = world.sum(sums)
        if isinstance(loss, SftLoss):
            return {"loss": total / count}
        return {"loss": total / count, "accuracy": right / count, "margin": margin / count}

    def close(self) -> None:
        """Nothing runs beside the loop."""


def _example(item: Example | Pair) -> Example:
    assert isinstance(item, Example)  # noqa: S101 - read as such
    return item


def _pair(item: Example | Pair) -> Pair:
    assert isinstance(item, Pair)  # noqa: S101 - read as such
    return item


def _parts(item: Example | Pair) -> tuple[Example, ...]:
    return (item,) if isinstance(item, Example) else (item.chosen, item.rejected)


def _size(item: Example | Pair) -> int:
    return sum(len(part.tokens) - 1 for part in _parts(item))


def _refuse(config: Config) -> None:
    """Settings of pre-training that mean nothing here. Raises ConfigError."""
    if config.tune.stage not in ("sft", "dpo"):
        raise ConfigError("tune.stage must be sft or dpo.")
    if config.system.parallel == "fsdp":
        raise ConfigError(
            "Adapters are trained under ddp: the frozen base fits each GPU (14 GB for 7B in bfloat16), and only "
            "the adapters' gradients travel. Leave system.parallel at ddp."
        )
    if config.optim.name != "adamw":
        raise ConfigError("Adapters are trained with optim.name = adamw.")
    if config.train.tokens_per_step or config.train.tokens:
        raise ConfigError(
            "Tuning counts examples, not tokens: use tune.examples_per_step, and train.steps or train.epochs."
        )
    if config.train.init:
        raise ConfigError("train.init is for pre-training; earlier adapters are given with --adapter.")


def _plan(config: Config, examples: int, mean_tokens: float, world_size: int) -> Plan:
    batch = config.train.batch_size
    unit = batch * world_size
    per_step = config.tune.examples_per_step or unit
    if per_step % unit:
        raise ConfigError(
            f"tune.examples_per_step ({per_step}) must be a multiple of batch_size × processes = {batch} × "
            f"{world_size}; the nearest is {max(1, round(per_step / unit)) * unit}."
        )
    steps = config.train.steps or max(1, math.ceil(config.train.epochs * examples / per_step))
    return Plan(per_step, per_step // world_size, per_step // unit, steps, round(per_step * mean_tokens))
