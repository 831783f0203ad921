"""The account's balance, spend and limit, which REST v2 does not have: one question to GraphQL through `sdk`.

Whatever goes wrong (410 after the retirement included) is "unknown".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuproviders.checked import price, text
from gpuproviders.money import MicroUsd, parse_usd
from gpuproviders.runpod import sdk
from gpuproviders.runpod.sdk import CHILD, DEADLINE_SECONDS

_QUERY = "query myself { myself { id clientBalance currentSpendPerHr spendLimit } }"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Money:
    """What the account's owner has and spends; each None when it was not said."""

    user_id: str | None = None
    balance: MicroUsd | None = None
    spending: MicroUsd | None = None
    """Micro-dollars per hour."""
    limit: MicroUsd | None = None
    """Micro-dollars per hour."""


UNKNOWN = Money()


async def ask(key: str, url: str, *, seconds: float = DEADLINE_SECONDS, module: str = CHILD) -> Money:
    """Ask once. Never raises for what the vendor or the package does: the answer is then UNKNOWN."""
    answer = await sdk.ask(key, url, _QUERY, seconds=seconds, module=module)
    if answer.data is None:
        log.info("the balance is not told: %s", answer.error)
        return UNKNOWN
    return read(answer.data)


def read(answer: Mapping[str, Any]) -> Money:
    """GraphQL's data. Pure."""
    me = answer.get("myself")
    if not isinstance(me, dict):
        return UNKNOWN
    balance = parse_usd(me.get("clientBalance"))
    return Money(
        user_id=text(me.get("id"), 100),
        balance=None if balance is None else MicroUsd(balance),
        spending=price(me.get("currentSpendPerHr")),
        limit=price(me.get("spendLimit")),
    )
