"""Tensors of which this process may hold only some rows.

FSDP2 cuts parameters along their first dimension into equal chunks, the last ones smaller. A slice
says which rows of which logical tensor these are, so that any number of processes can read what any
other number has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gputrain.errors import CheckpointError
from gputrain.tensorfile import Entry, TensorFileError, read_header

DTYPE_NAME: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPE_OF: Mapping[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAME.items()}


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` … of the logical tensor of `shape`, held in `tensor`."""

    tensor: Tensor
    shape: tuple[int, ...]
    start: int = 0

    @property
    def partial(self) -> bool:
        """Whether rows are missing."""
        return tuple(self.tensor.shape) != self.shape


def slice_of(tensor: Tensor) -> Slice:
    """What this process holds of a parameter or of optimiser state."""
    if not hasattr(tensor, "to_local"):
        return Slice(tensor.detach(), tuple(tensor.shape))
    local: Tensor = tensor.to_local().detach()
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    chunk = -(-tensor.shape[0] // mesh.size())
    return Slice(local, tuple(tensor.shape), min(mesh.get_local_rank() * chunk, tensor.shape[0]))


def slices_of(tensors: Mapping[str, Tensor]) -> dict[str, Slice]:
    """`slice_of` for every tensor."""
    return {name: slice_of(tensor) for name, tensor in tensors.items()}


def describe(slices: Mapping[str, Slice]) -> dict[str, str]:
    """Metadata of a tensor file from which the logical tensors can be put together."""
    partial = {n: [s.start, list(s.shape)] for n, s in slices.items() if s.partial}
    return {"slices": json.dumps(partial)} if partial else {}


@dataclass(frozen=True)
class Piece:
    """Rows of a logical tensor in a file."""

    path: Path
    entry: Entry
    offset: int
    start: int
    shape: tuple[int, ...]


def index_files(paths: Iterable[Path]) -> dict[str, list[Piece]]:
    """Where the rows of each logical tensor lie. Raises CheckpointError for an unreadable file."""
    found: dict[str, list[Piece]] = {}
    for path in paths:
        try:
            entries, metadata, offset = read_header(path)
            partial = json.loads(metadata.get("slices", "{}"))
        except (TensorFileError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}.") from error
        for entry in entries:
            start, shape = partial.get(entry.name, (0, entry.shape))
            found.setdefault(entry.name, []).append(Piece(path, entry, offset, start, tuple(shape)))
    return found


@torch.no_grad()
def load_slices(paths: Iterable[Path], targets: Mapping[str, Slice]) -> None:
    """Fill `targets` from the tensor files of a checkpoint, however either was cut.

    Raises CheckpointError listing the differences when names or logical shapes differ.
    """
    index = index_files(paths)
    shapes = {name: pieces[0].shape for name, pieces in index.items()}
    wanted = {name: target.shape for name, target in targets.items()}
    if shapes != wanted:
        different = sorted(n for n in shapes.keys() | wanted if shapes.get(n) != wanted.get(n))
        lines = [f"{n}: {shapes.get(n, 'absent')} → {wanted.get(n, 'absent')}" for n in different]
        raise CheckpointError(
            f"The checkpoint is of another model ({len(different)} tensors differ): {'; '.join(lines[:4])}."
        )
    contents = {piece.path: _map(piece.path) for pieces in index.values() for piece in pieces}
    for name, target in targets.items():
        rows = 0
        for piece in index[name]:
            rows += _copy_rows(contents[piece.path], piece, target)
        needed = target.tensor.shape[0] if target.shape else 1
        if rows < needed:
            raise CheckpointError(f"The checkpoint has {rows} of the {needed} rows needed of {name}.")


def view_tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The logical tensors of a checkpoint's files: mapped into memory where they are whole, else put together."""
    tensors: dict[str, Tensor] = {}
    contents: dict[Path, Tensor] = {}
    for name, pieces in index_files(paths).items():
        for piece in pieces:
            contents.setdefault(piece.path, _map(piece.path))
        views = [_stored(contents[piece.path], piece) for piece in sorted(pieces, key=lambda p: p.start)]
        tensors[name] = views[0] if len(views) == 1 else torch.cat(views)
    return tensors


def _map(path: Path) -> Tensor:
    # The mapping is private, so nothing ever writes to the file through it.
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def _stored(content: Tensor, piece: Piece) -> Tensor:
    entry, dtype = piece.entry, DTYPE_OF[piece.entry.dtype]
    data = content[piece.offset + entry.begin : piece.offset + entry.end]
    if data.storage_offset() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype).view(entry.shape)


def _copy_rows(content: Tensor, piece: Piece, target: Slice) -> int:
    """Copy the rows that file and target have in common; returns how many."""
    stored = _stored(content, piece)
    if not target.shape:
        target.tensor.copy_(stored)
        return 1
    begin = max(piece.start, target.start)
    end = min(piece.start + stored.shape[0], target.start + target.tensor.shape[0])
    if end > begin:
        rows = stored[begin - piece.start : end - piece.start]
        target.tensor[begin - target.start : end - target.start].copy_(rows)
    return max(0, end - begin)
