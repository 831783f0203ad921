"""Removes one checkpoint from the box that is proved at home, when the box's disk is short.

Standard library only, Python 3.8 or newer; a part of the sentinel (see `gpuwatch.sentinel.source`). The
checkpoint is renamed to a hidden name first and looked at there: what is not exactly what was proved, or is
open for writing, gets its name back and stays.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import Any

HIDDEN = ".gpuwatch-let-go-"


def forget(task: dict[str, Any], writers: set[tuple[int, int]], inside: Any) -> dict[str, Any]:
    """order: root, folder, name, files as [path below the root, size, mtime_ns, ctime_ns, inode]; `removed`, or `why` not.

    `inside` gives the full path of a name below the root, or ends the program.
    """
    root = os.path.realpath(task["root"])
    folder = inside(root, os.path.join(task["folder"], "x"))[:-2]
    if (
        not task["name"]
        or os.sep in task["name"]
        or task["name"].startswith(".")
        or not os.path.isdir(folder)
    ):
        return {"removed": False, "why": "no such checkpoint"}
    put_back(folder)
    there, hidden = os.path.join(folder, task["name"]), os.path.join(folder, HIDDEN + task["name"])
    wanted = {os.path.normpath(os.path.join(root, f[0])): f[1:5] for f in task["files"]}
    why = differs(there, there, wanted, writers)
    if why is None:
        os.rename(there, hidden)
        # whoever opened or wrote it before it lost its name shows now
        why = differs(hidden, there, wanted, writers)
        if why is not None:
            os.rename(hidden, there)
    if why is not None:
        return {"removed": False, "why": why}
    shutil.rmtree(hidden) if os.path.isdir(hidden) else os.unlink(hidden)
    return {"removed": True}


def put_back(folder: str) -> None:
    """What an order that was cut off left under a hidden name gets its own back, if that is free."""
    for name in os.listdir(folder):
        there = os.path.join(folder, name[len(HIDDEN) :])
        if name.startswith(HIDDEN) and not os.path.lexists(there):
            os.rename(os.path.join(folder, name), there)


def differs(now: str, called: str, wanted: dict[str, list[int]], writers: set[tuple[int, int]]) -> str | None:
    """Why what lies at `now`, called `called`, is not exactly what is wanted; None when it is."""
    found = {}
    alone = not os.path.isdir(now)  # the new name is a change of a file's own, and none of a folder's files
    for path in regular_below(now):
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode):
            return "it holds what is no file"
        if (info.st_dev, info.st_ino) in writers:
            return "some process has it open for writing"
        name = called + path[len(now) :]
        path = os.path.normpath(name)
        known = wanted.get(path, [])
        changed = known[2] if alone and now != called and len(known) == 4 else info.st_ctime_ns
        found[path] = [info.st_size, info.st_mtime_ns, changed, info.st_ino]
    return None if found == wanted and found else "it is not what was proved"


def regular_below(top: str) -> Any:
    if not os.path.isdir(top) or os.path.islink(top):
        if os.path.lexists(top):
            yield top
        return
    for folder, folders, files in os.walk(top):
        for name in files + [d for d in folders if os.path.islink(os.path.join(folder, d))]:
            yield os.path.join(folder, name)


def answer(task: dict[str, Any], writers: Any, inside: Any) -> str:
    """`forget` as a line, whatever the disk says."""
    try:
        return json.dumps(forget(task, writers(), inside))
    except OSError as error:
        return json.dumps({"removed": False, "why": "cannot be removed: %s" % error.strerror})
