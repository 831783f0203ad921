"""What a box does right now, for `sentinel.py watch`: GPUs, processes, disks, network, sessions.

Standard library only, Python 3.8 or newer: `gpuwatch.sentinel.source` puts this file into the one that
goes to the box. Nothing is interpreted here. The answers of nvidia-smi travel as they are, and
`gpuwatch.telemetry` judges them at home.

Costs: two nvidia-smi that live as long as the watch, and one walk over /proc per sample.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import threading
import time
from typing import Any

SMI_FIELDS = (
    ("index",),
    ("uuid",),
    ("name",),
    ("utilization.gpu",),
    ("memory.used",),
    ("memory.total",),
    ("power.draw",),
    ("enforced.power.limit", "power.limit"),
    ("temperature.gpu",),
    ("clocks.sm",),
    ("clocks.max.sm",),
    ("clocks_event_reasons.active", "clocks_throttle_reasons.active"),
    ("ecc.errors.uncorrected.volatile.total",),
    ("mig.mode.current",),
    ("driver_version",),
    ("count",),
)
"""Asked in this order; a field that this driver does not know is asked by its other name, then left out."""
APP_FIELDS = "gpu_uuid,pid,used_memory,process_name"
NO_FIELD = re.compile(r'Field "([^"]*)" is not a valid field')
XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)[^)]*\): (\d+)")
MOST_PROCESSES = 4096
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def slurp(path: str, limit: int = 65536) -> str:
    """A small file of /proc or /sys as text, empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


