"""Whatever RunPod's address answers, to whichever call: a typed refusal or a checked value, never an exception of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_runpod_parse import JSON, POD, ROW

from gpuproviders.errors import Ambiguous, ProviderError, Unavailable
from gpuproviders.model import Account, Created, Instance, Listing, Offer, OfferQuery, Order, Permit
from gpuproviders.money import MicroUsd
from gpuproviders.runpod import RunpodProvider, balance
from gpuproviders.runpod.transport import Answer, Transport

KEY = "rpa_SECRETSECRETSECRET0123456789"
ODD = st.one_of(JSON, st.sampled_from([KEY, "\x1b]0;x\a", "x" * 3000, 2**70, "../..", "7h9k2m4n6p", [], {}]))


@st.composite
def near(draw: st.DrawFn, row: dict[str, Any]) -> Any:
    """A good row with a few fields replaced by anything, or without them."""
    made = dict(row)
    for field in draw(st.lists(st.sampled_from(sorted(row)), max_size=4)):
        if draw(st.booleans()):
            made[field] = draw(ODD)
        else:
            made.pop(field, None)
    return made


PODS = st.one_of(near(POD), ODD)
PAGING = st.one_of(
    st.just({"hasNextPage": False}),
    st.builds(lambda cursor: {"hasNextPage": True, "nextCursor": cursor}, st.sampled_from(["a", "b", "", 5, "x" * 5000])),
    ODD,
)  # fmt: skip
BODIES = st.one_of(
    ODD,
    PODS,
    st.builds(lambda rows, paging: {"pods": rows, "pagination": paging}, st.lists(PODS, max_size=3), PAGING),
    st.builds(lambda rows: {"gpus": rows}, st.lists(st.one_of(near(ROW), ODD), max_size=3)),
    st.builds(lambda words: {"detail": words, "errors": [words, {"a": words}]}, st.sampled_from(["not found", "Pod not found", KEY, "no longer any instances", ""])),
)  # fmt: skip
ANSWERS = st.one_of(
    st.none(),
    st.builds(
        lambda status, body, headers: Answer(status, json.loads(json.dumps(body)), headers),
        st.sampled_from([200, 200, 200, 201, 204, 301, 400, 401, 402, 403, 404, 408, 409, 410, 422, 425, 429, 500, 502, 503]),
        BODIES,
        st.sampled_from([{}, {"Retry-After": "5"}, {"Retry-After": "soon"}, {"Retry-After": "nan"}, {"RateLimit": "\x00;;=="}]),
    ),
)  # fmt: skip


class Grant(Permit):
    """A permit for the sample pod."""

    instance_id = "7h9k2m4n6p"
    covers_loss = False

    def spend(self) -> None:
        """Nothing to use up here."""


ORDER = Order(
    label="gputui-r-1-ab", image="img", disk=20 * 10**9, ssh_public_key="ssh-ed25519 AAAA me",
    offer=Offer(
        provider="runpod", offer_id="secure.US-KS-2.1.NVIDIA_GeForce_RTX_4090", machine_id=None, gpu_name="RTX 4090", gpu_count=1,
        gpu_memory=24 * 10**9, price=MicroUsd(400_000), disk_price=MicroUsd(1_000),
    ),
)  # fmt: skip
CALLS: dict[str, tuple[type | tuple[type, ...], Callable[[RunpodProvider], Awaitable[Any]]]] = {
    "account": (Account, lambda v: v.account()),
    "offers": (tuple, lambda v: v.offers(OfferQuery(gpu_count=1))),
    "create": (Created, lambda v: v.create(ORDER)),
    "instances": (Listing, lambda v: v.instances()),
    "instance": ((Instance, type(None)), lambda v: v.instance("7h9k2m4n6p")),
    "start": (type(None), lambda v: v.start("7h9k2m4n6p")),
    "stop": (type(None), lambda v: v.stop(Grant())),
    "destroy": (type(None), lambda v: v.destroy(Grant())),
}


def ask(call: str, answers: list[Answer | None]) -> tuple[Any, ProviderError | None, list[Answer | None]]:
    """One call answered by these, the last one for ever; what was used of them. Other exceptions come out."""
    left, used = list(answers), []

    async def answer(*_: object, **__: object) -> Answer | None:
        used.append(left.pop(0) if len(left) > 1 else left[0])
        return used[-1]

    async def no_money(*_: object) -> balance.Money:
        return balance.UNKNOWN

    async def main() -> Any:
        provider = RunpodProvider(
            key=lambda: KEY, url="http://127.0.0.1:9", paced=False, ask_balance=no_money
        )
        try:
            return await CALLS[call][1](provider)
        finally:
            await provider.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "_call", answer)
        try:
            return asyncio.run(main()), None, used
        except ProviderError as error:
            return None, error, used


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=40, deadline=None)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=3))
@example(answers=[Answer(200, POD | {"id": KEY}, {})])
@example(answers=[Answer(400, {"errors": [[["deep"]] * 3, {"a": KEY}]}, {})])
def test_any_answer_is_a_value_or_a_typed_refusal(call: str, answers: list[Answer | None]) -> None:
    value, error, _ = ask(call, answers)
    if error is None:
        assert isinstance(value, CALLS[call][0])
    else:
        assert KEY not in f"{error} {error.code}"
        assert len(str(error)) < 1000
        assert str(error).isprintable(), ascii(str(error))


@settings(max_examples=150, deadline=None)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=3))
def test_a_listing_is_what_pages_said_that_go_on_to_their_end(answers: list[Answer | None]) -> None:
    value, error, used = ask("instances", answers)
    if error is not None:
        return
    bodies: list[Mapping[str, Any]] = [a.body for a in used if a is not None and a.status in (200, 201)]
    assert len(bodies) == len(used)
    alive = {pod["id"] for body in bodies for pod in body["pods"] if pod.get("status") != "TERMINATED"}
    assert {i.instance_id for i in value.instances} == alive
    paging = bodies[-1].get("pagination")
    assert paging is None or paging["hasNextPage"] is False


@settings(max_examples=150, deadline=None)
@given(answer=ANSWERS)
def test_no_pod_is_said_only_in_so_many_words(answer: Answer | None) -> None:
    value, error, _ = ask("instance", [answer])
    if value is None and error is None:
        assert answer is not None
        dead = isinstance(answer.body, dict) and answer.body.get("status") == "TERMINATED"
        assert dead or (answer.status == 404 and "not found" in json.dumps(answer.body).lower())


@settings(max_examples=150, deadline=None)
@given(answer=ANSWERS)
def test_a_create_without_a_readable_answer_is_ambiguous(answer: Answer | None) -> None:
    value, error, _ = ask("create", [answer])
    if answer is None or answer.status >= 500 or answer.status in (408, 425):
        assert isinstance(error, Ambiguous)
    if value is not None:
        assert answer is not None
        assert answer.status in (200, 201)
        assert value.instance_id == answer.body["id"]
    assert not isinstance(error, Unavailable), "a write that is not known to have failed is no failed read"
