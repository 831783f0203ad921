"""RunPod's spot pods (experimental): the bid goes out once, through the official package in a child; a loss is a spot loss."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuproviders.errors import Ambiguous, OfferGone, ProviderError, Refused, Unauthorized, Unavailable
from gpuproviders.model import GB, Instance, OfferQuery, Order, Power
from gpuproviders.runpod import RunpodProvider, sdk
from integration.test_daemon_runpod import MODEL, RUNPOD, RunpodWorld
from integration.test_runpod_adapter import OnePermit

if TYPE_CHECKING:
    from runpod_fixtures import RunpodSimulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]

KEY = "account-key-of-the-tests"
SPOT = OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, spot=True, verified_only=False, disk=30 * GB)


async def direct(key: str, url: str, query: str, *, seconds: float) -> sdk.Answer:
    """What the child answers, without the second and a half that the package takes to be imported."""

    def post() -> sdk.Answer:
        request = urllib.request.Request(
            f"{url}/graphql", data=json.dumps({"query": query}).encode(), method="POST"
        )
        request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                body = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            known = isinstance(error, urllib.error.HTTPError)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            return sdk.Answer(error="JSONDecodeError" if known else "ConnectionError")
        if "errors" in body:
            return sdk.Answer(error="QueryError", text=body["errors"][0]["message"])
        return sdk.Answer(body["data"], "")

    return await asyncio.to_thread(post)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproviders.runpod.adapter.sdk.ask", direct)


@pytest.fixture
async def provider(clean_runpod: RunpodSimulator) -> AsyncIterator[RunpodProvider]:
    made = RunpodProvider(key=lambda: KEY, url=clean_runpod.url, seconds=5, spot=True)
    yield made
    await made.close()


async def order(
    provider: RunpodProvider, image: str = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
) -> Order:
    offer = (await provider.offers(SPOT))[0]
    return Order(
        label="gputui-spot-1", offer=offer, image=image, disk=30 * GB, env={"A": 'a "quoted" \\ line\n'}
    )


async def until(provider: RunpodProvider, instance_id: str, power: Power) -> Instance:
    while True:
        seen = (await provider.instances()).by_id(instance_id)
        if seen is not None and seen.power is power:
            return seen
        await asyncio.sleep(0.05)


async def test_a_bid_makes_a_pod_that_lists_know_as_spot_and_a_restart_bids_again(
    provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    assert provider.capabilities.spot
    wanted = await order(provider)
    on_demand = (
        await provider.offers(
            OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, verified_only=False, disk=30 * GB)
        )
    )[0]
    assert wanted.offer.spot
    assert wanted.offer.price < on_demand.price
    made = await provider.create(wanted)
    seen = await until(provider, made.instance_id, Power.RUNNING)
    assert (seen.label, seen.spot) == ("gputui-spot-1", True)
    env = clean_runpod.call("GET", f"/v2/pods/{made.instance_id}")[1]["env"]
    assert env["A"] == wanted.env["A"], "quotes, backslashes and line ends arrive as they are"
    clean_runpod.fault("preempt=1*1")
    lost = await until(provider, made.instance_id, Power.STOPPED)
    assert lost.spot, "seen as the loss of a spot pod"
    await provider.start(made.instance_id)
    await until(provider, made.instance_id, Power.RUNNING)
    await provider.destroy(OnePermit(made.instance_id))
    assert (await provider.instances()).instances == ()


@pytest.mark.parametrize(
    ("fault", "error", "pods"),
    [("stock_gone", OfferGone, 0), ("create_402", Refused, 0), ("auth_error=graphql", Unauthorized, 0),
     ("graphql_gone", Ambiguous, 0), ("status_after=graphql:502", Ambiguous, 1), ("reset_after=graphql", Ambiguous, 1)],
)  # fmt: skip
async def test_what_an_answer_to_a_bid_allows_to_conclude(
    quick: None,
    provider: RunpodProvider,
    clean_runpod: RunpodSimulator,
    fault: str,
    error: type[ProviderError],
    pods: int,
) -> None:
    wanted = await order(provider)
    clean_runpod.fault(f"{fault}*1")
    with pytest.raises(error) as failed:
        await provider.create(wanted)
    assert type(failed.value) is error
    assert KEY not in str(failed.value)
    listed = (await provider.instances()).by_label("gputui-spot-1")
    assert len(listed) == pods, "what may exist is found by its label, and was made once"


async def test_a_market_that_is_not_told_is_not_an_empty_one_and_spot_is_off_by_default(
    quick: None, provider: RunpodProvider, clean_runpod: RunpodSimulator
) -> None:
    clean_runpod.fault("graphql_gone*1")
    with pytest.raises(Unavailable, match="spot = false"):
        await provider.offers(SPOT)
    wanted = await order(provider)
    plain = RunpodProvider(key=lambda: KEY, url=clean_runpod.url)
    try:
        assert not plain.capabilities.spot
        assert await plain.offers(SPOT) == ()
        with pytest.raises(Refused, match="spot = true"):
            await plain.create(wanted)
    finally:
        await plain.close()


@pytest.mark.slow
def test_a_run_on_a_spot_pod_that_is_taken_back_goes_on_from_its_files(tmp_path: Path) -> None:
    here = RunpodWorld(tmp_path)
    try:
        here.start_simulator("--ephemeral")
        config = tmp_path / "config" / "config.toml"
        config.write_text(config.read_text() + "spot = true\n")
        here.start_daemon()
        job = "echo work > model.bin; sync; sleep 600"
        run = here.launch(
            f'name = "spot"\ndisk = "10GB"\n{RUNPOD}\n[gpu]\nname = "RTX 4090"\nspot = true\n[job]\ncommand = {json.dumps(job)}\n{MODEL}'
            '[deadman]\nafter = "10m"\n'
        )
        here.wait_event(run, "job-started")
        here.fault("preempt=1*1")
        assert here.wait_end(run).state == "gone"
        assert "model.bin" in here.assert_receipt_holds(run)
        here.assert_one_machine_and_none_left()
    finally:
        here.stop()
