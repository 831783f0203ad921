"""What the GPUs of a box seem to do: a model of load, memory, power and heat.

The GPUs follow the CPU time of the box's processes: about one busy core makes one GPU (or up to four)
look fully used. File tools do not count, nor do command lines that contain one of
`NOT_GPU_WORK` (a watcher that hashes files is no GPU load).
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gpucloudsim.boxes.processes import pids_of
from gpucloudsim.engine.catalog import GpuModel

NOT_GPU_NAMES = frozenset(
    "tmux sshd sftp-server scp rsync rclone tar gzip zstd cp mv cat head tail sha256sum b3sum md5sum dd "
    "nvidia-smi pip uv git curl wget find xargs grep ssh sleep".split()
)
NOT_GPU_WORK = ("sentinel",)


@dataclass
class GpuModelState:
    """The moving part: what was seen last."""

    at: float = 0.0
    cpu: dict[tuple[int, float], float] = field(default_factory=dict)
    temp: float = 31.0


def _processes(box: Path) -> list[tuple[tuple[int, float], float, int, str]]:
    """(key, CPU seconds, resident bytes, executable) of the processes that count as GPU work."""
    found = []
    for pid in pids_of(box):
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                name = process.name()
                if name in NOT_GPU_NAMES:
                    continue
                words = process.cmdline()
                if not words or any(pattern in word for word in words for pattern in NOT_GPU_WORK):
                    continue
                times = process.cpu_times()
                found.append(((pid, process.create_time()), times.user + times.system, process.memory_info().rss, words[0]))
        except psutil.Error:
            continue
    return found


def measure(box: Path, state: GpuModelState, now: float, gpu: GpuModel, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(GPU rows, process rows) as of now. Blocking, a few milliseconds; `now` is monotonic seconds."""
    seen = _processes(box)
    elapsed = now - state.at
    load, resident = 0.0, 0
    apps: list[dict[str, Any]] = []
    for key, seconds, rss, name in seen:
        share = (seconds - state.cpu[key]) / elapsed if key in state.cpu and elapsed > 0 else 0.0
        load += max(0.0, share)
        if share > 0.05 or rss > 150 << 20:
            resident += rss
            apps.append({"pid": key[0], "name": name, "rss": rss})
    state.cpu = {key: seconds for key, seconds, _, _ in seen}
    state.at = now
    util = min(100, round(load * 100 / max(1.0, count * 0.25)))
    state.temp += (31 + 0.45 * util - state.temp) * min(1.0, elapsed / 8)
    memory_each = min(int(gpu.vram_mib * 0.94), (len(apps) > 0) * 480 + 2 * (resident >> 20) // count)
    rows = [
        {
            "index": index,
            "name": gpu.smi_name,
            "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{box}/{index}')}",
            "bus": f"00000000:{index * 16 + 1:02X}:00.0",
            "cap": f"{gpu.compute_cap // 100}.{gpu.compute_cap % 100 // 10}",
            "ecc": gpu.power_w >= 200 and "GeForce" not in gpu.smi_name,
            "util": max(0, util - (index * 3) % 5) if util else 0,
            "mem_total": gpu.vram_mib,
            "mem_used": memory_each or 1,
            "mem_reserved": 420,
            "temp": round(state.temp) + index % 3,
            "power": gpu.power_w * (0.12 + 0.0085 * util),
            "power_limit": float(gpu.power_w),
        }
        for index in range(count)
    ]
    per_app = [{"gpu": g, "pid": a["pid"], "name": a["name"], "mem": max(300, 2 * (a["rss"] >> 20) // count)} for a in apps for g in range(count)]
    return rows, per_app


def write(box: Path, rows: list[dict[str, Any]], apps: list[dict[str, Any]], driver: str, cuda: float, fault: str, wall: float) -> None:
    """Leave the state where the box's nvidia-smi finds it; replaced atomically."""
    target = box / "var" / "gpu.json"
    fresh = target.with_suffix(".new")
    body = {"at": wall, "driver": driver, "cuda": f"{cuda:.1f}", "fault": fault, "gpus": rows, "apps": apps}
    fresh.write_text(json.dumps(body))
    os.replace(fresh, target)
