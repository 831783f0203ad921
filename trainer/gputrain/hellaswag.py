"""HellaSwag (Zellers et al. 2019): which of four endings does the model think likeliest?

`acc` takes the ending with the highest probability, `acc_norm` the one with the highest probability
per token. The file is the published JSON lines: ``ctx``, ``endings`` (four), ``label``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gputrain.errors import DataError

Logits = Callable[[Tensor], Tensor]
"""Token ids (rows, tokens) to logits (rows, tokens, vocabulary)."""
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Question:
    """A context, its endings, and which one is right."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Score:
    """Shares of questions answered right."""

    questions: int
    acc: float
    acc_norm: float


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a file. Raises DataError naming the line of one that is malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            question = Question(str(record["ctx"]), tuple(map(str, record["endings"])), int(record["label"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is not a HellaSwag question: {error!r}.") from error
        if not 0 <= question.label < len(question.endings):
            raise DataError(
                f"{path}, line {number}: label {question.label} for {len(question.endings)} endings."
            )
        yield question


@torch.no_grad()
def ending_scores(question: Question, logits: Logits, encode: Encode, context: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each ending, whole and per token: two (endings,)."""
    before = list(encode(question.context))
    endings = [list(encode(" " + ending)) for ending in question.endings]
    rows = [(before + ending)[-context:] for ending in endings]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    chances = logits(tokens)[:, :-1].float().log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    place = torch.arange(1, width)
    ends = torch.tensor([len(row) for row in rows])[:, None]
    begins = ends - torch.tensor([len(ending) for ending in endings])[:, None]
    mine = (place >= begins) & (place < ends)
    whole = (chances * mine).sum(-1)
    return whole, whole / mine.sum(-1).clamp_min(1)


def score(
    questions: Iterator[Question], logits: Logits, encode: Encode, context: int, limit: int = 0
) -> Score:
    """Answer the questions, at most `limit` if it is not 0. Raises DataError when there are none."""
    count = right = right_norm = 0
    for question in questions:
        whole, each = ending_scores(question, logits, encode, context)
        right += int(whole.argmax()) == question.label
        right_norm += int(each.argmax()) == question.label
        count += 1
        if count == limit:
            break
    if not count:
        raise DataError("The file has no questions.")
    return Score(count, right / count, right_norm / count)
