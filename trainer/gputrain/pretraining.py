"""Pre-training: the next token of packed windows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gputrain.build import Built, build
from gputrain.config import Config
from gputrain.data import Mixture, Prefetcher, Sampler, Windows, open_data
from gputrain.errors import ConfigError
from gputrain.evaluate import bits_per_byte, held_out_loss
from gputrain.identity import identity
from gputrain.model import GPT
from gputrain.progress import make_plan
from gputrain.rundir import RunDir
from gputrain.world import World


class Pretraining:
    """An `Objective`. Raises DataError or ConfigError when data and settings do not go together."""

    def __init__(self, config: Config, world: World) -> None:
        self._world = world
        checked: list[Mixture] = []
        world.share(lambda: checked.append(open_data(config.data, full=config.data.verify)))
        # The leader has hashed the shards; the others only look whether they are there.
        self.data = checked[0] if checked else open_data(config.data, full=False)
        vocab = config.model.vocab or self.data.vocab
        if vocab < self.data.vocab:
            raise ConfigError(f"model.vocab is {vocab}, but the data has {self.data.vocab} token ids.")
        self.config = replace(config, model=replace(config.model, vocab=vocab))
        self.name, self.data_sha256, self.warm = self.data.name, self.data.sha256, config.train.init
        self.sampler = Sampler(self.data, config.model.context, config.train.seed)
        self._held_out = Windows(self.data.val, config.model.context)
        self.plan = make_plan(self.config, self.sampler.windows_per_epoch, world.size)
        self.identity: Mapping[str, Any] = identity(self.config, self.data.sha256, self.plan.tokens_per_step)
        self._ahead = Prefetcher(self.sampler, world.device)

    def prepare(self, run: RunDir) -> None:
        """Nothing beyond what every run directory has."""

    def build(self, *, initialise: bool) -> Built:
        return build(self.config, self._world, initialise=initialise)

    def batch(self, first: int, count: int, next_first: int) -> tuple[Tensor, ...]:
        return self._ahead.batch(first, count, next_first)

    def tokens(self, samples: int) -> int:
        return samples * self.config.model.context

    def evaluate(self, built: Built) -> dict[str, float] | None:
        """Loss in nats per token and bits per byte on the held-out windows."""
        train, model = self.config.train, built.model
        assert isinstance(model, GPT)  # noqa: S101 - built above
        loss = held_out_loss(model, self._held_out, train.eval_windows, train.batch_size, self._world)
        if loss is None:
            return None
        return {"loss": loss, "bits_per_byte": bits_per_byte(loss, self.data.bytes_per_token)}

    def close(self) -> None:
        self._ahead.close()
