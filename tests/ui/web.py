"""`gputui serve` as a real process on a free port, for the tests of the web face."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Served:
    """Where it listens and what it asks for."""

    process: asyncio.subprocess.Process
    address: str

    @property
    def base(self) -> str:
        return f"http://{urlsplit(self.address).netloc}"

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.address).query)["token"][0]


@asynccontextmanager
async def serving(home: Path, *options: str) -> AsyncIterator[Served]:
    """Serve the daemon of `home`; ends like ctrl+c, and must end well."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("TEXTUAL", "COLUMNS", "LINES", "NO_COLOR"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gputui", "serve", "--port", "0", *options,
        stdout=asyncio.subprocess.PIPE, env=kept | {"GPUTUI_HOME": str(home), "TZ": "UTC"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            address = (await process.stdout.readline()).decode().strip()
        yield Served(process, address)
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            rest, _ = await process.communicate()
    assert process.returncode == 0, rest
