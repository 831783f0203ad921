"""The official SDK's client, with the two bounds that it lacks: how long an answer may be, and how long it may take.

Imported on the first call only: the SDK costs 0.5 s and 60 MB.
"""

from __future__ import annotations

import time
from typing import Any

import requests  # noqa: TID251 - the SDK's own way to send
from urllib3.exceptions import HTTPError
from vastai.api.client import VastClient, VastSession

_CHUNK = 1 << 16


class TooMuch(ValueError):
    """The answer is longer, or took longer, than any that means something."""


class BoundedClient(VastClient):  # type: ignore[misc]
    """Sends as the SDK does; reads at most `most` bytes of an answer (unpacked), for at most `deadline` seconds."""

    def __init__(self, *, most: int, deadline: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._most = most
        self._deadline = deadline

    def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        json_data: Any = None,
        timeout: float | None = None,
    ) -> requests.Response:
        """Once, and for a read once more when no answer came. Raises requests' and urllib3's exceptions, TooMuch."""
        for left in reversed(range(self.retry)):
            try:
                return self._once(
                    method, url, headers, json_data, self.timeout if timeout is None else timeout
                )
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, HTTPError):
                if not left:
                    raise
        raise ValueError("no attempt is allowed")

    def _once(
        self, method: str, url: str, headers: dict[str, str], json_data: Any, timeout: float
    ) -> requests.Response:
        until = time.monotonic() + self._deadline
        response: requests.Response
        with VastSession(self.server_url) as session:
            request = session.prepare_request(requests.Request(method, url, headers=headers, json=json_data))
            with session.send(request, timeout=timeout, stream=True) as response:
                found = bytearray()
                # one system call each: a server that trickles is noticed in time
                while piece := response.raw.read1(_CHUNK, decode_content=True):
                    found += piece
                    if len(found) > self._most or time.monotonic() > until:
                        raise TooMuch(f"more than {self._most} bytes, or {self._deadline:.0f} s")
                # where requests itself keeps what it has read
                response._content = bytes(found)  # noqa: SLF001
                return response
