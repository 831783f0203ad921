"""`gputrain sft --stage all`: SFT, DPO, merged weights, GGUF, each in a directory of its own.

A stage that is done is not done again; one that was interrupted goes on inside, because SFT and
DPO are ordinary runs and the other two are written under hidden names first.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gputrain.bases import Base
from gputrain.checkpoint import open_checkpoint
from gputrain.errors import ExitCode
from gputrain.export_gguf import check_kind, foreign_vocabulary, write_gguf
from gputrain.export_hf import check_exportable, write_hf
from gputrain.files import fsync_dir, read_json, replace_file, to_json, write_durable
from gputrain.import_hf import read_hf
from gputrain.lora import Adapter
from gputrain.merging import merged_own, whole, write_merged
from gputrain.resume import newest_of_run
from gputrain.tensorfile import hash_file
from gputrain.trained import model_config, tokenizer_file

STAGES = ("sft", "dpo", "merge", "gguf")
DONE = "DONE.json"

Train = Callable[[str, Path], int]
"""Runs one of the training stages, sft or dpo, in a directory; returns its exit code."""


@dataclass(frozen=True)
class Pipeline:
    """Where it lies and what the last stage writes."""

    out: Path
    kind: str
    """Type of the GGUF file."""

    def folder(self, stage: str) -> Path:
        """The directory of a stage."""
        return self.out / stage


def run_stages(pipeline: Pipeline, train: Train, say: Callable[[str], None]) -> int:
    """All stages in turn. Returns the exit code of the first that does not end well, else 0.

    Raises TrainerError.
    """
    check_kind(pipeline.kind)
    for stage in ("sft", "dpo"):
        code = train(stage, pipeline.folder(stage))
        if code != ExitCode.DONE:
            say(f"stage {stage} ended with {code}; the same command goes on inside it")
            return code
        say(f"stage {stage}: done")
    # Each stage is known by what it was made from: a changed stage before it makes it anew.
    made: dict[str, Any] = {
        "sft": _fingerprint(pipeline.folder("sft")),
        "dpo": _fingerprint(pipeline.folder("dpo")),
    }
    _written(pipeline, "merge", made, lambda target: _merge(pipeline, target), say)
    made = {"merge": read_json(pipeline.folder("merge") / DONE), "type": pipeline.kind}
    _written(pipeline, "gguf", made, lambda target: _gguf(pipeline, target), say)
    final = next(pipeline.folder("gguf").glob("*.gguf"))
    replace_file(
        pipeline.out / DONE,
        to_json(
            {"time": time.time(), "stages": list(STAGES), "result": str(final.relative_to(pipeline.out))}
        ),
    )
    say(f"done: {final}, {final.stat().st_size} bytes")
    return int(ExitCode.DONE)


def _fingerprint(run: Path) -> str:
    return str((read_json(run / DONE) or {}).get("manifest_sha256"))


def _written(
    pipeline: Pipeline,
    stage: str,
    made_from: Mapping[str, Any],
    write: Callable[[Path], None],
    say: Callable[[str], None],
) -> None:
    """Let `write` fill the directory of a stage unless it stands there already, made from the same."""
    final = pipeline.folder(stage)
    verdict = read_json(final / DONE)
    if verdict is not None and verdict.get("made_from") == made_from and _stands(final, verdict):
        say(f"stage {stage}: done before")
        return
    temporary = final.with_name(f".tmp-{stage}")
    for leftover in (temporary, final):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    files = [
        {"path": path.name, **asdict(hash_file(path))}
        for path in sorted(temporary.iterdir())
        if path.is_file()
    ]
    write_durable(temporary / DONE, to_json({"made_from": made_from, "files": files}))
    fsync_dir(temporary)
    temporary.rename(final)
    fsync_dir(final.parent)
    say(f"stage {stage}: done")


def _stands(folder: Path, verdict: Mapping[str, Any]) -> bool:
    """Whether every file is there in its size."""
    files = verdict.get("files", [])
    return bool(files) and all(
        (folder / f["path"]).is_file() and (folder / f["path"]).stat().st_size == f["bytes"] for f in files
    )


def _merge(pipeline: Pipeline, target: Path) -> None:
    base, adapters = whole(open_checkpoint(newest_of_run(pipeline.folder("dpo"))))
    write_whole(base, adapters, target, "f32")


def write_whole(base: Base, adapters: list[Adapter], out: Path, dtype: str) -> None:
    """Base and adapters as a Hugging Face directory; a foreign base keeps the dtypes of its files."""
    if base.own is None:
        write_merged(base, adapters, out)
        return
    model, parameters = merged_own(base, adapters)
    tokenizer = tokenizer_file(base.path)
    end = 256 if tokenizer is None and model.vocab > 256 else None
    write_hf(model, parameters, out, dtype, end, tokenizer)


def _gguf(pipeline: Pipeline, target: Path) -> None:
    hf_to_gguf(pipeline.folder("merge"), target / f"model-{pipeline.kind.lower()}.gguf", pipeline.kind)


def hf_to_gguf(folder: Path, out: Path, kind: str) -> None:
    """A Hugging Face directory as a GGUF file. Raises ConfigError for what GGUF or we do not have."""
    imported = read_hf(folder)
    words = foreign_vocabulary(folder, imported) if (folder / "tokenizer.json").is_file() else None
    write_gguf(imported.model, imported.parameters, out, kind.lower(), words, folder.resolve().name)


def check_base(base: Base) -> None:
    """Refuse at the start a base whose last stages could not be written. Raises ConfigError."""
    if base.own is not None:
        check_exportable(model_config(base.own), "llama.cpp")
        return
    read_hf(base.path)
    if (base.path / "tokenizer.json").is_file():
        foreign_vocabulary(base.path, read_hf(base.path))
