"""Saving: snapshot in memory, written and committed in the background.

A save copies the tensors into buffers that were allocated once, while the next step already
computes its gradients (only the update waits for the copy: CheckFreq, FAST 2021). Then a thread
writes them: files into a hidden directory, fsync, MANIFEST.json last, fsync, rename, fsync of the
parent, `latest.json`, event. A reader never sees a torn checkpoint.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gputrain.checkpoint import MANIFEST, dir_name, discard, list_checkpoints, make_manifest
from gputrain.config import CheckpointConfig
from gputrain.files import fsync_dir, read_json, replace_file, to_json, write_durable
from gputrain.retention import Kept, to_delete
from gputrain.rundir import RunDir
from gputrain.slices import DTYPE_NAME, Slice, describe
from gputrain.tensorfile import BLOCK, FileHash, encode_header, hash_bytes, plan_layout, write_hashed
from gputrain.world import World

RETRY_SECONDS = 30.0
"""Pause after a save that failed or was skipped for want of disk."""
PARTS_SECONDS = 600.0
"""How long the leader waits for the files of the other processes."""


class Image:
    """Host memory laid out as the data of one tensor file, filled by `take`."""

    def __init__(self, filename: str, slices: Mapping[str, Slice], *, pin: bool) -> None:
        self.filename = filename
        self._sources = list(slices.items())
        shapes = [(n, DTYPE_NAME[s.tensor.dtype], tuple(s.tensor.shape)) for n, s in self._sources]
        self.entries = plan_layout(shapes)
        self._description = describe(slices)
        size = self.entries[-1].end if self.entries else 0
        self._buffer = block_of_memory(size, pin=pin)
        by_name = {entry.name: entry for entry in self.entries}
        pieces = [self._buffer[by_name[name].begin : by_name[name].end] for name, _ in self._sources]
        self._views = [
            piece.view(s.tensor.dtype).view(s.tensor.shape)
            for piece, (_, s) in zip(pieces, self._sources, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Size of the data in bytes."""
        return self._buffer.numel()

    @torch.no_grad()
    def take(self) -> None:
        """Copy the tensors as they are now."""
        for view, (_, source) in zip(self._views, self._sources, strict=True):
            if source.tensor.is_cuda or not source.tensor.is_contiguous():
                view.copy_(source.tensor, non_blocking=True)
            else:
                # One plain memory copy: waking all threads for each of hundreds of tensors costs more.
                bytes_of(view)[:] = bytes_of(source.tensor)

    def write(self, directory: Path, metadata: Mapping[str, str]) -> FileHash:
        """Write the file into `directory`, fsynced and hashed."""
        header = encode_header(self.entries, {**metadata, **self._description}, align=BLOCK)
        data = self._buffer.numpy().data if self.bytes else memoryview(b"")
        return write_hashed(directory / self.filename, header, data)

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values: equal for equal states of any run."""
        digest = hashlib.sha256(encode_header(self.entries, self._description))
        if self.bytes:
            digest.update(self._buffer.numpy().data)
        return digest.hexdigest()


def block_of_memory(size: int, *, pin: bool) -> torch.Tensor:
    """Zeroed bytes at an address that direct I/O accepts."""
    whole = torch.empty(size + BLOCK, dtype=torch.uint8, pin_memory=pin)
    begin = -whole.data_ptr() % BLOCK
    # Every page is touched now: the first touch costs many times the copy itself.
    return whole[begin : begin + size].zero_()


def bytes_of(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The memory of a contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


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
    """Owns the snapshot buffers, the background writer and retention of one run.

    When the state is sharded every process has one and writes its own files; the leader's commits
    them all in one manifest.
    """

    def __init__(
        self,
        run: RunDir,
        config: CheckpointConfig,
        world: World,
        tensors: Mapping[str, Mapping[str, Slice]],
        *,
        session: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._config = config
        self._world = world
        self._session = session
        self._parts = world.size if any(s.partial for kind in tensors.values() for s in kind.values()) else 1
        suffix = f"-r{world.rank}-of-{world.size}" if self._parts > 1 else ""
        pin = world.device.type == "cuda"
        self._images = [Image(f"{kind}{suffix}.safetensors", t, pin=pin) for kind, t in tensors.items()]
        self._now = now
        self._stream = torch.cuda.Stream(world.device) if pin else None  # type: ignore[no-untyped-call]
        self._copied = threading.Event()
        self._copied.set()
        self._stall_ms = 0.0
        self._thread: threading.Thread | None = None
        self._crash: BaseException | None = None
        self.last: Saved | None = None
        self.last_finished = now()
        """When the last save was committed (or the run began), by the monotonic clock."""
        self._retry_at = 0.0
        self.postponed = 0
        if world.leader:
            self.max_bytes = config.max_bytes or int(shutil.disk_usage(run.ckpt).free * 0.8)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed process left half-made or half-deleted."""
        for leftover in (*self._run.ckpt.glob(".tmp-*"), *self._run.ckpt.glob(".trash-*")):
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

    def save(self, request: SaveRequest) -> None:
        """Begin to copy and write the tensors as they are now.

        They must not change before `copied` has returned.
        """
        self.wait()
        self._copied.clear()
        here = torch.cuda.current_stream().record_event() if self._stream is not None else None
        # Not a daemon thread: an interpreter that exits waits for the write to finish.
        self._thread = threading.Thread(
            target=self._write_guarded, args=(request, here), name="gputrain-save"
        )
        self._thread.start()

    def copied(self) -> float:
        """Wait until a snapshot that was begun is complete. Returns the wait in milliseconds."""
        if self._copied.is_set():
            return 0.0
        began = self._now()
        self._copied.wait()
        waited_ms = (self._now() - began) * 1000
        self._stall_ms += waited_ms
        return waited_ms

    def snapshot(self, after: torch.cuda.Event | None = None) -> None:
        """Copy the tensors into the buffers, on a GPU in a stream of its own behind the event `after`."""
        if self._stream is None:
            for image in self._images:
                image.take()
            return
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            for image in self._images:
                image.take()
        self._stream.synchronize()

    def digests(self) -> dict[str, str]:
        """SHA-256 of the state in the last snapshot, by file name."""
        return {image.filename: image.digest() for image in self._images}

    def _write_guarded(self, request: SaveRequest, after: torch.cuda.Event | None) -> None:
        temporary = self._run.ckpt / f".tmp-{dir_name(request.step)}-{self._session}"
        try:
            try:
                self.snapshot(after)
            finally:
                self._copied.set()
            if self._world.leader:
                self._write_and_commit(temporary, request)
            else:
                self._write_part(temporary, request)
        except OSError as error:
            # Disk full, quota, a volume that went away: training goes on and tries again.
            self._retry_at = self._now() + RETRY_SECONDS
            if self._world.leader:
                shutil.rmtree(temporary, ignore_errors=True)
                self._try_event("ckpt_failed", step=request.step, error=str(error))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread by `wait`
            self._crash = error

    def _try_event(self, name: str, **facts: Any) -> None:
        try:
            self._run.event(name, **facts)
        except OSError:
            return

    def _write_and_commit(self, temporary: Path, request: SaveRequest) -> None:
        began = self._now()
        expected = self._parts * sum(image.bytes for image in self._images) + (1 << 20)
        self._prune(expected)
        free = shutil.disk_usage(self._run.ckpt).free
        if free - expected < self._config.min_free_bytes:
            self._retry_at = self._now() + RETRY_SECONDS
            self._run.event("ckpt_skipped_disk", step=request.step, free_bytes=free, needed_bytes=expected)
            return
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = self._write_images(temporary, request)
        files += self._await_parts(temporary)
        state = to_json(request.state)
        write_durable(temporary / "state.json", state)
        files.append(("state.json", hash_bytes(state)))
        total = sum(file.bytes for _, file in files)
        step, tokens = request.step, request.tokens
        manifest = make_manifest(
            self._run.run_id, step, tokens, request.kind, files, request.facts, created=time.time()
        )
        self._commit(temporary, request, manifest)
        digest = hashlib.sha256(manifest).hexdigest()
        final = self._run.ckpt / dir_name(request.step)
        self._run.event(
            "ckpt_complete",
            step=request.step,
            dir=f"ckpt/{final.name}",
            kind=request.kind,
            manifest_sha256=digest,
            bytes=total,
            stall_ms=round(self._stall_ms, 3),
            write_s=round(self._now() - began, 3),
        )
        self.last = Saved(request.step, final, digest, total, request.kind)
        self.last_finished = self._now()
        self._stall_ms = 0.0
        self._prune(0)

    def _commit(self, temporary: Path, request: SaveRequest, manifest: bytes) -> None:
        """Make the directory exist for readers: manifest, rename, pointer, each durable before the next."""
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

    def _write_images(self, directory: Path, request: SaveRequest) -> list[tuple[str, FileHash]]:
        metadata = {"format": "pt", "step": str(request.step), "run_id": str(request.state["run_id"])}
        return [(image.filename, image.write(directory, metadata)) for image in self._images]

    def _write_part(self, temporary: Path, request: SaveRequest) -> None:
        """Write this process's files once the leader has made the directory, then report them there."""
        deadline = self._now() + PARTS_SECONDS
        while not temporary.is_dir():
            if self._now() > deadline or (self._run.ckpt / dir_name(request.step)).exists():
                return  # the leader found no room for this checkpoint
            time.sleep(0.02)
        files = self._write_images(temporary, request)
        report = [[name, file.bytes, file.sha256] for name, file in files]
        replace_file(temporary / f".part-{self._world.rank}.json", to_json({"files": report}))

    def _await_parts(self, temporary: Path) -> list[tuple[str, FileHash]]:
        """The files of the other processes, when all have reported; raises TimeoutError."""
        deadline = self._now() + PARTS_SECONDS
        files: list[tuple[str, FileHash]] = []
        for rank in range(1, self._parts):
            part = temporary / f".part-{rank}.json"
            while (report := read_json(part)) is None:
                if self._now() > deadline:
                    raise TimeoutError(f"process {rank} has not written its part in {PARTS_SECONDS:.0f} s")
                time.sleep(0.02)
            part.unlink()
            files += [(name, FileHash(size, sha256)) for name, size, sha256 in report["files"]]
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
