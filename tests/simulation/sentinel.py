"""What the sentinel on a simulated box answers: the same lines as the real one, made from `cloud.Box`.

No faults here: this is the truth of one box, as bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from simulation.cloud import Box, File, Machine

WORKSPACE = "/workspace"
_FRAME = struct.Struct("!I")
_CHUNK = 1024


def line(value: object) -> bytes:
    """One JSON line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def boot_id(machine: Machine) -> str:
    """Changes with each boot of the container."""
    return f"boot{machine.instance_id}x{machine.box.boot}"


def probe(machine: Machine) -> bytes:
    """What this box is."""
    return line(
        {
            "python": "3.11.0", "workspace": WORKSPACE, "boot_id": boot_id(machine), "gpus": ["RTX 4090"],
            "driver": "570.1", "disk_free": 10**12,
        }
    )  # fmt: skip


def state(box: Box, stage: str) -> dict[str, Any]:
    """How far a stage is."""
    job = box.job
    if stage == "setup":
        return {"phase": "ended", "pid": 6, "exit_code": 0}
    if job.started is None:
        return {"phase": "none"}
    if job.ended is None:
        return {"phase": "running", "pid": 7}
    if job.vanished:
        return {"phase": "vanished", "pid": 7}
    return {"phase": "ended", "pid": 7, "exit_code": job.exit_code}


def start(box: Box, stage: str, now: float) -> bytes:
    """Start the job, once."""
    if stage == "job" and box.job.started is None:
        box.job.started = now
        box.log += b"hello \x1b[31mred\x1b[0m\n"
    return line(state(box, stage))


def stop(box: Box, stage: str, now: float) -> bytes:
    """End the job's processes."""
    if stage == "job" and box.job.started is not None and box.job.ended is None:
        box.job.ended, box.job.exit_code = now, -15
    return line(state(box, stage))


def rows(box: Box, order: dict[str, Any], now: float) -> list[list[Any]]:
    """The files that the order's patterns mean."""
    patterns = [re.compile(p, re.DOTALL) for p in order["patterns"]]
    return [
        [path, *file.identity, file.writer_until > now, None]
        for path, file in tree(box, order["root"]).items()
        if any(p.fullmatch(path) for p in patterns)
    ]


def tree(box: Box, root: str) -> dict[str, File]:
    """The files below a folder of the box: the job's work folder, or the run's state folder with its log."""
    if "/.gpuwatch/" not in root:
        return box.files
    return {"log": File(bytes(box.log), len(box.log), 1)} if box.log else {}


def listing(machine: Machine, order: dict[str, Any], now: float) -> bytes:
    """`list`: a line per file, then the line that says that these were all."""
    found = rows(machine.box, order, now)
    end = {
        "end": len(found),
        "problems": [],
        "boot_id": boot_id(machine),
        "at": now,
        "sessions": machine.box.sessions,
    }
    return b"".join(map(line, [*found, end]))


def report(machine: Machine, order: dict[str, Any], now: float, *, files: bool) -> bytes:
    """One line of `watch`."""
    box = machine.box
    runs = box.job.started is not None and box.job.ended is None
    value: dict[str, Any] = {
        "vitals": vitals(runs, box.sessions), "metrics": {"step": box.step} if box.step is not None else None, "at": now, "boot_id": boot_id(machine), "job": state(box, "job"), "log": len(box.log), "cpu": 3.0,
        "gpus": [["0", "RTX 4090", "97", "1000", "24564", "300", "60"]], "memory": [1, 2], "disk": [1, 2],
    }  # fmt: skip
    if files:
        value["files"] = rows(box, order["inventory"], now)
    return line(value)


def forget(machine: Machine, order: dict[str, Any], now: float, judge: Callable[[str], None]) -> bytes:
    """Remove a checkpoint that is exactly what the order says and that nobody writes."""
    box, top = machine.box, f"{order['folder']}/{order['name']}"
    found = {p: f for p, f in box.files.items() if p == top or p.startswith(top + "/")}
    if any(file.writer_until > now for file in found.values()):
        return line({"removed": False, "why": "some process has it open for writing"})
    if {p: f.identity for p, f in found.items()} != {p: list(i) for p, *i in order["files"]} or not found:
        return line({"removed": False, "why": "it is not what was proved"})
    for path in found:
        judge(path)
        box.remove(path)
    return line({"removed": True})


