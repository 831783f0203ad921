"""Whatever Vast's address answers, to whichever call: a typed refusal or a checked value, never an exception of ours.

The answers here are near misses (rows of Vast with one wrong thing in them), plain rubbish, and things
that are too large; `test_core_vast_client.py` has what is wrong below JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from core_lives import harmless
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_core_vast_adapter import KEY, OnePermit, Reply, Script, order
from test_core_vast_parse import OFFER, RUNNING

from gpuproviders.errors import Ambiguous, ProviderError, Refused, Unavailable, scrub
from gpuproviders.model import Account, Created, Instance, Listing, OfferQuery
from gpuproviders.vast import VastProvider, adapter, transport

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 1e308, float("nan"), float("inf"), -0.0, True]),
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "77", "-7", "7e3", "٣", "\0", "\ud800", "x" * 3000, KEY, "\x1b]0;x\a", "not_found", "auth_error"]),
)  # fmt: skip
ANY = st.recursive(
    st.none() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def near(draw: st.DrawFn, row: dict[str, Any]) -> Any:
    """A good row with a few fields replaced by anything, or without them."""
    made = dict(row)
    for field in draw(st.lists(st.sampled_from(sorted(row)), max_size=4)):
        if draw(st.booleans()):
            made[field] = draw(ANY)
        else:
            made.pop(field, None)
    return made


ROWS = st.one_of(near(RUNNING), near(OFFER), ANY)
BODIES = st.one_of(
    ANY,
    st.builds(lambda rows, more: {"success": True, "next_token": None, "total_instances": len(rows), "instances": rows} | more,
              st.lists(ROWS, max_size=4), st.dictionaries(st.sampled_from(["success", "next_token", "total_instances"]), ANY, max_size=1)),
    st.builds(lambda rows: {"offers": rows}, st.lists(ROWS, max_size=4)),
    st.builds(lambda row: {"instances": row}, ROWS),
    st.builds(lambda made, more: {"success": True, "new_contract": made} | more, ANY,
              st.dictionaries(st.sampled_from(["success", "error", "msg", "detail", "retry_after"]), ANY, max_size=3)),
    st.builds(lambda who, money: {"id": who, "credit": money}, ANY, ANY),
    st.builds(lambda url: {"result_url": url}, st.sampled_from(["https://[", "https://x:y/", "https://a b/", "file:///etc/passwd", "https://\n", 5])),
)  # fmt: skip
TEXTS = st.sampled_from(
    ["<html><body>502</body></html>", "", "null", "{", "[1, 2", '{"instances": [{"id": 7', "[" * 3000 + "]" * 3000,
     '{"a":' * 900 + "1" + "}" * 900, "9" * 5000, '{"id": 1e999}', "\ufeff{}", '"text"', "NaN"]
)  # fmt: skip
STATUSES = st.sampled_from(
    [200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 409, 410, 429, 500, 502, 503, 0, 999]
)
HEADERS = st.dictionaries(
    st.just("Retry-After"), st.sampled_from(["5", "-1", "nan", "inf", "soon", "9" * 400]), max_size=1
)
REPLIES = st.one_of(
    st.builds(lambda s, b, h: Reply(s, b, headers=h), STATUSES, BODIES, HEADERS),
    st.builds(lambda s, t, h: Reply(s, text=t, headers=h), STATUSES, TEXTS, HEADERS),
)

CALLS: dict[str, tuple[type | tuple[type, ...], Callable[[VastProvider], Awaitable[Any]]]] = {
    "account": (Account, lambda v: v.account()),
    "offers": (tuple, lambda v: v.offers(OfferQuery(gpu_names=("RTX 4090",), verified_only=False))),
    "create": (Created, lambda v: v.create(order())),
    "create with a key": (Created, lambda v: v.create(_with_key())),
    "instances": (Listing, lambda v: v.instances()),
    "instance": ((Instance, type(None)), lambda v: v.instance("36717044")),
    "start": (type(None), lambda v: v.start("36717044")),
    "stop": (type(None), lambda v: v.stop(OnePermit())),
    "destroy": (type(None), lambda v: v.destroy(OnePermit())),
    "log": (str, lambda v: v.log("36717044")),
}


def _with_key() -> Any:
    return dataclasses.replace(order(), ssh_public_key="ssh-ed25519 AAAA me")


def ask(
    call: str, replies: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ProviderError | None, Script]:
    """One call answered by these replies, the last one for ever; an exception that is not ours comes out."""
    script = Script()
    script.answers = list(replies)

    async def main() -> Any:
        vast = VastProvider(key=lambda: KEY, url="http://127.0.0.1:9", paced=False)
        try:
            return await CALLS[call][1](vast)
        finally:
            await vast.close()

    async def at_once(_seconds: float) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(transport, "_sdk_client", script.client)
        patch.setattr(adapter.asyncio, "sleep", at_once)
        try:
            return asyncio.run(main()), None, script
        except ProviderError as error:
            return None, error, script


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=60)
@given(replies=st.lists(REPLIES, min_size=1, max_size=3))
@example(replies=[Reply(200, {"success": True, "new_contract": 7, "msg": "too frequent"})])
@example(replies=[Reply(200, [{"key": [[["x"]]], "public_key": {"a": 1}}])])
def test_any_answer_is_a_value_or_a_typed_refusal(call: str, replies: list[Reply]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        value, error, _ = ask(call, replies, monkeypatch)
    if error is None:
        assert isinstance(value, CALLS[call][0])
    else:
        assert KEY not in f"{error} {error.code}"
        assert len(str(error)) < 1000
        assert len(error.code or "") < 200
        assert harmless(str(error)), ascii(str(error))


@settings(max_examples=200)
@given(reply=REPLIES)
def test_a_create_that_may_have_made_a_machine_is_never_a_plain_no(reply: Reply) -> None:
    """I2: whoever is told "no" rents again. So any answer that names a contract must not be one."""
    named = isinstance(reply.body, dict) and reply.body.get("new_contract") is not None and reply.text is None
    with pytest.MonkeyPatch.context() as monkeypatch:
        value, error, script = ask("create", [reply], monkeypatch)
    assert len(script.sent) == 1, "a create was sent twice"
    if named:
        assert isinstance(value, Created) or isinstance(error, Ambiguous), (reply, error)
    if isinstance(value, Created) or (isinstance(error, Ambiguous) and error.instance_id is not None):
        made = value.instance_id if value is not None else error.instance_id  # type: ignore[union-attr]
        assert made.isascii()
        assert made.isdigit()
        assert int(made) > 0


@settings(max_examples=200)
@given(pages=st.lists(REPLIES, min_size=1, max_size=4))
def test_a_listing_is_exactly_what_complete_pages_said(pages: list[Reply]) -> None:
    """I3: as many different rows as the last page says there are, each one from an answer, else no listing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        value, error, script = ask("instances", pages, monkeypatch)
    if error is not None:
        return
    read = [pages[min(n, len(pages) - 1)] for n in range(len(script.sent))]
    assert all(page.status == 200 for page in read)
    bodies = [json.loads(json.dumps(p.body)) if p.text is None else json.loads(p.text) for p in read]
    said = {str(int(row["id"])) for body in bodies for row in body["instances"]}
    assert {i.instance_id for i in value.instances} == said
    assert bodies[-1]["total_instances"] == len(value.instances) == len(said)
    assert bodies[-1]["next_token"] is None
    assert all(body["success"] is True for body in bodies)


