"""Beginning from a checkpoint, and going on from one after a loss: real boxes, real rclone, proved before the job starts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.rclone_servers import Server, serving
from integration.world import SCRIPT_SPEC, World, world

pytestmark = pytest.mark.timeout(400)

TRAIN = """
mkdir -p ckpt
first=$(ls ckpt | sed -n 's/^step-//p' | sort -n | tail -1)
echo "began at ${first:-0}"
[ -n "$first" ] && sha256sum ckpt/step-$first/model.bin | cut -c1-64 > began.txt || echo none > began.txt
for i in 1 2; do
  step=$((${first:-0} + i)); mkdir ckpt/.tmp; head -c 5000000 /dev/urandom > ckpt/.tmp/model.bin
  echo '{"files": [{"path": "model.bin", "sha256": "'$(sha256sum ckpt/.tmp/model.bin | cut -c1-64)'"}]}' > ckpt/.tmp/MANIFEST.json
  mv ckpt/.tmp ckpt/step-$step
done
"""
PROMISES = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "began.txt"\n'
MIRRORED = (
    PROMISES + '[mirror]\nremotes = ["sim:bucket/research"]\nrequire = ["vault", "sim:bucket/research"]\n'
)
UNTIL_TOLD = "while [ ! -e ../go ]; do sleep 0.1; done\n"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Server]:
    with serving("s3", tmp_path / "remote") as made:
        yield made


@pytest.fixture
def here(tmp_path: Path, remote: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("RCLONE_CONFIG", remote.environment["RCLONE_CONFIG"])
    (tmp_path / "home").mkdir()
    with world(tmp_path / "home") as made:
        yield made


def launch(here: World, whence: str | None, *, rest: str = MIRRORED, job: str = TRAIN, key: str) -> str:
    text = SCRIPT_SPEC.format(name="train", top="", job=job, boot="60s", rest=rest)
    spec = wire.SpecText(text=text, file="run.toml", base=str(here.home))
    return str(here.call("launch", wire.Launch(spec=spec, key=key, resume_from=whence), wire.Launched).run)


def first(here: World) -> str:
    """A run whose steps 1 and 2 came home whole while it ran, and are on the remote."""
    run = launch(here, None, job=TRAIN + UNTIL_TOLD, key="first")
    both_home(here, run)
    (machine,) = here.living()
    (here.box(machine) / "workspace" / "go").touch()
    here.wait_event(run, "gone")
    return run


def both_home(here: World, run: str) -> None:
    """Wait until steps 1 and 2 stand whole at home: the newest comes first."""
    steps: set[int] = set()
    seen = 0
    while steps < {1, 2}:
        event = here.wait_event(run, "checkpoint-home", after=seen)
        steps.add(event.data["step"])
        seen = event.seq


def hash_of(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout[:64]


def test_a_launch_begins_from_the_newest_checkpoint_of_an_earlier_run(here: World) -> None:
    run = first(here)
    begins(here, "latest", hash_of(here.file(run, "ckpt/step-2/model.bin")))
    assert here.living() == []


def test_a_launch_begins_from_a_mirrored_run(here: World) -> None:
    run = first(here)
    begins(here, f"sim:bucket/research/runs/{run}", hash_of(here.file(run, "ckpt/step-2/model.bin")))


@pytest.mark.slow
def test_a_launch_begins_from_a_step_a_folder_or_one_checkpoint_on_a_remote(here: World) -> None:
    run = first(here)
    step_1 = hash_of(here.file(run, "ckpt/step-1/model.bin"))
    copied = here.home / "mine" / "step-1"
    copied.mkdir(parents=True)
    for name in ("model.bin", "MANIFEST.json"):
        (copied / name).write_bytes(here.file(run, f"ckpt/step-1/{name}").read_bytes())
    for whence in (f"{run}:1", str(copied), f"sim:bucket/research/runs/{run}/checkpoints/step-1"):
        begins(here, whence, step_1)


def begins(here: World, whence: str, expected: str) -> None:
    """A job that is launched with `--resume-from whence` finds a model of this hash."""
    again = launch(here, whence, key=whence, rest=PROMISES)
    here.wait_event(again, "gone")
    assert here.file(again, "began.txt").read_text().strip() == expected, whence
    placed = next(e for e in here.events(again) if e.kind == "restored")
    assert placed.data["bytes"] > 5_000_000


def test_what_cannot_be_found_costs_nothing_and_what_cannot_be_proved_starts_no_job(here: World) -> None:
    with pytest.raises(CallFailed, match="no earlier run called train"):
        launch(here, "latest", key="a")
    with pytest.raises(CallFailed, match="checkpoints"):
        launch(here, "latest", rest='[[artifacts]]\npath = "began.txt"\n', key="b")
    assert here.machines() == []
    run = first(here)
    damaged = here.home / "mine" / "step-2"
    damaged.mkdir(parents=True)
    for name in ("model.bin", "MANIFEST.json"):
        (damaged / name).write_bytes(here.file(run, f"ckpt/step-2/{name}").read_bytes())
    (damaged / "model.bin").write_bytes(b"other weights")
    bad = launch(here, str(damaged), key="c")
    reason = here.wait_event(bad, "prepare-failed").data["reason"]
    assert "not what was proved" in reason
    here.wait_event(bad, "gone")
    assert "job-started" not in here.kinds(bad)
    assert here.living() == []


def test_a_damaged_copy_at_home_is_taken_from_the_mirror(here: World) -> None:
    run = first(here)
    model = here.file(run, "ckpt/step-2/model.bin")
    proved = hash_of(model)
    content = bytearray(model.read_bytes())
    content[1000] ^= 1
    model.write_bytes(content)
    again = launch(here, f"{run}:2", key="again", rest=PROMISES)
    assert here.wait_event(again, "restored").data["source"] == "sim:bucket/research"
    here.wait_event(again, "gone")
    assert here.file(again, "began.txt").read_text().strip() == proved


@pytest.mark.slow
def test_a_host_that_goes_offline_is_left_and_collected_from_when_it_is_back(here: World) -> None:
    rest = PROMISES + '[recover]\npatience = "1m"\n'
    run = launch(here, None, job=TRAIN + UNTIL_TOLD, rest=rest, key="k")
    both_home(here, run)
    (old,) = here.living()
    here.sim("POST", f"/_sim/instances/{old['id']}/offline")
    left = here.wait_event(run, "recovering")
    assert left.data["step"] == 2
    restored = here.wait_event(run, "restored")
    assert restored.data["name"] == "step-2"
    here.wait_event(run, "checkpoint-home", after=restored.seq)
    here.sim("POST", f"/_sim/instances/{old['id']}/online")
    back = f"{run}-back1"
    here.wait_event(back, "gone")
    (new,) = here.living()
    (here.box(new) / "workspace" / "go").touch()
    here.wait_event(run, "gone")
    assert here.file(run, "began.txt").read_text().strip() == hash_of(here.file(run, "ckpt/step-2/model.bin"))
    assert here.file(back, "began.txt").read_text().strip() == "none"
    here.assert_receipt_holds(back)
    here.assert_receipt_holds(run)
    assert here.living() == []
