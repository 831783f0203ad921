"""The daemon on the simulated RunPod, and on both clouds at once: same specs, same promises."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.world import World

CONFIG = """\
[watch]
accounts = "1s"
booting = "1s"
telemetry = "1s"
lost_create = "4s"
[providers.vast]
enabled = {vast}
url = "{vast_url}"
paced = false
timeout = "3s"
[providers.runpod]
url = "{runpod_url}"
timeout = "3s"
"""
RUNPOD = 'provider = "runpod"'
MODEL = '[[artifacts]]\npath = "model.bin"\n'
PROMISE = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "model.bin"\n'
WIDE = """\
name = "wide"
provider = "runpod"
disk = "auto"
artifacts = "none"
[gpu]
name = ["H100 SXM", "A100 SXM4", "L40S"]
[job]
command = "echo hello"
[data]
size = "9GB"
"""
JOB = """
mkdir -p ckpt
for i in 1 2; do head -c 300000 /dev/urandom > ckpt/.tmp; mv ckpt/.tmp ckpt/step-$i.bin; echo "step $i"; sleep 1; done
head -c 100000 /dev/urandom > model.bin
"""


class RunpodWorld(World):
    """A simulated RunPod and a daemon; with `both`, a simulated Vast beside it."""

    both = False
    vast_url = ""

    @property
    def environment(self) -> dict[str, str]:
        found = super().environment | {"RUNPOD_API_KEY": "sim-key"}
        if not self.both:
            found.pop("VAST_API_KEY")
        return found

    def start_simulator(self, *options: str) -> None:
        super().start_simulator("--cloud", "runpod", *options)
        if self.both:
            with (self.home / "vast.log").open("ab") as log:
                self.vast = subprocess.Popen(
                    [sys.executable, "-m", "gpucloudsim", "--state", str(self.home / "vast"), "--boot-seconds", "0.5",
                     "--market-at", "stocked", *options],
                    stdout=subprocess.PIPE, stderr=log, env=self.environment,
                )  # fmt: skip
            assert self.vast.stdout is not None
            self.vast_url = json.loads(self.vast.stdout.readline())["url"]
        text = CONFIG.format(vast=str(self.both).lower(), vast_url=self.vast_url, runpod_url=self.url)
        (self.home / "config" / "config.toml").write_text(text)

    def stop(self) -> None:
        super().stop()
        if self.both:
            self.vast.terminate()
            self.vast.wait(15)
            assert self.vast.stdout is not None
            self.vast.stdout.close()


@contextlib.contextmanager
def running(home: Path, *, both: bool = False) -> Iterator[RunpodWorld]:
    made = RunpodWorld(home)
    made.both = both
    try:
        made.start_simulator("--ephemeral")
        made.start_daemon()
        yield made
    finally:
        made.stop()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RunpodWorld]:
    with running(tmp_path) as made:
        yield made


def test_a_job_is_rented_run_mirrored_verified_and_destroyed_on_runpod(here: RunpodWorld) -> None:
    run = here.script(JOB, top=RUNPOD, rest=PROMISE)
    here.wait_event(run, "files-verified")
    row = here.wait_end(run)
    assert (row.state, row.exit_code, row.exposure.files) == ("gone", 0, 0)
    assert set(here.assert_receipt_holds(run)) == {
        "ckpt/step-1.bin",
        "ckpt/step-2.bin",
        "model.bin",
        "job.log",
    }
    here.assert_one_machine_and_none_left()


@pytest.mark.parametrize(
    "fault", ["create_hang_after", "create_500_after", "create_truncated", "create_reset_after"]
)
def test_a_lost_answer_to_a_create_is_adopted_by_its_label(here: RunpodWorld, fault: str) -> None:
    here.fault(f"{fault}*1")
    run = here.script("echo hello", top=f'{RUNPOD}\nartifacts = "none"')
    assert here.wait_end(run).state == "gone"
    assert "create-unknown" in here.kinds(run)
    here.assert_one_machine_and_none_left()


def test_a_data_centre_without_stock_gives_way_to_the_next_offer(here: RunpodWorld) -> None:
    here.fault("create_capacity*1")
    run = here.launch(WIDE)
    assert here.wait_end(run).state == "gone"
    chosen = [e.data["offer_id"] for e in here.events(run) if e.kind == "offer-chosen"]
    assert len(set(chosen)) == 2
    assert 'disk = "11GB"' in here.detail(run).spec, "what was reckoned stands in the spec that is kept"
    here.assert_one_machine_and_none_left()


def test_a_pod_whose_image_is_missing_is_a_dud_and_another_is_rented(here: RunpodWorld) -> None:
    here.fault("boot_image_missing*1")
    run = here.launch(WIDE)
    assert here.wait_end(run).state == "gone"
    assert "dud" in here.kinds(run)
    assert [m["destroyed"] is not None for m in here.machines()] == [True, True]


def test_lists_that_lie_or_lag_never_lose_a_running_job(here: RunpodWorld) -> None:
    run = here.script(
        "touch started; while [ ! -e go ]; do sleep 0.1; done; echo done > model.bin", top=RUNPOD, rest=MODEL
    )
    here.wait_event(run, "job-started")
    for fault in (
        "list_null*2",
        "list_empty*1",
        "list_html*1",
        "status_before=list:500*1",
        "forbidden=list*1",
        "list_empty_array*1",
    ):
        here.fault(fault)
    work = next(here.box(here.living()[0]).glob("workspace/job-*"))
    (work / "go").touch()
    assert here.wait_end(run).state == "gone"
    assert here.file(run, "model.bin").read_text() == "done\n"
    here.assert_one_machine_and_none_left()


def test_a_spec_for_an_account_that_is_not_there_is_refused_with_what_to_do(here: RunpodWorld) -> None:
    with pytest.raises(CallFailed, match="no account of vast is configured"):
        here.script("true", top='provider = "vast"\nartifacts = "none"')


def test_both_clouds_make_one_table_and_either_runs_the_same_spec(tmp_path: Path) -> None:
    with running(tmp_path, both=True) as here:
        table = here.call("offers", wire.OffersQuery(gpu=["h100"], disk=10**10), wire.Offers)
        assert table.problems == []
        assert {offer.provider for offer in table.offers} == {"vast", "runpod"}
        assert [o.price for o in table.offers] == sorted(o.price for o in table.offers)
        for provider in ("vast", "runpod"):
            run = here.script("echo hello", top=f'provider = "{provider}"\nartifacts = "none"', key=provider)
            row = here.wait_end(run)
            assert (row.state, row.exit_code) == ("gone", 0)
            assert here.detail(run).run.provider == provider
        run = here.script("echo hello", top='provider = ["vast", "runpod"]\nartifacts = "none"', key="any")
        assert here.wait_end(run).state == "gone"
        best = min(
            here.call("offers", wire.OffersQuery(gpu=["RTX 4090"], disk=10**10), wire.Offers).offers,
            key=lambda o: o.price,
        )
        assert here.detail(run).run.provider == best.provider


def test_a_dry_run_says_what_would_be_rented_and_rents_nothing(here: RunpodWorld) -> None:
    text = WIDE.replace('artifacts = "none"', 'artifacts = "none"\n[budget]\nmax_hours = 2')
    spec = wire.SpecText(text=text, file="run.toml", base=str(here.home), market=True)
    plan = here.call("spec.check", spec, wire.SpecCheck).plan
    now = next(line for line in plan if line.startswith("  now: "))
    assert "(runpod:secure." in now
    assert "/h all-in, $" in now
    assert any("more offers fit" in line for line in plan)
    assert any(line.startswith("  at most $") for line in plan)
    assert 'disk = "auto" is 11.0 GB:' in plan
    assert "  9.00 GB  data.size: what the job downloads or makes" in plan
    assert here.machines() == []


def test_prices_that_were_seen_are_kept_and_shown_with_their_course(here: RunpodWorld) -> None:
    assert "No prices were noted yet" in _gputui(here, "offers", "--history")
    assert "L40S" in _gputui(here, "offers", "--gpu", "l40s")
    shown = _gputui(here, "offers", "--history", "--gpu", "l40s")
    assert "1 × L40S" in shown
    assert "runpod" in shown
    rows = json.loads(_gputui(here, "offers", "--history", "--json"))["series"]
    assert rows
    assert all(len(row["points"]) == 1 for row in rows)
    assert "No prices" in _gputui(here, "offers", "--history", "--spot")


def _gputui(here: RunpodWorld, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gputui", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=here.environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_of_offers_shows_stock_where_nobody_rates_machines(here: RunpodWorld) -> None:
    text = _gputui(here, "offers", "--gpu", "h100", "--count", "1")
    assert "runpod:secure." in text
    assert "stock " in text
