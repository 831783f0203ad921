"""What Vast may answer, and what the adapter may conclude from it. The SDK's client is a script."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

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
from gpuproviders.model import Listing, Offer, OfferQuery, Order, Permit
from gpuproviders.money import MicroUsd
from gpuproviders.vast import VastProvider, transport

KEY = "s3cr3t-account-key-0123456789"
SSH = "ssh-ed25519 AAAAC3Nza me"


@dataclass
class Reply:
    """One HTTP answer of the script; `text` wins over `body`."""

    status: int = 200
    body: Any = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status_code(self) -> int:
        return self.status

    def json(self) -> Any:
        return json.loads(json.dumps(self.body) if self.text is None else self.text)


@dataclass
class Sent:
    method: str
    path: str
    attempts: int
    body: Any
    query: Any


class Script:
    """Plays the vendor: `answers` are given in order, the last one for ever."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.answers: list[Reply | Exception] = []

    def client(self, key: str, _url: str, attempts: int, _seconds: float = 20.0) -> Any:
        assert key == KEY
        script = self

        class Client:
            def __getattr__(self, method: str) -> Callable[..., Reply]:
                def call(path: str, json_data: Any = None, query_args: Any = None, **_: Any) -> Reply:
                    script.sent.append(Sent(method, path, attempts, json_data, query_args))
                    answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                return call

        return Client()


class OnePermit(Permit):
    covers_loss = True
    instance_id = "77"

    def __init__(self) -> None:
        self.spent = 0

    def spend(self) -> None:
        self.spent += 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(transport, "_sdk_client", script.client)
    return script


@pytest.fixture
async def vast(script: Script) -> AsyncIterator[VastProvider]:
    provider = VastProvider(key=lambda: KEY, url="http://127.0.0.1:9", paced=False)
    yield provider
    await provider.close()


def offer(*, spot: bool = False) -> Offer:
    return Offer(
        provider="vast", offer_id="9", machine_id="1", gpu_name="RTX 4090", gpu_count=1, gpu_memory=24 * 10**9,
        price=MicroUsd(400_000), disk_price=MicroUsd(1_000), spot=spot,
    )  # fmt: skip


def order(*, spot: bool = False) -> Order:
    return Order(label="gputui-r-1-ab", offer=offer(spot=spot), image="img", disk=20 * 10**9)


ASK_GONE = {
    "success": False,
    "error": "no_such_ask",
    "msg": "error 410/3907: no_such_ask Instance type 9 …",
    "ask_id": 9,
}
ASK_GONE_404 = {
    "success": False,
    "error": "invalid_args",
    "msg": "error 404/3603: no_such_ask Instance type by id 9 …",
}
TOO_FAST = {
    "success": False,
    "error": "rate_limit_exceeded",
    "msg": "API requests too frequent endpoint threshold=3.0",
}
WRONG_KEY = {"success": False, "error": "auth_error", "msg": "Invalid user key"}

