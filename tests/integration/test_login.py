"""`gputui login`: a key is checked before it is kept, kept for its owner only, and never shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from integration.test_daemon_runpod import RunpodWorld


@pytest.fixture
def here(tmp_path: Path):
    made = RunpodWorld(tmp_path)
    made.both = True
    try:
        made.start_simulator("--ephemeral")
        yield made
    finally:
        made.stop()


def login(here: RunpodWorld, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in here.environment.items() if not k.endswith("_API_KEY")}
    return subprocess.run(
        [sys.executable, "-m", "gputui", "login", *arguments], input=key + "\n", capture_output=True, text=True, timeout=60, env=env
    )  # fmt: skip


@pytest.mark.parametrize("vendor", ["vast", "runpod"])
def test_a_good_key_is_kept_for_its_owner_and_a_bad_one_is_not(here: RunpodWorld, vendor: str) -> None:
    kept = here.home / "config" / "keys" / vendor
    refused = login(here, "a-wrong-key", vendor)
    assert (refused.returncode, kept.exists()) == (1, False)
    assert "a-wrong-key" not in refused.stderr + refused.stdout
    done = login(here, "sim-key", vendor)
    assert done.returncode == 0, done.stderr
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("sim-key\n", 0o600)
    assert "sim-key" not in done.stdout + done.stderr
    assert login(here, "", vendor).returncode == 2
    assert login(here, "", vendor, "--forget").returncode == 0
    assert not kept.exists()


def test_an_account_out_of_reach_keeps_nothing(here: RunpodWorld) -> None:
    here.stop()
    done = login(here, "sim-key", "runpod")
    assert done.returncode == 5
    assert "could not be checked" in done.stderr
    here.both, here.simulator = False, None
