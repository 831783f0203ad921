"""`gputui canary` against both simulators: the whole path is walked, every assumption is judged, nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_daemon_runpod import RunpodWorld, running

UNSEEN = {"the balance falls by about what we reckon", "a stopped machine costs no more than a running one"}
"""What cannot be seen on RunPod: its balance is asked every five minutes only, and no price is listed of a stopped pod."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RunpodWorld]:
    with running(tmp_path, both=True) as made:
        yield made


def canary(here: RunpodWorld, vendor: str, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The finished command and its report (empty when there is none)."""
    report = here.home / "report.md"
    argv = [
        sys.executable,
        "-m",
        "gputui",
        "canary",
        vendor,
        "--max-cost",
        "0.25",
        "--interval",
        "0.5",
        "--report",
        str(report),
        *options,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=170, env=here.environment)
    return done, report.read_text() if report.exists() else ""


def verdicts(report: str) -> dict[str, str]:
    """Assumption -> verdict, from the report's table."""
    rows = [
        line.strip("| ").split(" | ")
        for line in report.splitlines()
        if line.startswith("| ") and "assumption" not in line
    ]
    return {row[1]: row[0] for row in rows if len(row) >= 3}


@pytest.mark.parametrize("vendor", ["vast", "runpod"])
def test_it_walks_the_whole_path_and_finds_every_assumption_true(here: RunpodWorld, vendor: str) -> None:
    # a simulated pod has no process 1 of its own, where RunPod's key stands: it is in the sessions instead
    here.fault("env_in_ssh")
    done, report = canary(here, vendor, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(report)
    assert len(found) >= 18
    assert "DIFFERS" not in found.values()
    unseen = {assumption for assumption, verdict in found.items() if verdict == "not seen"}
    assert unseen == (UNSEEN if vendor == "runpod" else set())
    assert found["a stop keeps the work folder"] == found["a box may stop itself with its own key"] == "holds"
    assert "sim-key" not in report + done.stdout + done.stderr
    assert "127.0.0.1" not in report
    assert "gone" in report


def test_what_differs_is_found_and_the_machine_goes_all_the_same(here: RunpodWorld) -> None:
    url, here.url = here.url, here.vast_url
    for fault in ("status_unknown=frobnicating*6", "fields_extra"):
        here.fault(fault)
    done, report = canary(here, "vast", "--yes", "--no-stop")
    assert done.returncode == 1, done.stdout + done.stderr
    assert verdicts(report)["every status is one we know"] == "DIFFERS"
    assert verdicts(report)["it is confirmed gone"] == "holds"
    assert here.living() == []
    here.url = url


def test_it_asks_before_it_spends_and_refuses_what_is_too_dear(here: RunpodWorld) -> None:
    done, report = canary(here, "vast")
    assert (done.returncode, report) == (2, "")
    assert "add --yes" in done.stderr
    done, report = canary(here, "vast", "--yes", "--query", "price>2")
    assert (done.returncode, report) == (2, "")
    assert "more than --max-cost allows" in done.stderr
    done, _ = canary(here, "vast", "--yes", "--query", "prize<3")
    assert done.returncode in (2, 5)
    assert "did you mean price" in done.stderr
