"""Text from a trained model, token by token, with the keys and values of earlier tokens kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gputrain.errors import ConfigError
from gputrain.model import GPT, Attention, KeyCache


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.8
    """0 always takes the likeliest."""
    top_k: int = 0
    """Draw among so many of the likeliest; 0 means all."""
    top_p: float = 1.0
    """Draw among the likeliest that together have this probability."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for values that make no sense."""
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError("Sampling needs temperature ≥ 0, top-k ≥ 0 and 0 < top-p ≤ 1.")


def distribution(logits: Tensor, how: Sampling) -> Tensor:
    """Probabilities of the next token from logits (vocabulary,); temperature must be above 0."""
    scaled = logits.double() / how.temperature
    if how.top_k:
        least = scaled.topk(min(how.top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    chances = scaled.softmax(-1)
    if how.top_p < 1:
        ordered, order = chances.sort(descending=True)
        # The first token that reaches the share still belongs to it.
        beyond = ordered.cumsum(-1) - ordered >= how.top_p
        chances[order[beyond]] = 0
        chances /= chances.sum()
    return chances


def draw(logits: Tensor, how: Sampling, generator: torch.Generator) -> int:
    """The next token."""
    if how.temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(distribution(logits, how).cpu(), 1, generator=generator))


class Reader(Protocol):
    """Something that reads tokens and predicts the next."""

    context: int

    def start(self, tokens: Sequence[int]) -> Tensor:
        """Forget everything, read `tokens`, and give the logits (vocabulary,) of the next."""

    def more(self, token: int) -> Tensor:
        """Read one more token and give the logits of the next."""


class OwnReader:
    """A model of ours. Memories that learn while they read keep no cache: their windows are read again."""

    def __init__(self, model: GPT) -> None:
        self._model, self.context = model, model.config.context
        self._mixers = [m for m in model.modules() if isinstance(m, Attention)]
        self._cached = model.config.mixer == "attention"
        self._tokens: list[int] = []

    @torch.no_grad()
    def _last(self, tokens: Sequence[int], start: int) -> Tensor:
        ids = torch.tensor([list(tokens)], device=self._model.head_weight.device)
        return self._model.logits(ids, start)[0, -1]

    def start(self, tokens: Sequence[int]) -> Tensor:
        for mixer in self._mixers:
            mixer.cache = KeyCache(self.context)
        self._tokens = list(tokens)
        return self._last(tokens, 0)

    def more(self, token: int) -> Tensor:
        self._tokens.append(token)
        if not self._cached:
            return self._last(self._tokens, 0)
        return self._last([token], len(self._tokens) - 1)

    def close(self) -> None:
        """Forget the caches."""
        for mixer in self._mixers:
            mixer.cache = None


def generate(
    reader: Reader, prompt: Sequence[int], how: Sampling, limit: int, stop: int | None
) -> Iterator[int]:
    """Up to `limit` tokens after `prompt`, ending before `stop`.

    When the context is full its older half is forgotten.
    """
    if not prompt:
        raise ConfigError("The prompt is empty; give at least one token of text.")
    generator = torch.Generator().manual_seed(how.seed)
    seen = list(prompt)[-reader.context :]
    logits = reader.start(seen)
    for _ in range(limit):
        token = draw(logits, how, generator)
        if token == stop:
            return
        yield token
        seen.append(token)
        if len(seen) > reader.context:
            seen = seen[-(reader.context // 2) :]
            logits = reader.start(seen)
        else:
            logits = reader.more(token)


class ForeignReader:
    """A Hugging Face causal language model from a directory (or by name, if it is in the cache)."""

    def __init__(self, name: str) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ConfigError(
                "Reading Hugging Face checkpoints needs the package: pip install transformers."
            ) from None
        self._model = AutoModelForCausalLM.from_pretrained(name).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self.end: int | None = self._tokenizer.eos_token_id
        self.context = int(getattr(self._model.config, "max_position_embeddings", 1024))
        self._past: object = None

    @torch.no_grad()
    def _read(self, tokens: Sequence[int]) -> Tensor:
        out = self._model(torch.tensor([list(tokens)]), past_key_values=self._past, use_cache=True)
        self._past = out.past_key_values
        last: Tensor = out.logits[0, -1].float()
        return last

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(tokens)))

    def start(self, tokens: Sequence[int]) -> Tensor:
        self._past = None
        return self._read(tokens)

    def more(self, token: int) -> Tensor:
        return self._read([token])


class TextStream:
    """Turns tokens into text as soon as whole characters are there."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """What the token adds; empty while a character is incomplete."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        added = text[len(self._shown) :]
        self._shown = text
        return added


@contextlib.contextmanager
def reading(model: GPT) -> Iterator[OwnReader]:
    """A reader whose caches are gone afterwards."""
    reader = OwnReader(model)
    try:
        yield reader
    finally:
        reader.close()
