"""What we assume of a vendor, and whether what the canary saw agrees. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpuproviders.gpus import GPUS, canonical
from gpuproviders.money import format_usd
from gpuproviders.worth import DEARER


class Verdict(Enum):
    """Whether an assumption held."""

    HOLDS = "holds"
    DIFFERS = "DIFFERS"
    NOT_SEEN = "not seen"


@dataclass(frozen=True, slots=True)
class Finding:
    """One assumption. `where` names the line of docs/clouds.md or the part of the code that rests on it."""

    assumption: str
    verdict: Verdict
    seen: str
    where: str


@dataclass(slots=True)
class Seen:
    """What the canary saw. Times are seconds since its start; None is "not seen"."""

    vendor: str
    version: str = ""
    offer: str = ""
    gpu: str = ""
    price: int | None = None
    """Micro-dollars per hour."""
    listed_price: int | None = None
    """Micro-dollars per hour, as the list has it while it runs."""
    rented_at: float | None = None
    listed_at: float | None = None
    """First complete list with our label."""
    labelled: bool | None = None
    """Whether the list had the instance under our label when it had it at all."""
    looked_up: bool | None = None
    """Whether a look-up by id found what the list had."""
    statuses: dict[str, str] = field(default_factory=dict)
    """The vendor's status texts -> what we took them for."""
    unknown: set[str] = field(default_factory=set)
    """Status texts of listings whose power we could not tell."""
    endpoints: set[str] = field(default_factory=set)
    booted_after: float | None = None
    stopped_at: float | None = None
    stopped_price: int | None = None
    started_at: float | None = None
    back_at: float | None = None
    """The daemon has heard the box again after the restart."""
    box: dict[str, Any] = field(default_factory=dict)
    """`canary.json`, as it came home."""
    payload: str | None = None
    """SHA-256 of `payload.bin` as it came home."""
    receipt: bool = False
    destroy_sent_at: float | None = None
    unlisted_at: float | None = None
    """First complete list without it."""
    gone_at: float | None = None
    """The daemon has confirmed that it is gone."""
    lookup_after: str | None = None
    """What a look-up by id said after that: `none`, `still there`, or an error."""
    credit_before: int | None = None
    credit_after: int | None = None
    cost: int | None = None
    """What we reckon that it cost, micro-dollars."""
    trouble: list[str] = field(default_factory=list)
    """Errors of reads, and what the daemon said hindered it, in the order seen."""
    state: str = ""
    """The run's last state."""


LAG = 60.0
"""Seconds for which a new machine may be missing from lists before a create counts as doubtful."""
GONE = 120.0


def judge(seen: Seen) -> list[Finding]:
    """Every assumption with what was seen of it."""
    found: list[Finding] = []

    def say(assumption: str, holds: bool | None, text: str, where: str) -> None:
        verdict = Verdict.NOT_SEEN if holds is None else Verdict.HOLDS if holds else Verdict.DIFFERS
        found.append(Finding(assumption, verdict, text, where))

    say(
        "a machine carries the label that it was created with",
        seen.labelled,
        _yes(seen.labelled),
        "label; I2",
    )
    lag = _after(seen.rented_at, seen.listed_at)
    say(
        f"a new machine is listed within {LAG:.0f} s", None if lag is None else lag <= LAG,
        "never listed" if lag is None else f"{lag:.1f} s after the create was answered", "watch.lost_create",
    )  # fmt: skip
    say("a look-up by id finds what the list has", seen.looked_up, _yes(seen.looked_up), "absence; I3")
    words = ", ".join(f"{text!r} ({power})" for text, power in sorted(seen.statuses.items())) or "none"
    say(
        "every status is one we know", None if not seen.statuses else not seen.unknown, words, "parse: _POWER"
    )
    say(
        "SSH answers on an address that the listing names", seen.booted_after is not None if seen.rented_at is not None else None,
        f"{', '.join(sorted(seen.endpoints)) or 'no address'}; booted after {_seconds(seen.booted_after)}", "SSH",
    )  # fmt: skip
    _of_box(seen, say)
    _of_stop(seen, say)
    say(
        "what was promised came home and was proved", seen.receipt if seen.box or seen.state else None,
        "a receipt" if seen.receipt else "no receipt", "custody; I1",
    )  # fmt: skip
    left = _after(seen.destroy_sent_at, seen.unlisted_at)
    say(
        f"a destroyed machine is off the list within {GONE:.0f} s", None if left is None else left <= GONE,
        "still listed, or no list" if left is None else f"{left:.1f} s after the destroy was sent", "absence; I3",
    )  # fmt: skip
    say(
        "a look-up by id says so when a machine is gone", None if seen.lookup_after is None else seen.lookup_after == "none",
        seen.lookup_after or "not asked", "what differs: gone",
    )  # fmt: skip
    say(
        "it is confirmed gone",
        seen.gone_at is not None if seen.rented_at is not None else None,
        seen.state,
        "I2",
    )
    listed, offered = seen.listed_price, seen.price
    say(
        f"a machine is listed at no more than {DEARER} times what it was offered at",
        None if listed is None or not offered else listed <= offered * DEARER,
        "not told"
        if listed is None or offered is None
        else f"offered {format_usd(offered)}/h, listed {format_usd(listed)}/h",
        "a machine that is too dear is given back",
    )
    _of_money(seen, say)
    return found


