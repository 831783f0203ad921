"""The fault switches: each is in the table of docs/clouds.md, and what the table names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpucloudsim.faults import Fault, Faults, UnknownFaultError, parse
from gpucloudsim.switches import KINDS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "clouds.md").read_text()
TABLE = TEXT.partition("### The vendors' failures as switches")[2].partition("\n### ")[0]


def test_every_switch_stands_in_the_table() -> None:
    rows = "\n".join(line for line in TABLE.splitlines() if line.startswith("|"))
    assert sorted(name for name in KINDS if f"`{name}`" not in rows) == []


def test_every_test_that_the_table_names_exists() -> None:
    names = set(re.findall(r"`(?:tests/[a-z/]+)?(test_\w+\.py)`", TABLE))
    assert len(names) > 10
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert names - there == set()


def test_a_setting_has_an_argument_a_count_a_first_call_and_a_probability() -> None:
    assert parse("host_loss=4*2@3~0.5") == Fault("host_loss", "4", 2, 0.5, 2)
    with pytest.raises(UnknownFaultError, match="no_such"):
        parse("no_such=1")


def test_a_probability_hits_about_as_often_as_it_says() -> None:
    faults = Faults(seed=3, active=[parse("preempt~0.25")])
    assert 200 < sum(faults.take("preempt") is not None for _ in range(1000)) < 300
