"""What the daemon reads and asks for, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_runs import TINY, lines, losses, start

from gputrain.config import Config
from gputrain.errors import ConfigError, ExitCode
from gputrain.rundir import RunDir
from gputrain.session import run_training

Make = Callable[..., Config]


def test_a_stop_request_saves_and_exits_resumable(tmp_path: Path, tiny: Make) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "stop").touch()
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.PREEMPTED
    assert not (tmp_path / "control" / "stop").exists()
    assert not (tmp_path / "DONE.json").exists()
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.DONE


def test_a_checkpoint_request_is_served_and_recorded(tmp_path: Path, tiny: Make) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "checkpoint").touch()
    run_training(tiny(), tmp_path, "auto")
    saved = [e["step"] for e in lines(tmp_path / "events.jsonl") if e["event"] == "ckpt_complete"]
    assert saved == [1, 20]


def test_a_pause_holds_the_run_until_it_is_lifted(tmp_path: Path, text: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "pause").touch()
    values = {**TINY, "data.path": text, "system.heartbeat_seconds": 0.05}
    process = start(tmp_path, values)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("start"))
    status = tmp_path / "status.json"
    while json.loads(status.read_text())["phase"] != "paused":
        assert process.poll() is None
    (tmp_path / "control" / "pause").unlink()
    output, _ = process.communicate(timeout=150)
    assert process.returncode == ExitCode.DONE, output


def test_a_second_trainer_in_the_same_directory_is_refused(tmp_path: Path, tiny: Make) -> None:
    first = RunDir(tmp_path)
    with pytest.raises(ConfigError, match=r"Another gputrain \(pid \d+\) trains in"):
        run_training(tiny(), tmp_path, "auto")
    assert not (tmp_path / "FAILED.json").exists(), "the run that holds the directory has not failed"
    first.close()
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.DONE


def test_a_line_torn_by_a_kill_is_cut_and_the_numbering_goes_on(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny({"train.until": 9}), tmp_path, "auto")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"seq": 99, "ev')
    run_training(tiny(), tmp_path, "auto")
    assert [e["seq"] for e in lines(tmp_path / "events.jsonl")] == list(
        range(1, len(lines(tmp_path / "events.jsonl")) + 1)
    )


def test_metrics_and_status_say_what_the_daemon_needs(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny(), tmp_path, "auto")
    assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "time"} <= set(
        lines(tmp_path / "metrics.jsonl")[0]
    )
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["phase"] == "done"
    assert {"pid", "boot_id", "step", "last_step_unix", "time", "tok_s"} <= set(status)
    assert losses(tmp_path)[20] < losses(tmp_path)[1]


def test_help_and_show_config_do_not_import_torch() -> None:
    code = (
        "import sys; from gputrain.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    for arguments in (["--help"], ["train", "--help"], ["train", "--out", "x", "--show-config"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
