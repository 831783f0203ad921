"""A run that was interrupted ends bit for bit like one that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_runs import TINY, done, losses, start

from gputrain.config import Config
from gputrain.errors import ExitCode
from gputrain.loop import run_training


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_nine_and_eleven_steps_equal_twenty(
    tmp_path: Path, tiny: Callable[..., Config], dropout: float
) -> None:
    changes = {"model.dropout": dropout}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(tiny(changes), whole, "auto") == ExitCode.DONE
    assert run_training(tiny({**changes, "train.until": 9}), parts, "auto") == ExitCode.PREEMPTED
    assert run_training(tiny(changes), parts, "auto") == ExitCode.DONE
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]


def test_sigterm_in_mid_run_changes_nothing(tmp_path: Path, tiny: Callable[..., Config], text: Path) -> None:
    values = {**TINY, "data.path": text, "train.steps": 60}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(tiny({"train.steps": 60}), whole, "auto") == ExitCode.DONE
    process = start(parts, values)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step 5/"))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PREEMPTED, output
    assert run_training(tiny({"train.steps": 60}), parts, "auto") == ExitCode.DONE
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
