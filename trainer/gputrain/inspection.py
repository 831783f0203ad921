"""`gputrain inspect`: what a checkpoint holds, with the standard library alone."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

from gputrain.errors import CheckpointError
from gputrain.files import read_json
from gputrain.tensorfile import TensorFileError, hash_file, read_header

MANIFEST = "MANIFEST.json"


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a checkpoint, else the newest complete one of the run there.

    Raises CheckpointError.
    """
    if (path / MANIFEST).is_file():
        return path
    complete = sorted(manifest.parent for manifest in path.glob(f"ckpt/step-*/{MANIFEST}"))
    if not complete:
        raise CheckpointError(f"{path} is neither a checkpoint nor a run with checkpoints.")
    return complete[-1]


def inspect(path: Path, *, verify: bool) -> dict[str, Any]:
    """Manifest, settings, tensors and problems of a checkpoint; `verify` reads and hashes every file."""
    found = find_checkpoint(path)
    manifest, state = read_json(found / MANIFEST) or {}, read_json(found / "state.json") or {}
    problems: list[str] = []
    tensors: dict[str, dict[str, Any]] = {}
    for file in manifest.get("files", []):
        name, target = str(file["path"]), found / str(file["path"])
        if not target.is_file():
            problems.append(f"{name} is missing")
            continue
        if target.stat().st_size != file["bytes"]:
            problems.append(f"{name} has {target.stat().st_size} bytes instead of {file['bytes']}")
        elif verify and hash_file(target).sha256 != file["sha256"]:
            problems.append(f"{name} does not have the SHA-256 of the manifest")
        if name.endswith(".safetensors"):
            try:
                entries, _, _ = read_header(target)
            except TensorFileError as error:
                problems.append(str(error))
                continue
            tensors[name] = {e.name: [e.dtype, list(e.shape)] for e in entries}
    if not manifest:
        problems.append(f"{MANIFEST} is missing or unreadable")
    return {
        "path": str(found),
        "manifest": manifest,
        "model": {k: v for k, v in state.get("identity", {}).items() if k.startswith("model.")},
        "progress": state.get("progress", {}),
        "tensors": tensors,
        "parameters": sum(
            math.prod(shape)
            for name, found_in in tensors.items()
            if name.startswith("model")
            for _, shape in found_in.values()
        ),
        "verified": verify and not problems,
        "problems": problems,
    }


def as_text(facts: dict[str, Any], *, tensors: bool) -> str:
    """The facts for a person."""
    manifest, lines = facts["manifest"], [facts["path"]]
    if manifest:
        made = dt.datetime.fromtimestamp(float(manifest["created_unix"]), tz=dt.UTC)
        lines += [
            f"step {manifest['step']:,}, {manifest['tokens']:,} tokens, {manifest['kind']}, {made:%Y-%m-%d %H:%M:%S} UTC",
            f"run {manifest['run_id']}, {manifest.get('world_size')} process(es), {manifest.get('wall_s')} s of training",
            f"{facts['parameters'] / 1e6:,.2f} M parameters, {manifest['total_bytes'] / 1e6:,.1f} MB in {len(manifest['files'])} files",
        ]
        if manifest.get("val"):
            lines.append("validation " + ", ".join(f"{k} {v:.4f}" for k, v in manifest["val"].items()))
    lines += [f"{key} = {json.dumps(value)}" for key, value in facts["model"].items()]
    if tensors:
        for file, table in facts["tensors"].items():
            lines.append(f"{file}:")
            lines += [f"  {name:<44}{dtype:<6}{shape}" for name, (dtype, shape) in sorted(table.items())]
    verdict = (
        "hashes checked, sound"
        if facts["verified"]
        else "sizes as in the manifest; --verify reads the hashes"
    )
    return "\n".join(
        [*lines, *(f"PROBLEM: {p}" for p in facts["problems"])] + ([] if facts["problems"] else [verdict])
    )