# (what Vast says, what a write concludes, what a read concludes)
ANSWERS: list[tuple[str, Reply | Exception, type[ProviderError], type[ProviderError]]] = [
    ("429 with a body", Reply(429, TOO_FAST), Throttled, Throttled),
    ("429 with the other body", Reply(429, {"detail": "API requests too frequent endpoint threshold=4.5"}), Throttled, Throttled),
    ("429 in plain text", Reply(429, text="API requests too frequent"), Throttled, Throttled),
    ("429 search quota", Reply(429, {"error": "search_quota_exceeded"}), Throttled, Throttled),
    ("200 that is a 429", Reply(200, TOO_FAST), Throttled, Throttled),
    ("wrong key as 404", Reply(404, WRONG_KEY), Unauthorized, Unauthorized),
    ("no header as 403", Reply(403, {"msg": "This action requires login."}), Unauthorized, Unauthorized),
    ("403 not ours", Reply(403, {"success": False, "error": "x", "msg": "error 403/3586 not your own"}), Refused, Refused),
    ("offer gone 410", Reply(410, ASK_GONE), OfferGone, OfferGone),
    ("offer gone 404", Reply(404, ASK_GONE_404), OfferGone, OfferGone),
    ("offer gone 400", Reply(400, ASK_GONE), OfferGone, OfferGone),
    ("offer gone 200", Reply(200, ASK_GONE), OfferGone, OfferGone),
    ("bad price", Reply(400, {"success": False, "error": "invalid_price", "msg": "no"}), Refused, Refused),
    ("no credit as 200", Reply(200, {"success": False, "error": "insufficient_credit"}), Refused, Refused),
    ("no credit as 402", Reply(402, {"success": False, "error": "insufficient_credit"}), Refused, Refused),
    ("retired", Reply(410, {"success": False, "error": "deprecated_endpoint", "msg": "Use v1"}), Refused, Refused),
    ("404 in HTML", Reply(404, text="<html>404</html>"), Ambiguous, Unavailable),
    ("HTML", Reply(200, text="<html>we are down</html>"), Ambiguous, Unavailable),
    ("cut JSON", Reply(200, text='{"success": true, "new_con'), Ambiguous, Unavailable),
    ("JSON that is text", Reply(200, body="ok"), Ambiguous, Unavailable),
    ("JSON null", Reply(200, body=None), Ambiguous, Unavailable),
    ("nothing", Reply(200, text=""), Ambiguous, Unavailable),
    ("408", Reply(408, {"error": "timeout"}), Ambiguous, Unavailable),
    ("409", Reply(409, {"error": "conflict"}), Ambiguous, Unavailable),
    ("425", Reply(425, {"error": "early"}), Ambiguous, Unavailable),
    ("500", Reply(500, {"error": "oops"}), Ambiguous, Unavailable),
    ("502", Reply(502, text="Bad Gateway"), Ambiguous, Unavailable),
    ("503 as JSON", Reply(503, {"success": False, "msg": "later"}), Ambiguous, Unavailable),
    ("504", Reply(504, text=""), Ambiguous, Unavailable),
    ("timeout", TimeoutError("read timed out"), Ambiguous, Unavailable),
    ("reset", ConnectionResetError(f"reset with {KEY}"), Ambiguous, Unavailable),
    ("SDK bug", AttributeError("NoneType"), Ambiguous, Unavailable),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reply", "write", "_read"), ANSWERS, ids=[a[0] for a in ANSWERS])
async def test_a_create_concludes_no_more_than_was_said(
    said: str, reply: Any, write: type[ProviderError], _read: Any, vast: VastProvider, script: Script
) -> None:
    script.answers = [reply]
    with pytest.raises(ProviderError) as caught:
        await vast.create(order())
    assert type(caught.value) is write, said
    assert [s.attempts for s in script.sent] == [1], "what spends money is sent exactly once"


@pytest.mark.parametrize(("said", "reply", "_write", "read"), ANSWERS, ids=[a[0] for a in ANSWERS])
async def test_a_listing_is_never_made_from_a_failure(
    said: str, reply: Any, _write: Any, read: type[ProviderError], vast: VastProvider, script: Script
) -> None:
    script.answers = [reply]
    with pytest.raises(ProviderError) as caught:
        await vast.instances()
    # a list that was refused tells nothing about what exists
    assert type(caught.value) is (read if read in (Throttled, Unauthorized) else Unavailable), said


@pytest.mark.parametrize(("said", "reply", "_write", "_read"), ANSWERS, ids=[a[0] for a in ANSWERS])
async def test_no_failure_means_that_a_machine_does_not_exist(
    said: str, reply: Any, _write: Any, _read: Any, vast: VastProvider, script: Script
) -> None:
    script.answers = [reply]
    with pytest.raises(ProviderError):
        await vast.instance("77")


@pytest.mark.parametrize(("said", "reply", "_write", "_read"), ANSWERS, ids=[a[0] for a in ANSWERS])
async def test_the_key_is_in_no_exception_and_no_log(
    said: str,
    reply: Any,
    _write: Any,
    _read: Any,
    vast: VastProvider,
    script: Script,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    if isinstance(reply, Reply) and isinstance(reply.body, dict):
        reply = Reply(
            reply.status, reply.body | {"msg": f"{reply.body.get('msg', '')} your key {KEY} \x1b[31m"}
        )
    script.answers = [reply]
    for call in (vast.create(order()), vast.instances(), vast.stop(OnePermit()), vast.account()):
        with pytest.raises(ProviderError) as caught:
            await call
        chain: BaseException | None = caught.value
        while chain is not None:
            assert KEY not in f"{chain!r} {chain} {chain.__dict__}", said
            assert "\x1b" not in str(chain)
            chain = chain.__cause__ or chain.__context__
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, TOO_FAST, 7.0),
        ({}, TOO_FAST, None),
        ({}, TOO_FAST | {"retry_after": 3.5}, 3.5),
        ({"Retry-After": "soon"}, TOO_FAST, None),
        ({"Retry-After": "-4"}, TOO_FAST, None),
        ({"Retry-After": "1e99"}, TOO_FAST, None),
        ({"Retry-After": "nan"}, TOO_FAST, None),
        ({}, TOO_FAST | {"retry_after": "x"}, None),
    ],
)
async def test_how_long_to_wait_is_believed_only_within_reason(
    headers: dict[str, str], body: Any, seconds: float | None, vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(429, body, headers=headers)]
    with pytest.raises(Throttled) as caught:
        await vast.create(order())
    assert caught.value.retry_after == seconds


