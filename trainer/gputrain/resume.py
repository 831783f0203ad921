"""Which checkpoint a process begins from."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from gputrain.checkpoint import MANIFEST, Loaded, dir_name, open_checkpoint, set_aside
from gputrain.errors import CheckpointError, ConfigError
from gputrain.files import fsync_dir
from gputrain.rundir import RunDir

REMOTE_TIMEOUT_S = 6 * 3600


def choose_checkpoint(run: RunDir, resume: str) -> Loaded | None:
    """The checkpoint to go on from, or None to begin anew.

    `resume` is ``auto``, ``none``, a step number, the path of a checkpoint or of a run, or an
    rclone remote (``remote:path``) of either. Raises CheckpointError or ConfigError.
    """
    if resume == "auto":
        return newest_sound(run)
    own = sorted(path.name for path in run.ckpt.glob("step-*"))
    if resume == "none":
        if own:
            raise ConfigError(
                f"--resume none, but {run.ckpt} has checkpoints. Give another --out, or --resume auto to go on."
            )
        return None
    if resume.isdigit():
        return _step_of_this_run(run, int(resume))
    if own:
        raise ConfigError(
            f"--resume {resume}, but {run.ckpt} has checkpoints of its own (newest {own[-1]}). "
            "Give another --out, or --resume auto or a step number to go on with this run."
        )
    path = Path(resume)
    if path.exists():
        return open_checkpoint(newest_of_run(path))
    if ":" in resume:
        return fetch_remote(run, resume)
    raise CheckpointError(f"--resume {resume}: there is no such checkpoint or run.")


def newest_sound(run: RunDir) -> Loaded | None:
    """The newest checkpoint whose hashes hold; damaged newer ones are set aside with an event.

    None when the run has no complete checkpoint. Raises CheckpointError when it had some and all
    are damaged: beginning anew is then for a person to decide.
    """
    damaged = []
    for path in sorted(run.ckpt.glob("step-*"), reverse=True):
        complete = (path / MANIFEST).exists()
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            if complete:
                damaged.append(path.name)
            hidden = set_aside(path, "damaged")
            run.event("ckpt_damaged", dir=path.name, error=str(error), moved_to=hidden.name)
            print(f"warning: {error} Going back to the one before.", flush=True)
    if damaged:
        raise CheckpointError(
            f"All checkpoints of {run.path} are damaged ({', '.join(damaged)}; kept under hidden names in "
            f"{run.ckpt}). Restore one from a copy, or run again to begin anew."
        )
    return None


def newest_of_run(path: Path) -> Path:
    """`path` itself if it is a checkpoint, else the newest complete one of the run in it."""
    if (path / MANIFEST).exists() or path.name.startswith("step-"):
        return path
    complete = sorted(manifest.parent for manifest in path.glob(f"ckpt/step-*/{MANIFEST}"))
    if not complete:
        raise CheckpointError(f"{path} is neither a checkpoint nor a run with checkpoints.")
    return complete[-1]


def _step_of_this_run(run: RunDir, step: int) -> Loaded:
    """Go back to `step`; later checkpoints are hidden, not deleted."""
    loaded = open_checkpoint(run.ckpt / dir_name(step))
    for path in sorted(run.ckpt.glob("step-*")):
        if path.name > loaded.path.name:
            hidden = set_aside(path, "abandoned")
            run.event("ckpt_abandoned", dir=path.name, moved_to=hidden.name)
            print(f"note: {path.name} is now {hidden}; delete it when you no longer want it.", flush=True)
    return loaded


def fetch_remote(run: RunDir, remote: str) -> Loaded:
    """Copy a checkpoint from an rclone remote into this run, verify it, and open it.

    `remote` names a checkpoint directory, or a run, whose newest checkpoint is taken.
    Raises CheckpointError when rclone is absent or fails, or when the copy is damaged.
    """
    remote = remote.rstrip("/")
    if not remote.rsplit("/", 1)[-1].startswith("step-"):
        listing = _rclone(
            "lsf", "--files-only", "--recursive", f"{remote}/ckpt", "--include", f"step-*/{MANIFEST}"
        )
        steps = sorted(line.split("/")[0] for line in listing.splitlines() if line)
        if not steps:
            raise CheckpointError(f"{remote} has no complete checkpoint under ckpt/.")
        remote = f"{remote}/ckpt/{steps[-1]}"
    temporary = run.ckpt / f".tmp-remote-{uuid.uuid4().hex[:8]}"
    try:
        _rclone("copy", remote, str(temporary))
        loaded = open_checkpoint(temporary)
        final = run.ckpt / dir_name(int(loaded.manifest["step"]))
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_dir(run.ckpt)
    run.event("ckpt_fetched", remote=remote, dir=final.name)
    return open_checkpoint(final)


def _rclone(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["rclone", *arguments], capture_output=True, text=True, timeout=REMOTE_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise CheckpointError("Resuming from a remote needs rclone, which is not installed here.") from None
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"rclone {arguments[0]} did not end in {REMOTE_TIMEOUT_S} s.") from None
    if done.returncode != 0:
        raise CheckpointError(f"rclone {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
