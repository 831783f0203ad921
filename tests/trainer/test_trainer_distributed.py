"""Several processes: the same numbers, one record, and no survivor that hangs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from check_run import check
from trainer_runs import TINY, done, lines, losses, set_options, start

from gputrain.config import Config
from gputrain.errors import ConfigError, ExitCode
from gputrain.session import run_training

Make = Callable[..., Config]
TWO = ("--processes", "2")

# Four windows a step and process, in two micro-batches; float32, so that only the order of sums differs.
VALUES: dict[str, object] = {**TINY, "train.tokens_per_step": 256, "system.dtype": "float32"}


def finish(process: subprocess.Popen[str], expected: ExitCode = ExitCode.DONE) -> str:
    output, _ = process.communicate(timeout=170)
    assert process.returncode == expected, output
    return output


@pytest.fixture(scope="module")
def values(text: Path) -> Mapping[str, object]:
    return {**VALUES, "data.path": text}


@pytest.fixture(scope="module")
def nine_steps(tmp_path_factory: pytest.TempPathFactory, values: Mapping[str, object]) -> Path:
    """Two processes, stopped after nine steps."""
    out = tmp_path_factory.mktemp("nine")
    finish(start(out, {**values, "train.until": 9}, *TWO), ExitCode.PREEMPTED)
    return out


def test_two_processes_resume_exactly(tmp_path: Path, values: Mapping[str, object], nine_steps: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(whole, values, *TWO))
    shutil.copytree(nine_steps, parts)
    finish(start(parts, values, *TWO))
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]
    assert check(parts) == []
    one_record = [line["step"] for line in lines(whole / "metrics.jsonl")]
    assert one_record == list(range(1, 21))


def test_another_number_of_processes_goes_on_with_the_same_losses(
    tmp_path: Path, tiny: Make, nine_steps: Path
) -> None:
    changes = {key: value for key, value in VALUES.items() if key not in TINY or TINY[key] != value}
    alone, elastic = tmp_path / "alone", tmp_path / "elastic"
    run_training(tiny(changes), alone, "auto")
    shutil.copytree(nine_steps, elastic)
    assert run_training(tiny(changes), elastic, "auto") == ExitCode.DONE
    assert max(abs(losses(elastic)[s] - losses(alone)[s]) for s in range(1, 21)) <= 1e-6


def test_two_processes_go_on_where_one_stopped(
    tmp_path: Path, tiny: Make, values: Mapping[str, object]
) -> None:
    changes = {key: value for key, value in VALUES.items() if key not in TINY or TINY[key] != value}
    alone, elastic = tmp_path / "alone", tmp_path / "elastic"
    run_training(tiny(changes), alone, "auto")
    run_training(tiny({**changes, "train.until": 9}), elastic, "auto")
    finish(start(elastic, values, *TWO))
    assert max(abs(losses(elastic)[s] - losses(alone)[s]) for s in range(1, 21)) <= 1e-6


def test_sharded_processes_save_one_checkpoint_that_one_process_can_read(
    tmp_path: Path, tiny: Make, values: Mapping[str, object]
) -> None:
    changes = {key: value for key, value in VALUES.items() if key not in TINY or TINY[key] != value}
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    run_training(tiny(changes), alone, "auto")
    fsdp = {**values, "system.parallel": "fsdp", "train.until": 9}
    finish(start(sharded, fsdp, *TWO), ExitCode.PREEMPTED)
    assert check(sharded) == []
    files = {path.name for path in (sharded / "ckpt" / "step-000000009").iterdir()}
    assert {"model-r0-of-2.safetensors", "model-r1-of-2.safetensors", "optim-r1-of-2.safetensors"} <= files
    assert run_training(tiny(changes), sharded, "auto") == ExitCode.DONE
    assert max(abs(losses(sharded)[s] - losses(alone)[s]) for s in range(1, 21)) <= 1e-6


def test_when_a_process_dies_all_end_with_one_message_and_the_run_goes_on(
    tmp_path: Path, values: Mapping[str, object]
) -> None:
    long = {**values, "train.steps": 2000, "checkpoint.every_steps": 5}
    process = start(tmp_path, long, *TWO)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step 12/"))
    workers = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [w for w in workers if w.environ().get("RANK") == "1" and "gputrain" in w.cmdline()]
    victim.kill()
    output = finish(process, ExitCode.RANK_LOST)
    assert output.count("gputrain: Another process of this run") == 1, output
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "FAILED.json").exists(), "a crash is for whoever started us to repeat"
    again = start(tmp_path, {**long, "train.until": 15}, *TWO)
    assert "resume from step-" in finish(again, ExitCode.PREEMPTED)


def test_a_stop_signal_to_the_launcher_saves_everywhere(tmp_path: Path, values: Mapping[str, object]) -> None:
    process = start(tmp_path, {**values, "train.steps": 2000}, *TWO)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step 3/"))
    process.send_signal(signal.SIGTERM)
    finish(process, ExitCode.PREEMPTED)
    assert check(tmp_path) == []
    assert not (tmp_path / "control" / "stop").exists()


def test_errors_of_the_leader_reach_everyone_once(tmp_path: Path, values: Mapping[str, object]) -> None:
    output = finish(start(tmp_path, {**values, "data.path": "/nowhere"}, *TWO), ExitCode.DATA)
    assert output.count("Cannot read the data /nowhere") == 1, output


def test_batches_that_do_not_divide_are_refused_with_the_nearest_size(tmp_path: Path, tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"the nearest is 128"):
        run_training(tiny({"train.tokens_per_step": 100}), tmp_path, "auto")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "changes",
    [
        {"optim.name": "muon"},
        {"model.dropout": 0.1},
        {"system.parallel": "fsdp"},
        {"system.parallel": "fsdp", "system.dtype": "bfloat16", "system.recompute": True},
    ],
)
def test_two_processes_resume_exactly_with(
    tmp_path: Path, values: Mapping[str, object], changes: Mapping[str, object]
) -> None:
    settings = {**values, **changes}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(whole, settings, *TWO))
    finish(start(parts, {**settings, "train.until": 9}, *TWO), ExitCode.PREEMPTED)
    finish(start(parts, settings, *TWO))
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_processes_resume_exactly(tmp_path: Path, values: Mapping[str, object]) -> None:
    settings = {**values, "train.tokens_per_step": 192}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(whole, settings, "--processes", "3"))
    finish(start(parts, {**settings, "train.until": 9}, "--processes", "3"), ExitCode.PREEMPTED)
    finish(start(parts, settings, "--processes", "3"))
    assert losses(parts) == losses(whole)
    assert done(parts)["state_sha256"] == done(whole)["state_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_train_together(tmp_path: Path, values: Mapping[str, object]) -> None:
    """Two torchrun agents with a rendezvous of their own, as on two nodes; only one keeps records."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    agents = []
    for _ in range(2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=test"]
        train = ["-m", "gputrain", "train", "--out", str(tmp_path / "run"), *set_options(values)]
        agents.append(
            subprocess.Popen(
                [*torchrun, *rendezvous, *train],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert sum("step 20/20" in output for output in outputs) == 1
    assert done(tmp_path / "run")["final_step"] == 20
