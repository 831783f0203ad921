"""Checkpoints on disk: what makes one whole, how it is trusted, hidden and deleted.

A directory whose `MANIFEST.json` names files that are not there in their sizes and hashes is not a
checkpoint; names that begin with a dot are never looked at.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gputrain.errors import CheckpointError
from gputrain.files import fsync_dir, read_json, to_json
from gputrain.slices import Slice, load_slices
from gputrain.tensorfile import FileHash, hash_file

FORMAT = "gpurent-ckpt/1"
MANIFEST = "MANIFEST.json"


def dir_name(step: int) -> str:
    """Name of the directory of a checkpoint: sorts by step."""
    return f"step-{step:09d}"


def discard(path: Path) -> None:
    """Delete a checkpoint so that no half of it ever looks like a whole."""
    trash = path.with_name(f".trash-{path.name}-{uuid.uuid4().hex[:8]}")
    path.rename(trash)
    fsync_dir(path.parent)
    shutil.rmtree(trash, ignore_errors=True)


def set_aside(path: Path, reason: str) -> Path:
    """Hide a checkpoint from every reader without deleting it; returns its new place."""
    hidden = path.with_name(f".{reason}-{path.name}-{uuid.uuid4().hex[:8]}")
    path.rename(hidden)
    fsync_dir(path.parent)
    return hidden


def list_checkpoints(ckpt: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Directories with a readable manifest and all its files in their sizes, oldest first."""
    found = []
    for path in sorted(ckpt.glob("step-*")):
        manifest = read_json(path / MANIFEST)
        if manifest is not None and not shape_problems(path, manifest):
            found.append((path, manifest))
    return sorted(found, key=lambda item: int(item[1]["step"]))


def shape_problems(path: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the manifest or the presence and size of its files."""
    try:
        if manifest["format"] != FORMAT:
            return [f"unknown format {manifest['format']!r}"]
        int(manifest["step"])
        str(manifest["kind"])
        listed = [(str(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in manifest["files"]]
    except (KeyError, TypeError, ValueError) as error:
        return [f"malformed manifest ({error!r})"]
    problems = []
    for name, size, _ in listed:
        if os.sep in name or name.startswith("."):
            problems.append(f"{name!r} is not a plain file name")
        elif not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif (path / name).stat().st_size != size:
            problems.append(f"{name} has {(path / name).stat().st_size} bytes instead of {size}")
    return problems


def problems_of(path: Path) -> list[str]:
    """Everything that is wrong with a checkpoint, its hashes included; empty when it is sound."""
    manifest = read_json(path / MANIFEST)
    if manifest is None:
        return [f"no readable {MANIFEST}"]
    problems = shape_problems(path, manifest)
    if problems:
        return problems
    files = manifest["files"]
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = list(pool.map(lambda file: hash_file(path / file["path"]), files))
    return [
        f"{file['path']} does not have the SHA-256 of the manifest"
        for file, actual in zip(files, hashes, strict=True)
        if actual.sha256 != file["sha256"]
    ]


def make_manifest(
    run_id: str,
    step: int,
    tokens: int,
    kind: str,
    files: Sequence[tuple[str, FileHash]],
    facts: Mapping[str, Any],
    *,
    created: float,
) -> bytes:
    """The content of `MANIFEST.json`; `created` in Unix seconds."""
    return to_json(
        {
            "format": FORMAT,
            "run_id": run_id,
            "step": step,
            "tokens": tokens,
            "kind": kind,
            "created_unix": created,
            **facts,
            "files": [{"path": n, "bytes": f.bytes, "sha256": f.sha256} for n, f in files],
            "total_bytes": sum(file.bytes for _, file in files),
            "resume": True,
        }
    )


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint, ready to be copied into a model."""

    path: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    state: dict[str, Any]


def open_checkpoint(path: Path) -> Loaded:
    """Verify every hash and read the state. Raises CheckpointError naming what is wrong."""
    problems = problems_of(path)
    if problems:
        raise CheckpointError(f"The checkpoint {path} is damaged: {'; '.join(problems)}.")
    manifest, state = read_json(path / MANIFEST), read_json(path / "state.json")
    if manifest is None or state is None:
        raise CheckpointError(f"The checkpoint {path} has no readable state.json.")
    return Loaded(path, manifest, hash_file(path / MANIFEST).sha256, state)


def load_kind(loaded: Loaded, kind: str, targets: Mapping[str, Slice]) -> None:
    """Copy the tensors of one kind (model, optim) from a checkpoint into `targets`.

    Raises CheckpointError when it holds other tensors.
    """
    load_slices(paths_of(loaded, kind), targets)


def paths_of(loaded: Loaded, kind: str) -> list[Path]:
    """The tensor files of one kind (model, optim)."""
    names = [str(file["path"]) for file in loaded.manifest["files"]]
    return [loaded.path / n for n in sorted(names) if n.startswith((f"{kind}.", f"{kind}-r"))]
