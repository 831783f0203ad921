"""The app over a real websocket: for who has the token, under our own name, from our own page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import psutil
import pytest
from ui.conftest import ThreadedDaemon
from ui.web import Served, serving

pytestmark = pytest.mark.usefixtures("served")


async def until_said(socket: aiohttp.ClientWebSocketResponse, *texts: bytes) -> bytes:
    """What has come once all `texts` are in it."""
    seen = b""
    async with asyncio.timeout(60):
        while not all(text in seen for text in texts):
            message = await socket.receive()
            assert message.type in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}, message
            seen += message.data if isinstance(message.data, bytes) else message.data.encode()
    return seen


async def come_in(client: aiohttp.ClientSession, door: Served) -> None:
    async with client.get(door.address, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        assert "SameSite=Strict" in answer.headers["Set-Cookie"]


def jar() -> aiohttp.CookieJar:
    return aiohttp.CookieJar(unsafe=True)  # cookies of an address instead of a name


async def test_the_app_is_played_over_the_websocket(home: Path, served: ThreadedDaemon) -> None:
    async with serving(home) as door, aiohttp.ClientSession(cookie_jar=jar()) as client:
        await come_in(client, door)
        async with client.ws_connect(f"{door.base}/ws?width=120&height=40", origin=door.base) as page:
            await until_said(page, b"miras-s", b"burn")
            await page.send_json(["stdin", "2"])
            await until_said(page, b"on-demand", b"RTX 4090")
            await page.send_json(["resize", {"width": 80, "height": 24}])
            await page.send_json(["stdin", "1"])
            await until_said(page, b"miras-s")
            children = psutil.Process(door.process.pid).children(recursive=True)
            assert children, "each page has a process of its own"
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 30)
        assert (len(gone), alive) == (len(children), []), "and it ends with its page"


@pytest.mark.parametrize(
    ("headers", "cookie", "status"),
    [
        ({}, "", 403),
        ({}, "guessed", 403),
        ({"Origin": "http://evil.example"}, "right", 403),
        ({"Origin": ""}, "right", 403),
        ({"Host": "evil.example"}, "right", 421),
    ],
    ids=("no token", "a wrong token", "another page", "no page", "another name"),
)
async def test_nobody_else_reaches_the_app(
    home: Path, headers: dict[str, str], cookie: str, status: int
) -> None:
    async with serving(home) as door, aiohttp.ClientSession(cookie_jar=jar()) as client:
        own = (
            {"Cookie": f"gputui-{door.port}={door.token if cookie == 'right' else cookie}"} if cookie else {}
        )
        asked = {"Origin": door.base} | headers | own
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"{door.base}/ws", headers=asked)
        assert refused.value.status == status
        assert psutil.Process(door.process.pid).children() == [], "no app was started for it"


async def test_without_the_token_no_page_and_no_file_is_served(home: Path) -> None:
    async with serving(home) as door, aiohttp.ClientSession(cookie_jar=jar()) as client:
        for path in ("/", "/?token=guessed", "/static/js/textual.js", "/download/x"):
            async with client.get(door.base + path) as answer:
                assert answer.status == 403
                assert "gputui serve" in await answer.text()
        assert [
            c.laddr.ip for c in psutil.Process(door.process.pid).net_connections() if c.status == "LISTEN"
        ] == ["127.0.0.1"]


async def test_the_page_fetches_nothing_from_elsewhere_and_may_not_be_framed(home: Path) -> None:
    async with serving(home) as door, aiohttp.ClientSession(cookie_jar=jar()) as client:
        await come_in(client, door)
        async with client.get(door.base) as answer:
            page = await answer.text()
            policy = answer.headers["Content-Security-Policy"]
        assert page.count("http") == page.count(f"http://127.0.0.1:{door.port}")
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert door.token not in page
        for path in ("/static/js/textual.js", "/static/css/xterm.css", "/style/page.css"):
            async with client.get(door.base + path) as answer:
                assert answer.status == 200


async def test_a_fifth_page_is_told_to_wait(home: Path) -> None:
    async with serving(home) as door, aiohttp.ClientSession(cookie_jar=jar()) as client:
        await come_in(client, door)
        pages = [await client.ws_connect(f"{door.base}/ws", origin=door.base) for _ in range(4)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"{door.base}/ws", origin=door.base)
        assert refused.value.status == 503
        for page in pages:
            await until_said(page, b"burn")
            await page.close()


async def test_a_port_in_use_is_said(
    home: Path, served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    from gputui.cli import main

    async with serving(home) as door:
        status = await asyncio.to_thread(main, ["serve", "--port", str(door.port)])
    assert status == 2
    assert "--port 0 takes a free one" in capsys.readouterr().err
