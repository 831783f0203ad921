"""What the GPUs of a box seem to do: a model of load, memory, power and heat.

The GPUs follow the CPU time of the box's processes: about one busy core makes one GPU (or up to four)
look fully used. File tools do not count, nor do command lines that contain one of `NOT_GPU_WORK` (a
watcher that hashes files is no GPU load).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gpucloudsim.engine.catalog import GpuModel

NOT_GPU_NAMES = frozenset({
    *("tmux", "sshd", "sftp-server", "scp", "rsync", "rclone", "tar", "gzip", "zstd", "cp", "mv", "cat"),
    *("head", "tail", "sha256sum", "b3sum", "md5sum", "dd", "nvidia-smi", "pip", "uv", "git", "curl"),
    *("wget", "find", "xargs", "grep", "ssh", "sleep"),
})  # fmt: skip
NOT_GPU_WORK = ("sentinel",)

Row = dict[str, Any]


@dataclass
class Load:
    """What was seen of a box last."""

    at: float = 0.0
    """Monotonic seconds."""
    cpu: dict[tuple[int, float], float] = field(default_factory=dict)
    """CPU seconds by process."""
    temp: float = 31.0


@dataclass(frozen=True)
class Seen:
    """One process that counts as GPU work."""

    key: tuple[int, float]
    cpu_s: float
    rss: int
    name: str


def _work(processes: list[psutil.Process]) -> list[Seen]:
    found = []
    for process in processes:
        try:
            with process.oneshot():
                if process.name() in NOT_GPU_NAMES:
                    continue
                words = process.cmdline()
                if not words or any(pattern in word for word in words for pattern in NOT_GPU_WORK):
                    continue
                times = process.cpu_times()
                key = (process.pid, process.create_time())
                found.append(Seen(key, times.user + times.system, process.memory_info().rss, words[0]))
        except psutil.Error:
            continue
    return found


def measure(
    box: Path, processes: list[psutil.Process], load: Load, now: float, gpu: GpuModel, count: int
) -> tuple[list[Row], list[Row]]:
    """(GPU rows, process rows) as of now (monotonic seconds); updates `load`."""
    if count == 0:
        return [], []  # a start that came back without GPUs
    seen = _work(processes)
    elapsed = now - load.at
    busy, resident = 0.0, 0
    apps: list[Seen] = []
    for work in seen:
        share = (work.cpu_s - load.cpu[work.key]) / elapsed if work.key in load.cpu and elapsed > 0 else 0.0
        busy += max(0.0, share)
        if share > 0.05 or work.rss > 150 << 20:
            resident += work.rss
            apps.append(work)
    load.cpu = {work.key: work.cpu_s for work in seen}
    load.at = now
    util = min(100, round(busy * 100 / max(1.0, count * 0.25)))
    load.temp += (31 + 0.45 * util - load.temp) * min(1.0, elapsed / 8)
    memory_each = min(int(gpu.vram_mib * 0.94), (480 if apps else 1) + 2 * (resident >> 20) // count)
    rows = [_gpu_row(box, gpu, index, util, memory_each, load.temp) for index in range(count)]
    per_gpu = [
        {"gpu": index, "pid": app.key[0], "name": app.name, "mem": max(300, 2 * (app.rss >> 20) // count)}
        for app in apps
        for index in range(count)
    ]
    return rows, per_gpu


def _gpu_row(box: Path, gpu: GpuModel, index: int, util: int, memory: int, temp: float) -> Row:
    return {
        "index": index,
        "name": gpu.smi_name,
        "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{box}/{index}')}",
        "bus": f"00000000:{index * 16 + 1:02X}:00.0",
        "cap": f"{gpu.compute_cap // 100}.{gpu.compute_cap % 100 // 10}",
        "ecc": "GeForce" not in gpu.smi_name,
        "util": max(0, util - (index * 3) % 5) if util else 0,
        "mem_total": gpu.vram_mib,
        "mem_used": memory,
        "mem_reserved": 420,
        "temp": round(temp) + index % 3,
        "power": gpu.power_w * (0.12 + 0.0085 * util),
        "power_limit": float(gpu.power_w),
    }


def write(
    box: Path, rows: list[Row], apps: list[Row], driver: str, cuda: float, fault: str, wall: float
) -> None:
    """Leave the state where the box's nvidia-smi finds it; replaced atomically. Raises FileNotFoundError."""
    target = box / "var" / "gpu.json"
    fresh = target.with_suffix(".new")
    body = {"at": wall, "driver": driver, "cuda": f"{cuda:.1f}", "fault": fault, "gpus": rows, "apps": apps}
    fresh.write_text(json.dumps(body))
    fresh.replace(target)
