"""From an empty volume to the first step with one command, and nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_runs import TINY, done, set_options

from gputrain import prepare as module
from gputrain.cli import main
from gputrain.errors import ExitCode

Run = Callable[..., int]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """200 documents."""
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"Document {n} says {n * n} and {n**3}."}) + "\n" for n in range(200))
    )
    return path


@pytest.fixture
def run(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "RUN_SHARD", "RUN_EXPERIMENT", "RUN_CONFIG", "SHARD_LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def call(*extra: str, source: bool = True) -> int:
        sources = [str(corpus)] if source else []
        settings = set_options({**TINY, "train.steps": 4})
        return main(["prepare", *sources, "--root", str(tmp_path / "volume"), *settings, *extra])

    return call


def test_one_command_prepares_and_trains(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        run("--experiment", "first", "--vocab", "300", "--val-ratio", "0.1", "--profile", "nano")
        == ExitCode.DONE
    )
    volume, said = tmp_path / "volume", capsys.readouterr().out
    assert "2 tokenizer    made: 300 tokens" in said
    assert "4 config       written" in said
    assert done(volume / "runs" / "first")["final_step"] == 4
    assert (volume / "runs" / "first" / "tokenizer.json").is_file(), "for sampling"
    for name in ("datasets/first", "artifacts/tokenizer/first", "cache/first", "hf_cache"):
        assert (volume / name).is_dir(), name
    assert os.environ["HF_HOME"] == str(volume / "hf_cache")
    assert os.environ["HF_DATASETS_CACHE"] == str(volume / "hf_cache" / "datasets")
    files = {path: path.stat().st_mtime_ns for path in (volume / "datasets").rglob("*.bin")}
    state = done(volume / "runs" / "first")["state_sha256"]
    assert (
        run("--experiment", "first", "--vocab", "300", "--val-ratio", "0.1", "--profile", "nano")
        == ExitCode.DONE
    )
    again = capsys.readouterr().out
    assert "2 tokenizer    reused: 300 tokens" in again
    assert "3 shards       complete before" in again
    assert "4 config       unchanged" in again
    assert {path: path.stat().st_mtime_ns for path in (volume / "datasets").rglob("*.bin")} == files
    assert done(volume / "runs" / "first")["state_sha256"] == state


def test_an_interruption_between_shards_leaves_no_gap(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ("--profile", "nano", "--no-train", "--lines-per-shard", "50")
    assert run("--experiment", "whole", *wanted) == 0
    real = module.read_documents

    def breaks(*arguments: object) -> object:
        for number, document in enumerate(real(*arguments)):  # type: ignore[arg-type]
            if number == 120:
                raise KeyboardInterrupt
            yield document

    monkeypatch.setattr(module, "read_documents", breaks)
    monkeypatch.setattr("gputrain.sharding.BATCH_DOCUMENTS", 7)
    with pytest.raises(KeyboardInterrupt):
        run("--experiment", "parts", *wanted)
    monkeypatch.setattr(module, "read_documents", real)
    assert run("--experiment", "parts", *wanted) == 0
    assert "going on behind 2 of them" in capsys.readouterr().out
    folders = [tmp_path / "volume" / "datasets" / name for name in ("whole", "parts")]
    contents = [{path.name: path.read_bytes() for path in folder.glob("*.bin")} for folder in folders]
    assert contents[0] == contents[1]
    assert len(contents[0]) >= 4


def test_the_knobs_of_note_4(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "RUN_EXPERIMENT", "runpod-2b")
    monkeypatch.setitem(os.environ, "RUN_CONFIG", "configs/m3_medium.yaml")
    monkeypatch.setitem(os.environ, "SHARD_LINES", "40")
    monkeypatch.setitem(os.environ, "RUN_SHARD", "0")
    assert run("--no-train", source=False) == ExitCode.CONFIG
    assert "are not there. Make them with RUN_SHARD=1." in capsys.readouterr().err
    monkeypatch.setitem(os.environ, "RUN_SHARD", "1")
    assert run("--no-train") == 0
    shards = list((tmp_path / "volume" / "datasets" / "runpod-2b").glob("train-*.bin"))
    assert len(shards) >= 4
    monkeypatch.setitem(os.environ, "RUN_SHARD", "0")
    assert run("--no-train", source=False) == 0
    said = capsys.readouterr().out
    assert "3 shards       reused" in said
    made = (tmp_path / "volume" / "runs" / "runpod-2b" / "training.toml").read_text()
    assert 'schedule = "wsd"' in made, "the profile 22m behind note 4's name"
    assert "layers = 2" in made, "and what is set"
    monkeypatch.setitem(os.environ, "RUN_SHARD", "maybe")
    assert run() == ExitCode.CONFIG
    assert "$RUN_SHARD must be 1 or 0, not 'maybe'" in capsys.readouterr().err


def test_a_separate_validation_corpus_is_only_measured_on(tmp_path: Path, run: Run, corpus: Path) -> None:
    other = tmp_path / "validation.jsonl"
    other.write_text(corpus.read_text().replace("Document", "Paper"))
    assert run("--experiment", "both", "--validation", str(other), "--profile", "nano") == ExitCode.DONE
    folder = tmp_path / "volume" / "datasets"
    totals = [
        json.loads((folder / n / "manifest.json").read_text())["totals"] for n in ("both", "both-validation")
    ]
    assert [t["train"]["docs"] for t in totals] == [200, 0]
    assert [t["val"]["docs"] for t in totals] == [0, 200]
    assert done(tmp_path / "volume" / "runs" / "both")["metrics"]["loss"] > 0


def test_what_would_fail_on_the_gpu_fails_before(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], corpus: Path
) -> None:
    small = ("--experiment", "x", "--profile", "nano", "--no-train")
    assert run(*small, source=False) == ExitCode.CONFIG
    assert "Give the text to prepare from" in capsys.readouterr().err
    assert (
        run(*small, "--take", "1", "--set", "model.context=4096", "--set", "train.tokens_per_step=8192")
        == ExitCode.CONFIG
    )
    assert "too few for one window of 4096" in capsys.readouterr().err
    huge = ("--set", "checkpoint.min_free_bytes=1000000000000000")
    assert run("--experiment", "y", "--profile", "nano", "--no-train", *huge) == ExitCode.STORAGE
    assert "GB to spare is needed" in capsys.readouterr().err
    shard = next((tmp_path / "volume" / "datasets" / "y").glob("train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert run("--experiment", "y", "--profile", "nano", "--no-train") == ExitCode.DATA
    assert shard.name in capsys.readouterr().err
    assert run("--experiment", "../y", "--profile", "nano") == ExitCode.CONFIG
    assert run("--experiment", "z", "--profile", "nano", "--tokenizer-json", str(corpus)) == ExitCode.DATA
