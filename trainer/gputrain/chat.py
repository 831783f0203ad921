"""Conversations to tokens, with a mark on those that the model is to learn.

A chat template is a Jinja program, as `transformers` runs it: in a sandbox, with the names below.
Which characters the assistant wrote is found by rendering the conversation up to each of its turns
with and without it, so that any template works that continues its own prompt.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from gputrain.errors import ConfigError, DataError
from gputrain.files import read_json

Message = Mapping[str, Any]
Ids = npt.NDArray[np.uint32]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BUILT_IN = {"chatml": CHATML}


class Template:
    """A chat template. Raises ConfigError if it does not compile."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise ConfigError("Chat templates need the package: pip install jinja2.") from None
        self.source, self._names, self._error = source, dict(names), TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda x, indent=None: json.dumps(
            x, ensure_ascii=False, indent=indent
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: dt.datetime.now().strftime(form)  # noqa: DTZ005
        try:
            self._compiled = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"The chat template is not valid Jinja: {error}.") from error

    def render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The text of a conversation; with `prompt` it ends where the assistant begins to write.

        Raises DataError with what the template says against the conversation.
        """
        try:
            text: str = self._compiled.render(
                messages=list(messages), add_generation_prompt=prompt, tools=None, **self._names
            )
            return text
        except self._error as error:
            raise DataError(f"The chat template refuses it: {error}") from error


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def find_template(wanted: str, folder: Path | None) -> Template:
    """The template that is asked for, else that of the Hugging Face model in `folder`.

    Raises ConfigError when there is none.
    """
    about = (read_json(folder / "tokenizer_config.json") if folder else None) or {}
    names = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = about.get(key)
        names[key] = str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
    if wanted in BUILT_IN:
        return Template(BUILT_IN[wanted], names)
    if wanted:
        try:
            return Template(Path(wanted).read_text(encoding="utf-8"), names)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read the chat template {wanted}: {error}.") from error
    own = about.get("chat_template")
    if folder and (folder / "chat_template.jinja").is_file():
        own = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(own, list):
        own = next((t.get("template") for t in own if t.get("name") == "default"), None)
    if not isinstance(own, str):
        where = f"{folder} has no chat template" if folder else "Our own models have no chat template"
        raise ConfigError(f"{where}. Give one: --template chatml, or a Jinja file.")
    return Template(own, names)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and which characters of it the assistant wrote."""

    text: str
    spans: tuple[tuple[int, int], ...]


def render(template: Template, messages: Sequence[Message], *, turns: str) -> Rendered:
    """The conversation up to the assistant's last turn; `turns` is all or last.

    Raises DataError when the assistant says nothing or the template rewrites what went before.
    """
    said = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if not said:
        raise DataError("the assistant says nothing in it")
    whole = template.render(messages[: said[-1] + 1], prompt=False)
    spans = []
    for number in said if turns == "all" else said[-1:]:
        before = template.render(messages[:number], prompt=True)
        until = template.render(messages[: number + 1], prompt=False)
        if not until.startswith(before):
            raise DataError(
                "the chat template writes an answer differently from how it asks for one, so that the answer "
                "cannot be told from the rest; give another with --template"
            )
        if not whole.startswith(until):
            raise DataError(
                "the chat template rewrites earlier turns; learn only the last with --set tune.turns=last, or "
                "give another template"
            )
        spans.append((len(before), len(until)))
    return Rendered(whole, tuple(spans))


class ChatTokenizer(Protocol):
    """What a conversation needs of a tokenizer."""

    vocab: int
    sha256: str

    def place(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Token ids, and the character at which each begins."""


class PlacedBytes:
    """Bytes as tokens; 256 ends a conversation."""

    def __init__(self, sha256: str) -> None:
        self.vocab, self.sha256 = 257, sha256

    def place(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        # Half of a surrogate pair, which JSON can say and UTF-8 cannot, becomes a question mark.
        lengths = [len(c.encode("utf-8", "replace")) for c in text]
        ids = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.uint32)
        starts = np.repeat(np.arange(len(text), dtype=np.int64), lengths)
        return np.append(ids, np.uint32(256)), np.append(starts, len(text) - 1)


class PlacedBPE:
    """A ``tokenizer.json``; `end`, if there is one, is appended to every conversation."""

    def __init__(self, model: Any, sha256: str, end: int | None) -> None:
        self._model, self._end = model, end
        self.vocab, self.sha256 = int(model.get_vocab_size(with_added_tokens=True)), sha256

    def place(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        found = self._model.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)
        ids = np.asarray(found.ids, dtype=np.uint32)
        starts = np.asarray([begin for begin, _ in found.offsets], dtype=np.int64)
        if self._end is None:
            return ids, starts
        return np.append(ids, np.uint32(self._end)), np.append(starts, len(text) - 1)


@dataclass(frozen=True)
class Example:
    """Token ids, and which of them are learned."""

    tokens: Ids
    learned: npt.NDArray[np.bool_]

    def cut(self, length: int) -> Example:
        """The first `length` tokens."""
        return Example(self.tokens[:length], self.learned[:length])


def encode(tokenizer: ChatTokenizer, rendered: Rendered) -> Example:
    """Tokens that begin inside what the assistant wrote are learned, all others only read."""
    ids, starts = tokenizer.place(rendered.text)
    learned = np.zeros(len(ids), dtype=bool)
    for begin, end in rendered.spans:
        learned |= (starts >= begin) & (starts < end)
    learned[:1] = False  # nothing stands before it from which it could be predicted
    return Example(ids, learned)
