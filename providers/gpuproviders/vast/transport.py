"""The official SDK's HTTP client, in a worker thread, with its answers sorted into our errors.

The SDK is imported on the first call (0.5 s, 60 MB) and never earlier. It retries
every method by itself, so writes go through a client of one attempt; otherwise a
create that timed out would be sent, and billed, three times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpuproviders import keys
from gpuproviders.checked import Malformed
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
from gpuproviders.vast.parse import identifier

if TYPE_CHECKING:
    from vastai.api.client import VastClient

NAME = "vast"
CALL_SECONDS = 20.0
"""Usual time limit of one HTTP attempt. The whole call, waiting for its turn included, has DEADLINE_SECONDS."""
DEADLINE_SECONDS = 75.0
ANSWER_BYTES = 8 << 20
"""Longest answer that is read, bytes: a page of 25 instances has some 100 kB. What is longer is no answer."""

# Vast allows one call per endpoint and identity every so many seconds (its x-rate-limit table).
_THRESHOLDS = {
    "list": 1.0, "show": 2.0, "manage": 1.0, "create": 4.5, "destroy": 3.0, "ssh": 1.0, "search": 10.0, "logs": 1.0,
    "user": 1.0, "charges": 1.0,
}  # fmt: skip
_BURST = {"search": 4}
"""Searches are 10 a minute, not one in so many seconds: four at once and one every ten seconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, parsed JSON (None when it was none), Retry-After in seconds."""

    status: int
    body: Any
    retry_after: float | None
    key: str | None = None
    """The key that was sent: whatever of the answer is shown to people must not contain it."""


class Transport:
    """Calls to one Vast account. `key` is asked for at each call, so that a new login counts at once."""

    def __init__(
        self, key: Callable[[], str | None], url: str, *, paced: bool = True, seconds: float = CALL_SECONDS
    ) -> None:
        self._key = key
        self._url = url.rstrip("/")
        self._paced = paced
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="vast")
        self._turns: dict[str, asyncio.Lock] = {}
        self._due: dict[str, float] = {}
        """When each endpoint's calls so far are paid for at one call an interval."""

    async def read(
        self, method: Literal["get", "post", "put"], path: str, *, endpoint: str, **kwargs: Any
    ) -> Any:
        """A call that changes nothing. Returns the JSON of a 200; everything else raises.

        Raises Unauthorized, Throttled, Refused (with the vendor's code) or Unavailable.
        """
        answer = await self._call(method, path, endpoint, kwargs, attempts=2)
        if answer is None:
            raise Unavailable(f"Vast did not answer within {self._seconds:.0f} s", provider=NAME)
        return self._sort(answer, write=False)

    async def write(
        self, method: Literal["put", "post", "delete"], path: str, *, endpoint: str, **kwargs: Any
    ) -> Any:
        """A call that changes something: sent exactly once.

        Raises Refused/OfferGone/Throttled/Unauthorized (nothing happened) or Ambiguous.
        """
        answer = await self._call(method, path, endpoint, kwargs, attempts=1)
        if answer is None:
            raise Ambiguous("Vast did not answer; the request may have been carried out", provider=NAME)
        return self._sort(answer, write=True)

    def close(self) -> None:
        """Let the worker threads go; a call in flight ends by its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(
        self, method: str, path: str, endpoint: str, kwargs: dict[str, Any], *, attempts: int
    ) -> Answer | None:
        key = self._key()
        if not key:
            raise Unauthorized(f"no Vast API key: {keys.missing('vast')}", provider=NAME, code="no-key")
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                lock = self._turns.setdefault(endpoint, asyncio.Lock())
                async with lock:
                    await self._pace(endpoint)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._threads, self._send, key, method, path, kwargs, attempts
                )
        except TimeoutError:
            return None  # a server that trickles bytes outlives the time limit of a single read

    async def _pace(self, endpoint: str) -> None:
        """Wait for this endpoint's turn: one call an interval, the first few of `_BURST` at once."""
        loop = asyncio.get_running_loop()
        interval = _THRESHOLDS[endpoint]
        due = self._due.get(endpoint, 0.0)
        wait = due - (_BURST.get(endpoint, 1) - 1) * interval - loop.time()
        if self._paced and wait > 0:
            await asyncio.sleep(wait)
        self._due[endpoint] = max(due, loop.time()) + interval

    def _send(self, key: str, method: str, path: str, kwargs: dict[str, Any], attempts: int) -> Answer | None:
        """In a worker thread. None when no answer came back at all."""
        client = _sdk_client(key, self._url, attempts, self._seconds)
        try:
            response = getattr(client, method)(path, **kwargs)
        except Exception as error:  # noqa: BLE001 - requests' whole tree, plus what its adapters leak
            logging.getLogger(__name__).info("vast %s %s: %s", method, path, scrub(type(error).__name__))
            return None
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        try:
            retry_after = float(response.headers.get("Retry-After", ""))
        except ValueError:
            retry_after = None
        return Answer(response.status_code, body, retry_after, key)

    @staticmethod
    def _sort(answer: Answer, *, write: bool) -> Any:
        key = answer.key
        body = answer.body if isinstance(answer.body, dict) else {}
        code = scrub(body["error"], key)[:100] if isinstance(body.get("error"), str) else None
        said = next((body[k] for k in ("msg", "detail", "error") if isinstance(body.get(k), str)), "")
        text = scrub(said, key)
        message = scrub(f"Vast: {text}" if text else f"Vast answered HTTP {answer.status}", key)
        error: ProviderError | None = None
        made = body.get("new_contract")
        if write and made is not None:
            if answer.status == 200 and body.get("success") is not False:
                return answer.body
            # whatever else the answer says: a contract that has a number exists, and bills
            raise Ambiguous(message, provider=NAME, code=code, instance_id=_contract(made))
        if answer.status == 429 or code == "rate_limit_exceeded" or "too frequent" in text:
            hint = body.get("retry_after")
            wait = answer.retry_after if answer.retry_after is not None else hint
            error = Throttled(message, provider=NAME, code=code, retry_after=_seconds(wait))
        elif code == "auth_error" or (
            answer.status == 401 or (answer.status == 403 and "login" in text.lower())
        ):
            error = Unauthorized(
                f"{message} (is the API key right?)", provider=NAME, code=code or "auth_error"
            )
        elif "no_such_ask" in f"{code} {text}":
            error = OfferGone(message, provider=NAME, code="no_such_ask")
        elif (
            400 <= answer.status < 500
            and answer.status not in (408, 409, 425)
            and isinstance(answer.body, dict)
        ):
            error = Refused(message, provider=NAME, code=code or f"http-{answer.status}")
        elif answer.status == 200 and isinstance(answer.body, dict | list):
            if body.get("success") is not False:
                return answer.body
            error = Refused(message, provider=NAME, code=code or "refused")
        elif write:
            error = Ambiguous(message, provider=NAME, code=code)
        else:
            error = Unavailable(message, provider=NAME, code=code)
        raise error


def _contract(made: object) -> str | None:
    try:
        return identifier(made, "new_contract")
    except Malformed:
        return None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86_400:
        return None
    return float(value)


def _sdk_client(key: str, url: str, attempts: int, seconds: float) -> VastClient:
    from gpuproviders.vast.client import BoundedClient

    # the SDK gives its logger a handler on stderr at import; the daemon's log is the only place for it
    logging.getLogger("vastai").handlers.clear()
    return BoundedClient(
        api_key=key,
        server_url=url,
        retry=attempts,
        timeout=seconds,
        most=ANSWER_BYTES,
        deadline=DEADLINE_SECONDS,
    )
