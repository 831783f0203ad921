"""What the adapters make of machines that are lost, markets that move and bookkeeping that lags, on both simulated clouds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from gpuproviders.errors import Ambiguous, OfferGone, ProviderError, Refused, Throttled, Unavailable
from gpuproviders.model import GB, Instance, OfferQuery, Order, Power, Provider
from gpuproviders.runpod import RunpodProvider
from gpuproviders.runpod.balance import Money
from gpuproviders.vast import VastProvider
from integration.test_runpod_adapter import OnePermit

if TYPE_CHECKING:
    from cloudsim_fixtures import Simulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]

KEY = "account-key-of-the-tests"
IMAGES = {"vast": "pytorch/pytorch:latest", "runpod": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"}
RTX = OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, verified_only=False, disk=30 * GB)


@dataclass
class Cloud:
    """One vendor: its simulator and our adapter to it."""

    sim: Simulator
    provider: Provider

    async def rent(self, label: str = "gputui-accident") -> str:
        """Rent a machine and wait until it runs."""
        offer = (await self.provider.offers(RTX))[0]
        made = await self.provider.create(
            Order(label=label, offer=offer, image=IMAGES[self.provider.name], disk=30 * GB)
        )
        await self.until(made.instance_id, lambda seen: seen.power is Power.RUNNING)
        return made.instance_id

    async def create(self, label: str = "gputui-made") -> str:
        """Rent a machine and wait for nothing."""
        offer = (await self.provider.offers(RTX))[0]
        order = Order(label=label, offer=offer, image=IMAGES[self.provider.name], disk=30 * GB)
        return (await self.provider.create(order)).instance_id

    async def until(self, instance_id: str, true: Callable[[Instance], bool]) -> Instance:
        """The machine as it is listed once that holds; pytest's limit is the deadline."""
        while True:
            seen = (await self.provider.instances()).by_id(instance_id)
            if seen is not None and true(seen):
                return seen
            await asyncio.sleep(0.05)


async def no_balance(_key: str, _url: str) -> Money:
    return Money()


@pytest.fixture(params=["vast", "runpod"])
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    vendor = request.param
    sim = request.getfixturevalue("simulator" if vendor == "vast" else "clean_runpod")
    made: Provider
    if vendor == "vast":
        made = VastProvider(key=lambda: KEY, url=sim.url, paced=False, seconds=5)
    else:
        made = RunpodProvider(key=lambda: KEY, url=sim.url, paced=False, seconds=5, ask_balance=no_balance)
    yield Cloud(sim, made)
    sim.call("DELETE", "/_sim/faults?name=rate_limits")
    for machine in (await made.instances()).instances:
        await made.destroy(OnePermit(machine.instance_id))
    sim.call("DELETE", "/_sim/faults")
    sim.call("POST", "/_sim/credit", {"set": 25.0})
    await made.close()


async def test_a_lost_host_is_offline_or_silent_and_never_gone(cloud: Cloud) -> None:
    machine = await cloud.rent()
    cloud.sim.fault("host_loss*1")
    if cloud.provider.name == "vast":
        await cloud.until(machine, lambda seen: seen.power is Power.OFFLINE)
    else:  # RunPod goes on saying RUNNING; what is on it does not answer
        state = lambda: cloud.sim.known(cloud.sim.number(machine))["history"]  # noqa: E731
        while "host offline" not in [what for _, what in state()]:
            await asyncio.sleep(0.05)
        assert await cloud.provider.instance(machine) is not None
    await asyncio.sleep(0)
    assert (await cloud.provider.instances()).by_id(machine) is not None


async def test_a_container_that_dies_or_a_rental_that_expires_leaves_a_stopped_machine(cloud: Cloud) -> None:
    for switch in ("container_dies", "expire"):
        machine = await cloud.rent(f"gputui-{switch.replace('_', '-')}")
        cloud.sim.fault(f"{switch}*1")
        await cloud.until(machine, lambda seen: seen.power is not Power.RUNNING)
        assert (await cloud.provider.instances()).by_id(machine) is not None, "stopped is not gone"
        if switch == "expire":
            with pytest.raises(Refused):
                await cloud.provider.start(machine)
        await cloud.provider.destroy(OnePermit(machine))


async def test_a_machine_that_the_vendor_takes_is_gone_from_list_and_look_up(cloud: Cloud) -> None:
    machine, other = await cloud.rent("gputui-a"), await cloud.rent("gputui-b")
    cloud.sim.fault("machine_taken*1")
    listed = {machine, other}
    while len(listed) == 2:
        listed = {seen.instance_id for seen in (await cloud.provider.instances()).instances}
        await asyncio.sleep(0.05)
    assert listed == {other}, "the first that runs is hit"
    assert await cloud.provider.instance(machine) is None
    assert await cloud.provider.instance(other) is not None


