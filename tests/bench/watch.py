"""The watch's figures: from the job's end to the destroy, what a daemon costs that only watches, mirrors against plain rclone."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from bench.rows import Row

from integration.rclone_servers import serving
from integration.world import World

NOTHING = 'artifacts = "none"'
QUIET = "while :; do sleep 5; done"
BYTES = 256 << 20


def job_ended_to_destroy(home: Path, *, runs: int = 7) -> Row:
    """Seconds between the job's end and the destroy that is sent, with nothing left to copy but the log."""
    home.mkdir()
    world = World(home)
    waits = []
    try:
        world.start_simulator("--ephemeral")
        world.start_daemon()
        for number in range(runs):
            run = world.script("true", top=NOTHING, key=f"k{number}")
            sent = world.wait_event(run, "destroy-sent")
            ended = next(e for e in world.events(run) if e.kind == "job-ended")
            waits.append(sent.time - ended.time)
            world.wait_event(run, "gone")
    finally:
        world.stop()
    detail = f"{runs} runs, {min(waits):.2f} to {max(waits):.2f} s"
    return Row("job ended -> destroy sent, median", statistics.median(waits), 3, "s", detail)


def idle_cpu(home: Path, *, seconds: float = 60.0) -> Row:
    """Share of a core that the daemon uses while three boxes with quiet jobs are watched as by default."""
    home.mkdir()
    world = World(home)
    try:
        world.start_simulator("--ephemeral")
        config = home / "config" / "config.toml"
        text = config.read_text()
        for line in ('accounts = "1s"', 'booting = "1s"', 'telemetry = "1s"', 'lost_create = "4s"'):
            text = text.replace(f"{line}\n", "")
        config.write_text(text)
        world.start_daemon()
        assert world.daemon is not None
        for number in range(3):
            run = world.script(QUIET, top=NOTHING, name=f"quiet{number}", key=f"k{number}")
            world.wait_event(run, "job-started")
        time.sleep(10)
        before, began = _cpu(world.daemon.pid), time.monotonic()
        time.sleep(seconds)
        share = (_cpu(world.daemon.pid) - before) / (time.monotonic() - began) * 100
    finally:
        world.stop()
    return Row("gpuwatch with 3 quiet boxes, CPU", share, 1, "%", f"of one core, over {seconds:.0f} s")


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mirror_speed(home: Path, *, rounds: int = 3) -> Row:
    """Copy and verify through our worker against a plain `rclone copy` of the same files to the same S3, in turn."""
    import asyncio

    from gpuwatch.mirror.rclone import Rclone, environment_for, find_rclone

    home.mkdir()
    executable = find_rclone()
    assert executable is not None
    files = home / "files"
    files.mkdir()
    names = [f"part-{n}" for n in range(4)]
    for name in names:
        (files / name).write_bytes(os.urandom(BYTES // len(names)))
    ours, theirs = [], []
    with serving("s3", home / "remote") as server:
        environment = environment_for(dict(os.environ) | server.environment, home / "private")
        rclone = Rclone(executable, environment)

        async def bring(target: str) -> None:
            await rclone.copy(files, target, names, replace=False, limit=None, progress=lambda _: None)
            await rclone.verify(files, target, names, read_back=True)

        for number in range(rounds):
            began = time.perf_counter()
            asyncio.run(bring(f"sim:bucket/ours{number}"))
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            plain = [str(executable), "copy", str(files), f"sim:bucket/plain{number}"]
            subprocess.run(plain, env=dict(os.environ) | server.environment, check=True)
            theirs.append(time.perf_counter() - began)
    ratio = statistics.median(theirs) / statistics.median(ours)
    detail = f"{BYTES >> 20} MiB: {statistics.median(ours):.2f} s verified, {statistics.median(theirs):.2f} s plain"
    return Row("mirror to S3 / plain rclone copy", ratio, 0.9, "x", detail, at_least=True)


ROWS = {
    "mirror-speed": lambda home: mirror_speed(home / "w"),
    "job-to-destroy": lambda home: job_ended_to_destroy(home / "w"),
    "idle-cpu": lambda home: idle_cpu(home / "w"),
}
