#!/usr/bin/env python3
"""gpuwatch's hands on a rented box: runs the job, lists files, sends them with their hashes, reports.

One file, standard library only, Python 3.8 or newer. Everything it prints is read by the
daemon as hostile input; everything it is told comes on standard input, so that no file
name, command or secret is ever part of a command line.

    sentinel.py probe                 facts about the box, one JSON line
    sentinel.py start                 stdin: one JSON line; start a stage (setup, job) once, detached
    sentinel.py watch                 stdin: one JSON line, then kept open; one JSON line per interval
    sentinel.py tail                  stdin: one JSON line; the log's bytes from an offset, followed to the end
    sentinel.py list                  stdin: one JSON line; the promised files, one JSON line each
    sentinel.py send                  stdin: one JSON line per part of a file or pack of files; their content
    sentinel.py hash                  stdin: one JSON line per file; its SHA-256, one JSON line each
    sentinel.py place                 stdin: parts of large files, then the word to prove and name them
    sentinel.py receive               stdin: frames; writes files, answers one JSON line
    sentinel.py state                 stdin: one JSON line; how far a stage is
    sentinel.py stop                  stdin: one JSON line; end a stage's processes
    sentinel.py forget                stdin: one JSON line; remove a checkpoint that is proved at home
    sentinel.py guard                 stdin: one JSON line; start the dead-man switch once, detached

File names travel as JSON strings with undecodable bytes as lone surrogates (PEP 383).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import Any, TextIO

from gpuwatch.sentinel.forgetting import answer
from gpuwatch.sentinel.guard import keep_guard
from gpuwatch.sentinel.moving import emit, hash_files, inside, place, receive, send
from gpuwatch.sentinel.vitals import Processes, Vitals

VERSION = 2
CHUNK = 1 << 20


def order() -> Any:
    """The JSON line on stdin that says what to do."""
    line = sys.stdin.buffer.readline(1 << 24)
    return json.loads(line) if line.strip() else {}


def write_atomically(path: str, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new one, never a part."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_text(path: str, limit: int = 65536) -> str:
    """The file's first bytes as text, empty when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


# --- facts ---------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """This process's environment over the container's (an ssh session of a plain image has not got it)."""
    merged = {}
    for pair in read_text("/proc/1/environ", 1 << 20).split("\0"):
        name, equals, value = pair.partition("=")
        if equals:
            merged[name] = value
    merged.update(os.environ)
    return merged


def workspace(env: dict[str, str]) -> str:
    """Where the provider wants work to lie; the home folder when it says nothing usable.

    On a machine of the user's own everything lies in one folder, which the provider has made.
    """
    own = os.path.expanduser("~/.gputui/workspace")
    for candidate in (own, env.get("WORKSPACE"), env.get("DATA_DIRECTORY"), "/workspace"):
        if (
            candidate
            and os.path.isabs(candidate)
            and os.path.isdir(candidate)
            and os.access(candidate, os.W_OK)
        ):
            return os.path.realpath(candidate)
    return os.path.realpath(os.path.expanduser("~"))


def boot_id() -> str:
    """Changes whenever the machine or its container restarts, and only then.

    The kernel's boot id names the host; a container restart changes the start time of its
    first process. Simulated boxes share both with their host and say it themselves.
    """
    marks = [os.environ.get("BOX_BOOT_ID", ""), read_text("/proc/sys/kernel/random/boot_id").strip()]
    if not marks[0]:
        fields = read_text("/proc/1/stat").rpartition(")")[2].split()
        marks.append(fields[19] if len(fields) > 19 else "")
    return hashlib.sha256("|".join(marks).encode()).hexdigest()[:32]