@settings(max_examples=200)
@given(reply=REPLIES)
def test_no_machine_is_said_only_in_vasts_own_words(reply: Reply) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        value, error, _ = ask("instance", [reply], monkeypatch)
    if value is None and error is None:
        body = json.loads(json.dumps(reply.body)) if reply.text is None else json.loads(reply.text)
        nothing = reply.status == 200 and body.get("success") is not False and body["instances"] is None
        assert nothing or body.get("error") in ("not_found", "no_such_instance")


@pytest.mark.timeout(25)  # what is not refused at once is read for a long time
@pytest.mark.parametrize(
    "page",
    [
        {"success": True, "next_token": None, "total_instances": 10**6, "instances": [{"id": n} for n in range(1, 10**6 + 1)]},
        {"success": True, "next_token": None, "total_instances": 1, "instances": [{"id": 7}, {"id": 7}, {"id": "7"}, {"id": "007"}] * 50_000},
        {"success": True, "next_token": "t" * 10**6, "total_instances": 1, "instances": [{"id": 7, "label": "x" * 10**7}]},
        {"success": True, "next_token": None, "total_instances": 1, "instances": [{"id": 7, "status_msg": "\x1b" * 10**7}]},
    ],
    ids=["a million rows", "one row 200,000 times", "ten megabytes of a label", "ten megabytes of status"],
)  # fmt: skip
def test_a_listing_far_too_large_is_bounded(page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Reply(200, page)
    monkeypatch.setattr(Reply, "json", lambda _: page)  # what parsing itself takes is bounded by the client
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value, error, _ = ask("instances", [reply], monkeypatch)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100 << 10, "kilobytes of memory for a listing that nobody can have"
    if error is None:
        assert len(value.instances) == 1
        assert all(len(i.status or "") <= 500 and len(i.label or "") <= 256 for i in value.instances)
    else:
        assert isinstance(error, Unavailable)


@pytest.mark.timeout(25)
def test_a_search_with_a_million_offers_is_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"offers": [OFFER] * 10**6}
    monkeypatch.setattr(Reply, "json", lambda _: page)
    _, error, _ = ask("offers", [Reply(200, page)], monkeypatch)
    assert isinstance(error, Unavailable)


def test_ten_megabytes_of_reason_are_cut_before_they_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    _, error, _ = ask(
        "create", [Reply(400, {"msg": KEY + "\x07" * 10**7, "error": "e" * 10**7})], monkeypatch
    )
    assert isinstance(error, Refused)
    assert len(str(error)) <= 500
    assert KEY not in str(error)
    assert len(error.code or "") <= 100
    _, error, _ = ask("create", [Reply(400, {"msg": "no", "error": f"no key {KEY}"})], monkeypatch)
    assert isinstance(error, Refused)
    assert error.code == "no key [key]"
    assert len(scrub("\x07" * 10**7)) == 500
