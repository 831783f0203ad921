"""People and programs can watch a run, and watching never stops it."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainer_runs import TINY, lines, losses, set_options

from gputrain.config import Config
from gputrain.errors import ExitCode
from gputrain.rundir import Phase, is_stalled
from gputrain.session import run_training

Make = Callable[..., Config]
PARTS = ({"train.until": 9}, {})


def test_tensorboard_reads_one_unbroken_curve_after_a_resume(tmp_path: Path, tiny: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part in PARTS:
        run_training(tiny({"watch.tensorboard": True, **part}), tmp_path, "auto")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curve = {point.step: point.value for point in events.Scalars("train/loss")}
    assert curve == pytest.approx(losses(tmp_path), rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside wandb
def test_wandb_offline_continues_the_same_run(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    for part in PARTS:
        config = tiny({"watch.wandb": "offline", "watch.wandb_project": "miras", **part})
        run_training(config, tmp_path, "auto")
    run_id = json.loads((tmp_path / "run.json").read_text())["run_id"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    assert len(files) == 2, "two processes, one id"
    assert {step: loss for file in files for step, loss in read_wandb(file).items()} == losses(tmp_path)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"x" * 40 not in path.read_bytes(), f"the key is in {path}"


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a wandb file: the log format of LevelDB behind a header of seven bytes."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_wandb(path: Path) -> dict[int, float]:
    """The loss by step in a wandb data file."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        if "train/loss" in row:
            found[row["step"]] = row["train/loss"]
    return found


def test_a_watcher_that_breaks_is_dropped_and_training_goes_on(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("no space for events")

    monkeypatch.setattr("gputrain.watch.TensorBoard.show", explode)
    assert run_training(tiny({"watch.tensorboard": True}), tmp_path, "auto") == ExitCode.DONE
    failed = [e for e in lines(tmp_path / "events.jsonl") if e["event"] == "watch_failed"]
    assert [(e["watcher"], e["error"]) for e in failed] == [("TensorBoard", "no space for events")]


@pytest.mark.parametrize("tee", [True, False])
def test_the_log_has_every_line_and_the_console_only_with_tee(
    tmp_path: Path, tiny: Make, capsys: pytest.CaptureFixture[str], tee: bool
) -> None:
    run_training(tiny({"watch.tee": tee, "watch.log_dir": str(tmp_path / "logs")}), tmp_path / "onyx", "auto")
    log = (tmp_path / "logs" / "onyx.log").read_text()
    assert "step 20/20 loss " in log
    assert capsys.readouterr().out == (log if tee else "")


def test_a_terminal_gets_a_progress_line_and_a_reader_that_leaves_stops_nothing(
    tmp_path: Path, text: Path
) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gputrain", "train", "--out", str(tmp_path / "run")]
    values = {**TINY, "data.path": text, "train.steps": 200}
    process = subprocess.Popen(
        [*command, *set_options(values)], stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    seen = b""
    while b"/200" not in seen or b"training" not in seen:
        seen += os.read(master, 4096)
    os.close(master)  # the terminal is gone: writing to it now fails
    assert process.wait(timeout=150) == ExitCode.DONE
    assert "done: step 200" in (tmp_path / "run" / "log.txt").read_text()


def test_mfu_memory_and_stalls_are_in_the_metrics(tmp_path: Path, tiny: Make) -> None:
    config = tiny({"watch.peak_flops": 1e12, "checkpoint.every_steps": 5, "model.vocab": 256})
    run_training(config, tmp_path, "auto")
    records = lines(tmp_path / "metrics.jsonl")
    from gputrain.estimate import flops_per_token

    for record in records:
        assert record["mfu"] == pytest.approx(
            record["tokens_per_second"] * flops_per_token(config.model) / 1e12, rel=1e-3
        )
    assert all(record["memory_bytes"] > 1e7 for record in records)
    assert [record["step"] for record in records if record["stall_ms"] > 0] == [6, 11, 16]


def test_alive_is_told_from_stuck() -> None:
    facts = {"phase": str(Phase.TRAINING), "last_step_unix": 1000.0, "step_s_ema": 30.0}
    assert not is_stalled(facts, 1599)
    assert is_stalled(facts, 1601)
    assert not is_stalled({**facts, "phase": str(Phase.COMPILING)}, 9999)