def run_quietly(argv: list[str], seconds: float) -> str | None:
    """Output of a command, None when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def disk_speed(place: str, size: int = 32 << 20, seconds: float = 1.0) -> float | None:
    """Bytes per second that the disk of `place` takes, synced; None when it takes none. Nothing stays there."""
    path = os.path.join(place, ".gpuwatch-speed.%d" % os.getpid())
    block, written = os.urandom(1 << 20), 0
    try:
        with open(path, "xb", buffering=0) as file:
            try:
                started = time.monotonic()
                while written < size and time.monotonic() - started < seconds:
                    written += file.write(block)
                os.fsync(file.fileno())
                took = time.monotonic() - started
            finally:
                os.unlink(path)
    except OSError:
        return None
    return round(written / took, 1) if took > 0 else None


def probe() -> None:
    """What this box is."""
    env = environment()
    place = workspace(env)
    usage = shutil.disk_usage(place)
    smi = run_quietly(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], 20)
    rows = [line.split(",") for line in (smi or "").splitlines() if "," in line]
    emit(
        {
            "version": VERSION,
            "python": ".".join(map(str, sys.version_info[:3])),
            "workspace": place,
            "boot_id": boot_id(),
            "gpus": [row[0].strip() for row in rows],
            "driver": rows[0][1].strip() if rows else None,
            "smi": None if smi is None else "ok",
            "disk_free": usage.free,
            "disk_total": usage.total,
            "disk_speed": disk_speed(place),
            "cpus": os.cpu_count(),
        }
    )


# --- stages: the supervised processes ------------------------------------------------------------


def state_of(folder: str) -> dict[str, Any]:
    """A stage's state: what its supervisor wrote, and whether that supervisor lives."""
    state = recorded(folder)
    state["supervised"] = lock(folder, probe_only=True) is None
    if state["phase"] in ("starting", "running") and not state["supervised"] and not alive(state):
        # the supervisor may have written the end and gone between the two looks; it writes before it goes
        state = dict(recorded(folder), supervised=False)
        if state["phase"] in ("starting", "running"):
            state["phase"] = "vanished"
    return state


def recorded(folder: str) -> dict[str, Any]:
    """What the stage's supervisor wrote last; phase `none` when there is nothing."""
    try:
        with open(os.path.join(folder, "state.json")) as file:
            state: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {"phase": "none"}
    return state


def may_start(state: dict[str, Any], again: bool) -> bool:
    """Whether nothing of this stage ever ran, or only what has vanished and shall run again."""
    unfinished = state["phase"] in ("starting", "running", "vanished")
    return bool(state["phase"] == "none" or (again and unfinished and not alive(state)))


def alive(state: dict[str, Any]) -> bool:
    """Whether the stage's own process still runs although nobody supervises it; its exit code is lost then."""
    pid = state.get("pid")
    if not isinstance(pid, int) or state.get("boot_id") != boot_id():
        return False
    try:
        os.killpg(pid, 0)
    except OSError:
        return False
    # a container's first process often reaps nobody, so a dead orphan stays on as a zombie
    states = group_states(pid)
    return not states or any(state not in "ZX" for state in states)


def group_states(group: int) -> list[str]:
    """The state letters of a process group's members, empty where /proc does not tell."""
    found = []
    for pid in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if pid.isdigit():
            fields = read_text("/proc/" + pid + "/stat", 4096).rpartition(")")[2].split()
            if len(fields) > 2 and fields[2] == str(group):
                found.append(fields[0])
    return found


def lock(folder: str, probe_only: bool = False) -> TextIO | None:
    """Take the stage's lock; the kernel frees it when the supervisor dies. None when someone holds it.

    A probe asks for a shared lock, so that probes do not take each other for a supervisor.
    """
    os.makedirs(folder, exist_ok=True)
    handle = open(os.path.join(folder, "lock"), "a")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if probe_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    if probe_only:
        handle.close()
    return handle


def start() -> None:
    """Start a stage once. A stage that runs or has ended is reported, not started again.

    order: folder, work (its working directory), log, command, env, again (restart one that vanished).
    """
    task = order()
    folder = task["folder"]
    state = state_of(folder)
    if state["supervised"] or not may_start(state, bool(task.get("again"))):
        emit(state)
        return
    os.makedirs(task["work"], exist_ok=True)
    ready, done = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        if os.fork() == 0:
            try:
                supervise(task, done)
            except Exception as error:
                os.write(done, ("!%s" % error).encode("utf-8", "replace")[:500])
            finally:
                os._exit(0)
        os._exit(0)
    os.close(done)
    said = os.read(ready, 512)
    if said.startswith(b"!"):
        raise SystemExit("cannot start the stage: " + said[1:].decode("utf-8", "replace"))
    emit(state_of(folder))