def receive(box: Box, stream: bytes, now: float) -> int:
    """`receive`: files, each with its head; how many arrived whole and as they were sent."""
    head, _, rest = stream.partition(b"\n")
    at_work = "/.gpuwatch/" not in json.loads(head)["root"] if head.endswith(b"}") else False
    count = 0
    while rest.startswith(b"{"):
        line_, _, rest = rest.partition(b"\n")
        if not line_.endswith(b"}"):
            break  # cut in the middle of a head
        told = json.loads(line_)
        content, rest = rest[: told["size"]], rest[told["size"] :]
        if len(content) < told["size"] or hashlib.sha256(content).hexdigest() != told["sha256"]:
            break
        if at_work:
            box.put(told["path"], content, now)
        count += 1
    return count


def vitals(runs: bool, sessions: int | None) -> dict[str, Any]:
    """What `watch` says beside: one GPU, busy while the job runs, and a box where nobody else does anything."""
    load = 1.0 if runs else 0.0
    fields = [
        "index",
        "uuid",
        "name",
        "utilization.gpu",
        "memory.used",
        "memory.total",
        "temperature.gpu",
        "count",
    ]
    cells = ["0", "GPU-1", "RTX 4090", str(int(97 * load)), "1000", "24564", "60", "1"]
    return {
        "smi": {"fields": fields, "rows": [[0.5, cells]]},
        "processes": {
            "count": 5, "cpu": 2.0 * load, "read": 1e6 * load, "written": 1e6 * load, "own_cpu": 0.01, "own_moved": 0,
            "own_net": 0, "sessions": None if sessions is None else [["terminal", 5.0]] * sessions,
        },
        "limits": {"cores": 8.0, "memory": [1 << 30, 1 << 34]}, "cores": 8.0, "load": load, "net": [0, 0],
        "disk": [10**11, 10**12], "inodes": [10**6, 10**7],
    }  # fmt: skip


def send(box: Box, root: str, task: dict[str, Any]) -> Iterator[bytes]:
    """`send`, one part: header, frames, trailer, in pieces, so that the world can change in between."""
    number, file = task["i"], tree(box, root).get(task["path"])
    if file is None:
        yield line({"i": number, "error": "No such file or directory", "gone": True})
        return
    content, identity = file.content, file.identity
    start, end = (min(task[key], len(content)) for key in ("from", "to"))
    yield line({"i": number, "id": identity, "from": start, "to": end})
    for at in range(start, end, _CHUNK):
        part = content[at : min(at + _CHUNK, end)]
        yield _FRAME.pack(len(part)) + part
    after = tree(box, root).get(task["path"])
    yield _FRAME.pack(0) + line({"i": number, "id": file.identity if after is None else after.identity})


def send_pack(box: Box, root: str, task: dict[str, Any]) -> Iterator[bytes]:
    """`send`, small files whole: answers of up to three, each a line of rows and then the bytes."""
    wanted = task["pack"]
    for at in range(0, len(wanted), 3):
        answer: list[list[Any]] = []
        parts: list[bytes] = []
        for number, path in wanted[at : at + 3]:
            file = tree(box, root).get(path)
            if file is None:
                answer.append([number, "No such file or directory", True])
            else:
                answer.append([number, *file.identity, hashlib.sha256(file.content).hexdigest()])
                parts.append(file.content)
        yield line({"pack": answer})
        yield b"".join(parts)


def hash_of(box: Box, root: str, task: dict[str, Any]) -> bytes:
    """`hash`, one file."""
    file = tree(box, root).get(task["path"])
    if file is None:
        return line({"i": task["i"], "error": "No such file or directory", "gone": True})
    return line({"i": task["i"], "id": file.identity, "sha256": hashlib.sha256(file.content).hexdigest()})


def stage_of(folder: str) -> str:
    """Which stage a state folder is of."""
    name = PurePosixPath(folder).name
    return name if name == "setup" else "job"
