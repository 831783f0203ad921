"""The daemon's pure parts: which offer, which files to upload, when a budget is reached, what words are said."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gpuproviders.model import Instance, Offer, Power
from gpuproviders.money import MicroUsd
from gpuwatch.box.sentinel import Facts
from gpuwatch.daemon import rows, words
from gpuwatch.daemon.actor import job_ended
from gpuwatch.daemon.companion import over_budget
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.preparing import too_dear, unfit
from gpuwatch.daemon.renting import choose, no_offer_reason, query_of
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import create, evolve
from gpuwatch.lifecycle.run import Machine, Run, State
from gpuwatch.spec import RunSpec, read_spec
from gpuwatch.spec.model import Gpu, Job
from gpuwatch.spec.uploads import upload_files

SPEC = read_spec(
    'name = "r1"\n[gpu]\nname = "rtx 4090"\nmax_price = 1.5\n[job]\ncommand = "true"\n'
    '[[artifacts]]\npath = "m.bin"\n[budget]\nmax_cost = 1.0\nmax_hours = 2\n',
    file="r.toml",
)
HOUR = 3600.0


def offer(number: int, price: float, machine: str = "m", reliability: float = 0.9) -> Offer:
    return Offer(
        provider="vast", offer_id=str(number), machine_id=machine, gpu_name="RTX 4090", gpu_count=1,
        gpu_memory=24 * 10**9, price=MicroUsd(int(price * 1e6)), disk_price=MicroUsd(1000), reliability=reliability,
    )  # fmt: skip


def requested(**more: str) -> Run:
    return create("r1-abcd", e.Requested(name="r1", spec="", file="r.toml", base="/", key="k", **more), 0.0)


def running(at: float = 0.0) -> Run:
    run = requested()
    chosen = e.OfferChosen(
        label="L", provider="vast", offer_id="1", machine_id="m", gpu="RTX 4090", gpu_count=1, gpu_memory=24,
        price=500_000, disk_price=0,
    )  # fmt: skip
    booted = e.Booted(host="h", port=1, user="root", fingerprint="f", seconds=1)
    checked = e.BoxChecked(boot_id="b", workspace="/w", python="3.11", gpus=1)
    for event in (
        chosen,
        e.CreateSent(label="L"),
        e.Rented(label="L", instance_id="7"),
        booted,
        checked,
        e.JobStarted(boot_id="b", pid=1),
    ):
        run = evolve(run, event, at)
    return run


def test_the_cheapest_offer_is_taken_and_ties_go_to_the_more_reliable() -> None:
    offers = [offer(1, 0.5), offer(2, 0.4, reliability=0.9), offer(3, 0.4, reliability=0.99)]
    assert choose(requested(), offers) == offers[2]


def test_an_offer_or_machine_that_disappointed_is_not_taken_again() -> None:
    run = msgspec.structs.replace(requested(), avoid=("vast:offer:1", "vast:machine:bad"))
    assert choose(run, [offer(1, 0.1), offer(2, 0.2, machine="bad"), offer(3, 0.3, machine="ok")]) == offer(
        3, 0.3, machine="ok"
    )


def test_a_picked_offer_is_taken_or_nothing_and_afterwards_any() -> None:
    run = requested(provider="vast", offer_id="2")
    assert choose(run, [offer(1, 0.1), offer(2, 0.9)]) == offer(2, 0.9)
    assert choose(run, [offer(1, 0.1)]) is None
    assert "not there any more" in no_offer_reason(run, SPEC, 1)
    assert choose(msgspec.structs.replace(run, attempt=1), [offer(1, 0.1)]) == offer(1, 0.1)


def test_the_query_asks_for_what_the_spec_says() -> None:
    query = query_of(SPEC)
    assert (query.gpu_names, query.gpu_count, query.max_price) == (("RTX 4090",), 1, 1_500_000)
    assert "up to $1.50/h" in no_offer_reason(requested(), SPEC, 0)


@pytest.mark.parametrize(
    ("now", "reason"),
    [(1.9 * HOUR, None), (2.0 * HOUR, "budget.max_cost"), (2.5 * HOUR, "budget.max_cost")],
)
def test_the_cost_ceiling_counts_from_the_create(now: float, reason: str | None) -> None:
    assert (over_budget(running(), SPEC, now) or "").startswith(reason or "")
    assert (over_budget(running(), SPEC, now) is None) == (reason is None)


def test_the_time_ceiling_counts_from_the_job() -> None:
    cheap = msgspec.structs.replace(SPEC, budget=msgspec.structs.replace(SPEC.budget, max_cost=None))
    assert over_budget(running(at=10.0), cheap, 2 * HOUR + 9) is None
    assert over_budget(running(at=10.0), cheap, 2 * HOUR + 10) == "budget.max_hours is reached"
    assert over_budget(requested(), cheap, 99 * HOUR) is None


def test_a_box_without_the_rented_gpus_or_disk_is_unfit() -> None:
    fit = Facts(
        python="3.11", workspace="/w", boot_id="b", gpus=("RTX 4090",), driver="1", disk_free=20 * 10**9
    )
    assert unfit(fit, SPEC) is None
    assert "0 GPUs" in (unfit(Facts("3", "/w", "b", (), None, None), SPEC) or "")
    assert "disk" in (unfit(Facts("3", "/w", "b", ("x",), None, 10**9), SPEC) or "")


def test_uploads_are_whole_folders_without_caches_and_never_leave_the_base(tmp_path: Path) -> None:
    base = tmp_path / "project"
    (base / "configs" / "__pycache__").mkdir(parents=True)
    for name in ("train.py", "configs/a.toml", "configs/__pycache__/a.pyc"):
        (base / name).write_text(name)
    (tmp_path / "secret").write_text("x")
    assert [n for n, _ in upload_files(base, ("train.py", "configs"))] == ["train.py", "configs/a.toml"]
    with pytest.raises(ValueError, match="leads out"):
        list(upload_files(base, ("../secret",)))
    (base / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leads out"):
        list(upload_files(base, ("link",)))
    with pytest.raises(FileNotFoundError):
        list(upload_files(base, ("absent",)))


@pytest.mark.parametrize(
    ("phase", "code", "words_"),
    [
        ("ended", 0, ""),
        ("ended", 3, "exited with 3"),
        ("ended", -9, "signal 9"),
        ("vanished", None, "vanished"),
    ],
)
def test_how_a_job_ended_is_said(phase: str, code: int | None, words_: str) -> None:
    event = job_ended(phase, code)
    assert event.exit_code == code
    assert words_ in event.reason
    assert bool(event.reason) == bool(words_)


def test_every_kind_of_event_has_words() -> None:
    values = {str: "x", int: 1, float: 1.0, bool: True}
    for kind in typing.get_args(e.AnyEvent):
        fields = {
            f.name: values.get(f.type, ["x"] if "list" in str(f.type) else None)
            for f in msgspec.structs.fields(kind)
            if f.required
        }
        assert words.describe(kind(**fields)), kind


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_headline_and_a_next_step(state: State) -> None:
    run = msgspec.structs.replace(running(), state=state)
    assert words.headline(run)
    assert words.next_step(run, SPEC)
    assert words.attention(run, None) in ("none", "info", "warn", "alarm")
    assert rows.why(run, SPEC, Live(), {}, now=60.0).headline


def test_a_box_that_was_never_heard_has_unknown_exposure_not_none() -> None:
    row = rows.run_row(running(), SPEC, Live(), {}, now=60.0, clock=60.0)
    assert (row.exposure.bytes, row.exposure.files) == (None, None)
    assert any(h.name == "unknown-state" for h in row.holds)
    report = rows.custody_report(running(), SPEC, Live(), {}, now=60.0)
    assert not report.allowed
    assert "unknown is not nothing" in report.summary


def test_cost_runs_from_the_create_until_the_machine_is_gone() -> None:
    assert rows.run_cost(running(), HOUR) == 500_000
    gone = msgspec.structs.replace(
        running(), machine=msgspec.structs.replace(running().machine, gone_at=HOUR)
    )
    assert rows.run_cost(gone, 5 * HOUR) == 500_000
    assert rows.burn(gone) == 0
    assert rows.burn(running()) == 500_000


@pytest.mark.parametrize(
    ("listed", "limit", "spot", "refused"),
    [
        (1_000_000, None, False, False), (1_090_000, None, False, False), (1_200_000, None, False, True), (None, None, False, False),
        (1_200_000, 1_500_000, False, False), (1_600_000, 1_500_000, False, True), (1_200_000, None, True, False),
    ],
)  # fmt: skip
def test_a_machine_that_is_listed_dearer_than_it_was_offered_is_not_taken(
    listed: int | None, limit: int | None, spot: bool, refused: bool
) -> None:
    machine = Machine(
        label="l", provider="vast", offer_id="1", machine_id=None, gpu="H100", gpu_count=1, gpu_memory=1, price=1_000_000,
        disk_price=0, chosen_at=0.0,
    )  # fmt: skip
    spec = RunSpec(name="x", job=Job(command="x"), gpu=Gpu(max_price=limit, spot=spot))
    seen = Instance(
        provider="vast",
        instance_id="1",
        label="l",
        power=Power.RUNNING,
        price=None if listed is None else MicroUsd(listed),
        spot=spot,
    )
    said = too_dear(seen, machine, spec)
    assert (said is not None) is refused
    assert too_dear(replace(seen, power=Power.STARTING), machine, spec) is None, "asked once it runs"
    if spot:
        assert too_dear(replace(seen, spot=False), machine, spec) is not None, (
            "a bid that became a full price"
        )