# --- create --------------------------------------------------------------------------------------


async def test_a_create_names_label_price_and_disk_and_asks_for_a_clean_refusal(
    vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, {"success": True, "new_contract": 33402296, "instance_api_key": "f" * 64})]
    assert (await vast.create(order())).instance_id == "33402296"
    (sent,) = script.sent
    assert (sent.method, sent.path, sent.attempts) == ("put", "/asks/9/", 1)
    assert sent.body["label"] == "gputui-r-1-ab"
    assert sent.body["disk"] == 20
    assert sent.body["cancel_unavail"] is True
    assert "price" not in sent.body, "a bid would make it interruptible"
    await vast.create(order(spot=True))
    assert script.sent[1].body["price"] == 0.4


async def test_a_refusal_that_names_a_contract_means_that_a_machine_exists(
    vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, {"success": False, "new_contract": 44743274, "msg": "bid too low"})]
    with pytest.raises(Ambiguous) as caught:
        await vast.create(order())
    assert caught.value.instance_id == "44743274"


@pytest.mark.parametrize("made", [None, "x", True, -3, 0, [], 1.5])
async def test_a_success_without_a_readable_contract_is_ambiguous(
    made: Any, vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, {"success": True, "new_contract": made})]
    with pytest.raises(Ambiguous):
        await vast.create(order())


async def test_the_ssh_key_is_registered_once_before_the_first_machine(
    vast: VastProvider, script: Script
) -> None:
    made = Reply(200, {"success": True, "new_contract": 5})
    script.answers = [
        Reply(404, {"msg": "No SSH keys found for the user."}),
        Reply(200, {"success": True}),
        made,
    ]
    with_key = Order(label="l", offer=offer(), image="i", disk=10**10, ssh_public_key=SSH)
    await vast.create(with_key)
    await vast.create(with_key)
    assert [(s.method, s.path) for s in script.sent] == [
        ("get", "/ssh/"), ("post", "/ssh/"), ("put", "/asks/9/"), ("put", "/asks/9/"),
    ]  # fmt: skip


async def test_a_key_that_is_there_already_is_not_added_again(vast: VastProvider, script: Script) -> None:
    script.answers = [
        Reply(200, [{"key": SSH + " other-comment"}]),
        Reply(200, {"success": True, "new_contract": 5}),
    ]
    await vast.create(Order(label="l", offer=offer(), image="i", disk=10**10, ssh_public_key=SSH))
    assert [s.path for s in script.sent] == ["/ssh/", "/asks/9/"]


async def test_when_the_key_cannot_be_registered_nothing_was_rented(
    vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, []), Reply(502, text="")]
    with pytest.raises(Refused):
        await vast.create(Order(label="l", offer=offer(), image="i", disk=10**10, ssh_public_key=SSH))
    assert all(not s.path.startswith("/asks/") for s in script.sent)


# --- listing -------------------------------------------------------------------------------------


def page(*ids: int, token: str | None = None, total: Any = None) -> Reply:
    rows = [{"id": i, "label": f"l{i}", "actual_status": "running"} for i in ids]
    return Reply(200, {"success": True, "total_instances": total, "next_token": token, "instances": rows})


async def test_all_pages_make_one_listing(vast: VastProvider, script: Script) -> None:
    script.answers = [page(1, 2, token="a", total=3), page(3, total=3)]
    listing = await vast.instances()
    assert [i.instance_id for i in listing.instances] == ["1", "2", "3"]
    assert listing.by_label("l3")[0].instance_id == "3"
    assert listing.by_id("4") is None
    assert [s.query.get("after_token") for s in script.sent] == [None, "a"]
    assert {s.path for s in script.sent} == {"/api/v1/instances/"}


