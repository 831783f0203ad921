"""The life of instances and their bills, under a clock that is passed in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import RefusalReason, Refused
from gpucloudsim.engine.market import HOUR, MARKET_EPOCH, SECOND
from gpucloudsim.engine.model import BootPlan, Instance, Phase, Quirks, RentRequest, Want, World

PLAIN = Quirks()
T0 = MARKET_EPOCH + 300 * 24 * HOUR
BOOT = 2 * SECOND


def world(dollars: float = 25.0) -> World:
    return World(seed=1, started_us=T0, deposited_micro=round(dollars * 1e6), clock_us=T0, boot_us=BOOT)


def rented(w: World, quirks: Quirks = PLAIN, now: int = T0, **request: object) -> Instance:
    offer = next(o for o in lifecycle.offers(w, now) if o.machine.contract_days >= 31 and o.num_gpus == 1)
    return lifecycle.rent(w, offer.offer_id, RentRequest("image", 20.0, **request), quirks, now)  # type: ignore[arg-type]


def phases(instance: Instance) -> list[str]:
    return [what for _, what in instance.history]


def test_an_instance_is_created_loads_and_runs() -> None:
    w = world()
    instance = rented(w)
    lifecycle.advance(w, T0 + BOOT)
    assert phases(instance) == ["created", "loading", "running"]
    assert (instance.boots, instance.want) == (1, Want.RUNNING)


def test_an_offer_can_be_taken_once() -> None:
    w = world()
    instance = rented(w)
    for now in (T0, T0 + 30 * SECOND, T0 + HOUR):
        with pytest.raises(Refused) as refused:
            lifecycle.rent(w, instance.offer_id, RentRequest("image", 10.0), Quirks(), now)
        assert refused.value.reason is RefusalReason.OFFER_GONE
    assert len(w.instances) == 1


def test_gpu_time_bills_only_while_running_and_the_disk_until_destroyed() -> None:
    w = world()
    instance = rented(w)
    lifecycle.advance(w, T0 + BOOT + HOUR)
    assert instance.gpu_us == HOUR
    assert instance.gpu_cost == instance.price_micro
    lifecycle.stop(w, instance.id, T0 + BOOT + HOUR)
    lifecycle.advance(w, T0 + 10 * HOUR)
    assert instance.gpu_us == HOUR
    lifecycle.destroy(w, instance.id, T0 + 20 * HOUR)
    lifecycle.advance(w, T0 + 50 * HOUR)
    assert instance.disk_us == 20 * HOUR
    assert instance.disk_cost == instance.disk_rate * 20
    assert lifecycle.credit(w) == w.deposited_micro - instance.cost


def test_an_offline_host_bills_no_gpu_time() -> None:
    w = world()
    instance = rented(w)
    lifecycle.set_online(w, instance.id, False, T0 + BOOT + HOUR)
    lifecycle.set_online(w, instance.id, True, T0 + BOOT + 5 * HOUR)
    lifecycle.advance(w, T0 + BOOT + 6 * HOUR)
    assert instance.gpu_us == 2 * HOUR


def test_credit_that_runs_out_stops_everything_to_the_second_and_start_is_refused() -> None:
    w = world(0.5)
    instance = rented(w)
    lifecycle.advance(w, T0 + 100 * HOUR)
    stopped_at = instance.stopped_us
    assert stopped_at is not None
    assert "credit exhausted" in phases(instance)
    assert instance.want is Want.STOPPED
    lived = (stopped_at - T0) / HOUR
    assert lived == pytest.approx(500_000 / (instance.price_micro + instance.disk_rate), rel=0.01)
    with pytest.raises(Refused) as refused:
        lifecycle.start(w, instance.id, T0 + 100 * HOUR)
    assert refused.value.reason is RefusalReason.NO_CREDIT
    lifecycle.deposit(w, 10_000_000, T0 + 100 * HOUR)
    lifecycle.start(w, instance.id, T0 + 100 * HOUR)
    lifecycle.advance(w, T0 + 100 * HOUR + BOOT)
    assert instance.phase is Phase.RUNNING


@pytest.mark.parametrize("plan", [BootPlan.OCI_ERROR, BootPlan.IMAGE_MISSING])
def test_a_failed_boot_flips_the_intent_and_says_why(plan: BootPlan) -> None:
    w = world()
    instance = rented(w, Quirks(boot=plan))
    lifecycle.advance(w, T0 + HOUR)
    assert (instance.phase, instance.want, instance.gpu_us) == (Phase.FAILED, Want.STOPPED, 0)
    assert instance.failure is not None
    assert "Error response from daemon" in instance.failure


def test_a_stuck_boot_loads_for_ever() -> None:
    w = world()
    instance = rented(w, Quirks(boot=BootPlan.STUCK))
    lifecycle.advance(w, T0 + 5 * HOUR)
    assert (instance.phase, instance.gpu_us) == (Phase.LOADING, 0)


def test_a_bid_below_the_market_makes_a_contract_that_does_not_run() -> None:
    w = world()
    instance = rented(w, bid_micro=1000)
    lifecycle.advance(w, T0 + HOUR)
    assert (instance.phase, instance.boots, instance.gpu_us) == (Phase.OUTBID, 0, 0)
    assert instance.disk_cost > 0
    lifecycle.set_bid(w, instance.id, None, T0 + HOUR)
    lifecycle.advance(w, T0 + HOUR + BOOT)
    assert instance.phase is Phase.RUNNING


def test_an_outbid_instance_resumes_by_itself_when_the_competitor_leaves() -> None:
    w = world()
    instance = rented(w, bid_micro=2_000_000)
    lifecycle.advance(w, T0 + HOUR)
    lifecycle.force_outbid(w, instance.id, T0 + HOUR)
    lifecycle.advance(w, T0 + 2 * HOUR)
    assert instance.phase is Phase.OUTBID
    lifecycle.release_floor(w, instance.id, T0 + 2 * HOUR)
    lifecycle.advance(w, T0 + 2 * HOUR + BOOT)
    assert (instance.phase, instance.boots) == (Phase.RUNNING, 2)


def test_a_queued_start_comes_up_later_unless_it_is_stopped() -> None:
    w = world()
    instance = rented(w)
    lifecycle.advance(w, T0 + BOOT)
    lifecycle.stop(w, instance.id, T0 + 10 * SECOND)
    for cancelled in (True, False):
        now = max(w.clock_us, T0 + HOUR)
        lifecycle.queue_start(w, instance.id, now, 60 * SECOND)
        if cancelled:
            lifecycle.stop(w, instance.id, now + SECOND)
        lifecycle.advance(w, now + 120 * SECOND)
        assert (instance.phase is Phase.RUNNING) is not cancelled


def test_an_expired_rental_stops_and_cannot_restart() -> None:
    w = world()
    instance = rented(w)
    instance.end_us = T0 + HOUR
    lifecycle.advance(w, T0 + 2 * HOUR)
    assert instance.phase is Phase.STOPPED
    with pytest.raises(Refused) as refused:
        lifecycle.start(w, instance.id, T0 + 2 * HOUR)
    assert refused.value.reason is RefusalReason.EXPIRED


def test_credit_taken_away_stops_everything_at_once() -> None:
    w = world()
    instance = rented(w)
    lifecycle.advance(w, T0 + BOOT)
    lifecycle.deposit(w, -lifecycle.credit(w), T0 + BOOT)
    lifecycle.advance(w, T0 + BOOT + 1)
    assert instance.phase is Phase.STOPPED


def test_a_destroyed_instance_is_final() -> None:
    w = world()
    instance = rented(w)
    lifecycle.destroy(w, instance.id, T0 + HOUR)
    for act in (lifecycle.stop, lifecycle.start, lifecycle.reboot, lifecycle.destroy):
        with pytest.raises(Refused) as refused:
            act(w, instance.id, T0 + 2 * HOUR)
        assert refused.value.reason is RefusalReason.NO_SUCH_INSTANCE
    assert instance.destroyed_us == T0 + HOUR


ACTS: dict[str, Callable[[World, int, int], object]] = {
    "stop": lifecycle.stop, "start": lifecycle.start, "reboot": lifecycle.reboot, "outbid": lifecycle.force_outbid,
    "win": lifecycle.release_floor, "kill": lifecycle.kill_container, "destroy": lifecycle.destroy,
    "offline": lambda w, i, t: lifecycle.set_online(w, i, False, t),
}  # fmt: skip
schedules = st.lists(st.tuples(st.integers(1, 3 * 3600), st.sampled_from(["wait", *ACTS])), max_size=12)


def play(schedule: list[tuple[int, str]], extra: list[int]) -> World:
    """The same acts at the same times; `extra` are more looks at the clock in between (fractions of a gap)."""
    w = world(1.2)
    instance = rented(w, bid_micro=450_000)
    now = T0
    for gap, act in schedule:
        for part in extra:
            lifecycle.advance(w, now + gap * SECOND * part // 1000)
        now += gap * SECOND
        lifecycle.advance(w, now)
        if act != "wait":
            try:
                ACTS[act](w, instance.id, now)
            except Refused:
                continue
    return w


@given(schedules, st.lists(st.integers(0, 1000), max_size=6).map(sorted))
@settings(max_examples=30, deadline=None)
def test_looking_at_the_clock_more_often_changes_nothing(
    schedule: list[tuple[int, str]], extra: list[int]
) -> None:
    assert msgspec.to_builtins(play(schedule, extra)) == msgspec.to_builtins(play(schedule, []))


@given(schedules)
@settings(max_examples=30, deadline=None)
def test_bills_never_shrink_and_the_world_survives_a_round_trip_to_disk(
    schedule: list[tuple[int, str]],
) -> None:
    before = 0
    for length in range(len(schedule) + 1):
        w = play(schedule[:length], [])
        assert lifecycle.spent(w) >= before
        before = lifecycle.spent(w)
        assert msgspec.json.decode(msgspec.json.encode(w), type=World) == w
