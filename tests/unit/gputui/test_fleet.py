"""What follows from a snapshot: sums, order, staleness, and which actions are possible."""

import msgspec
from ui.scenario import NOW, USD, run_row, small_fleet

from gputui.fleet import Fleet, History, Link, LinkStatus, by_attention, totals
from gputui.possible import why_no_destroy, why_no_undo


def test_the_header_sums_what_still_runs() -> None:
    sums = totals(small_fleet().fleet())
    assert sums.burn == int(8.94 * USD)
    assert sums.exposed_bytes == 1_830_000_000 + 4_410_000_000 + 740_000_000
    assert sums.exposed_seconds == 4210
    assert sums.alarms == 1
    assert sums.runway is not None
    assert 5.5 < sums.runway / 3600 < 5.6


def test_unknown_exposure_is_not_none() -> None:
    world = small_fleet()
    world.runs[0] = msgspec.structs.replace(
        world.runs[0], exposure=msgspec.structs.replace(world.runs[0].exposure, bytes=None)
    )
    assert totals(world.fleet()).exposure_unknown


def test_an_account_that_cannot_be_reached_is_an_alarm() -> None:
    world = small_fleet()
    world.accounts[0] = msgspec.structs.replace(world.accounts[0], problem="401")
    assert totals(world.fleet()).alarms == 2


def test_no_credit_known_means_no_runway() -> None:
    world = small_fleet()
    world.accounts = []
    assert totals(world.fleet()).runway is None


def test_what_needs_a_person_comes_first() -> None:
    order = [run.name for run in sorted(small_fleet().runs, key=by_attention)]
    assert order == ["onyx-1b-grow", "nanogpt-owt", "runpod-2b", "miras-s", "miras-xs"]


def test_data_is_stale_when_the_daemon_is_gone_or_silent() -> None:
    runs = small_fleet().fleet()
    up = Fleet(link=Link(status=LinkStatus.UP, heard=100.0), runs=runs, received=100.0)
    assert not up.stale(105.0)
    assert up.stale(111.0)
    assert up.with_link(status=LinkStatus.DOWN).stale(100.0)
    assert up.age(130.0) == 30.0
    assert up.wall(130.0) == NOW + 30.0
    assert not Fleet().stale(0.0)


def test_history_starts_again_when_a_run_goes_back_to_a_checkpoint() -> None:
    history = History()
    world = small_fleet()
    for step, loss in ((10, 5.0), (20, 4.0), (20, 4.0), (12, 4.8)):
        world.runs = [run_row("a", "a", "running", step=step, loss=loss)]
        history.add(world.fleet())
        if step == 20:
            assert history.losses("a") == [5.0, 4.0]
    assert history.losses("a") == [4.8]
    world.runs = []
    history.add(world.fleet())
    assert history.losses("a") == []


def test_why_an_action_is_not_possible() -> None:
    assert why_no_destroy(run_row("a", "a", "running")) is None
    assert why_no_destroy(None) == "there is no run here"
    assert "no machine" in (why_no_destroy(run_row("a", "a", "gone")) or "")
    assert "sent already" in (why_no_destroy(run_row("a", "a", "destroying")) or "")
    assert why_no_undo(run_row("a", "a", "collecting")) is None
    assert "cannot be taken back" in (why_no_undo(run_row("a", "a", "destroying")) or "")