async def test_an_account_without_machines_has_an_empty_listing(vast: VastProvider, script: Script) -> None:
    script.answers = [page(total=0)]
    assert await vast.instances() == Listing(())


BAD_PAGES: list[tuple[str, list[Reply | Exception]]] = [
    ("nothing but an empty list", [Reply(200, {"success": True, "instances": []})]),
    ("no total", [Reply(200, {"success": True, "next_token": None, "instances": []})]),
    ("an empty object", [Reply(200, {})]),
    ("an empty list", [Reply(200, [])]),
    ("the list itself", [Reply(200, [{"id": 1}])]),
    ("no success", [Reply(200, {"instances": [], "total_instances": 0})]),
    ("success in words", [Reply(200, {"success": "true", "instances": [], "total_instances": 0})]),
    ("instances null", [Reply(200, {"success": True, "instances": None, "total_instances": 0})]),
    ("instances an object", [Reply(200, {"success": True, "instances": {}, "total_instances": 0})]),
    ("the retired list", [Reply(410, {"success": False, "error": "deprecated_endpoint"})]),
    ("the retired list as 200", [Reply(200, {"success": False, "error": "deprecated_endpoint", "instances": []})]),
    ("fewer than there are", [page(1, total=2)]),
    ("more than there are", [page(1, 2, total=1)]),
    ("one machine twice", [page(1, 1, total=2)]),
    ("page two fails", [page(1, token="a", total=2), Reply(502, text="")]),
    ("page two is HTML", [page(1, token="a", total=2), Reply(200, text="<html>")]),
    ("page two is empty and there is more", [page(1, token="a", total=3), page(token="b", total=3), page(2, total=3)]),
    ("page one again", [page(1, 2, token="a", total=4), page(1, 2, token="b", total=4)]),
    ("the token again", [page(1, token="a", total=9), page(2, token="a", total=9)]),
    ("a token that is none", [page(1, token=5, total=9)]),  # type: ignore[arg-type]
    ("a row without id", [Reply(200, {"success": True, "total_instances": 1, "instances": [{"label": "x"}]})]),
    ("a row that is text", [Reply(200, {"success": True, "total_instances": 1, "instances": ["x"]})]),
]  # fmt: skip


@pytest.mark.parametrize(("said", "answers"), BAD_PAGES, ids=[b[0] for b in BAD_PAGES])
async def test_a_list_that_may_not_be_all_is_no_listing(
    said: str, answers: list[Reply | Exception], vast: VastProvider, script: Script
) -> None:
    script.answers = answers
    with pytest.raises((Unavailable, Refused)):
        await vast.instances()


async def test_a_page_that_brings_nothing_new_ends_the_reading(vast: VastProvider, script: Script) -> None:
    script.answers = [page(1, token="a", total=9), page(1, token="b", total=9), page(2, token="c", total=9)]
    with pytest.raises(Unavailable, match="circles"):
        await vast.instances()
    assert len(script.sent) == 2


async def test_a_list_that_never_ends_is_given_up(
    vast: VastProvider, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1, 10_000))

    def endless(_client_key: str, _url: str, _attempts: int, _seconds: float = 0) -> Any:
        class Client:
            def get(self, _path: str, **_: Any) -> Reply:
                n = next(numbers)
                return page(n, token=str(n), total=10**6)

        return Client()

    monkeypatch.setattr(transport, "_sdk_client", endless)
    with pytest.raises(Unavailable, match="does not end"):
        await vast.instances()


# --- one instance, start, stop, destroy ----------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, {"instances": None}),
        Reply(404, {"success": False, "error": "not_found", "msg": "x"}),
        Reply(404, {"success": False, "error": "no_such_instance", "msg": "x"}),
    ],
)
async def test_only_vasts_own_words_say_that_there_is_no_such_machine(
    reply: Reply, vast: VastProvider, script: Script
) -> None:
    script.answers = [reply]
    assert await vast.instance("77") is None


@pytest.mark.parametrize(
    "body", [{}, [], {"instances": []}, {"instances": {}}, {"instances": {"id": 78}}, {"instances": "77"}]
)
async def test_a_strange_answer_about_a_machine_is_no_answer(
    body: Any, vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, body)]
    with pytest.raises(Unavailable):
        await vast.instance("77")