def state() -> None:
    """Report a stage. order: folder."""
    emit(state_of(order()["folder"]))


def supervise(task: dict[str, Any], done: int) -> None:
    """In the detached process: run the command, write down what becomes of it. Secrets live only in `env`."""
    folder = task["folder"]
    held = lock(folder)
    for _ in range(20):
        if held is not None:
            break
        time.sleep(0.05)  # a probe may hold it for an instant; a supervisor keeps it
        held = lock(folder)
    # another `start` may have been faster, and its stage may even have ended already
    if held is None or not may_start(recorded(folder), bool(task.get("again"))):
        return
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (0, 1, 2):
        os.dup2(null if number == 0 else log, number)
    env = environment()
    env.update(task.get("env") or {})
    progress: dict[str, Any] = {
        "phase": "starting",
        "boot_id": boot_id(),
        "started": time.time(),
        "pid": None,
        "exit_code": None,
    }
    path = os.path.join(folder, "state.json")
    write_atomically(path, json.dumps(progress))
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    try:
        job = subprocess.Popen(
            [shell, "-c", task["command"]], cwd=task["work"], env=env, stdin=null, start_new_session=True
        )
    except OSError as error:
        os.write(2, ("gpuwatch: cannot start the command: %s\n" % error).encode())
        progress.update(phase="ended", exit_code=127, ended=time.time())
        write_atomically(path, json.dumps(progress))
        os.write(done, b".")
        return
    progress.update(phase="running", pid=job.pid)
    write_atomically(path, json.dumps(progress))
    os.write(done, b".")
    os.close(done)
    code = job.wait()
    progress.update(phase="ended", exit_code=code, ended=time.time())
    write_atomically(path, json.dumps(progress))


def stop() -> None:
    """End a stage: SIGTERM to its process group, SIGKILL after `grace` seconds."""
    task = order()
    folder = task["folder"]
    deadline = time.monotonic() + float(task.get("grace", 30))
    asked = False
    while True:
        state = state_of(folder)
        pid = state.get("pid")
        if state["phase"] not in ("starting", "running") or not isinstance(pid, int):
            break
        late = time.monotonic() > deadline
        if late or not asked:
            try:
                os.killpg(pid, signal.SIGKILL if late else signal.SIGTERM)
            except OSError:
                pass
            asked = True
        time.sleep(0.1)
    emit(state)


# --- files ---------------------------------------------------------------------------------------


