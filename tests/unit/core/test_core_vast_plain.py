"""The adapter's guards, one plain answer each; `test_core_vast_hostile.py` has everything else that may be answered."""

from __future__ import annotations

from typing import Any

import pytest
from test_core_vast_adapter import KEY, OnePermit, Reply, Script
from test_core_vast_hostile import ask

from gpuproviders.errors import Refused, Unavailable
from gpuproviders.vast import VastProvider, adapter, transport


@pytest.mark.parametrize("said", [{}, {"success": None}, {"success": "true"}, {"success": 1}])
def test_a_list_that_does_not_say_that_it_is_one_is_none(
    said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"next_token": None, "total_instances": 0, "instances": []}
    value, error, _ = ask("instances", [Reply(200, page | said)], monkeypatch)
    assert value is None
    assert isinstance(error, Unavailable)


def test_a_list_that_goes_on_from_where_it_was_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [
        Reply(200, {"success": True, "next_token": "again", "total_instances": 9, "instances": [{"id": n}]})
        for n in range(1, 9)
    ]
    _, error, script = ask("instances", pages, monkeypatch)
    assert "circles" in str(error)
    assert len(script.sent) == 2


@pytest.mark.parametrize("rows", [[{"id": "x"}], [{"dph_total": 1}], [[], 5, None]])
def test_a_market_that_cannot_be_read_is_not_an_empty_one(
    rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, error, _ = ask("offers", [Reply(200, {"offers": rows})], monkeypatch)
    assert isinstance(error, Unavailable)
    value, error, _ = ask("offers", [Reply(200, {"offers": []})], monkeypatch)
    assert (value, error) == ((), None)


def test_a_destroy_that_is_refused_for_any_other_reason_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, error_type in (("not_found", None), ("no_such_instance", None), ("locked", Refused)):
        _, error, _ = ask("destroy", [Reply(400, {"error": code, "msg": "no"})], monkeypatch)
        assert isinstance(error, error_type) if error_type else error is None


@pytest.mark.parametrize("call", ["stop", "destroy"])
async def test_what_ends_a_machine_uses_its_permit_up(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    script.answers = [Reply(200, {"success": True})]
    monkeypatch.setattr(transport, "_sdk_client", script.client)
    vast, permit = VastProvider(key=lambda: KEY, url="http://127.0.0.1:9", paced=False), OnePermit()
    await getattr(vast, call)(permit)
    await vast.close()
    assert permit.spent == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://x/y", "/etc/hostname", "http://169.254.169.254/", 5]
)
def test_a_log_is_fetched_from_a_web_address_only(url: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_fetch", lambda _: "what is there")
    value, error, _ = ask("log", [Reply(200, {"result_url": url})], monkeypatch)
    assert value is None
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(
    "url", ["https://[", "https://127.0.0.1:x/", "https://127.0.0.1:9/ /a b", "http://127.0.0.1:9/\x7f"]
)
def test_an_address_that_is_none_has_no_log(url: str) -> None:
    assert adapter._fetch(url) is None
