"""One offer table over both clouds: all-in prices, a query language, and our own experience of machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuproviders.listing import in_region
from gpuwatch.client import wire
from integration.test_daemon_runpod import RunpodWorld, running
from integration.world import World, world

TRAINS = """
for step in 1 2 3; do echo "{\\"step\\": $step, \\"loss\\": 1.5, \\"tokens_per_second\\": 250000.0}" >> metrics.jsonl; sleep 1; done
mkdir ckpt; head -c 3000 /dev/urandom | tee ckpt/step-3.bin > model.bin
"""
PROMISE = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "model.bin"\n'


def cli(here: World, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gputui", *words],
        capture_output=True,
        text=True,
        timeout=90,
        env=here.environment,
    )


def offers(here: World, *words: str) -> list[dict[str, Any]]:
    done = cli(here, "offers", *words, "--json", "--limit", "1000")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["offers"])


def chosen(here: World, run: str) -> list[str]:
    """The machines that a run has rented, one after the other."""
    return [str(event.data["machine_id"]) for event in here.events(run) if event.kind == "offer-chosen"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunpodWorld]:
    with running(tmp_path_factory.mktemp("both"), both=True) as made:
        yield made


def test_one_table_holds_both_clouds_ranked_by_the_price_with_everything(both: RunpodWorld) -> None:
    rows = offers(both, "--gpu", "H100")
    assert {row["provider"] for row in rows} == {"vast", "runpod"}
    assert {row["gpu"] for row in rows} <= {"H100 SXM", "H100 PCIE", "H100 NVL"}
    assert [row["all_in"] for row in rows] == sorted(row["all_in"] for row in rows)
    for row in rows:
        moved = row["transfer_price"] + row["receive_price"]
        assert row["all_in"] == row["price"] + moved
        assert row["tflop_price"] == round(row["all_in"] / row["tflops"])
        assert row["token_price"] is None
    assert any(row["all_in"] > row["price"] for row in rows if row["provider"] == "vast")
    assert all(row["all_in"] == row["price"] for row in rows if row["provider"] == "runpod")


def test_more_transfer_makes_vast_dearer_by_its_price_per_gb(both: RunpodWorld) -> None:
    rows = offers(both, "gpu=h100 provider=vast", "--transfer", "100GB")
    assert rows
    for row in rows:
        assert row["all_in"] == row["price"] + 100 * (row["transfer_price"] + row["receive_price"])


def test_a_query_is_what_every_row_fits_and_none_that_fits_is_missing(both: RunpodWorld) -> None:
    def one(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["provider"], row["machine_id"] or row["offer_id"], row["gpu_count"]

    def fits(row: dict[str, Any]) -> bool:
        return row["gpu_count"] == 1 and bool(row["region"]) and in_region("america", row["region"].lower())

    # the market moves: what stood there before and after stood there meanwhile
    before = {one(row) for row in offers(both, "--gpu", "H100") if fits(row)}
    wanted = offers(both, "gpu=h100 price<99 region=america gpus=1")
    after = {one(row) for row in offers(both, "--gpu", "H100") if fits(row)}
    assert {row["provider"] for row in wanted} == {"vast", "runpod"}
    assert all(fits(row) for row in wanted)
    assert before & after <= {one(row) for row in wanted}
    spots = offers(both, "gpu=rtx_4090 spot")
    assert spots
    assert all(row["spot"] and row["gpu"] == "RTX 4090" for row in spots)


def test_a_query_that_is_not_understood_is_shown_with_its_mistake(both: RunpodWorld) -> None:
    done = cli(both, "offers", "gpu=h100 prize<3")
    assert done.returncode == 2
    assert "there is no field 'prize'; did you mean price" in done.stderr
    query, mark = done.stderr.splitlines()[-2:]
    assert query.index("prize") == mark.index("^")
    assert cli(both, "offers", "gpu=h100", "--gpu", "rtx_3090").returncode == 2


def test_a_word_that_may_have_been_a_flag_is_said_when_nothing_fits(both: RunpodWorld) -> None:
    done = cli(both, "offers", "sopt gpu=h100")
    assert done.returncode == 0
    assert "did you mean spot?" in done.stdout


def test_the_fields_are_listed_without_a_daemon(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gputui", "offers", "--fields"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "dollars per hour, all-in" in done.stdout


def test_a_dry_run_names_the_price_with_everything_and_rents_nothing(both: RunpodWorld) -> None:
    spec = both.home / "plan.toml"
    spec.write_text(
        'name = "plan"\nprovider = ["vast", "runpod"]\nartifacts = "none"\n[gpu]\nname = "h100"\n[job]\ncommand = "true"\n'
    )
    done = cli(both, "launch", str(spec), "--dry-run")
    assert done.returncode == 0
    assert "/h all-in" in done.stdout
    assert both.machines() == []


def test_a_dud_is_remembered_avoided_and_forgiven_and_a_run_tells_what_tokens_cost(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.fault("boot_oci_error*1")
        run = here.script(TRAINS, rest=PROMISE)
        assert here.wait_end(run).state == "gone"
        bad, good = chosen(here, run)
        key = f"vast:{bad}"

        known = {m["machine"]: m for m in json.loads(cli(here, "machines", "--json").stdout)["machines"]}
        assert (known[key]["seen"]["duds"], known[key]["seen"]["avoided_by"]) == (1, "experience")
        fine = known[f"vast:{good}"]
        assert (fine["good"], fine["seen"]["duds"], fine["seen"]["avoided_until"]) == (1, 0, None)
        assert fine["seen"]["boot_seconds"] >= 0
        assert fine["seen"]["disk"] > 0

        rows = offers(here, "gpu=rtx_4090", "--unverified")
        avoided = [row for row in rows if row["seen"] and row["seen"]["avoided_until"]]
        assert {row["machine_id"] for row in avoided} == {bad}
        measured = [row for row in rows if row["token_price"] is not None]
        assert {row["gpu_count"] for row in measured} == {1}
        for row in measured:
            assert (row["tokens_per_second"], row["measured_by"]) == (250_000.0, run)
            assert row["token_price"] == round(row["all_in"] * 1e9 / (250_000 * 3600))

        # the next run, started after a restart, does not take it again although it is the cheapest
        here.kill_daemon()
        here.start_daemon()
        again = here.script("true", top='artifacts = "none"', key="k2", name="again")
        assert here.wait_end(again).state == "gone"
        assert chosen(here, again) != [bad]

        assert cli(here, "forgive", key).returncode == 0
        third = here.script("true", top='artifacts = "none"', key="k3", name="third")
        assert here.wait_end(third).state == "gone"
        assert chosen(here, third) == [bad]

        refused = cli(here, "avoid", third, "--for", "2h", "--reason", "too loud")
        assert refused.returncode == 0, refused.stderr
        assert key in refused.stdout
        spared = offers(here, "gpu=rtx_4090 avoided", "--unverified")
        assert {row["machine_id"] for row in spared} == {bad}
        assert {row["seen"]["avoided_by"] for row in spared} != {"experience"}
        table = cli(here, "machines").stdout
        assert "too loud" in table
        assert cli(here, "avoid", "aws:1").returncode == 2
        assert isinstance(
            here.call("machines", wire.MachinesQuery(provider="runpod"), wire.Machines).machines, list
        )
