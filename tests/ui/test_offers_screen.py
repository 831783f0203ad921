"""The market: asked, shown, filtered, sorted, and what could not be asked is said."""

import pytest
from textual.widgets import Input
from ui.conftest import App, Clock, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon, Fault
from ui.scenario import offer_row

from gputui.screens.offers import OffersScreen
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire


async def go(app_pilot: App) -> OffersScreen:
    app, pilot = app_pilot
    await pilot.press("2")
    await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
    await pilot.pause()
    assert isinstance(app.screen, OffersScreen)
    return app.screen


async def test_offers_are_shown_cheapest_first_with_what_was_asked(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (100, 30)) as (app, pilot):
        screen = await go((app, pilot))
        prices = [screen.table.model.rows[key].price for key in screen.table.model.order]
        assert prices == sorted(prices)
        text = screen_text(app)
        assert "on-demand · verified hosts · 20G disk in the price · asked now" in text
        assert "stopped $0.0060/h" in text


@pytest.mark.parametrize(("key", "changed"), [("i", {"spot": True}), ("v", {"unverified": True}), ("r", {})])
async def test_keys_ask_again_with_another_question(
    daemon: FakeDaemon, clock: Clock, key: str, changed: dict[str, bool]
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await go((app, pilot))
        await pilot.press(key)
        asked = await daemon.called("offers", 2)
    assert (asked.spot, asked.unverified) == (changed.get("spot", False), changed.get("unverified", False))


async def test_the_filter_language(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        screen = await go((app, pilot))
        every = list(screen.table.model.rows.values())
        await pilot.press("slash")
        await pilot.pause()
        entry = screen.query_one("#filter", Input)
        for typed, wanted in (
            ("h100", [o for o in every if "H100" in o.gpu]),
            ("price<1", [o for o in every if o.price < 1_000_000]),
            ("vram>=80 !h100", [o for o in every if o.gpu_memory >= 80e9 and "H100" not in o.gpu]),
            ("runpod gpus>1", [o for o in every if o.provider == "runpod" and o.gpu_count > 1]),
            ("nosuch<1", []),
        ):
            entry.value = typed
            await pilot.pause()
            assert [screen.table.model.rows[key] for key in screen.table.model.order] == wanted
        assert entry.has_class("-invalid")


async def test_a_provider_that_cannot_answer_is_named(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.world.offer_problems = ["runpod: no key; set RUNPOD_API_KEY"]
    async with running(daemon, clock) as (app, pilot):
        await go((app, pilot))
        assert "△ runpod: no key; set RUNPOD_API_KEY" in screen_text(app)


async def test_no_offer_teaches_what_to_change(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.world.offers = []
    async with running(daemon, clock) as (app, pilot):
        await go((app, pilot))
        assert "No offer fits. v also shows unverified hosts" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "There is no offer here." in toasts(app))


async def test_an_error_is_shown_and_r_asks_again(daemon: FakeDaemon, clock: Clock) -> None:
    def fail(params: wire.OffersQuery) -> wire.Offers:
        raise Fault(wire.Code.PROVIDER, "vast answers 500")

    daemon.hooks["offers"] = fail
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: "vast answers 500 (r asks again)" in screen_text(app))
        del daemon.hooks["offers"]
        await pilot.press("r")
        await until(pilot, lambda: "38" in screen_text(app) or "offers ·" in screen_text(app))


async def test_twenty_thousand_offers_are_no_trouble(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        screen = await go((app, pilot))
        screen.table.load([offer_row(n, f"GPU {n % 50}", 1, 24, 0.1 + n / 1000) for n in range(20_000)])
        await pilot.press("G")
        assert screen.table.current is not None
        assert screen.table.current.offer_id == "19999"
        screen.table.sort("gpu")
        assert screen.table.current.offer_id == "19999", "the cursor stays with its offer"
        await pilot.press("g", "pagedown")
        await pilot.pause()
        assert "GPU 0" in screen_text(app)
        assert len(screen.query_one(VTable)._strips) < 400, "only rows that were seen are drawn"


async def test_each_offer_says_what_my_run_would_cost_and_what_prices_were(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock, (180, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.beside.prices)
        text = screen_text(app)
        assert "MY RUN" in text
        assert "14 DAYS" in text
        assert "by peak TFLOP/s, at the same share of peak" in text
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.focused, Input))
        app.focused.insert_text_at_cursor("gpu=h100_sxm gpus=1")  # type: ignore[union-attr]
        await until(pilot, lambda: "all of miras-s $" in screen_text(app))
        assert "$1.95/h … $2.46/h" in screen_text(app)
        assert "in 3h59m  the same GPUs" in screen_text(app)
        await pilot.press("enter", "M")
        await until(pilot, lambda: "MY RUN is miras-xs now." in toasts(app))


async def test_without_a_run_that_has_a_pace_the_key_says_what_is_missing(
    daemon: FakeDaemon, clock: Clock
) -> None:
    daemon.world.runs = []
    async with running(daemon, clock, (180, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("M")
        await until(pilot, lambda: "No run has shown its pace yet" in toasts(app))


async def test_our_own_experience_of_a_machine_stands_with_its_offer(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock, (180, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("j")
        await until(pilot, lambda: "ours    rented 3 times, 1 of them no good" in screen_text(app))
        assert "SSH never answered" in screen_text(app)
