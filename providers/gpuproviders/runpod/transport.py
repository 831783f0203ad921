"""RunPod's REST v2 over aiohttp: one try per call, quotas kept, answers sorted into our errors.

The official package has no REST v2 in any release that can be installed beside Vast's, and its import
takes over logging; it serves the balance only, in a process of its own (`balance`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gpuproviders import keys
from gpuproviders.errors import (
    Ambiguous,
    OfferGone,
    ProviderError,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    scrub,
)
from gpuproviders.runpod import quota

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

NAME = "runpod"
CALL_SECONDS = 30.0
CONNECT_SECONDS = 5.0
DEADLINE_SECONDS = 75.0
"""A whole call, waiting for its turn included."""
_LARGEST = 32 << 20
"""Bytes of an answer; 500 pods are about 1 MB."""
_NO_CAPACITY = (
    "no longer any instances available",
    "no instances currently available",
    "does not have the resources",
)
log = logging.getLogger(__name__)


class BadAddress(ValueError):
    """The key would travel in the clear."""


def checked_url(url: str) -> str:
    """The base address. Raises BadAddress: plain http is for this machine only."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    ):
        return url.rstrip("/")
    raise BadAddress(f"RunPod's address must be https (or http on this machine), not {scrub(url)[:80]!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, parsed JSON (None when it was none), headers."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Transport:
    """Calls to one RunPod account. `key` is asked for at each call, so that a new login counts at once."""

    def __init__(
        self, key: Callable[[], str | None], url: str, *, paced: bool = True, seconds: float = CALL_SECONDS
    ) -> None:
        self.key = key
        self.url = checked_url(url)
        self._paced = paced
        self._seconds = seconds
        self._session: ClientSession | None = None
        self._windows: tuple[quota.Window, ...] = ()

    async def read(self, path: str, **query: str) -> Any:
        """GET. Returns the JSON of a 200; everything else raises.

        Raises Unauthorized, Throttled, Refused (with code `http-NNN` or `not-found`) or Unavailable.
        """
        answer = await self._call("GET", path, query, None, reserve=quota.RESERVE)
        if answer is None:
            raise Unavailable(f"RunPod did not answer within {self._seconds:.0f} s", provider=NAME)
        return self._sort(answer, write=False)

    async def write(
        self, method: str, path: str, body: object = None, *, seconds: float | None = None
    ) -> Any:
        """POST or DELETE, sent once. Returns the JSON, None for a 204.

        aiohttp sends a DELETE (never a POST) again when a kept connection turns out to be dead: what it
        deletes has a unique id, so the second one finds nothing.

        Raises Refused/OfferGone/Throttled/Unauthorized (nothing happened) or Ambiguous.
        """
        answer = await self._call(method, path, {}, body, seconds=seconds)
        if answer is None:
            raise Ambiguous("RunPod did not answer; the request may have been carried out", provider=NAME)
        return self._sort(answer, write=True)

    async def lines(
        self, path: str, *, seconds: float, idle: float, limit: int, **query: str
    ) -> AsyncIterator[bytes]:
        """The lines of an event stream: until it pauses for `idle` seconds, `limit` bytes or `seconds` are over.

        Raises like `read` when there is no stream at all; a stream that breaks off just ends.
        """
        seen = 0
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        async with self._request("GET", path, query, None, seconds) as response:
            if response.status != 200:
                self._sort(await _whole(response), write=False)
            while seen < limit and (left := ends - loop.time()) > 0:
                try:
                    async with asyncio.timeout(min(left, max(idle, 3 * idle if seen == 0 else idle))):
                        line = await response.content.readline()
                except Exception as error:  # noqa: BLE001 - a broken stream shows itself in many ways
                    log.debug("log stream ended: %s", type(error).__name__)
                    return
                if not line:
                    return
                seen += len(line)
                yield line

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- sending ---------------------------------------------------------------------------------

    def _token(self) -> str:
        key = self.key()
        if not key:
            raise Unauthorized(f"no RunPod API key: {keys.missing('runpod')}", provider=NAME, code="no-key")
        return key

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: object, seconds: float
    ) -> AsyncIterator[ClientResponse]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": "gputui", "Accept": "application/json, text/event-stream"}
            )
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token()}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        limits = aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS)
        async with self._session.request(
            method,
            self.url + path,
            params=query,
            data=data,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
        ) as response:
            self._windows = quota.windows(response.headers.get("RateLimit"), self._now()) or self._windows
            yield response

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object,
        *,
        reserve: int = 0,
        seconds: float | None = None,
    ) -> Answer | None:
        """None when no whole answer came back."""
        self._token()
        await self._turn(reserve)
        try:
            async with (
                asyncio.timeout(DEADLINE_SECONDS),
                self._request(method, path, query, body, seconds or self._seconds) as response,
            ):
                return await _whole(response)
        except ProviderError:
            raise
        except (OSError, TimeoutError, ValueError) as error:
            log.info("runpod %s %s: %s", method, path.partition("?")[0], type(error).__name__)
        except Exception as error:
            if not type(error).__module__.startswith("aiohttp"):
                raise
            log.info("runpod %s %s: %s", method, path.partition("?")[0], type(error).__name__)
        return None

    async def _turn(self, reserve: int) -> None:
        """Wait for the quota; a long wait is Throttled at once, because nothing was sent yet."""
        wait = quota.pause(self._windows, self._now(), reserve=reserve) if self._paced else 0.0
        if wait > DEADLINE_SECONDS:
            raise Throttled(
                "RunPod's quota of requests is used up", provider=NAME, code="quota", retry_after=wait
            )
        if wait:
            await asyncio.sleep(wait)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # --- sorting ---------------------------------------------------------------------------------

    def _sort(self, answer: Answer, *, write: bool) -> Any:
        """The JSON of an answer that did what was asked, or the error that says what may be concluded."""
        body = answer.body if isinstance(answer.body, dict) else {}
        text = next((body[k] for k in ("detail", "error", "title") if isinstance(body.get(k), str)), "")
        errors = body.get("errors")
        if isinstance(errors, list):
            text = "; ".join([text, *(str(e) for e in errors[:5])])
        message = scrub(f"RunPod: {text}" if text else f"RunPod answered HTTP {answer.status}", self.key())
        spoken = isinstance(answer.body, dict)
        code = f"http-{answer.status}"
        error: ProviderError
        match answer.status:
            case 204 if write:  # to a read it says nothing, least of all that there is nothing
                return None
            case 200 | 201 if isinstance(answer.body, dict | list):
                return answer.body
            case 429:
                now = self._now()
                wait = quota.retry_after(answer.headers, self._windows, now)
                error = Throttled(message, provider=NAME, code=code, retry_after=wait)
            case 401:
                error = Unauthorized(f"{message} (is the API key right?)", provider=NAME, code="auth_error")
            case 403 if spoken and not write:
                error = Unauthorized(
                    f"{message} (the key's scope does not allow it)", provider=NAME, code="forbidden"
                )
            case 402 if spoken:
                error = Refused(message, provider=NAME, code="no-credit")
            case 404 if spoken and "not found" in text.lower():
                error = Refused(message, provider=NAME, code="not-found")
            case 400 if any(words in text.lower() for words in _NO_CAPACITY):
                error = OfferGone(message, provider=NAME, code="no-capacity")
            case status if spoken and 400 <= status < 500 and status not in (408, 425):
                error = Refused(message, provider=NAME, code=code)
            case _ if write:
                error = Ambiguous(message, provider=NAME, code=code)
            case _:
                error = Unavailable(message, provider=NAME, code=code)
        raise error


async def _whole(response: ClientResponse) -> Answer:
    """Status, headers and the body as JSON; a body that is too large or is none is None."""
    raw = await response.content.read(_LARGEST + 1) if response.status != 204 else b""
    while raw and len(raw) <= _LARGEST and not response.content.at_eof():
        more = await response.content.read(_LARGEST + 1 - len(raw))
        if not more:
            break
        raw += more
    body: Any = None
    if len(raw) <= _LARGEST:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
    return Answer(response.status, body, response.headers)
