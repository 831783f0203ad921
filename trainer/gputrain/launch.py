"""`gputrain train --processes N`: torchrun on this machine, with the trainer's own exit code.

torchrun reports 1 for every failure of a worker; here the code that the leader left behind is
passed on, and a stop signal becomes a stop request, so that all processes save and leave together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gputrain.errors import ExitCode
from gputrain.files import read_json, replace_file, to_json
from gputrain.signals import STOPPING

LAUNCHED = "GPUTRAIN_LAUNCHED"
"""Set for the workers: a resumable stop is no failure that torchrun should report at length."""
VERDICT = ".exit-code.json"


def worker_exit(out: Path, code: int) -> int:
    """Leave the leader's exit code for the launcher; returns the code for torchrun to see."""
    if os.environ.get("RANK") == "0" and out.is_dir():
        replace_file(out / VERDICT, to_json({"code": code}), durable=False)
    launched = LAUNCHED in os.environ
    return int(ExitCode.DONE) if launched and code == ExitCode.PREEMPTED else code


def launch(processes: int, out: Path, arguments: Sequence[str]) -> int:
    """Run ``gputrain`` with `arguments` in several processes and return the leader's exit code."""
    verdict, request = out / VERDICT, out / "control" / "stop"
    verdict.unlink(missing_ok=True)
    request.parent.mkdir(parents=True, exist_ok=True)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    # A session of its own: Ctrl-C reaches this process only, which asks instead of killing.
    child = subprocess.Popen(
        [*torchrun, "-m", "gputrain", *arguments], start_new_session=True, env={**os.environ, LAUNCHED: "1"}
    )
    signalled: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if signalled and number != signal.SIGUSR1:
            child.terminate()
        signalled.append(number)
        request.touch()

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signalled:
            request.unlink(missing_ok=True)
    left = read_json(verdict)
    if left is not None and isinstance(left.get("code"), int):
        return int(left["code"])
    return int(ExitCode.RANK_LOST) if code else 0
