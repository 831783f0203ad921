"""Conversations and preferences from JSON lines, tokenised once, and the batches made of them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from gputrain.chat import ChatTokenizer, Example, Message, Template, encode, render
from gputrain.errors import DataError
from gputrain.order import permute

SHOWN = 3
"""Bad lines that an error names."""


@dataclass(frozen=True)
class Pair:
    """The same question with a better and a worse answer."""

    chosen: Example
    rejected: Example


Item = TypeVar("Item", Example, Pair)


@dataclass(frozen=True)
class Examples(Generic[Item]):
    """What is learned from, what is held out, and what had to be left out."""

    name: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    sha256: str
    """Of the text and of everything that decides what becomes of it."""
    too_long: int


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with their line numbers. Raises DataError with the place of a bad one."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
                if not isinstance(value, dict):
                    raise DataError(f"{path}, line {number} is not a JSON object.")
                yield number, value
    except (OSError, EOFError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error


def messages_of(value: object, role: str) -> list[Message]:
    """A list of messages, or a text said by `role`. Raises DataError."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError("expected a text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError('a message is {"role": …, "content": …}')
        if not isinstance(message.get("content"), str):
            raise DataError(f"the content of a {message['role']} message is no text")
    return value


def conversation(record: Mapping[str, Any]) -> list[Message]:
    """``{"messages": […]}``, or ``{"prompt": …, "completion": …}``."""
    if "messages" in record:
        return messages_of(record["messages"], "user")
    if "prompt" in record and "completion" in record:
        asked, said = messages_of(record["prompt"], "user"), messages_of(record["completion"], "assistant")
        return [*asked, *said]
    raise DataError('expected {"messages": […]} or {"prompt": …, "completion": …}')


def preference(record: Mapping[str, Any]) -> tuple[list[Message], list[Message]]:
    """``{"prompt": …, "chosen": …, "rejected": …}``; without a prompt both are whole conversations."""
    if "chosen" not in record or "rejected" not in record:
        raise DataError('expected {"prompt": …, "chosen": …, "rejected": …}')
    asked = messages_of(record["prompt"], "user") if record.get("prompt") else []
    chosen = [*asked, *messages_of(record["chosen"], "assistant")]
    rejected = [*asked, *messages_of(record["rejected"], "assistant")]
    if chosen == rejected:
        raise DataError("chosen and rejected are the same, from which nothing can be learned")
    return chosen, rejected


@dataclass(frozen=True)
class Recipe:
    """How conversations become examples."""

    template: Template
    tokenizer: ChatTokenizer
    turns: str
    max_tokens: int
    val_fraction: float

    def describe(self) -> str:
        """Everything that decides the tokens."""
        parts = (self.template.source, self.tokenizer.sha256, self.turns, self.max_tokens, self.val_fraction)
        return json.dumps(parts)

    def example(self, messages: Sequence[Message], *, turns: str = "") -> Example:
        """One conversation. Raises DataError."""
        return encode(self.tokenizer, render(self.template, messages, turns=turns or self.turns))


def _sft_item(recipe: Recipe, record: Mapping[str, Any]) -> Example | None:
    """Cut at the longest length; None if no learned token is left."""
    found = recipe.example(conversation(record)).cut(recipe.max_tokens + 1)
    return found if found.learned.any() else None


def _dpo_item(recipe: Recipe, record: Mapping[str, Any]) -> Pair | None:
    """None if an answer is too long: half an answer is no preference."""
    chosen, rejected = (recipe.example(messages, turns="last") for messages in preference(record))
    longest = max(len(chosen.tokens), len(rejected.tokens))
    return Pair(chosen, rejected) if longest <= recipe.max_tokens + 1 else None


def read_conversations(paths: Sequence[str], recipe: Recipe) -> Examples[Example]:
    """Examples for SFT. Raises DataError naming the lines that cannot be used."""
    return _read(paths, recipe, _sft_item)


def read_pairs(paths: Sequence[str], recipe: Recipe) -> Examples[Pair]:
    """Pairs for DPO. Raises DataError naming the lines that cannot be used."""
    return _read(paths, recipe, _dpo_item)


def _read(
    paths: Sequence[str], recipe: Recipe, make: Callable[[Recipe, Mapping[str, Any]], Item | None]
) -> Examples[Item]:
    if not paths:
        raise DataError("There is nothing to learn from; give a .jsonl file with --data.")
    train: list[Item] = []
    val: list[Item] = []
    bad: list[str] = []
    digest, long = hashlib.sha256(recipe.describe().encode()), 0
    for name in paths:
        for number, record in read_lines(Path(name)):
            line = json.dumps(record, sort_keys=True).encode()
            digest.update(line)
            try:
                item = make(recipe, record)
            except DataError as error:
                bad.append(f"{name}, line {number}: {error}")
                continue
            # Held out by its own hash: the same ones whatever stands beside it.
            share = int.from_bytes(hashlib.sha256(line).digest()[:8], "big") / 2**64
            if item is None:
                long += 1
            else:
                (val if share < recipe.val_fraction else train).append(item)
    if bad:
        more = f" (and {len(bad) - SHOWN} more lines)" if len(bad) > SHOWN else ""
        raise DataError(f"{'; '.join(bad[:SHOWN])}{more}. Correct or remove them.")
    if not train:
        why = f"all {long} are longer than {recipe.max_tokens} tokens" if long else "no examples"
        raise DataError(f"There is nothing to learn in {', '.join(paths)}: {why}.")
    return Examples(", ".join(paths), tuple(train), tuple(val), digest.hexdigest(), long)


def order(seed: int, size: int, first: int, count: int) -> list[int]:
    """Which items are samples ``first`` … of the run: every one once per epoch."""
    samples = np.arange(first, first + count, dtype=np.uint64)
    found = []
    for sample in samples:
        inside = np.array([sample % np.uint64(size)], dtype=np.uint64)
        found.append(int(permute(inside, size, (seed, 0, int(sample) // size))[0]))
    return found


def padded(examples: Sequence[Example], length: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and which targets are learned, padded at the end: int64, int64, bool (count, tokens).

    Attention is causal, so what stands at the end is never seen by what counts.
    """
    longest = length or max(len(example.tokens) for example in examples) - 1
    inputs = torch.zeros(len(examples), longest, dtype=torch.int64)
    targets, learned = torch.zeros_like(inputs), torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        size, ids = len(example.tokens) - 1, torch.from_numpy(example.tokens.astype(np.int64))
        inputs[row, :size], targets[row, :size] = ids[:-1], ids[1:]
        learned[row, :size] = torch.from_numpy(example.learned[1:])
    return inputs, targets, learned
