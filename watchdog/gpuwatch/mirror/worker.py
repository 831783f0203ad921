"""The process in which rclone-python runs: one order on stdin, progress and a result as JSON lines on stdout.

A process of its own because rclone-python blocks, keeps its settings in a global and offers no way to cancel:
the daemon ends this process's group instead. It works inside the source folder, so that no path of ours is
part of a command; the remote was checked against `names`, and is checked again here.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuwatch.mirror.names import check_remote, unlistable

_UNCHECKED = re.compile(r"(\d+) hash(?:es)? could not be checked")
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./+-]+")


_PATIENCE = ("--retries", "1", "--low-level-retries", "3", "--contimeout", "20s")
"""rclone's own would keep a remote that is away waiting for minutes; we come back ourselves."""

_OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
"""To the daemon. What rclone-python logs to standard output goes to standard error instead."""


def emit(**value: Any) -> None:
    """One line to the daemon."""
    _OUT.write(json.dumps(value) + "\n")
    _OUT.flush()


def main() -> int:
    """Carry out the order. The last line says `result`, or `error` in rclone's words."""
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    destination = check_remote(order["destination"])
    names: list[str] = order["names"]
    if any(unlistable(name) for name in names):
        raise SystemExit("a name that no list can hold")
    from rclone_python import rclone, utils

    if not _SAFE_PATH.fullmatch(order["rclone"]):
        raise SystemExit(
            "rclone lies at a path that a shell would take apart; make a link to it in a plain place"
        )
    rclone.set_executable_file(order["rclone"])
    # its copies call `rclone` by that name
    os.environ["PATH"] = str(Path(order["rclone"]).parent) + os.pathsep + os.environ.get("PATH", "")
    os.chdir(order["source"])
    # /tmp and not $TMPDIR: the path of the list stands in a command
    with tempfile.TemporaryDirectory(prefix="gpuwatch-", dir="/tmp") as folder:
        listed = Path(folder, "names")
        listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        only = ["--files-from-raw", str(listed)]
        try:
            if order["op"] == "copy":
                copy(rclone, destination, only, order)
            elif order["op"] == "fetch":
                fetch(rclone, destination, only if names else [], order)
            elif order["op"] == "delete":
                delete(utils, destination, only, names)
            else:
                check(utils, destination, only, download=order["op"] == "read-back")
        except utils.RcloneException as error:
            said = error.error_msg.strip() or error.description
            # nothing of these names stood there with other content when it began: what does now is a part of ours
            strange = order["op"] != "copy" or order["replace"] or "immutable file modified" in said.lower()
            emit(error=said[-2000:], ours=_BEGUN[0] and not strange)
            return 1
    return 0


_BEGUN = [False]
"""Whether this process's copy has sent anything: with `--check-first` everything was looked at by then."""


def _listener() -> Callable[[dict[str, Any]], None]:
    """Tells the daemon how far a copy is, twice a second at most."""
    last = [0.0]

    def listen(update: dict[str, Any]) -> None:
        now = time.monotonic()
        _BEGUN[0] = _BEGUN[0] or bool(update.get("sent"))
        if now - last[0] >= 0.5:
            last[0] = now
            emit(
                done=update.get("sent", 0), total=update.get("total", 0), rate=update.get("transfer_speed", 0)
            )

    return listen


def _transfer(rclone: Any, source: str, target: str, arguments: list[str], limit: float | None) -> None:
    patience = ["--retries", "1", "--low-level-retries", "3", "--contimeout", "20s"]
    arguments = [*arguments, "--checksum", *patience, "--stats", "500ms"]
    if limit:
        arguments += ["--bwlimit", f"{max(1, int(limit) // 1024)}K"]
    rclone.copy(source, target, show_progress=False, listener=_listener(), args=arguments)
    emit(result="copied")


def copy(rclone: Any, destination: str, only: list[str], order: dict[str, Any]) -> None:
    """Copy the listed files; what stands there already with equal hashes is left, unless it is to be replaced.

    Without hashes an equal size would be taken for equal content: what is to be replaced is sent in any case.
    """
    only = [
        *only,
        "--transfers",
        "4",
        *(["--ignore-times"] if order["replace"] else ["--immutable", "--check-first"]),
    ]
    _transfer(rclone, ".", destination, only, order["limit"])


def fetch(rclone: Any, remote: str, only: list[str], order: dict[str, Any]) -> None:
    """Copy from the remote into this folder: the listed files, or all below it."""
    _transfer(rclone, remote, ".", only, order["limit"])


def delete(utils: Any, destination: str, only: list[str], names: list[str]) -> None:
    """Delete the listed files and the folders that are empty then. Without a list nothing is deleted: it would be all."""
    if not names:
        raise SystemExit("nothing is listed to be deleted")
    utils.run_rclone_cmd(f'delete "{destination}"', [*only, "--rmdirs", *_PATIENCE])
    emit(result="deleted")


def check(utils: Any, destination: str, only: list[str], *, download: bool) -> None:
    """Compare both sides; says which names are equal, and of how many no hash could be compared."""
    arguments = [*only, "--one-way", "--combined", "-", *_PATIENCE, *(["--download"] if download else [])]
    code, out, problems = utils.run_rclone_cmd(f'check . "{destination}"', arguments, raise_errors=False)
    found = [line.split(" ", 1) for line in out.splitlines() if len(line) > 2 and line[1] == " "]
    unchecked = sum(int(n) for n in _UNCHECKED.findall(problems))
    emit(
        result="checked",
        code=code,
        equal=[name for mark, name in found if mark == "="],
        different=[[mark, name] for mark, name in found if mark != "="][:200],
        unchecked=unchecked,
        words=problems[-2000:] if code else "",
    )


if __name__ == "__main__":
    sys.exit(main())