def open_for_writing() -> set[tuple[int, int]]:
    """(device, inode) of every file that some process has open for writing, as far as we may look."""
    found = set()
    for pid in os.listdir("/proc") if os.path.isdir("/proc/self/fdinfo") else ():
        if not pid.isdigit():
            continue
        base = "/proc/" + pid
        try:
            numbers = os.listdir(base + "/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                info = os.stat(base + "/fd/" + number)
                if not stat.S_ISREG(info.st_mode):
                    continue
                text = read_text(base + "/fdinfo/" + number, 512)
            except OSError:
                continue
            match = re.search(r"^flags:\s*([0-7]+)", text, re.M)
            if match and int(match.group(1), 8) & 3:
                found.add((info.st_dev, info.st_ino))
    return found


def inventory(task: dict[str, Any]) -> tuple[list[list[Any]], list[str]]:
    """Promised files below `root`: rows of (path, size, mtime, ctime, inode, writer, link) and problems."""
    # two frames a level, and a path has at most 2,048 levels
    sys.setrecursionlimit(10000)
    root = task["root"]
    patterns = [re.compile(p, re.DOTALL) for p in task["patterns"]]
    limit = int(task.get("limit", 1000000))
    writers = open_for_writing() if task.get("writers", True) else set()
    hidden = bool(task.get("hidden"))
    rows: list[list[Any]] = []
    problems: list[str] = []
    seen: set[str] = set()

    def wanted(path: str) -> bool:
        return any(p.fullmatch(path) for p in patterns)

    def visit(folder: str) -> None:
        try:
            entries = sorted(os.scandir(os.path.join(root, folder)), key=lambda e: e.name)
        except FileNotFoundError:
            return
        except OSError as error:
            problems.append("cannot list %s: %s" % (folder or ".", error.strerror))
            return
        for entry in entries:
            path = folder + "/" + entry.name if folder else entry.name
            if path in seen:
                continue
            seen.add(path)
            if entry.name.startswith(".") and not hidden and not wanted(path):
                continue
            look(path)

    def look(path: str) -> None:
        if len(rows) >= limit:
            return
        full = os.path.join(root, path)
        try:
            info = os.lstat(full)
        except FileNotFoundError:
            return
        except OSError as error:
            problems.append("cannot look at %s: %s" % (path, error.strerror))
            return
        if stat.S_ISDIR(info.st_mode):
            visit(path)
        elif stat.S_ISREG(info.st_mode):
            if wanted(path):
                writer = (info.st_dev, info.st_ino) in writers
                rows.append(
                    [path, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, writer, None]
                )
        elif stat.S_ISLNK(info.st_mode) and wanted(path):
            target = os.path.relpath(os.path.realpath(full), os.path.realpath(root))
            rows.append([path, 0, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, False, target])

    for start_at in task["roots"]:
        if start_at in ("", "."):
            visit("")
        elif start_at not in seen:
            seen.add(start_at)
            look(start_at)
    if len(rows) >= limit:
        problems.append("more than %d files" % limit)
    return rows, problems


def list_files() -> None:
    """One line per promised file, then one line that says the list is complete."""
    task = order()
    rows, problems = inventory(task)
    out = sys.stdout.buffer
    for row in rows:
        out.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    end = {"end": len(rows), "problems": problems[:100], "boot_id": boot_id(), "at": time.time()}
    people = [row for row in Processes(os.path.abspath(__file__)).now()["sessions"] if row[0] != "command"]
    emit(dict(end, sessions=len(people)))


def forget_checkpoint() -> None:
    """Remove one checkpoint, if it is exactly what was proved."""
    emit(json.loads(answer(order(), open_for_writing, inside)))


# --- reporting -----------------------------------------------------------------------------------


def leave_with_stdin(lease: str | None = None) -> None:
    """End this process when the daemon's side of the connection closes.

    Every byte that arrives renews the lease: a connection that is open says nothing, its other end may be dead.
    """

    def wait() -> None:
        while os.read(0, 4096):
            if lease is not None:
                renew(lease)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def cpu_times() -> tuple[int, int]:
    """(busy, total) jiffies of the machine."""
    fields = read_text("/proc/stat", 400).splitlines()[:1]
    numbers = [int(n) for n in fields[0].split()[1:9]] if fields and fields[0].startswith("cpu ") else []
    return (sum(numbers) - numbers[3] - numbers[4], sum(numbers)) if len(numbers) == 8 else (0, 0)


def memory() -> list[int] | None:
    """[used, total] bytes, None when unknown."""
    table = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text("/proc/meminfo"), re.M))
    if "MemTotal" not in table or "MemAvailable" not in table:
        return None
    total = int(table["MemTotal"]) * 1024
    return [total - int(table["MemAvailable"]) * 1024, total]


def last_metrics(path: str) -> dict[str, Any] | None:
    """The newest whole line of metrics.jsonl as it stands, None when there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 16384))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            keys = ("step", "loss", "tokens_per_second", "tokens", "time", "lr", "grad_norm")
            return {k: value[k] for k in keys if isinstance(value.get(k), (int, float))}
    return None


def heartbeat(path: str) -> dict[str, Any] | None:
    """What a trainer that speaks the run contract says in status.json; ages by this machine's own clock."""
    try:
        status = json.loads(read_text(path))
    except ValueError:
        return None
    if not isinstance(status, dict):
        return None
    facts = {key: status.get(key) for key in ("phase", "total_steps", "step_s_ema", "eta_s")}
    last = status.get("last_step_unix")
    if isinstance(last, (int, float)):
        facts["last_step_age"] = max(0.0, round(time.time() - last, 1))
    return facts