class Smi:
    """The newest answer of one nvidia-smi that goes on printing; started again when it ends."""

    def __init__(self, interval: float) -> None:
        self.interval = max(1, int(interval))
        self.fields = [names[0] for names in SMI_FIELDS]
        self.rows: dict[int, tuple[float, list[str]]] = {}
        self.apps: list[list[str]] = []
        self.apps_at = 0.0
        self.problem: str | None = "no answer yet"
        self.closed = threading.Event()
        self.running: list[Any] = []
        self.threads = [
            threading.Thread(target=self.keep, args=(follow,), daemon=True)
            for follow in (self.follow_gpus, self.follow_apps)
        ]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End what still prints, and the threads that read it."""
        self.closed.set()
        while any(thread.is_alive() for thread in self.threads):
            for smi in self.running:
                smi.kill()
            for thread in self.threads:
                thread.join(0.2)

    def keep(self, follow: Any) -> None:
        """Run `follow` again and again; slower when the binary is not there."""
        pause = 0.0
        while not self.closed.wait(pause):
            try:
                follow()
                pause = 10.0 if self.rows else 2.0
            except OSError as error:
                self.problem = "nvidia-smi: %s" % (error.strerror or error)
                pause = 60.0

    def open(self, query: str) -> Any:
        """An nvidia-smi that answers every `interval` seconds; what it complains about comes in between."""
        argv = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-l", str(self.interval)]
        smi = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        self.running = [one for one in self.running if one.poll() is None] + [smi]
        return smi

    def follow_gpus(self) -> None:
        smi = self.open("--query-gpu=" + ",".join(self.fields))
        said: list[str] = []
        for raw in smi.stdout:
            line = raw[:600].decode("utf-8", "replace").strip()
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) == len(self.fields) and cells[0].isdigit():
                self.rows[int(cells[0])] = (time.monotonic(), cells)
                self.problem = None
            elif line:
                said = (said + [line])[-4:]
                self.problem = " / ".join(said)[:600]
        smi.stdout.close()
        code = smi.wait()
        unknown = NO_FIELD.search(" ".join(said))
        if unknown is not None and not self.closed.is_set():
            self.drop(unknown.group(1))
            self.follow_gpus()
        else:
            self.problem = (" / ".join(said) or "no output")[:600] + " (exit %d)" % code

    def drop(self, field: str) -> None:
        """Ask no more for a field that this driver does not know, or ask by its other name."""
        fields = []
        for name in self.fields:
            if name != field:
                fields.append(name)
                continue
            names = next((n for n in SMI_FIELDS if name in n), (name,))
            later = names[names.index(name) + 1 :]
            fields.extend(later[:1])
        self.fields = fields

    def follow_apps(self) -> None:
        smi = self.open("--query-compute-apps=" + APP_FIELDS)
        batch: list[list[str]] = []
        began = 0.0
        for raw in smi.stdout:
            cells = [cell.strip() for cell in raw[:600].decode("utf-8", "replace").strip().split(",", 3)]
            if len(cells) != 4 or not cells[1].isdigit():
                continue
            now = time.monotonic()
            if now - began > self.interval * 0.5:
                batch, began = [], now
            batch = (batch + [cells])[-256:]
            self.apps, self.apps_at = batch, now
        smi.stdout.close()
        smi.wait()

    def now(self) -> dict[str, Any]:
        """The newest row of each GPU with its age in seconds, processes on them, and what is wrong."""
        now = time.monotonic()
        rows = sorted(self.rows.items())
        fresh = now - self.apps_at < 3 * self.interval + 2
        return {
            "fields": self.fields,
            "rows": [[round(now - at, 1), cells] for _, (at, cells) in rows[:64]],
            "apps": self.apps if fresh else [],
            "problem": self.problem,
        }


class Kernel:
    """Xid lines of the kernel's log since we look, where the container may read it."""

    def __init__(self) -> None:
        self.xids: list[list[Any]] = []
        try:
            self.log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            self.log = -1

    def now(self) -> list[list[Any]] | None:
        """[bus, number] of each Xid in the log, at most the last 32; None when we may not look."""
        while self.log >= 0:
            try:
                if not select.select([self.log], [], [], 0)[0]:
                    break
                line = os.read(self.log, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == 32:  # EPIPE: lines were overwritten before we read them
                    continue
                os.close(self.log)
                self.log = -1
                break
            found = XID.search(line)
            if found is not None:
                self.xids = (self.xids + [[found.group(1), int(found.group(2))]])[-32:]
        return self.xids if self.log >= 0 else None


class Processes:
    """CPU time and disk I/O of everybody but us, from one walk over /proc; and who is logged in.

    On a machine that several boxes share (BOX_BOOT_ID is set), only this box's processes count.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.pid = str(os.getpid())
        mark = os.environ.get("BOX_BOOT_ID", "")
        self.mark = ("BOX_BOOT_ID=" + mark) if mark else ""
        self.here: dict[tuple[str, str], bool] = {}
        self.seen: dict[tuple[str, str], list[int]] = {}
        self.device: tuple[int, int] | None = None
        self.at = 0.0

    def now(self) -> dict[str, Any]:
        """Rates since the last call (cores, bytes per second), and the logins."""
        table = self.table()
        ours, carriers = self.ours(table)
        now, before = time.monotonic(), self.at
        spent = max(1e-3, now - before)
        own = [0, 0, 0, 0]
        others = [0, 0, 0, 0]
        carried = blind = count = 0
        seen: dict[tuple[str, str], list[int]] = {}
        for pid, row in table.items():
            mine = pid in ours or pid in carriers
            key = (pid, row["start"])
            io = moved_by(pid)
            if io is None:
                io = [0, 0, 0]
                blind += not mine
            total = [row["ticks"]] + io
            seen[key] = total
            # what a process did before it was first seen belongs to no interval
            last = self.seen.get(key, [0, 0, 0, 0] if row["age"] < spent else total)
            bucket = own if mine else others
            for i in range(4):
                bucket[i] += max(0, total[i] - last[i])
            count += not mine
            if pid in carriers:
                # an SSH server passes on what it gets: every byte goes through it twice, once over the network
                carried += max(0, total[3] - last[3]) // 2
        result: dict[str, Any] = {"count": count, "sessions": self.sessions(table, ours)}
        if before and len(table) < MOST_PROCESSES:
            disk = (others[1], others[2]) if not blind else self.beside(own)
            result["cpu"] = round(others[0] / TICKS / spent, 3)
            result["own_cpu"] = round(own[0] / TICKS / spent, 3)
            result["own_moved"] = int(own[3] / spent)
            result["own_net"] = int(carried / spent) if carriers else None
            if disk is not None:
                result["read"], result["written"] = int(disk[0] / spent), int(disk[1] / spent)
        self.device = device_bytes()
        self.seen, self.at = seen, now
        return result

    def beside(self, own: list[int]) -> tuple[int, int] | None:
        """Bytes that the container read and wrote since the last call, without ours; None when nobody counts them."""
        now, before = device_bytes(), self.device
        if now is None or before is None:
            return None
        return max(0, now[0] - before[0] - own[1]), max(0, now[1] - before[1] - own[2])

    def table(self) -> dict[str, dict[str, Any]]:
        """pid → parent, start, CPU ticks, terminal, name of every process of this box that we may see."""
        found: dict[str, dict[str, Any]] = {}
        uptime = float((slurp("/proc/uptime") or "0").split()[0])
        here: dict[tuple[str, str], bool] = {}
        for pid in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
            if not pid.isdigit() or len(found) >= MOST_PROCESSES:
                continue
            head, _, tail = slurp("/proc/" + pid + "/stat", 4096).rpartition(")")
            fields = tail.split()
            if len(fields) < 20 or fields[0] in "ZX":
                continue
            key = (pid, fields[19])
            if self.mark:
                known = self.here.get(key)
                if known is None:
                    known = self.mark in slurp("/proc/" + pid + "/environ", 1 << 18).split("\0")
                here[key] = known
                if not known:
                    continue
            found[pid] = {
                "name": head.partition("(")[2],
                "parent": fields[1],
                "tty": int(fields[4]),
                "ticks": int(fields[11]) + int(fields[12]),
                "start": fields[19],
                "age": uptime - int(fields[19]) / TICKS,
            }
        self.here = here
        return found

    def ours(self, table: dict[str, dict[str, Any]]) -> tuple[set[str], set[str]]:
        """(our processes with what they started, what carries us). What we supervise is not ours."""
        mine = {self.pid}
        for pid in table:
            words = slurp("/proc/" + pid + "/cmdline", 4096).split("\0")
            if self.program in words:
                mine.add(pid)
                if "start" not in words:
                    mine |= children(table, pid)
        mine |= children(table, self.pid)
        carriers = {
            above
            for pid in mine
            for above in parents(table, pid)
            if above not in mine and (is_server(table[above]["name"]) or table[above]["name"] == "sh")
        }
        return mine, carriers

    def sessions(self, table: dict[str, dict[str, Any]], ours: set[str]) -> list[list[Any]]:
        """[kind, seconds since the last key or output] of each login that is not ours.

        A login is a process below an SSH server that has a terminal; or one that has none and is not
        ours either (an editor's remote half, a file copy), of which the age is unknown.
        """
        terminals: dict[int, float | None] = {}
        plain = 0
        for pid, row in table.items():
            if pid in ours or is_server(row["name"]):
                continue
            above = parents(table, pid)
            if above & ours or not any(is_server(table[p]["name"]) for p in above):
                continue
            if row["tty"]:
                terminals.setdefault(row["tty"], quiet_for(row["tty"]))
            elif not (children(table, pid) & ours):
                plain += 1
        rows: list[list[Any]] = [["terminal", age] for age in list(terminals.values())[:32]]
        if plain:
            rows.append(["command", None])
        return rows


def is_server(name: str) -> bool:
    """Whether a process of this name is an SSH server's."""
    return name.startswith(("sshd", "dropbear"))


def moved_by(pid: str) -> list[int] | None:
    """[read from disk, written to disk, through any descriptor] bytes of a process; None when we may not look."""
    try:
        with open("/proc/" + pid + "/io", "rb") as file:
            text = file.read(1024).decode("ascii", "replace")
    except PermissionError:
        return None
    except OSError:
        return [0, 0, 0]  # it has just ended
    io = dict(re.findall(r"^(\w+): (\d+)", text, re.MULTILINE))
    numbers = [int(io.get(k, 0)) for k in ("read_bytes", "write_bytes", "rchar", "wchar")]
    return [numbers[0], numbers[1], numbers[2] + numbers[3]]


def device_bytes() -> tuple[int, int] | None:
    """(read, written) bytes of the container's cgroup; None when it does not count them."""
    text = slurp("/sys/fs/cgroup/io.stat")
    read = [int(n) for n in re.findall(r"\brbytes=(\d+)", text)]
    written = [int(n) for n in re.findall(r"\bwbytes=(\d+)", text)]
    return (sum(read), sum(written)) if read else None


def children(table: dict[str, dict[str, Any]], pid: str) -> set[str]:
    """Everything below a process."""
    found: set[str] = set()
    rest = [pid]
    while rest:
        parent = rest.pop()
        for child, row in table.items():
            if row["parent"] == parent and child not in found:
                found.add(child)
                rest.append(child)
    return found


def parents(table: dict[str, dict[str, Any]], pid: str) -> set[str]:
    """Everything above a process."""
    found: set[str] = set()
    while pid in table and table[pid]["parent"] in table and table[pid]["parent"] not in found:
        pid = table[pid]["parent"]
        found.add(pid)
    return found


def quiet_for(tty: int) -> float | None:
    """Seconds since somebody typed into a pseudo-terminal or something was printed there."""
    major, minor = (tty >> 8) & 0xFFF, (tty & 0xFF) | ((tty >> 12) & 0xFFF00)
    if not 136 <= major <= 143:
        return None
    try:
        info = os.stat("/dev/pts/%d" % (minor + (major - 136) * 256))
    except OSError:
        return None
    return round(max(0.0, time.time() - max(info.st_atime, info.st_mtime)), 1)


def limits() -> dict[str, Any]:
    """What the container may use at most: cores, memory; None where nothing limits it."""
    quota = slurp("/sys/fs/cgroup/cpu.max").split()
    if len(quota) != 2:
        quota = [
            slurp("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip(),
            slurp("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip(),
        ]
    cores: float | None = None
    if quota[0].isdigit() and quota[1].isdigit() and int(quota[1]) > 0:
        cores = round(int(quota[0]) / int(quota[1]), 2)
    most, used = slurp("/sys/fs/cgroup/memory.max").strip(), slurp("/sys/fs/cgroup/memory.current").strip()
    if not most:
        most = slurp("/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
        used = slurp("/sys/fs/cgroup/memory/memory.usage_in_bytes").strip()
    real = most.isdigit() and int(most) < 1 << 50
    return {
        "cores": cores,
        "memory": [int(used), int(most)] if real and used.isdigit() else None,
    }


def network() -> list[int] | None:
    """[received, sent] bytes of all interfaces but the loopback since boot."""
    received = sent = 0
    rows = re.findall(r"^\s*([^\s:]+):\s*(.*)$", slurp("/proc/net/dev"), re.MULTILINE)
    for name, numbers in rows:
        cells = numbers.split()
        if name != "lo" and len(cells) >= 9:
            received += int(cells[0])
            sent += int(cells[8])
    return [received, sent] if rows else None


class Vitals:
    """All of it. `now` is called once per sample."""

    def __init__(self, interval: float, program: str) -> None:
        self.smi = Smi(interval)
        self.kernel = Kernel()
        self.processes = Processes(program)
        self.net: tuple[float, list[int]] | None = None

    def now(self, root: str) -> dict[str, Any]:
        """One sample, as the daemon's `gpuwatch.telemetry.read` takes it apart. `root` is the disk that matters."""
        load = slurp("/proc/loadavg").split()
        result: dict[str, Any] = {
            "smi": self.smi.now(),
            "xids": self.kernel.now(),
            "processes": self.processes.now(),
            "limits": limits(),
            "cores": os.cpu_count(),
            "load": float(load[0]) if load else None,
            "net": self.rates(),
            "shared": bool(self.processes.mark),
        }
        try:
            usage, nodes = shutil.disk_usage(root), os.statvfs(root)
            result["disk"] = [usage.free, usage.total]
            result["inodes"] = [nodes.f_favail, nodes.f_files]
        except OSError:
            pass
        return result

    def rates(self) -> list[int] | None:
        """[received, sent] bytes per second since the last sample."""
        now, total, before = time.monotonic(), network(), self.net
        self.net = None if total is None else (now, total)
        if total is None or before is None or now <= before[0]:
            return None
        return [max(0, int((t - b) / (now - before[0]))) for t, b in zip(total, before[1])]
