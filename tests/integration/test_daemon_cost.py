"""What runs cost, told by the daemon; and the day's ceiling, which ends them through the same gate (I5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gputui.verbs import money
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.world import World, world

PROMISE = '[[artifacts]]\npath = "out"\n'


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_costs_and_the_runway_are_told(here: World) -> None:
    run = here.script("echo x > out; while [ ! -e ../go ]; do sleep 0.1; done", rest=PROMISE)
    here.wait_event(run, "job-started")
    report = here.call("cost", wire.CostQuery(run=run), wire.CostReport)
    (row,) = report.runs
    price = here.row(run).price
    assert (row.run, row.burn, row.machines) == (run, price, 1)
    assert row.total == row.gpu + row.disk + (row.traffic or 0) > 0
    assert report.today >= row.gpu + row.disk - (row.traffic or 0) > 0
    (account,) = [a for a in report.accounts if a.provider == "vast"]
    assert account.credit is not None
    assert account.seconds == pytest.approx(account.credit * 3600 / report.burn)
    (here.box(here.living()[0]) / "workspace" / "go").touch()
    assert here.wait_end(run).state == "gone"
    after = here.call("cost", wire.CostQuery(run=run), wire.CostReport).runs[0]
    assert (after.burn, after.total > 0) == (0, True)
    # the vendor's own books, compared with ours
    assert after.billed is not None
    assert after.difference == after.billed - after.total
    assert abs(after.difference) < after.total, "of the same size: billed by the second here as there"
    assert "two days" in after.bill_note
    assert money.billed(after) != "unknown"


def test_at_the_days_ceiling_jobs_are_stopped_collected_and_destroyed_and_nothing_is_rented(
    here: World,
) -> None:
    run = here.script("echo x > out; while :; do sleep 0.1; done", rest=PROMISE)
    here.wait_event(run, "job-started")
    here.kill_daemon()
    config = here.home / "config" / "config.toml"
    config.write_text(config.read_text() + "[budget]\nper_day = 0.00001\n")
    here.start_daemon()
    asked = here.wait_event(run, "end-requested")
    assert asked.data["by"] == "budget"
    assert "budget.per_day" in asked.data["reason"]
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)
    with pytest.raises(CallFailed, match="nothing is rented today"):
        here.script("true", name="another", rest=PROMISE, key="k2")
    assert any("budget.per_day" in a for a in here.call("status", wire.Empty(), wire.DaemonStatus).alarms)
