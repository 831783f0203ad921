"""When a run goes on without its machine, what that loses, and where `--resume-from` leads."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest
from core_lives import BOOT, LABEL, NOW, TAKEN_OVER, machine, run

from gpuproviders.model import Power
from gpuproviders.money import accrue
from gpuwatch.custody.facts import BoxFile, Inventory
from gpuwatch.custody.rules import assess
from gpuwatch.daemon import restoring
from gpuwatch.daemon.presence import LISTING_GAP, Stranding
from gpuwatch.daemon.restoring import NotRestored
from gpuwatch.daemon.resuming import ResumeError, parse_pointer, resolve
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.evolve import create
from gpuwatch.lifecycle.run import Home, Run, State
from gpuwatch.spec.model import Artifact, Budget, Checkpoints, Job, Recover, RunSpec

S = State
SPEC = RunSpec(
    name="r", job=Job(command="true"), checkpoints=Checkpoints(path="ckpt"), artifacts=(Artifact(path="out"),)
)
BARE = msgspec.structs.replace(SPEC, checkpoints=None)
WORKED = machine(job_started_at=NOW, boot_id=BOOT, workspace="/root")
HOUR = 3600.0


def home(step: int, *, at: float = NOW + 60) -> Home:
    return Home(name=f"step-{step}", step=step, digest="d" * 64, files=2, bytes=10, at=at)


def working(state: State = S.RUNNING, **more: object) -> Run:
    return run(state, machine=WORKED, attempt=1, started_at=NOW, **more)


# --- whether it goes on --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "subject", "spec", "why"),
    [
        ("its job runs", working(), SPEC, None),
        ("it is still being prepared", run(S.PREPARING, machine=machine(), attempt=1), BARE, None),
        ("its job ended and its files are on their way", working(S.COLLECTING, exit_code=0), SPEC, None),
        ("nobody knows how its job ended", working(S.FINISHED, exit_code=None), SPEC, None),
        ("its job had failed by itself", working(S.FINISHED, exit_code=1), SPEC, "failed by itself"),
        ("everything is home", working(S.VERIFIED), SPEC, "is home"),
        ("a person was to decide", working(S.FAILED), SPEC, "a person"),
        ("its end was wished for", working(end_requested_by="me"), SPEC, "requested by me"),
        ("it names no checkpoints", working(), BARE, "no [checkpoints]"),
        ("it may begin anew", working(), msgspec.structs.replace(BARE, recover=Recover(on_loss="restart")), None),
        ("it shall not", working(), msgspec.structs.replace(SPEC, recover=Recover(on_loss="never")), "never"),
        ("its machines are used up", working(), msgspec.structs.replace(SPEC, recover=Recover(attempts=1)), "used up"),
        ("its money is", working(), msgspec.structs.replace(SPEC, budget=Budget(max_cost=1)), "max_cost"),
        ("its time is", working(), msgspec.structs.replace(SPEC, budget=Budget(max_time=60.0)), "max_hours"),
        ("it only collects from another's machine", working(of="r0"), SPEC, "only collects"),
    ],
)  # fmt: skip
def test_whether_a_run_goes_on_when_its_machine_is_lost(
    what: str, subject: Run, spec: RunSpec, why: str | None
) -> None:
    answer = recover.refusal(subject, spec, NOW + HOUR)
    assert (answer is None) == (why is None), what
    assert (why or "") in (answer or "")


def test_all_machines_of_a_run_count_for_its_ceilings() -> None:
    spec = msgspec.structs.replace(SPEC, budget=Budget(max_cost=500_000))
    past = (machine(gone_at=NOW + HOUR),)  # an hour at 0.40
    searching = run(S.RECOVERING, past=past, started_at=NOW)
    assert recover.ceiling(searching, spec, NOW + HOUR) is None
    again = msgspec.structs.replace(searching, machine=machine(rented_at=NOW + HOUR))
    assert recover.ceiling(again, spec, NOW + 2 * HOUR) == "budget.max_cost is reached"


# --- what is lost --------------------------------------------------------------------------------


def test_what_is_lost_is_the_work_since_the_newest_checkpoint_at_home() -> None:
    subject = working(homes=(home(100), home(200, at=NOW + 600)))
    lost = recover.loss(subject, step=260, heard_at=NOW + 900, now=NOW + 1500)
    assert lost == recover.Loss(steps=60, seconds=300.0, cost=accrue(400_000, 300.0))


def test_without_a_checkpoint_all_of_the_job_is_lost_and_unheard_steps_are_unknown() -> None:
    assert recover.loss(working(), step=40, heard_at=NOW + 90, now=NOW + 99).seconds == 90.0
    assert recover.loss(working(), step=40, heard_at=NOW + 90, now=NOW + 99).steps == 40
    assert recover.loss(working(), step=None, heard_at=None, now=NOW + 50).steps is None


def test_a_checkpoint_of_an_earlier_machine_does_not_count_as_work_of_this_one() -> None:
    later = run(S.RUNNING, machine=machine(job_started_at=NOW + 5000), homes=(home(100),))
    assert recover.loss(later, step=130, heard_at=NOW + 5040, now=NOW + 6000).seconds == 40.0


def test_nothing_is_lost_with_a_machine_on_which_no_job_ran() -> None:
    unused = run(S.PREPARING, machine=machine())
    assert recover.loss(unused, step=None, heard_at=None, now=NOW) == recover.Loss(0, 0.0, 0)


# --- the machine that is left behind --------------------------------------------------------------


def box_file(path: str) -> BoxFile:
    return BoxFile(path, 4, 1, 1, 1)


def verdict_on(subject: Run, *files: BoxFile) -> list[str]:
    spec = recover.spec_for(subject, SPEC)
    inventory = Inventory("77", BOOT, NOW, files)
    return [hold.name for hold in assess(spec, inventory, {}, job_succeeded=False).holds]


def test_a_run_that_only_collects_promises_what_is_there_and_nothing_that_is_not() -> None:
    left = create("r1-back1", TAKEN_OVER, NOW)
    assert verdict_on(left) == [], "what the machine never made, the run that goes on makes"
    assert verdict_on(left, box_file("ckpt/step-9/model")) == ["artifacts"]
    assert verdict_on(left, box_file("out")) == ["artifacts"]
    assert recover.spec_for(run(), SPEC) is SPEC


def test_an_empty_disk_where_files_had_been_is_no_empty_promise() -> None:
    left = create("r1-back1", msgspec.structs.replace(TAKEN_OVER, proved=3), NOW)
    assert verdict_on(left) == ["empty"]


def test_a_machine_is_taken_over_once_and_only_when_something_ran_on_it() -> None:
    event = recover.taken_over(working(), WORKED, "came back", stranded=False, proved=0)
    assert (event.taker, event.of, event.instance_id) == ("r1-back1", "r1", "77")
    assert event.key == f"taken-over:{LABEL}"
    with pytest.raises(ValueError, match="nothing ever ran"):
        recover.taken_over(working(), machine(), "came back", stranded=False, proved=0)


# --- whether it runs -----------------------------------------------------------------------------


def listed(*looks: tuple[float, Power], spot: bool = False, patience: float = 600.0) -> str | None:
    stranding = Stranding()
    for at, power in looks:
        stranding.observe(at, power)
    return stranding.verdict(msgspec.structs.replace(SPEC, recover=Recover(patience=patience)), spot=spot)


EVERY_MINUTE = [60.0 * n for n in range(11)]


@pytest.mark.parametrize(
    ("power", "spot", "left"),
    [
        (Power.OFFLINE, False, True), (Power.OFFLINE, True, True), (Power.STOPPED, True, True),
        (Power.STOPPED, False, False), (Power.RUNNING, True, False), (Power.STARTING, True, False),
        (Power.UNKNOWN, True, False),
    ],
)  # fmt: skip
def test_which_machines_are_left_after_the_specs_patience(power: Power, spot: bool, left: bool) -> None:
    assert (listed(*((at, power) for at in EVERY_MINUTE), spot=spot) is not None) == left


def test_one_look_at_a_machine_that_runs_begins_the_patience_anew() -> None:
    looks = [(at, Power.OFFLINE) for at in EVERY_MINUTE]
    assert listed(*looks[:5], (270.0, Power.RUNNING), *looks[5:]) is None


def test_a_gap_in_the_listings_is_no_evidence() -> None:
    assert (
        listed(
            (0.0, Power.OFFLINE),
            (60.0, Power.OFFLINE),
            (60.0 + LISTING_GAP + 1, Power.OFFLINE),
            (700.0, Power.OFFLINE),
        )
        is None
    )


def test_the_same_listing_counts_once() -> None:
    assert listed(*[(0.0, Power.OFFLINE)] * 5, (601.0, Power.OFFLINE), patience=0.0) is None


# --- where --resume-from leads -------------------------------------------------------------------

OLD = run(id="r-old2", homes=(home(10), home(20)))
NEW = run(id="r-new3", homes=(home(10), home(30)))
OTHER = run(id="x-abcd", name="x", homes=(home(99),))
RUNS = [NEW, OLD, OTHER]


@pytest.mark.parametrize(
    ("typed", "leads_to"),
    [
        ("latest", "run:r-new3/step-30"), ("30", "run:r-new3/step-30"), ("step-20", "run:r-old2/step-20"),
        ("r-old2", "run:r-old2/step-20"), ("r-old2:10", "run:r-old2/step-10"), ("x-abcd:99", "run:x-abcd/step-99"),
        ("gdrive:research/runs/r-old2/", "remote:gdrive:research/runs/r-old2"),
    ],
)  # fmt: skip
def test_what_is_typed_leads_to_a_checkpoint(typed: str, leads_to: str, tmp_path: Path) -> None:
    assert resolve(typed, "r", RUNS, tmp_path) == leads_to


def test_a_path_in_the_vault_leads_to_the_run_whose_proofs_it_has(tmp_path: Path) -> None:
    inside = tmp_path / "vault" / "r-old2" / "ckpt" / "step-10"
    inside.mkdir(parents=True)
    assert resolve(str(inside), "r", RUNS, tmp_path / "vault") == "run:r-old2/step-10"
    assert resolve(str(inside.parents[1]), "r", RUNS, tmp_path / "vault") == "run:r-old2/step-20"
    outside = tmp_path / "mine.pt"
    outside.write_bytes(b"x")
    assert resolve(str(outside), "r", RUNS, tmp_path / "vault") == f"path:{outside}"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("40", "there are: 10, 30 (of r-new3)"), ("r-old2:77", "there are: 10, 20"), ("r-old2:x", "no step"),
        ("/not/there", "does not exist"), ("gdrive:$(reboot)", "nothing to resume from"), ("yesterday", "rclone remote"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_is_answered_with_what_there_is(typed: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=re.escape(told)):
        resolve(typed, "r", RUNS, tmp_path)


def test_latest_of_a_name_that_never_ran_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no earlier run called nobody"):
        resolve("latest", "nobody", RUNS, tmp_path)


POINTER = {"step": 7, "dir": "step-7", "files": [{"path": "step-7/a", "sha256": "a" * 64}]}


def test_a_mirrored_runs_pointer_is_read_and_nothing_else_is() -> None:
    assert parse_pointer(json.dumps(POINTER).encode()) == ("step-7", 7, {"step-7/a": "a" * 64})
    for wrong in (
        {"files": []}, {"dir": "step-8"}, {"step": "7"}, {"dir": 3},
        {"files": [{"path": "../../etc/passwd", "sha256": "a" * 64}]},
        {"files": [{"path": "step-7/../../x", "sha256": "a" * 64}]},
        {"files": [{"path": "step-7/a\nb", "sha256": "a" * 64}]},
        {"files": [{"path": "step-7/a", "sha256": "short"}]},
    ):  # fmt: skip
        with pytest.raises(ResumeError):
            parse_pointer(json.dumps(POINTER | wrong).encode())
    for noise in (b"", b"[]", b"null", b"\xff", b"[" * 100_000):
        with pytest.raises(ResumeError):
            parse_pointer(noise)


def test_a_folder_of_the_run_contract_must_be_what_its_manifest_says(tmp_path: Path) -> None:
    folder = tmp_path / "step-7"
    folder.mkdir()
    (folder / "model").write_bytes(b"weights")
    told = hashlib.sha256(b"weights").hexdigest()
    good = {"files": [{"path": "model", "bytes": 7, "sha256": told}]}
    (folder / "MANIFEST.json").write_text(json.dumps(good))
    chosen = restoring.of_path(folder)
    assert [name for name, _, _ in chosen.files] == ["step-7/MANIFEST.json", "step-7/model"]
    (folder / "model").write_bytes(b"w3ights")
    with pytest.raises(NotRestored, match="not what was proved"):
        restoring.of_path(folder)


def test_what_is_no_checkpoint_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NotRestored, match="not there"):
        restoring.of_path(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotRestored, match="no files"):
        restoring.of_path(tmp_path / "empty")
