"""Files between the box and home: sent in parts and packs, hashed, received.

A part of the sentinel (see `gpuwatch.sentinel`): standard library of Python 3.8 only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import select
import stat
import struct
import sys
import threading
import time
from typing import Any

CHUNK = 1 << 20
FRAME = struct.Struct("!I")
HOLE = 0x80000000
ROWS = 256


def emit(value: object) -> None:
    """One JSON line on stdout, flushed."""
    say(value)
    sys.stdout.buffer.flush()


def identity(info: os.stat_result) -> list[int]:
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def say(value: object) -> None:
    """One JSON line, not flushed."""
    sys.stdout.buffer.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")


def open_regular(root: str, path: str) -> tuple[int, os.stat_result]:
    """A descriptor of the regular file there, never of what a link leads to. Raises OSError."""
    handle = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle, info


def refusal(number: int, error: OSError) -> dict[str, Any]:
    return {
        "i": number,
        "error": (error.strerror or "cannot open")[:100],
        "gone": error.errno in (errno.ENOENT, errno.ENOTDIR),
    }


def requests() -> Any:
    """The JSON lines on stdin that are no root, each with the root that holds for it."""
    root = ""
    for line in sys.stdin.buffer:
        task = json.loads(line)
        if "root" in task:
            root = task["root"]
        else:
            yield root, task


def send() -> None:
    """Answer {"i", "path", "from", "to"} with that part of a file, {"pack": [[i, path], ...]} with small files.

    A part is a header line, frames (a length and that many bytes; a length with its top bit
    set is a hole), an empty frame and a trailer line; its hash is asked of `hash`. Small
    files come hundreds per line with their hashes, then their bytes. Requests are read ahead
    by the pipe, so that no file costs a round trip.
    """
    for root, task in requests():
        if "pack" in task:
            send_pack(root, task["pack"])
        else:
            send_part(root, task)
        if not select.select([0], [], [], 0)[0]:
            sys.stdout.buffer.flush()
    sys.stdout.buffer.flush()


def send_part(root: str, task: dict[str, Any]) -> None:
    number = task["i"]
    try:
        handle, info = open_regular(root, task["path"])
    except OSError as error:
        say(refusal(number, error))
        return
    out = sys.stdout.buffer
    failed = None
    try:
        start = min(int(task["from"]), info.st_size)
        end = max(start, min(int(task["to"]), info.st_size))
        say({"i": number, "id": identity(info), "from": start, "to": end})
        for kind, size in extents(handle, start, end):
            if kind == "hole":
                out.write(FRAME.pack(HOLE | size))
                start += size
                continue
            stop = start + size
            while start < stop and failed is None:
                try:
                    chunk = os.pread(handle, min(CHUNK, stop - start), start)
                    failed = None if chunk else "the file shrank"
                except OSError as error:
                    failed, chunk = (error.strerror or "cannot read")[:100], b""
                if chunk:
                    out.write(FRAME.pack(len(chunk)))
                    out.write(chunk)
                    start += len(chunk)
            if failed:
                break
        out.write(FRAME.pack(0))
        trailer: dict[str, Any] = {"i": number, "id": identity(os.fstat(handle))}
        if failed:
            trailer["error"] = failed
        say(trailer)
    finally:
        os.close(handle)


def extents(handle: int, start: int, end: int) -> Any:
    """("data" | "hole", size) from `start` to `end`; one piece of data where the system knows no holes."""
    while start < end:
        try:
            data = min(end, os.lseek(handle, start, os.SEEK_DATA))
        except OSError as error:
            data = end if error.errno == errno.ENXIO else start
        while start < data:
            size = min(data - start, HOLE - 1)
            yield "hole", size
            start += size
        if start < end:
            try:
                hole = min(end, os.lseek(handle, start, os.SEEK_HOLE))
            except OSError:
                hole = end
            hole = hole if hole > start else end
            yield "data", hole - start
            start = hole


def send_pack(root: str, wanted: list[Any]) -> None:
    """Small files, as many per answer as fit into a mebibyte."""
    rows: list[list[Any]] = []
    parts: list[bytes] = []
    size = 0
    for number, path in wanted:
        try:
            row, data = small(root, number, path)
        except OSError as error:
            told = refusal(number, error)
            row, data = [number, told["error"], told["gone"]], b""
        rows.append(row)
        parts.append(data)
        size += len(data)
        if size >= CHUNK or len(rows) >= ROWS:
            say({"pack": rows})
            sys.stdout.buffer.write(b"".join(parts))
            rows, parts, size = [], [], 0
    if rows:
        say({"pack": rows})
        sys.stdout.buffer.write(b"".join(parts))


def small(root: str, number: int, path: str) -> tuple[list[Any], bytes]:
    """One small file whole, with the identity that it had before and after. Raises OSError."""
    handle, info = open_regular(root, path)
    try:
        if info.st_size > CHUNK:
            raise OSError(errno.EFBIG, "it has grown since it was listed")
        data = os.read(handle, info.st_size + 1)
        while data and len(data) < info.st_size:
            more = os.read(handle, info.st_size + 1 - len(data))
            if not more:
                break
            data += more
        if len(data) != info.st_size or identity(os.fstat(handle)) != identity(info):
            raise OSError(errno.EBUSY, "the file changed while it was sent")
        return [number, *identity(info), hashlib.sha256(data).hexdigest()], data
    finally:
        os.close(handle)


def hash_files() -> None:
    """Answer {"i", "path"} with {"i", "id", "sha256"} of the whole file, and {"i", "at"} on the way.

    Several files at a time where there are cores for it; answers come as they are ready.
    """
    waiting: queue.Queue[Any] = queue.Queue(64)
    speak = threading.Lock()

    def tell(value: object) -> None:
        with speak:
            emit(value)

    def work() -> None:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while True:
            item = waiting.get()
            if item is None:
                return
            root, task = item
            try:
                tell(hashed(root, task, buffer, view, tell))
            except OSError as error:
                tell(refusal(task["i"], error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(4, os.cpu_count() or 1))]
    for thread in threads:
        thread.start()
    for item in requests():
        waiting.put(item)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()


def hashed(root: str, task: dict[str, Any], buffer: bytearray, view: memoryview, tell: Any) -> dict[str, Any]:
    handle, info = open_regular(root, task["path"])
    try:
        digest = hashlib.sha256()
        position, told = 0, time.monotonic()
        while position < info.st_size:
            here = os.readv(handle, [buffer])
            if not here:
                break
            digest.update(view[:here])
            position += here
            if time.monotonic() - told > 5:
                told = time.monotonic()
                tell({"i": task["i"], "at": position})
        after = os.fstat(handle)
        if position != info.st_size or identity(after) != identity(info):
            raise OSError(errno.EBUSY, "the file changed while it was hashed")
        return {"i": task["i"], "id": identity(info), "sha256": digest.hexdigest()}
    finally:
        os.close(handle)


def inside(root: str, name: str) -> str:
    """The full path of a name below `root`; ends the program for anything else."""
    path = os.path.normpath(os.path.join(root, name))
    folder = os.path.realpath(os.path.dirname(path))
    if not path.startswith(root + os.sep) or not (folder + os.sep).startswith(root + os.sep):
        raise SystemExit("a path outside the work folder")
    return path


def receive() -> None:
    """Write uploaded files below `root`: header line {"path","size","mode","sha256"} and the bytes, repeated.

    Ends with an empty line. Nothing is written outside `root`.
    """
    source = sys.stdin.buffer
    root = os.path.realpath(json.loads(source.readline(1 << 24))["root"])
    count = 0
    for line in source:
        if not line.strip():
            break
        head = json.loads(line)
        path = inside(root, head["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = path + ".gpuwatch-part"
        digest, left = hashlib.sha256(), int(head["size"])
        with open(temporary, "wb") as file:
            while left:
                chunk = source.read(min(CHUNK, left))
                if not chunk:
                    raise SystemExit("the upload ended early")
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
        if digest.hexdigest() != head["sha256"]:
            raise SystemExit("an uploaded file arrived damaged")
        os.chmod(temporary, int(head.get("mode", 0o644)))
        os.replace(temporary, path)
        count += 1
    emit({"received": count})


def place() -> None:
    """Take large files in parts, from several of these processes at a time.

    {"begin", "size", "sha256"}: what of this version is here already; else room is made for it.
    {"write", "at", "size"} and the bytes: a part. {"finish", "size", "sha256", "mode"}: when the
    whole has this hash, durably, it gets its name. One line answers each.
    """
    source = sys.stdin.buffer
    root = os.path.realpath(json.loads(source.readline(1 << 24))["root"])
    for line in source:
        task = json.loads(line)
        verb = next(v for v in ("begin", "write", "finish") if v in task)
        path = inside(root, task[verb])
        folder, name = os.path.split(path)
        key = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        part = os.path.join(folder, ".gpuwatch-%s.part" % key)
        try:
            if verb == "begin":
                emit(begin_part(part, task))
            elif verb == "write":
                write_part(part, task, source)
                emit({"at": task["at"]})
            else:
                emit(finish_part(part, path, task))
        except OSError as error:
            raise SystemExit("cannot write %s: %s" % (json.dumps(task[verb]), error.strerror)) from error


def begin_part(part: str, task: dict[str, Any]) -> dict[str, Any]:
    version = "%d %s\n" % (task["size"], task["sha256"])
    os.makedirs(os.path.dirname(part), exist_ok=True)
    try:
        with open(part + ".log") as file:
            lines = file.read().split("\n")
        if lines[0] + "\n" == version and os.path.getsize(part) == task["size"]:
            return {"have": [[int(n) for n in x.split()] for x in lines[1:-1]]}
    except (OSError, ValueError):
        pass
    with open(part, "wb") as file:
        file.truncate(task["size"])
    with open(part + ".log", "w") as file:
        file.write(version)
    return {"have": []}


def write_part(part: str, task: dict[str, Any], source: Any) -> None:
    start, left = int(task["at"]), int(task["size"])
    handle = os.open(part, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        position = start
        while left:
            chunk = source.read(min(CHUNK, left))
            if not chunk:
                raise SystemExit("the upload ended early")
            view = memoryview(chunk)
            while view:
                written = os.pwrite(handle, view, position)
                view, position = view[written:], position + written
            left -= len(chunk)
    finally:
        os.close(handle)
    with open(part + ".log", "a") as file:
        file.write("%d %d\n" % (start, position))


def finish_part(part: str, path: str, task: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(part, "r+b") as file:
        os.fsync(file.fileno())
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
        size = file.tell()
    whole = size == task["size"] and digest.hexdigest() == task["sha256"]
    if whole:
        os.chmod(part, int(task.get("mode", 0o644)))
        os.replace(part, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    else:
        os.unlink(part)
    os.unlink(part + ".log")
    return {"placed": whole}