async def test_destroy_spends_the_permit_and_is_sent_once(vast: VastProvider, script: Script) -> None:
    script.answers = [Reply(200, {"success": True})]
    permit = OnePermit()
    await vast.destroy(permit)
    assert permit.spent == 1
    assert [(s.method, s.path, s.attempts) for s in script.sent] == [("delete", "/instances/77/", 1)]


@pytest.mark.parametrize("code", ["not_found", "no_such_instance"])
async def test_destroying_what_is_gone_has_worked(code: str, vast: VastProvider, script: Script) -> None:
    script.answers = [Reply(404, {"success": False, "error": code})]
    await vast.destroy(OnePermit())


async def test_a_wrong_key_does_not_destroy(vast: VastProvider, script: Script) -> None:
    script.answers = [Reply(404, WRONG_KEY)]
    with pytest.raises(Unauthorized):
        await vast.destroy(OnePermit())


async def test_a_permit_that_cannot_be_spent_stops_the_destroy(vast: VastProvider, script: Script) -> None:
    class Used(OnePermit):
        def spend(self) -> None:
            raise PermissionError("used up")

    with pytest.raises(PermissionError):
        await vast.destroy(Used())
    assert script.sent == []


async def test_a_queued_start_is_cancelled_because_it_would_bill_unseen(
    vast: VastProvider, script: Script
) -> None:
    busy = {"success": False, "error": "resources_unavailable", "msg": "state change queued."}
    script.answers = [Reply(200, busy), Reply(200, {"success": True})]
    with pytest.raises(Refused):
        await vast.start("77")
    assert [s.body["state"] for s in script.sent] == ["running", "stopped"]
    assert all(s.attempts == 1 for s in script.sent)


async def test_without_a_key_nothing_is_sent(script: Script) -> None:
    provider = VastProvider(key=lambda: None, url="http://127.0.0.1:9", paced=False)
    with pytest.raises(Unauthorized, match="VAST_API_KEY"):
        await provider.instances()
    assert script.sent == []
    await provider.close()


# --- offers --------------------------------------------------------------------------------------

ROW = {
    "id": 1, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564, "dph_total": 0.5, "verification": "verified",
    "disk_space": 100, "reliability2": 0.99,
}  # fmt: skip


async def test_filters_that_vast_did_not_apply_are_applied_here(vast: VastProvider, script: Script) -> None:
    rows = [
        ROW | {"id": 1, "dph_total": 0.9}, ROW | {"id": 2}, ROW | {"id": 3, "gpu_name": "RTX 3090"},
        ROW | {"id": 4, "num_gpus": 2}, ROW | {"id": 5, "dph_total": 3.0}, ROW | {"id": 6, "disk_space": 5},
        ROW | {"id": 7, "reliability2": None}, ROW | {"id": 8, "verification": None}, ROW | {"id": None}, "row",
        ROW | {"id": 2},
    ]  # fmt: skip
    script.answers = [Reply(200, {"offers": rows})]
    query = OfferQuery(
        gpu_names=("RTX 4090",), gpu_count=1, max_price=MicroUsd(1_000_000), min_reliability=0.9
    )
    assert [o.offer_id for o in await vast.offers(query)] == ["2", "1"], "cheapest first, each once"


@pytest.mark.parametrize("body", [{}, [], {"offers": None}, {"offers": {}}, {"success": True}])
async def test_a_search_without_offers_in_it_is_no_empty_market(
    body: Any, vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, body)]
    with pytest.raises(Unavailable):
        await vast.offers(OfferQuery())


async def test_each_gpu_name_is_searched_alone_because_answers_are_capped(
    vast: VastProvider, script: Script
) -> None:
    script.answers = [Reply(200, {"offers": []})]
    await vast.offers(OfferQuery(gpu_names=("H100 SXM", "H100 PCIE")))
    assert [s.body["gpu_name"]["eq"] for s in script.sent] == ["H100 SXM", "H100 PCIE"]
    assert all(
        isinstance(v, dict)
        for k, v in script.sent[0].body.items()
        if k not in ("order", "type", "allocated_storage", "limit")
    )


async def test_searches_may_come_four_at_once_and_other_calls_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(transport.asyncio, "sleep", sleep)
    calls = transport.Transport(lambda: KEY, "http://127.0.0.1:9")
    for _ in range(5):
        await calls._pace("search")
    assert [round(s) for s in slept] == [10]
    slept.clear()
    for _ in range(2):
        await calls._pace("destroy")
    assert [round(s) for s in slept] == [3]
    calls.close()
