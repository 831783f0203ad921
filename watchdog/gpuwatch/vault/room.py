"""What may stand in the way of a file's final name, and what the vault's disk cannot keep at all."""

from __future__ import annotations

import errno
import resource
import stat
from pathlib import Path

from gpuwatch.vault.layout import REPLACED, fsync_folder, make_folder

_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP})
_UNKEEPABLE = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, *_IN_THE_WAY})


def is_in_the_way(error: OSError) -> bool:
    """Whether a name failed because a file stands where a folder belongs, or a folder where a file does."""
    return error.errno in _IN_THE_WAY


def is_unkeepable(error: OSError) -> bool:
    """Whether it is this one file that the disk cannot keep: its name or its size, not the disk's state."""
    if error.errno == errno.EFBIG:  # of the disk's own making, or a limit set on this process
        return resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    return error.errno in _UNKEEPABLE


def make_way(run: Path, target: Path) -> None:
    """Move aside what keeps `target` from being a file below folders. Blocking. Raises OSError.

    A job may replace a file by a folder of the same name. What was proved earlier is kept:
    it goes to `.replaced/N/` under its path.
    """
    relative = target.relative_to(run)
    for depth in range(1, len(relative.parts) + 1):
        place = run.joinpath(*relative.parts[:depth])
        try:
            is_folder = stat.S_ISDIR(place.lstat().st_mode)
        except FileNotFoundError:
            return
        if is_folder == (depth == len(relative.parts)):
            _aside(run, place)
            return


def _aside(run: Path, place: Path) -> None:
    make_folder(run / REPLACED)
    number = 1 + max((int(p.name) for p in (run / REPLACED).iterdir() if p.name.isdecimal()), default=0)
    kept = run / REPLACED / str(number) / place.relative_to(run)
    make_folder(kept.parent)
    place.rename(kept)
    fsync_folder(kept.parent)
    fsync_folder(place.parent)