async def test_credit_that_is_gone_stops_what_runs_and_refuses_what_is_new(cloud: Cloud) -> None:
    machine = await cloud.rent()
    cloud.sim.fault("credit_gone*1")
    stopped = await cloud.until(machine, lambda seen: seen.power is Power.STOPPED)
    assert stopped.instance_id == machine
    for spend in (cloud.provider.start(machine), cloud.rent("gputui-more")):
        with pytest.raises(Refused) as refused:
            await spend
        assert any(word in str(refused.value).lower() for word in ("credit", "balance"))
    assert len((await cloud.provider.instances()).instances) == 1


async def test_stock_and_prices_move_between_two_looks(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproviders.runpod.adapter._CATALOG_SECONDS", 0.0)
    verified = replace(RTX, verified_only=True)  # one request of either vendor
    before = (await cloud.provider.offers(verified))[0]
    cloud.sim.fault("stock_gone")
    assert await cloud.provider.offers(verified) == (), "an empty market, not an error"
    with pytest.raises(ProviderError) as refused:
        order = Order(label="gputui-x", offer=before, image=IMAGES[cloud.provider.name], disk=30 * GB)
        await cloud.provider.create(order)
    assert refused.value.kind == "offer-gone"
    cloud.sim.call("DELETE", "/_sim/faults?name=stock_gone")
    cloud.sim.fault("market_jump=2*1")
    assert (await cloud.provider.offers(verified))[0].price == before.price, "it moves behind the answer"
    after = (await cloud.provider.offers(verified))[0]
    assert after.price > 1.5 * before.price
    cloud.sim.fault("market_jump=0.5*1")
    await cloud.provider.offers(verified)
    assert (await cloud.provider.instances()).instances == ()


async def test_bookkeeping_that_lags_says_nothing_yet(cloud: Cloud) -> None:
    cloud.sim.fault("billing_lag=3600")
    await cloud.rent()
    credit = (await cloud.provider.account()).credit
    real = round(cloud.sim.call("GET", "/_sim/state")[1]["credit"] * 1e6)
    if cloud.provider.name == "vast":
        assert credit is not None
        assert credit > real, "what it costs now is not in the balance yet"
    path = "/api/v0/charges/" if cloud.provider.name == "vast" else "/v2/billing/pods"
    body = cloud.sim.call("GET", path)[1]
    assert body.get("results", body.get("records")) == []


async def test_quotas_can_be_switched_on_while_it_runs(cloud: Cloud) -> None:
    cloud.sim.fault("rate_limits")
    with pytest.raises(Throttled):
        for _ in range(70):
            await cloud.provider.instances()


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
async def test_a_search_quota_that_is_used_up_is_a_throttle_and_nothing_else_stops(cloud: Cloud) -> None:
    cloud.sim.fault("search_quota*1")
    with pytest.raises(Throttled, match="quota") as refused:
        await cloud.provider.offers(RTX)
    assert refused.value.code == "search_quota_exceeded"
    assert await cloud.provider.offers(RTX)


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
async def test_a_contract_that_says_stopped_while_the_box_runs_is_running(cloud: Cloud) -> None:
    machine = await cloud.rent()
    cloud.sim.fault("cur_state_stopped")
    seen = (await cloud.provider.instances()).by_id(machine)
    assert seen is not None
    assert seen.power is Power.RUNNING


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
async def test_a_spot_machine_is_outbid_for_a_while_and_comes_back_by_itself(cloud: Cloud) -> None:
    query = OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, verified_only=False, disk=30 * GB, spot=True)
    offer = (await cloud.provider.offers(query))[0]
    made = await cloud.provider.create(
        Order(label="gputui-spot", offer=offer, image=IMAGES["vast"], disk=30 * GB)
    )
    await cloud.until(made.instance_id, lambda seen: seen.power is Power.RUNNING and seen.spot)
    cloud.sim.fault("preempt=2*1")
    await cloud.until(made.instance_id, lambda seen: seen.power is Power.STOPPED)
    await cloud.until(made.instance_id, lambda seen: seen.power is Power.RUNNING)