def _of_box(seen: Seen, say: Any) -> None:
    box = seen.box
    gpus = [str(name) for name in box.get("gpus", [])][:8] if isinstance(box.get("gpus"), list) else []
    names = {canonical(name) for name in gpus}
    say(
        "the driver calls the GPU what the offer called it", None if not gpus else names == {seen.gpu},
        f"offer {seen.gpu or 'unknown'}, driver {', '.join(sorted(set(gpus))) or 'not heard'}", "gpus.toml",
    )  # fmt: skip
    say(
        "the GPU is in the table",
        None if not seen.gpu else seen.gpu in GPUS,
        seen.gpu or "not known",
        "gpus.toml",
    )
    key, on_box = box.get("own_key"), box.get("accounts_key_on_box")
    say(
        "the vendor puts a key of its own into the box",
        key if isinstance(key, bool) else None,
        _yes(key),
        "dead-man switch",
    )
    say(
        "the account's key is not on the box", not on_box if isinstance(on_box, bool) else None,
        "not heard" if on_box is None else "it is there" if on_box else "it is not", "I6",
    )  # fmt: skip


def _of_stop(seen: Seen, say: Any) -> None:
    asked = seen.box.get("stop")
    text = str(asked) if asked is not None else "not asked"
    # the stop may end the program before it hears the answer
    worked = None if asked is None else seen.stopped_at is not None or text.startswith("accepted")
    say("a box may stop itself with its own key", worked, text, "dead-man switch; keys")
    stopped = seen.stopped_at is not None
    say(
        "a machine that was stopped starts again", seen.back_at is not None if stopped else None,
        f"heard again {_seconds(_after(seen.started_at, seen.back_at))} after the start" if stopped else "not stopped",
        "start",
    )  # fmt: skip
    changed = any("host key" in line.lower() for line in seen.trouble)
    say("its host key stays the same over that", not changed if stopped and (seen.back_at or changed) else None,
        "it changed" if changed else "the same" if stopped else "not stopped", "host keys")  # fmt: skip
    told = seen.box.get("payload")
    kept = None if not stopped or not isinstance(told, str) else seen.payload == told
    say("a stop keeps the work folder", kept, "not stopped" if kept is None else "the same bytes" if kept else "other bytes, or none",
        "capabilities: stop_keeps_disk")  # fmt: skip
    lower = (
        None
        if not stopped or seen.stopped_price is None or seen.price is None
        else seen.stopped_price <= seen.price
    )
    price = "not told" if seen.stopped_price is None else f"listed at {format_usd(seen.stopped_price)}/h"
    say("a stopped machine costs no more than a running one", lower, price, "disk_price")


def _of_money(seen: Seen, say: Any) -> None:
    before, after, cost = seen.credit_before, seen.credit_after, seen.cost
    if before is None or after is None or cost is None:
        say(
            "the balance falls by about what we reckon",
            None,
            "the vendor did not tell the balance before and after",
            "cost",
        )
        return
    fell = before - after
    # billing lags, and other machines of the account cost too: only a large difference says anything
    holds = fell <= max(2 * cost, cost + 50_000)
    say(
        "the balance falls by no more than about what we reckon",
        holds,
        f"fell by {format_usd(fell)}, reckoned {format_usd(cost)}",
        "cost",
    )


def _after(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.0f} s"


def _yes(value: object) -> str:
    return "yes" if value is True else "no" if value is False else "not heard"