def renew(lease: str) -> None:
    """Note that the daemon has just been heard."""
    try:
        with open(lease, "a"):
            os.utime(lease)
    except OSError:
        pass


def guard() -> None:
    """Start the dead-man switch, once per box. order: folder, provider, url, term, interval."""
    task = order()
    os.makedirs(task["folder"], exist_ok=True)
    held = open(os.path.join(task["folder"], "guard.lock"), "a")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        emit({"guard": "kept"})
        return
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            vitals = Vitals(task["interval"], os.path.abspath(__file__))
            keep_guard(
                task, vitals, lambda: state_of(task["folder"])["phase"], write_atomically, environment()
            )
        os._exit(0)
    emit({"guard": "started"})


def watch() -> None:
    """Report until stdin closes. order: folder, log, interval, inventory (as for list), metrics, status."""
    task = order()
    lease = os.path.join(task["folder"], "lease")
    renew(lease)
    leave_with_stdin(lease)
    interval = float(task.get("interval", 2))
    vitals = Vitals(interval, os.path.abspath(__file__))
    before = cpu_times()
    listed: list[list[Any]] | None = None
    due = 0.0
    while True:
        busy, total = cpu_times()
        spent = total - before[1]
        root = task["inventory"]["root"] if os.path.isdir(task["inventory"]["root"]) else "/"
        usage = shutil.disk_usage(root)
        state = state_of(task["folder"])
        sample: dict[str, Any] = {
            "at": time.time(),
            "boot_id": boot_id(),
            "job": {key: state.get(key) for key in ("phase", "pid", "exit_code", "started", "ended")},
            "log": os.path.getsize(task["log"]) if os.path.exists(task["log"]) else 0,
            "vitals": vitals.now(root),
            "cpu": round(100.0 * (busy - before[0]) / spent, 1) if spent > 0 else None,
            "memory": memory(),
            "disk": [usage.free, usage.total],
            "metrics": last_metrics(task["metrics"]) if task.get("metrics") else None,
        }
        before = (busy, total)
        sample["deadman"] = read_text(os.path.join(task["folder"], "deadman.json"), 2000)
        sample["trainer"] = heartbeat(task["status"]) if task.get("status") else None
        sample["steps"] = (sample["trainer"] or {}).get("total_steps")
        now = time.monotonic()
        if now >= due:
            rows, problems = inventory(dict(task["inventory"], limit=20000))
            due = now + max(interval, 10 * (time.monotonic() - now))
            if rows != listed:
                listed = rows
                sample["files"], sample["problems"] = rows, problems[:20]
        emit(sample)
        time.sleep(interval)


def tail() -> None:
    """The log's bytes from `offset`, followed until the stage has ended and all is sent."""
    task = order()
    leave_with_stdin()
    out = sys.stdout.buffer
    position = int(task.get("offset", 0))
    while True:
        ended = state_of(task["folder"])["phase"] in ("ended", "vanished")
        try:
            with open(task["log"], "rb") as file:
                if file.seek(0, 2) < position:
                    position = 0
                file.seek(position)
                while True:
                    chunk = file.read(CHUNK)
                    if not chunk:
                        break
                    out.write(chunk)
                    position += len(chunk)
            out.flush()
        except FileNotFoundError:
            pass
        if ended:
            return
        time.sleep(0.25)


COMMANDS = {
    "probe": probe, "start": start, "watch": watch, "tail": tail, "list": list_files, "send": send,
    "hash": hash_files, "receive": receive, "place": place, "stop": stop, "state": state, "guard": guard,
    "forget": forget_checkpoint,
}  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit("usage: sentinel.py " + "|".join(COMMANDS))
    try:
        COMMANDS[sys.argv[1]]()
    except BrokenPipeError:
        os._exit(0)
