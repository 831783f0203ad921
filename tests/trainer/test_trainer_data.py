"""The data is checked before it costs anything, and its order is a function of the seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_runs import byte_shards, done, losses

from gputrain.cli import main
from gputrain.config import Config, DataConfig
from gputrain.data import MIX_BLOCK, Sampler, block_slots, open_data
from gputrain.errors import DataError, ExitCode
from gputrain.order import permute
from gputrain.session import run_training
from gputrain.tokenizer import open_tokenizer


@given(st.integers(1, 3000), st.integers(-(2**40), 2**40), st.integers(0, 100))
def test_the_order_is_a_permutation_of_every_size(size: int, seed: int, epoch: int) -> None:
    indices = np.arange(size, dtype=np.uint64)
    assert sorted(permute(indices, size, (seed, epoch))) == list(range(size))


def test_the_order_looks_random_and_differs_between_epochs() -> None:
    indices = np.arange(1000, dtype=np.uint64)
    first, second = (permute(indices, 1000, (7, epoch)) for epoch in (0, 1))
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(indices.astype(float), first.astype(float))[0, 1]) < 0.1


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    documents = [f"Document number {i}. " * 20 for i in range(100)]
    byte_shards(documents, tmp_path / "shards")
    return tmp_path / "shards"


def test_every_window_is_seen_once_per_epoch_whatever_the_batch(shards: Path) -> None:
    sampler = Sampler(open_data(DataConfig(path=(str(shards),))), 64, seed=3)
    size = sampler.windows_per_epoch
    seen = Counter(tuple(row) for n in range(size) for row in sampler.batch(n, 1)[0].tolist())
    epoch = sampler.batch(0, size)[0]
    assert Counter(map(tuple, epoch.tolist())) == seen
    corpus, windows = sampler.locate(np.arange(size, 2 * size, dtype=np.uint64))
    assert sorted(windows) == list(range(size))
    assert set(corpus) == {0}


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=8).map(tuple))
def test_a_block_of_the_mixture_has_the_weights(weights: tuple[float, ...]) -> None:
    slots = block_slots(weights)
    assert slots.sum() == MIX_BLOCK
    assert min(slots) >= 1
    assert all(
        abs(s - w / sum(weights) * MIX_BLOCK) <= len(weights) for s, w in zip(slots, weights, strict=True)
    )


def test_a_mixture_draws_by_weight_and_still_sees_every_window(tmp_path: Path) -> None:
    for name, letter, size in (("a", "a", 3_000), ("b", "b", 9_000)):
        (tmp_path / name).write_text(letter * size)
    paths = (str(tmp_path / "a"), str(tmp_path / "b"))
    sampler = Sampler(open_data(DataConfig(path=paths, weights=(3, 1))), 16, seed=1)
    corpus, windows = sampler.locate(np.arange(8 * MIX_BLOCK, dtype=np.uint64))
    assert Counter(corpus.tolist()) == {0: 6 * MIX_BLOCK, 1: 2 * MIX_BLOCK}
    counts = Counter(windows[corpus == 0].tolist())
    assert max(counts.values()) - min(counts.values()) <= 1
    inputs, _ = sampler.batch(0, 64)
    assert {chr(row[0]) for row in inputs.tolist()} == {"a", "b"}


def test_shards_of_the_same_documents_are_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    documents = [f"Document number {i}. " * 20 for i in range(100)]
    byte_shards(documents, tmp_path / "again")
    names = sorted(path.name for path in shards.iterdir())
    assert len(names) > 5
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((shards / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_tokenizer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content[:256].replace(b'"tokenizer_sha256": "', b'"tokenizer_sha256": "0')[:256] + content[256:]
    )


def edit(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = path.with_name("manifest.json")
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"1 of \d+ shards .* train-00000.bin does not have the SHA-256 of the manifest"),
        (cut, r"train-00000.bin has \d+ bytes instead of \d+"),
        (Path.unlink, "train-00000.bin is missing"),
        (other_tokenizer, "disagrees with the manifest about tokenizer_sha256"),
        (edit(shards=[]), "has no documents to train on"),
        (edit(complete=False), "sharding was interrupted"),
        (edit(format="other/9"), "unknown format 'other/9'"),
        (edit(tokenizer={}), "malformed"),
    ],
)
def test_damaged_shards_are_refused_before_training(
    shards: Path, tmp_path: Path, tiny: Callable[..., Config], damage: Callable[[Path], None], message: str
) -> None:
    damage(shards / "train-00000.bin")
    with pytest.raises(DataError, match=message):
        run_training(tiny({"data.path": (str(shards),)}), tmp_path / "run", "auto")
    failed = json.loads((tmp_path / "run" / "FAILED.json").read_text())
    assert failed["exit_code"] == ExitCode.DATA
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b"too short", "too few for one window of 32 tokens")],
)
def test_unusable_text_is_refused(
    tmp_path: Path, tiny: Callable[..., Config], content: bytes | None, message: str
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        run_training(tiny({"data.path": (str(path),)}), tmp_path / "run", "auto")


def test_corpora_of_different_tokenizers_do_not_mix(tmp_path: Path, shards: Path, text: Path) -> None:
    with pytest.raises(DataError, match="different tokenizers"):
        open_data(DataConfig(path=(str(shards), str(text))))


def test_a_run_on_bpe_shards_resumes_exactly_in_the_second_epoch(
    tmp_path: Path, tiny: Callable[..., Config], text: Path
) -> None:
    tokenizer = train_bpe(text, tmp_path / "tokenizer.json")
    arguments = ["--out", str(tmp_path / "shards"), "--tokenizer", str(tokenizer), "--separator", "\n\n"]
    assert main(["shard", str(text), *arguments, "--val-ratio", "0.4"]) == 0
    values = {"data.path": (str(tmp_path / "shards"),), "train.epochs": 3, "train.steps": 0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(tiny(values), whole, "auto")
    steps = len(losses(whole))
    run_training(tiny({**values, "train.until": steps // 2}), parts, "auto")
    run_training(tiny(values), parts, "auto")
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
    bits = done(whole)["metrics"]
    assert bits["bits_per_byte"] < bits["loss"] / np.log(2), "a token stands for more than one byte"


def train_bpe(text: Path, out: Path) -> Path:
    """A small byte-level BPE of the real library."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train([str(text)], trainer)
    model.save(str(out))
    assert open_tokenizer(str(out)).vocab == 300
    return out


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"no <\|endoftext\|> token"):
        open_tokenizer(str(tmp_path / "t.json"))
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        open_tokenizer(str(tmp_path / "t.json"))
