"""docs/lifecycle.md says what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gpuwatch.lifecycle.evolve import ARROWS
from gpuwatch.lifecycle.run import State

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "lifecycle.md"


def test_the_life_cycle_page_is_what_the_arrows_say() -> None:
    made = subprocess.run([sys.executable, str(ROOT / "docs" / "make_lifecycle.py"), "--check"], check=False)
    assert made.returncode == 0, "stale: run `python docs/make_lifecycle.py`"


def test_every_arrow_to_another_state_is_in_the_diagram() -> None:
    text = PAGE.read_text(encoding="utf-8")
    drawn = {
        (before, after, event)
        for line in text.splitlines()
        if " --> " in line and ": " in line and "[*]" not in line
        for before, after in [line.split(": ")[0].split(" --> ")]
        for event in line.split(": ")[1].split(", ")
    }
    arrows = {
        (f"    {before.value}", after.value, str(event.__struct_config__.tag))
        for event, row in ARROWS.items()
        for before, after in row.items()
        if before is not after
    }
    assert drawn == arrows
    assert all(f"| {state.value} |" in text for state in State)