# --- what may be concluded from an answer --------------------------------------------------------


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "error", "machines"),
    [("create_429", Throttled, 0), ("create_429_json", Throttled, 0), ("create_429_text", Throttled, 0),
     ("create_false_without_contract", Refused, 0), ("create_insufficient_credit", Refused, 0),
     ("create_insufficient_credit=402", Refused, 0), ("create_unscheduled", Refused, 0), ("create_no_such_ask=404", OfferGone, 0),
     ("create_no_such_ask=400", OfferGone, 0), ("create_false_with_contract", Ambiguous, 1), ("create_502_after", Ambiguous, 1),
     ("create_truncated", Ambiguous, 1), ("reset_after=create", Ambiguous, 1), ("empty_array=create", Ambiguous, 0),
     ("refuse=create", Refused, 0), ("status_after=create:504", Ambiguous, 1), ("truncate=create", Ambiguous, 1)],
)  # fmt: skip
async def test_what_vasts_answer_to_a_create_allows_to_conclude(
    cloud: Cloud, fault: str, error: type[ProviderError], machines: int
) -> None:
    cloud.sim.fault(f"{fault}*1")
    with pytest.raises(error) as failed:
        await cloud.create()
    assert type(failed.value) is error
    listed = (await cloud.provider.instances()).by_label("gputui-made")
    assert len(listed) == machines, "what may exist is found by its label, and was made once"


async def test_lists_lag_both_ways_and_a_look_up_does_not_hide_it(cloud: Cloud) -> None:
    cloud.sim.fault("lag_create=2*1")
    made = await cloud.create()
    looks = [len((await cloud.provider.instances()).instances) for _ in range(3)]
    assert looks == [0, 0, 1], "not listed yet is not gone: watch.lost_create waits for it"
    cloud.sim.fault("lag_destroy=2*1")
    await cloud.provider.destroy(OnePermit(made))
    looks = [len((await cloud.provider.instances()).instances) for _ in range(3)]
    # a pod that is still shown says TERMINATED, which is gone; a contract that is still shown says nothing of the kind
    assert looks == ([1, 1, 0] if cloud.provider.name == "vast" else [0, 0, 0])
    await cloud.provider.destroy(OnePermit(made))


async def test_a_look_up_that_denies_what_the_list_has_is_one_voice_of_two(cloud: Cloud) -> None:
    made = await cloud.create()
    cloud.sim.fault("show_null*1")
    assert await cloud.provider.instance(made) is None
    assert (await cloud.provider.instances()).by_id(made) is not None


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
async def test_a_list_that_ends_early_is_no_list_because_it_says_how_many_there_are(cloud: Cloud) -> None:
    cloud.sim.call("POST", "/_sim/credit", {"amount": 500.0})
    for number in range(26):
        gpu = await cloud.provider.offers(replace(RTX, gpu_names=(), spot=False))
        order = Order(label=f"gputui-{number}", offer=gpu[0], image=IMAGES["vast"], disk=30 * GB)
        await cloud.provider.create(order)
    cloud.sim.fault("list_short*1")
    with pytest.raises(Unavailable):
        await cloud.provider.instances()
    assert len((await cloud.provider.instances()).instances) == 26


async def test_a_clock_that_disagrees_changes_dates_and_nothing_else(cloud: Cloud) -> None:
    machine = await cloud.rent()
    before = (await cloud.provider.instances()).by_id(machine)
    cloud.sim.fault("clock_skew=86400")
    after = (await cloud.provider.instances()).by_id(machine)
    assert before is not None
    assert after is not None
    dates = {"started_at": None, "ends_at": None}
    assert replace(before, **dates) == replace(after, **dates)


@pytest.mark.parametrize("cloud", ["runpod"], indirect=True)
async def test_an_action_that_is_answered_and_not_done_shows_in_the_next_look(cloud: Cloud) -> None:
    machine = await cloud.rent()
    cloud.sim.fault("action_noop*1")
    await cloud.provider.stop(OnePermit(machine))
    seen = await cloud.provider.instance(machine)
    assert seen is not None
    assert seen.power is Power.RUNNING, "the answer is no proof of a stop"
    cloud.sim.fault("action_204*1")
    await cloud.provider.stop(OnePermit(machine))
    await cloud.until(machine, lambda seen: seen.power is Power.STOPPED)


@pytest.mark.parametrize("cloud", ["runpod"], indirect=True)
async def test_a_pod_without_a_public_port_has_no_address_and_pods_may_end_with_the_credit(
    cloud: Cloud,
) -> None:
    cloud.sim.fault("no_direct_ssh*1")
    machine = await cloud.rent()
    seen = await cloud.provider.instance(machine)
    assert seen is not None
    assert seen.endpoints == (), "the proxy is no way in: after boot.timeout it is a dud"
    cloud.sim.fault("balance_terminates")
    await cloud.provider.instances()
    cloud.sim.fault("credit_gone*1")
    while await cloud.provider.instance(machine) is not None:
        await asyncio.sleep(0.05)
    assert (await cloud.provider.instances()).instances == ()
