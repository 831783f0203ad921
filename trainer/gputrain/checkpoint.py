"""Checkpoints: snapshot in memory, written and committed in the background, trusted by hash.

A save copies the tensors into buffers that were allocated once (the only time the training loop
waits), then a thread writes them: files into a hidden directory, fsync, MANIFEST.json last, fsync,
rename, fsync of the parent, `latest.json`, event. A reader never sees a torn checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gputrain.config import CheckpointConfig
from gputrain.errors import CheckpointError
from gputrain.files import fsync_dir, read_json, replace_file, to_json, write_durable
from gputrain.retention import Kept, to_delete
from gputrain.rundir import RunDir
from gputrain.tensorfile import (
    FileHash,
    TensorFileError,
    encode_header,
    hash_file,
    plan_layout,
    read_header,
    write_hashed,
)

FORMAT = "gpurent-ckpt/1"
MANIFEST = "MANIFEST.json"
RETRY_SECONDS = 30.0
"""Pause after a save that failed or was skipped for want of disk."""

DTYPE_NAME: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPE_OF: Mapping[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAME.items()}


def dir_name(step: int) -> str:
    """Name of the directory of a checkpoint: sorts by step."""
    return f"step-{step:09d}"


class Image:
    """Host memory laid out as the data of one tensor file, filled by `take`."""

    def __init__(self, filename: str, tensors: Mapping[str, torch.Tensor], *, pin: bool) -> None:
        self.filename = filename
        self._sources = list(tensors.items())
        shapes = [(n, DTYPE_NAME[t.dtype], tuple(t.shape)) for n, t in self._sources]
        self.entries = plan_layout(shapes)
        size = self.entries[-1].end if self.entries else 0
        # Zeroed now: the first touch of fresh pages costs many times the copy itself.
        self._buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=pin)
        by_name = {entry.name: entry for entry in self.entries}
        self._views = [
            self._buffer[by_name[name].begin : by_name[name].end].view(t.dtype).view(t.shape)
            for name, t in self._sources
        ]

    @property
    def bytes(self) -> int:
        """Size of the data in bytes."""
        return self._buffer.numel()

    @torch.no_grad()
    def take(self) -> None:
        """Copy the tensors as they are now."""
        for view, (_, tensor) in zip(self._views, self._sources, strict=True):
            view.copy_(tensor.detach(), non_blocking=True)

    def write(self, directory: Path, metadata: Mapping[str, str]) -> FileHash:
        """Write the file into `directory`, fsynced and hashed."""
        header = encode_header(self.entries, metadata)
        data = self._buffer.numpy().data if self.bytes else memoryview(b"")
        return write_hashed(directory / self.filename, header, data)

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values: equal for equal states of any run."""
        digest = hashlib.sha256(encode_header(self.entries, {}))
        if self.bytes:
            digest.update(self._buffer.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class SaveRequest:
    """One checkpoint to write; the tensors are already in the images."""

    step: int
    tokens: int
    kind: str
    state: dict[str, Any]
    """Goes into `state.json`."""
    facts: dict[str, Any]
    """Goes into the manifest: wall_s, world_size, config_sha256, data_sha256, val."""


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    step: int
    path: Path
    manifest_sha256: str
    bytes: int
    kind: str


class Saver:
    """Owns the snapshot buffers, the background writer and retention of one run."""

    def __init__(
        self,
        run: RunDir,
        config: CheckpointConfig,
        images: list[Image],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._config = config
        self._images = images
        self._now = now
        self._thread: threading.Thread | None = None
        self._crash: BaseException | None = None
        self.last: Saved | None = None
        self.last_finished = now()
        """When the last save was committed (or the run began), by the monotonic clock."""
        self.snapshot_at = 0.0
        self._retry_at = 0.0
        self.postponed = 0
        self.max_bytes = config.max_bytes or int(shutil.disk_usage(run.ckpt).free * 0.8)
        for leftover in (*run.ckpt.glob(".tmp-*"), *run.ckpt.glob(".trash-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()
        return self._thread is not None

    def ready(self, *, wait: bool) -> bool:
        """Whether a save may start now. If one is in flight, wait for it or count a postponement."""
        if self.busy and wait:
            self.wait()
        if self.busy:
            self.postponed += 1
            return False
        return self._now() >= self._retry_at

    def wait(self) -> None:
        """Wait for the save in flight. A programming error in the writer is raised here."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash

    def save(self, request: SaveRequest) -> float:
        """Snapshot now, write in the background. Returns the stall in milliseconds."""
        self.wait()
        began = self._now()
        self.snapshot()
        self.snapshot_at = self._now()
        stall_ms = (self.snapshot_at - began) * 1000
        # Not a daemon thread: an interpreter that exits waits for the write to finish.
        self._thread = threading.Thread(
            target=self._write_guarded, args=(request, stall_ms), name="gputrain-save"
        )
        self._thread.start()
        return stall_ms

    def snapshot(self) -> None:
        """Copy the tensors into the buffers."""
        for image in self._images:
            image.take()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def digests(self) -> dict[str, str]:
        """SHA-256 of the state in the last snapshot, by file name."""
        return {image.filename: image.digest() for image in self._images}

    def _write_guarded(self, request: SaveRequest, stall_ms: float) -> None:
        try:
            self._write(request, stall_ms)
        except OSError as error:
            # Disk full, quota, a volume that went away: training goes on and tries again.
            self._retry_at = self._now() + RETRY_SECONDS
            for leftover in self._run.ckpt.glob(".tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            self._try_event("ckpt_failed", step=request.step, error=str(error))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread by `wait`
            self._crash = error

    def _try_event(self, name: str, **facts: Any) -> None:
        try:
            self._run.event(name, **facts)
        except OSError:
            return

    def _write(self, request: SaveRequest, stall_ms: float) -> None:
        began = self._now()
        expected = sum(image.bytes for image in self._images) + (1 << 20)
        self._prune(expected)
        free = shutil.disk_usage(self._run.ckpt).free
        if free - expected < self._config.min_free_bytes:
            self._retry_at = self._now() + RETRY_SECONDS
            self._run.event("ckpt_skipped_disk", step=request.step, free_bytes=free, needed_bytes=expected)
            return
        temporary = self._run.ckpt / f".tmp-{dir_name(request.step)}-{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        files = self._write_files(temporary, request)
        total = sum(file.bytes for _, file in files)
        manifest = to_json(
            {
                "format": FORMAT,
                "run_id": self._run.run_id,
                "step": request.step,
                "tokens": request.tokens,
                "kind": request.kind,
                "created_unix": time.time(),
                **request.facts,
                "files": [{"path": n, "bytes": f.bytes, "sha256": f.sha256} for n, f in files],
                "total_bytes": total,
                "resume": True,
            }
        )
        write_durable(temporary / MANIFEST, manifest)
        fsync_dir(temporary)
        final = self._run.ckpt / dir_name(request.step)
        if final.exists():
            discard(final)
        temporary.rename(final)
        fsync_dir(self._run.ckpt)
        digest = hashlib.sha256(manifest).hexdigest()
        pointer = {"step": request.step, "dir": final.name, "manifest_sha256": digest}
        replace_file(self._run.ckpt / "latest.json", to_json(pointer))
        self._run.event(
            "ckpt_complete",
            step=request.step,
            dir=f"ckpt/{final.name}",
            kind=request.kind,
            manifest_sha256=digest,
            bytes=total,
            stall_ms=round(stall_ms, 3),
            write_s=round(self._now() - began, 3),
        )
        self.last = Saved(request.step, final, digest, total, request.kind)
        self.last_finished = self._now()
        self._prune(0)

    def _write_files(self, directory: Path, request: SaveRequest) -> list[tuple[str, FileHash]]:
        metadata = {"format": "pt", "step": str(request.step), "run_id": self._run.run_id}
        files = [(i.filename, i.write(directory, metadata)) for i in self._images]
        state = to_json(request.state)
        write_durable(directory / "state.json", state)
        files.append(("state.json", FileHash(len(state), hashlib.sha256(state).hexdigest())))
        return files

    def _prune(self, incoming: int) -> None:
        mirrors = [read_json(path) or {} for path in self._run.mirror.glob("step-*.json")]
        steps = {
            state: {int(m["step"]) for m in mirrors if m.get("state") == state and "step" in m}
            for state in ("verified", "uploading")
        }
        kept = []
        for path, manifest in list_checkpoints(self._run.ckpt):
            size = sum(file.stat().st_size for file in path.iterdir())
            kept.append(Kept(int(manifest["step"]), size, manifest["kind"] == "milestone"))
        doomed = to_delete(
            kept,
            keep_last=self._config.keep_last,
            keep_milestones=self._config.keep_milestones,
            max_bytes=self.max_bytes - incoming,
            verified=steps["verified"],
            uploading=steps["uploading"],
        )
        for step in doomed:
            discard(self._run.ckpt / dir_name(step))
            self._run.event("ckpt_deleted", step=step)


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


@torch.no_grad()
def load_tensors(path: Path, targets: Mapping[str, torch.Tensor]) -> None:
    """Copy the tensors of a file into `targets`, which must have the same names and shapes.

    Raises CheckpointError listing the differences.
    """
    try:
        entries, _, data_offset = read_header(path)
    except TensorFileError as error:
        raise CheckpointError(f"{error}.") from error
    shapes = {entry.name: entry.shape for entry in entries}
    wanted = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    if shapes != wanted:
        different = sorted(n for n in shapes.keys() | wanted if shapes.get(n) != wanted.get(n))
        lines = [f"{n}: {shapes.get(n, 'absent')} → {wanted.get(n, 'absent')}" for n in different]
        raise CheckpointError(
            f"{path} is of another model ({len(different)} tensors differ): {'; '.join(lines[:4])}."
        )
    size = path.stat().st_size
    # The mapping is private, so nothing ever writes to the file through it.
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    for entry in entries:
        piece = content[data_offset + entry.begin : data_offset + entry.end]
        dtype = DTYPE_OF[entry.dtype]
        if piece.storage_offset() % dtype.itemsize:
            piece = piece.clone()
        targets[entry.name].copy_(piece.view(dtype).view(entry.shape))
