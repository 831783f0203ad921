"""The RunPod adapter against the simulator: each fault and what may be concluded from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncssh
import pytest

from gpuproviders.errors import (
    Ambiguous,
    OfferGone,
    ProviderError,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
)
from gpuproviders.model import GB, Instance, Offer, OfferQuery, Order, Permit, Power, Stock, Trouble
from gpuproviders.runpod import RunpodProvider

if TYPE_CHECKING:
    from pathlib import Path

    from cloudsim_fixtures import SshUser
    from runpod_fixtures import RunpodSimulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]

KEY = "account-key-of-the-tests"
OFFICIAL = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
RTX = OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, verified_only=False)


class OnePermit(Permit):
    instance_id = ""
    covers_loss = True

    def __init__(self, instance_id: str, *, covers_loss: bool = True) -> None:
        self.instance_id = instance_id
        self.covers_loss = covers_loss
        self.spent = 0

    def spend(self) -> None:
        self.spent += 1


@pytest.fixture
async def provider(clean_runpod: RunpodSimulator) -> AsyncIterator[RunpodProvider]:
    made = RunpodProvider(key=lambda: KEY, url=clean_runpod.url, seconds=2)
    yield made
    await made.close()


async def cheapest(provider: RunpodProvider) -> Offer:
    return (await provider.offers(RTX))[0]


async def order(
    provider: RunpodProvider, label: str = "gputui-r-1-ab", image: str = OFFICIAL, **more: object
) -> Order:
    return Order(label=label, offer=await cheapest(provider), image=image, disk=30 * GB, **more)  # type: ignore[arg-type]


async def until(provider: RunpodProvider, instance_id: str, power: Power, ssh: bool = False) -> Instance:
    while True:
        seen = await provider.instance(instance_id)
        if seen is not None and seen.power is power and (seen.endpoints or not ssh):
            return seen


async def test_offers_come_per_data_centre_priced_all_in(provider: RunpodProvider) -> None:
    found = await provider.offers(OfferQuery(gpu_names=("H100 SXM",), disk=100 * GB))
    assert found
    assert {o.gpu_name for o in found} == {"H100 SXM"}
    assert all(o.verified and o.datacenter and o.region and o.stock in Stock for o in found)
    assert {o.gpu_count for o in found} <= {1, 2, 4, 8}
    one = next(o for o in found if o.gpu_count == 1)
    # 100 GB of volume and 20 GB of container at $0.10 a month, beside the type's price in whole cents
    assert (one.price - 120 * 100_000 // 720) % 10_000 == 0
    assert one.disk_price == 100 * 200_000 // 720
    assert await provider.offers(OfferQuery(spot=True)) == ()
    assert [o.price for o in found] == sorted(o.price for o in found)


async def test_stock_of_a_data_centre_counts_although_the_type_says_none(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    clean_runpod.fault("catalog_top_none*1")
    assert await provider.offers(OfferQuery(gpu_names=("H100 SXM",), gpu_count=1))


@pytest.mark.parametrize("image", [OFFICIAL, "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"])
async def test_a_pod_is_made_found_by_its_label_entered_stopped_started_and_destroyed(
    provider: RunpodProvider, clean_runpod: RunpodSimulator, ssh_user: SshUser, image: str
) -> None:
    made = await provider.create(
        await order(provider, image=image, ssh_public_key=ssh_user.public, env={"A": "b"})
    )
    (listed,) = (await provider.instances()).by_label("gputui-r-1-ab")
    assert listed.instance_id == made.instance_id
    running = await until(provider, made.instance_id, Power.RUNNING, ssh=True)
    clean_runpod.kept = False
    clean_runpod.until(made.instance_id, "running", ssh=True)
    at = running.endpoints[0]
    async with asyncssh.connect(
        at.host, at.port, username=at.user, client_keys=[str(ssh_user.key)], known_hosts=None
    ) as box:
        done = await box.run("echo data > $WORKSPACE/file; cat ~/.container_env")
    assert f"GPUTUI_LABEL=gputui-r-1-ab\nPUBLIC_KEY={ssh_user.public}" in str(done.stdout)
    await provider.stop(OnePermit(made.instance_id, covers_loss=False))
    stopped = await until(provider, made.instance_id, Power.STOPPED)
    assert (stopped.price, stopped.endpoints, stopped.wanted, stopped.trouble) == (
        None,
        (),
        Power.STOPPED,
        Trouble.GAVE_UP,
    )
    await provider.start(made.instance_id)
    again = await until(provider, made.instance_id, Power.RUNNING, ssh=True)
    clean_runpod.until(made.instance_id, "running", ssh=True)
    at = again.endpoints[0]
    async with asyncssh.connect(
        at.host, at.port, username=at.user, client_keys=[str(ssh_user.key)], known_hosts=None
    ) as box:
        assert (await box.run("cat $WORKSPACE/file")).stdout == "data\n"
    assert "start container" in await provider.log(made.instance_id)
    permit = OnePermit(made.instance_id)
    await provider.destroy(permit)
    assert permit.spent == 1
    assert await provider.instance(made.instance_id) is None
    assert (await provider.instances()).instances == ()
    await provider.destroy(OnePermit(made.instance_id))


async def test_older_deployments_get_the_command_as_args(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    clean_runpod.fault("no_cmd_field")
    made = await provider.create(await order(provider, image="ubuntu:24.04"))
    assert len(clean_runpod.pods()) == 1
    assert "authorized_keys" in clean_runpod.call("GET", f"/v2/pods/{made.instance_id}")[1]["args"]


@pytest.mark.parametrize(
    ("fault", "error", "pods"),
    [("create_capacity", OfferGone, 0), ("create_402", Refused, 0), ("forbidden=create", Refused, 0),
     ("auth_error=create", Unauthorized, 0), ("throttle=create::1", Throttled, 0), ("create_429_text", Throttled, 0),
     ("create_500_before", Ambiguous, 0), ("create_500_after", Ambiguous, 1), ("create_502_after", Ambiguous, 1),
     ("create_truncated", Ambiguous, 1), ("create_reset_after", Ambiguous, 1), ("create_hang_after", Ambiguous, 1),
     ("create_hang_before", Ambiguous, 0), ("empty_object=create", Ambiguous, 0), ("html=create", Ambiguous, 0)],
)  # fmt: skip
async def test_what_an_answer_to_create_allows_to_conclude(
    provider: RunpodProvider, clean_runpod: RunpodSimulator, monkeypatch: pytest.MonkeyPatch,
    fault: str, error: type[ProviderError], pods: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("gpuproviders.runpod.adapter._CREATE_PATIENCE", 0.5)
    wanted = await order(provider)
    clean_runpod.fault(f"{fault}*1")
    with pytest.raises(error) as failed:
        await provider.create(wanted)
    assert type(failed.value) is error
    assert KEY not in str(failed.value)
    clean_runpod.kept = False
    assert len(clean_runpod.pods()) == pods
    calls = clean_runpod.call("GET", "/_sim/state")[1]["log"]
    assert sum(call["endpoint"] == "create" for call in calls[-4:]) == 1, "a create is sent once"


@pytest.mark.parametrize(
    "fault",
    ["list_null", "list_empty_object", "list_empty_array", "list_html", "list_retired", "list_truncated",
     "status_before=list:500", "hang_before=list", "reset_before=list*2"],  # a cut GET is sent once more by aiohttp
)  # fmt: skip
async def test_a_list_that_is_no_list_is_unknown(
    provider: RunpodProvider, clean_runpod: RunpodSimulator, fault: str
) -> None:
    await provider.create(await order(provider))
    clean_runpod.fault(fault if "*" in fault else f"{fault}*1")
    with pytest.raises(Unavailable):
        await provider.instances()
    assert len((await provider.instances()).instances) == 1


async def test_all_pages_are_read_and_a_failing_one_is_unknown(
    provider: RunpodProvider, clean_runpod: RunpodSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuproviders.runpod.adapter._PAGE", 2)
    for number in range(5):
        await provider.create(await order(provider, label=f"gputui-{number}"))
    clean_runpod.fault("list_short_pages")
    assert {i.label for i in (await provider.instances()).instances} == {f"gputui-{n}" for n in range(5)}
    clean_runpod.call("DELETE", "/_sim/faults")
    clean_runpod.fault("list_page_error*1")
    with pytest.raises(Unavailable):
        await provider.instances()
    clean_runpod.fault("no_pagination")
    assert len((await provider.instances()).instances) == 2, (
        "without paging the first answer is the whole one"
    )


async def test_a_look_up_says_gone_only_when_runpod_does(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    made = await provider.create(await order(provider))
    for fault in ("status_before=show:404", "html=show", "empty_object=show", "status_before=show:500"):
        clean_runpod.fault(f"{fault}*1")
        with pytest.raises(Unavailable):
            await provider.instance(made.instance_id)
    clean_runpod.fault("auth_error=show*1")
    with pytest.raises(Unauthorized):
        await provider.instance(made.instance_id)
    await provider.destroy(OnePermit(made.instance_id))
    clean_runpod.fault("show_terminated*1")
    assert await provider.instance(made.instance_id) is None
    assert await provider.instance(made.instance_id) is None


async def test_fields_that_are_null_mistyped_or_unknown_are_unknown(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    made = await provider.create(await order(provider))
    await until(provider, made.instance_id, Power.RUNNING)
    for fault, expected in (("fields_null", Power.RUNNING), ("fields_wrong_type", Power.RUNNING),
                            ("fields_extra", Power.RUNNING), ("status_unknown=MIGRATING", Power.UNKNOWN)):  # fmt: skip
        clean_runpod.fault(f"{fault}*1")
        seen = (await provider.instances()).by_id(made.instance_id)
        assert seen is not None
        assert seen.power is expected
    clean_runpod.fault("stale_runtime")
    await provider.stop(OnePermit(made.instance_id, covers_loss=False))
    assert (await until(provider, made.instance_id, Power.STOPPED)).endpoints == ()


async def test_a_stop_that_would_lose_the_work_needs_a_permit(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    bare = clean_runpod.make(mounts=None)["id"]
    with pytest.raises(Refused, match="would lose its disk"):
        await provider.stop(OnePermit(bare, covers_loss=False))
    permit = OnePermit(bare)
    await provider.stop(permit)
    assert permit.spent == 1
    await until(provider, bare, Power.STOPPED)


async def test_a_refused_start_is_refused_and_one_without_gpus_is_stopped_again(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    pod = clean_runpod.make()["id"]
    await provider.stop(OnePermit(pod, covers_loss=False))
    await until(provider, pod, Power.STOPPED)
    clean_runpod.fault("start_refused*1")
    with pytest.raises(Refused, match="not enough free GPUs"):
        await provider.start(pod)
    clean_runpod.kept = False
    clean_runpod.fault("start_zero_gpus*1")
    with pytest.raises(Refused, match="without GPUs"):
        await provider.start(pod)
    await until(provider, pod, Power.STOPPED)


async def test_boots_that_fail_say_why(provider: RunpodProvider, clean_runpod: RunpodSimulator) -> None:
    clean_runpod.fault("boot_image_missing*1")
    made = await provider.create(await order(provider))
    failed = await until(provider, made.instance_id, Power.STOPPED)
    assert failed.trouble is Trouble.CONTAINER
    assert "manifest for" in await provider.log(made.instance_id)


async def test_a_log_stream_that_breaks_off_gives_what_it_gave(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    pod = clean_runpod.make()["id"]
    clean_runpod.fault("logs_cut*1")
    assert "create" in await provider.log(pod)
    with pytest.raises(Unavailable):
        await provider.log("nopodatall")


async def test_an_empty_quota_is_waited_for_and_a_long_one_is_told(
    clean_runpod: RunpodSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = type(clean_runpod)(tmp_path / "strict", "--rate-limits").start()
    provider = RunpodProvider(key=lambda: KEY, url=strict.url)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise asyncio.CancelledError

    try:
        for _ in range(50):
            await provider.instances()
        monkeypatch.setattr("gpuproviders.runpod.transport.asyncio.sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            await provider.instances()
        assert 0 < slept[0] <= 60
        assert strict.call("GET", "/_sim/state")[1]["calls"]["list"] == 50, (
            "the reserve is for stops and destroys"
        )
        with pytest.raises(Refused):
            await provider.start("nopodatall")
    finally:
        await provider.close()
        strict.end()


async def test_balance_spend_and_limit_come_from_the_sdk_in_a_child(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    first = await provider.account()
    assert (first.user_id, first.credit, first.provider) == (None, None, "runpod")
    assert provider._asking is not None
    await provider._asking
    told = await provider.account()
    assert told.same_as(first)
    assert told.user_id is not None
    assert told.user_id.startswith("user_")
    assert told.credit is not None
    assert 24_000_000 < told.credit <= 25_000_000
    assert (told.spending, told.limit) == (0, 80_000_000)


@pytest.mark.parametrize(
    "fault", ["graphql_gone", "throttle=graphql:text", "html=graphql", "credit_null", "auth_error=graphql"]
)
async def test_a_balance_that_is_not_told_is_unknown_and_changes_nothing_else(
    provider: RunpodProvider, clean_runpod: RunpodSimulator, fault: str
) -> None:
    clean_runpod.fault(fault)
    await provider.account()
    assert provider._asking is not None
    await provider._asking
    assert (await provider.account()).credit is None
    assert (await provider.instances()).instances == ()


async def test_the_key_is_checked_and_an_unsafe_address_is_refused(clean_runpod: RunpodSimulator) -> None:
    stranger = RunpodProvider(key=lambda: "wrong", url=clean_runpod.url)
    nobody = RunpodProvider(key=lambda: None, url=clean_runpod.url)
    try:
        with pytest.raises(Unauthorized):
            await stranger.instances()
        with pytest.raises(Unauthorized, match="RUNPOD_API_KEY"):
            await nobody.instances()
        with pytest.raises(ValueError, match="must be https"):
            RunpodProvider(key=lambda: KEY, url="http://api.runpod.io")
    finally:
        await stranger.close()
        await nobody.close()


async def test_what_pods_were_charged_is_told_and_figures_that_are_not_there_yet_are_unknown(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    made = await provider.create(await order(provider))
    await until(provider, made.instance_id, Power.RUNNING)
    while not (charges := {c.instance_id: c for c in await provider.charges(0.0)}):
        await asyncio.sleep(0.1)  # billed by the second, and rounded
    assert charges[made.instance_id].amount > 0
    assert charges[made.instance_id].until is not None
    clean_runpod.fault("billing_null")
    with pytest.raises(Unavailable, match="no figures yet"):
        await provider.charges(0.0)
