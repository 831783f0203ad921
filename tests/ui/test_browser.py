"""`gputui serve` in a real browser: headless Chromium, driven over its own debugging protocol.

Needs `chromium-headless-shell` (apt-get install chromium-headless-shell), so it is not in the default tests.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from ui.conftest import ThreadedDaemon
from ui.web import serving

pytestmark = pytest.mark.slow

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


class Page:
    """One page of a browser: calls, and the events that came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.session: str | None = None
        self.url = ""
        """The websocket that the page opened."""
        self.said = b""
        """What came through it."""
        self.failed: list[str] = []
        """Requests that the page may not make, and errors of its scripts."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json(order if self.session is None else order | {"sessionId": self.session})
        while True:
            news = await self._next()
            if news.get("id") == self._number:
                assert "error" not in news, news
                return news["result"]

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            news = json.loads((await self._socket.receive()).data)
        match news.get("method"):
            case "Network.webSocketCreated":
                self.url = news["params"]["url"]
            case "Network.webSocketFrameReceived":
                frame = news["params"]["response"]
                self.said += base64.b64decode(frame["payloadData"]) if frame["opcode"] == 2 else b""
            case "Network.loadingFailed":
                self.failed.append(str(news["params"]))
            case "Runtime.exceptionThrown":
                self.failed.append(str(news["params"]))
        return news

    async def until(self, *texts: bytes) -> None:
        """Work until all `texts` have come since the last time; then they are forgotten."""
        while not all(text in self.said for text in texts):
            await self._next()
        self.said = b""

    async def click(self, column: int, row: int) -> None:
        """Click on a cell of the terminal."""
        size = {name: int(values[0]) for name, values in parse_qs(urlsplit(self.url).query).items()}
        asked = "JSON.stringify(document.querySelector('.xterm-screen').getBoundingClientRect())"
        box = json.loads((await self.call("Runtime.evaluate", expression=asked))["result"]["value"])
        x = box["x"] + box["width"] * (column + 0.5) / size["width"]
        y = box["y"] + box["height"] * (row + 0.5) / size["height"]
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        code = f"Digit{key}"
        pressed = {"key": key, "code": code, "windowsVirtualKeyCode": ord(key)}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=key, **pressed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def picture(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program is not None, f"one of {', '.join(BROWSERS)} is needed"
    process = await asyncio.create_subprocess_exec(
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--window-size=1200,760", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
        stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    listens = folder / "DevToolsActivePort"
    try:
        async with asyncio.timeout(60):
            while not (listens.exists() and listens.read_text().count("\n")):
                await asyncio.sleep(0.05)  # it tells by this file only
        port, path = listens.read_text().splitlines()
        address = f"ws://127.0.0.1:{port}{path}"
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(address, max_msg_size=1 << 26) as socket,
        ):
            page = Page(socket)
            target = (await page.call("Target.createTarget", url="about:blank"))["targetId"]
            page.session = (await page.call("Target.attachToTarget", targetId=target, flatten=True))[
                "sessionId"
            ]
            for domain in ("Network", "Page", "Runtime"):
                await page.call(f"{domain}.enable")
            yield page
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has children of its own
        await process.wait()


async def test_a_person_clicks_through_the_app_in_a_browser(
    home: Path, served: ThreadedDaemon, tmp_path: Path
) -> None:
    async with serving(home) as door, browser(tmp_path / "profile") as page:
        await page.call("Page.navigate", url=door.address)
        await page.until(b"miras-s", b"burn")
        fleet = await page.picture()
        await page.click(17 + 3, 0)  # "2 Offers" in the header
        await page.until(b"on-demand", b"RTX 4090")
        assert served.fake.counts["offers"] == 1, "the click reached the daemon"
        market = await page.picture()
        await page.press("3")
        await page.until(b"WHERE", b"WHAT")
        told = await page.call("Runtime.evaluate", expression="document.body.className")
        assert "-closed" not in told["result"]["value"]
        assert (
            "token"
            not in (await page.call("Runtime.evaluate", expression="location.href"))["result"]["value"]
        )
        assert page.failed == [], "nothing was fetched that may not be"
    for picture in (fleet, market):
        (tmp_path / "page.png").write_bytes(picture)
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 20_000, "a blank page is far smaller"
    assert fleet != market
