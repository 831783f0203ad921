"""A run that was interrupted ends bit for bit like one that was not."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from check_run import check
from trainer_runs import TINY, done, lines, losses, start

from gputrain.config import Config
from gputrain.errors import ExitCode
from gputrain.optim import step_all
from gputrain.session import run_training


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SHA-256 of the state of torch's generator after the gradients of each step."""
    seen: list[str] = []

    def note(*arguments: object) -> None:
        seen.append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
        step_all(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gputrain.loop.step_all", note)
    return seen


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_nine_and_eleven_steps_equal_twenty(
    tmp_path: Path, tiny: Callable[..., Config], dropout: float, optimiser: str, generators: list[str]
) -> None:
    changes = {"model.dropout": dropout, "optim.name": optimiser}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(tiny(changes), whole, "auto") == ExitCode.DONE
    assert run_training(tiny({**changes, "train.until": 9}), parts, "auto") == ExitCode.PREEMPTED
    assert run_training(tiny(changes), parts, "auto") == ExitCode.DONE
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
    assert generators[:20] == generators[20:], "the same random numbers in every step"
    assert len(set(generators)) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_mid_run_changes_nothing(
    tmp_path: Path, tiny: Callable[..., Config], text: Path, number: signal.Signals
) -> None:
    values = {**TINY, "data.path": text, "train.steps": 60}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(tiny({"train.steps": 60}), whole, "auto") == ExitCode.DONE
    process = start(parts, values)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step 5/"))
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PREEMPTED, output
    assert run_training(tiny({"train.steps": 60}), parts, "auto") == ExitCode.DONE
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]


def test_a_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal; from gputrain.signals import StopSignal; stop = StopSignal()\n"
        "os.kill(os.getpid(), signal.SIGTERM); assert stop.name == 'SIGTERM'\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")


def kill_and_finish(out: Path, values: dict[str, object], kills: int) -> None:
    """Run to the end, with SIGKILL at `kills` random moments between the steps of a process's life."""
    random = Random(str(kills))
    for _ in range(kills):
        process = start(out, values)
        assert process.stdout is not None
        # Saves are written in the background after every second step, so that a kill some
        # microseconds after a line of output falls into any phase of a save.
        for _ in range(random.randint(1, 12)):
            if process.stdout.readline().startswith("done"):
                break
        for _ in range(random.randint(0, 20_000)):
            pass
        process.kill()
        process.communicate(timeout=60)
    process = start(out, values)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == ExitCode.DONE, output


def sigkill_proof(tmp_path: Path, tiny: Callable[..., Config], text: Path, kills: int) -> None:
    """Kill, finish, compare with an undisturbed run."""
    changes: dict[str, object] = {"train.steps": 6 * kills, "checkpoint.every_steps": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_training(tiny(changes), whole, "auto")
    kill_and_finish(killed, {**TINY, **changes, "data.path": text}, kills)
    assert losses(killed) == losses(whole)
    assert done(killed)["state_sha256"] == done(whole)["state_sha256"]
    assert check(killed) == []
    damaged = [e for e in lines(killed / "events.jsonl") if e["event"] == "ckpt_damaged"]
    assert damaged == [], "no kill ever left a torn checkpoint under a name that readers trust"


def test_sigkill_at_random_moments_changes_nothing(
    tmp_path: Path, tiny: Callable[..., Config], text: Path
) -> None:
    sigkill_proof(tmp_path, tiny, text, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_25_random_moments_changes_nothing(
    tmp_path: Path, tiny: Callable[..., Config], text: Path
) -> None:
    sigkill_proof(tmp_path, tiny, text, kills=25)
