"""Checkpoints are whole or absent, and training survives what happens to them."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from check_run import check
from safetensors.torch import load_file, save_file
from trainer_runs import TINY, done, lines, losses, start

from gputrain.config import Config
from gputrain.errors import CheckpointError, ConfigError, ExitCode
from gputrain.saver import Image, block_of_memory
from gputrain.session import run_training
from gputrain.slices import load_slices, slices_of
from gputrain.tensorfile import BLOCK, CHUNK, FileHash, encode_header, write_hashed

Make = Callable[..., Config]


def damage_nothing(step: Path) -> None:
    """The control of the experiment."""


def flip_a_byte(step: Path) -> None:
    content = bytearray((step / "optim.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (step / "optim.safetensors").write_bytes(content)


def truncate(step: Path) -> None:
    content = (step / "model.safetensors").read_bytes()
    (step / "model.safetensors").write_bytes(content[:-1])


def lose_a_file(step: Path) -> None:
    (step / "state.json").unlink()


def half_delete(step: Path) -> None:
    (step / "MANIFEST.json").unlink()


@pytest.mark.parametrize(
    ("damage", "resumed_from"),
    [(damage_nothing, 15), (flip_a_byte, 10), (truncate, 10), (lose_a_file, 10), (half_delete, 10)],
)
def test_resume_takes_the_newest_checkpoint_whose_hashes_hold(
    tmp_path: Path, tiny: Make, damage: Callable[[Path], None], resumed_from: int
) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    run_training(tiny(), whole, "auto")
    run_training(tiny({"checkpoint.every_steps": 5, "train.until": 15}), hurt, "auto")
    damage(hurt / "ckpt" / "step-000000015")
    assert run_training(tiny(), hurt, "auto") == ExitCode.DONE
    events = lines(hurt / "events.jsonl")
    assert [e["step"] for e in events if e["event"] == "resumed"] == [resumed_from]
    assert any(e["event"] == "ckpt_damaged" for e in events) == (resumed_from == 10)
    assert done(hurt)["state_sha256"] == done(whole)["state_sha256"]


def test_when_no_checkpoint_is_sound_a_person_decides(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny({"train.until": 9}), tmp_path, "auto")
    flip_a_byte(tmp_path / "ckpt" / "step-000000009")
    with pytest.raises(CheckpointError, match=r"All checkpoints of .* are damaged"):
        run_training(tiny(), tmp_path, "auto")
    assert list((tmp_path / "ckpt").glob(".damaged-step-000000009-*")), "nothing was deleted"


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny({"train.until": 3}), tmp_path, "auto")
    with pytest.raises(ConfigError, match=r"model\.layers: 2 → 3"):
        run_training(tiny({"model.layers": 3}), tmp_path, "auto")


def test_a_step_of_this_run_can_be_gone_back_to_without_deleting_the_later_ones(
    tmp_path: Path, tiny: Make
) -> None:
    run_training(tiny({"checkpoint.every_steps": 5}), tmp_path, "auto")
    before = losses(tmp_path)
    assert run_training(tiny(), tmp_path, "10") == ExitCode.DONE
    assert losses(tmp_path) == before
    hidden = sorted(path.name[:25] for path in (tmp_path / "ckpt").glob(".abandoned-*"))
    assert hidden == [".abandoned-step-000000015", ".abandoned-step-000000020"]


@pytest.mark.parametrize("kind", ["checkpoint", "run", "remote"])
def test_a_run_can_go_on_elsewhere(
    tmp_path: Path, tiny: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    old, new = tmp_path / "old", tmp_path / "new"
    run_training(tiny({"checkpoint.every_steps": 5}), old, "auto")
    places = {
        "checkpoint": f"{old}/ckpt/step-000000010",
        "run": str(tmp_path / "part"),
        "remote": f":local:{tmp_path}/part",
    }
    shutil.copytree(old, tmp_path / "part", ignore=shutil.ignore_patterns("step-*20", "step-*15"))
    assert run_training(tiny(), new, places[kind]) == ExitCode.DONE
    assert min(losses(new)) == 11
    assert done(new)["state_sha256"] == done(old)["state_sha256"]


def test_a_warm_start_takes_the_weights_only_and_only_once(tmp_path: Path, tiny: Make) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run_training(tiny(), first, "auto")
    warm = tiny({"train.init": str(first), "train.until": 5})
    run_training(warm, second, "auto")
    assert losses(second)[1] < losses(first)[1] - 0.5
    assert run_training(tiny({"train.init": "/nowhere"}), second, "auto") == ExitCode.DONE
    assert len(losses(second)) == 20


def test_a_full_disk_does_not_stop_training(tmp_path: Path, text: Path) -> None:
    values = {**TINY, "data.path": text, "checkpoint.every_steps": 5}
    limit = 60_000  # below model.safetensors, above the logs: the kernel refuses in mid-write
    process = start(tmp_path, values, limits={resource.RLIMIT_FSIZE: limit})
    output, _ = process.communicate(timeout=150)
    assert process.returncode == ExitCode.STORAGE, output
    assert len(losses(tmp_path)) == 20, "all steps were trained"
    failed = [e for e in lines(tmp_path / "events.jsonl") if e["event"] == "ckpt_failed"]
    assert failed
    assert "File too large" in failed[0]["error"]
    assert not list((tmp_path / "ckpt").iterdir()), "no torn files are left"


def test_a_save_that_would_leave_too_little_disk_is_skipped_and_said(tmp_path: Path, tiny: Make) -> None:
    from gputrain.errors import StorageError

    with pytest.raises(StorageError):
        run_training(tiny({"checkpoint.min_free_bytes": 10**15}), tmp_path, "auto")
    assert any(e["event"] == "ckpt_skipped_disk" for e in lines(tmp_path / "events.jsonl"))


def test_retention_spares_what_the_daemon_is_uploading(tmp_path: Path, tiny: Make) -> None:
    (tmp_path / "mirror").mkdir()
    uploading = {"step": 4, "state": "uploading"}
    (tmp_path / "mirror" / "step-000000004.json").write_text(json.dumps(uploading))
    run_training(tiny({"checkpoint.every_steps": 2, "checkpoint.keep_last": 3}), tmp_path, "auto")
    left = [int(path.name.removeprefix("step-")) for path in sorted((tmp_path / "ckpt").glob("step-*"))]
    assert left == [4, 16, 18, 20]
    deleted = [e["step"] for e in lines(tmp_path / "events.jsonl") if e["event"] == "ckpt_deleted"]
    assert deleted == [2, 6, 8, 10, 12, 14]
    assert check(tmp_path) == []


def test_the_run_directory_satisfies_a_checker_without_torch(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny({"checkpoint.every_steps": 5, "train.until": 9}), tmp_path, "auto")
    run_training(tiny({"checkpoint.every_steps": 5}), tmp_path, "auto")
    assert check(tmp_path) == []
    flip_a_byte(tmp_path / "ckpt" / "step-000000010")
    assert check(tmp_path) == ["step-000000010/optim.safetensors is missing or damaged"]
    script = Path(__file__).with_name("check_run.py")
    command = [sys.executable, "-I", "-S", str(script), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, tiny: Make) -> None:
    run_training(tiny(), tmp_path, "auto")
    before = done(tmp_path)
    assert run_training(tiny(), tmp_path, "auto") == ExitCode.DONE
    after = done(tmp_path)
    assert {**after, "time": 0} == {**before, "time": 0}, "the manifest that was mirrored still stands"


def test_training_time_and_milestones_survive_a_restart(tmp_path: Path, tiny: Make) -> None:
    def progress(step: int) -> dict[str, float]:
        path = tmp_path / "ckpt" / f"step-{step:09d}" / "state.json"
        state: dict[str, float] = json.loads(path.read_text())["progress"]
        return state

    run_training(tiny({"train.until": 9}), tmp_path, "auto")
    run_training(tiny({"checkpoint.milestone_seconds": progress(9)["trained_s"]}), tmp_path, "auto")
    kinds = [e["kind"] for e in lines(tmp_path / "events.jsonl") if e["event"] == "ckpt_complete"]
    assert kinds[:2] == ["preempt", "milestone"], "the nine steps before the restart counted"
    assert progress(20)["trained_s"] > progress(9)["trained_s"]


def test_our_tensor_files_and_those_of_the_safetensors_library_are_the_same(tmp_path: Path) -> None:
    tensors = {
        "half": torch.arange(7).bfloat16(),
        "matrix": torch.randn(3, 5),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(4),
    }
    image = Image("ours.safetensors", slices_of(tensors), pin=False)
    image.take()
    written = image.write(tmp_path, {"step": "1"})
    assert written.bytes == (tmp_path / "ours.safetensors").stat().st_size
    read = load_file(tmp_path / "ours.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    back = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    load_slices([tmp_path / "theirs.safetensors"], slices_of(back))
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("size", [0, 5, 3 * BLOCK, CHUNK + BLOCK, 2 * CHUNK + 5])
@pytest.mark.parametrize("skew", [0, 8], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("align", [8, BLOCK])
def test_a_file_written_past_the_page_cache_has_the_same_bytes(
    tmp_path: Path, size: int, skew: int, align: int
) -> None:
    memory = block_of_memory(size + skew, pin=False)[skew:]
    memory.copy_(torch.randint(256, (size,), dtype=torch.uint8))
    header = encode_header([], {}, align=align)
    written = write_hashed(tmp_path / "file", header, memory.numpy().data)
    content = (tmp_path / "file").read_bytes()
    assert content == header + bytes(memory.numpy())
    assert written == FileHash(len(content), hashlib.sha256(content).hexdigest())
    assert len(header) % align == 0
