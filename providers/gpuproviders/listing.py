"""What can be asked of a listed offer: the fields of its query language, and what of a query a vendor can apply.

Pure. `Listed` is what a row of the offer table has; prices are micro-dollars, sizes bytes, speeds bits per second.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gpuproviders.query import Field, Kind, Query, Term


class Experience(Protocol):
    """What we have seen of a machine ourselves."""

    @property
    def tries(self) -> int: ...
    @property
    def duds(self) -> int: ...
    @property
    def boot_seconds(self) -> float | None: ...
    @property
    def avoided_until(self) -> float | None: ...


class Listed(Protocol):
    """A row of the offer table."""

    @property
    def provider(self) -> str: ...
    @property
    def offer_id(self) -> str: ...
    @property
    def machine_id(self) -> str | None: ...
    @property
    def gpu(self) -> str: ...
    @property
    def gpu_count(self) -> int: ...
    @property
    def gpu_memory(self) -> int: ...
    @property
    def price(self) -> int: ...
    @property
    def all_in(self) -> int | None: ...
    @property
    def tflop_price(self) -> int | None: ...
    @property
    def token_price(self) -> int | None: ...
    @property
    def spot(self) -> bool: ...
    @property
    def reliability(self) -> float | None: ...
    @property
    def verified(self) -> bool: ...
    @property
    def datacenter(self) -> bool: ...
    @property
    def region(self) -> str | None: ...
    @property
    def cpu_cores(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def disk(self) -> int | None: ...
    @property
    def download_speed(self) -> float | None: ...
    @property
    def upload_speed(self) -> float | None: ...
    @property
    def transfer_price(self) -> int | None: ...
    @property
    def cuda(self) -> str | None: ...
    @property
    def seen(self) -> Experience | None: ...


# --- regions ---------------------------------------------------------------------------------------


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EU = _codes("AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE")
AREAS: Final[dict[str, frozenset[str]]] = {
    "eu": _EU,
    "eea": _EU | _codes("NO IS LI"),
    "europe": _EU | _codes("NO IS LI CH GB UK UA MD RS BA ME MK AL XK AD MC SM"),
    "america": _codes("US CA MX BR AR CL CO PE UY CR PA"),
    "asia": _codes("JP KR CN TW HK SG IN VN TH MY ID PH AE IL SA TR KZ QA"),
    "oceania": _codes("AU NZ"),
    "africa": _codes("ZA KE NG EG MA"),
}
"""Names of areas -> ISO 3166 codes of their countries, as far as the vendors have machines there."""
_CONTINENTS = {"eu": "eu", "eur": "europe", "us": "america", "na": "america", "ca": "america", "ap": "asia", "sea": "asia",
               "oc": "oceania"}  # fmt: skip
"""First parts of RunPod's data-centre ids (EU-RO-1) -> the area, where no country follows."""


def in_region(wanted: str, have: str) -> bool:
    """Whether a place (`Texas, US`, `EU-RO-1`) is in a region: an area, a country's code, or a part of its name."""
    codes = [part.upper() for part in re.split(r"[^A-Za-z]+", have) if len(part) == 2]
    if wanted in AREAS:
        known = [code for code in codes if any(code in area for area in AREAS.values())]
        if known:
            return known[-1] in AREAS[wanted]  # the country stands last: EU-RO-1, Ontario, CA
        return AREAS.get(_CONTINENTS.get(have.partition("-")[0], ""), frozenset()) >= AREAS[wanted]
    if len(wanted) == 2:
        return wanted.upper() in codes
    return wanted in have


def _gpus(wanted: str) -> Sequence[str]:
    from gpuproviders.gpus import UnknownGpu, resolve

    try:
        return resolve(wanted)
    except UnknownGpu as error:
        raise ValueError(f"{error} (names with spaces stand in quotes)") from error


def _gpu_choices() -> Sequence[str]:
    from gpuproviders.gpus import GPUS

    return tuple(GPUS)


def _percent(value: float | None) -> float | None:
    return None if value is None else value * 100


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _giga(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def worth(row: Listed) -> int:
    """Micro-dollars per hour that an offer is compared by: all-in where that is known."""
    return row.price if row.all_in is None else row.all_in


FIELDS: Final[tuple[Field[Listed], ...]] = (
    Field("gpu", Kind.TEXT, lambda o: o.gpu, "GPU model, any spelling: h100 is every H100", expand=_gpus, choices=_gpu_choices),
    Field("gpus", Kind.NUMBER, lambda o: o.gpu_count, "GPUs of the machine", ("count",)),
    Field("vram", Kind.SIZE, lambda o: o.gpu_memory / 1e9, "memory of each GPU"),
    Field("price", Kind.MONEY, lambda o: worth(o) / 1e6, "dollars per hour, all-in: GPUs, disk, expected transfer"),
    Field("each", Kind.MONEY, lambda o: worth(o) / 1e6 / max(1, o.gpu_count), "the same, for each GPU"),
    Field("tflop", Kind.MONEY, lambda o: _mega(o.tflop_price), "dollars per TFLOP-hour of peak bf16"),
    Field("tokens", Kind.MONEY, lambda o: _mega(o.token_price), "dollars per billion tokens, where a run has measured it"),
    Field("reliability", Kind.SHARE, lambda o: _percent(o.reliability), "as the vendor says", ("reliable",)),
    Field("region", Kind.TEXT, lambda o: o.region, "EU, europe, america, asia, a country's code, part of a place", alike=in_region,
          choices=lambda: tuple(AREAS)),
    Field("disk", Kind.SIZE, lambda o: _giga(o.disk), "free disk"),
    Field("ram", Kind.SIZE, lambda o: _giga(o.memory), "memory of the machine"),
    Field("cpu", Kind.NUMBER, lambda o: o.cpu_cores, "CPU cores"),
    Field("cuda", Kind.NUMBER, lambda o: _number(o.cuda), "newest CUDA that its driver runs"),
    Field("down", Kind.SPEED, lambda o: _mega(o.download_speed), "network speed into the machine"),
    Field("up", Kind.SPEED, lambda o: _mega(o.upload_speed), "network speed out of the machine"),
    Field("transfer", Kind.MONEY, lambda o: _mega(o.transfer_price), "dollars per GB out of the machine", ("upcost",)),
    Field("provider", Kind.TEXT, lambda o: o.provider, "vast, runpod, ssh", ("vendor", "cloud"), choices=lambda: ("vast", "runpod", "ssh")),
    Field("machine", Kind.TEXT, lambda o: o.machine_id, "the vendor's machine id"),
    Field("spot", Kind.FLAG, lambda o: o.spot, "interruptible; without it on-demand only", ("interruptible", "bid")),
    Field("verified", Kind.FLAG, lambda o: o.verified, "the vendor has checked the host (RunPod: secure cloud)", ("secure",)),
    Field("unverified", Kind.FLAG, lambda o: not o.verified, "not checked by the vendor"),
    Field("datacenter", Kind.FLAG, lambda o: o.datacenter, "in a data centre"),
    Field("duds", Kind.NUMBER, lambda o: o.seen.duds if o.seen is not None else 0, "times it failed us"),
    Field("boot", Kind.DURATION, lambda o: o.seen.boot_seconds if o.seen is not None else None, "seconds it took to boot for us"),
    Field("known", Kind.FLAG, lambda o: o.seen is not None and o.seen.tries > 0, "we rented it before"),
    Field("avoided", Kind.FLAG, lambda o: o.seen is not None and o.seen.avoided_until is not None, "on the list of machines to avoid"),
)  # fmt: skip
"""Everything that can be asked of an offer."""


def text_of(row: Listed) -> str:
    """What plain words look at."""
    kind = "spot" if row.spot else "on-demand"
    checked = "verified" if row.verified else "unverified"
    place = "datacenter" if row.datacenter else ""
    return f"{row.provider} {row.offer_id} {row.gpu} {row.region} {kind} {checked} {place}".lower()


@dataclass(frozen=True, slots=True)
class Wish:
    """The part of a query that vendors can apply; None and empty where it says nothing."""

    gpus: tuple[str, ...] | None = None
    count: int | None = None
    max_price: float | None = None
    """Dollars per hour."""
    min_reliability: float | None = None
    """0…1."""
    spot: bool | None = None
    unverified: bool = False
    """The query asks for hosts that are not verified."""


def wish_of(query: Query[Listed]) -> Wish:
    """What a vendor may leave out because of this query. The query decides all the same: this only narrows."""
    names: tuple[str, ...] | None = None
    for term in query.about("gpu"):
        if term.sign == "=" and not term.negated:
            wanted = tuple(str(v) for v in term.values)
            names = wanted if names is None else tuple(name for name in names if name in wanted)
    counts = [
        _whole(t) for t in query.about("gpus") if t.sign == "=" and not t.negated and len(t.values) == 1
    ]
    prices = [float(t.values[0]) for t in query.about("price") if t.sign in ("<", "<=") and not t.negated]
    shares = [
        float(t.values[0]) / 100
        for t in query.about("reliability")
        if t.sign in (">", ">=") and not t.negated
    ]
    return Wish(
        gpus=None if names is None else _spelled(names),
        count=counts[0] if counts else None,
        max_price=min(prices, default=None),
        min_reliability=max(shares, default=None),
        spot=_flag(query, "spot"),
        unverified=_flag(query, "verified") is False or _flag(query, "unverified") is True,
    )


def _spelled(names: tuple[str, ...]) -> tuple[str, ...]:
    from gpuproviders.gpus import GPUS

    spelling = {name.lower(): name for name in GPUS}
    return tuple(spelling[name] for name in names if name in spelling)


def _whole(term: Term[Listed]) -> int | None:
    value = float(term.values[0])
    return int(value) if value == int(value) else None


def _flag(query: Query[Listed], name: str) -> bool | None:
    """What the query says of a flag, None when nothing."""
    for term in query.about(name):
        wanted = bool(term.values[0]) is not term.negated
        return wanted is not (term.sign == "!=")
    return None


def near_flag(word: str) -> str | None:
    """The flag that somebody may have meant by a word that occurs nowhere."""
    flags = [name for one in FIELDS if one.kind is Kind.FLAG for name in (one.name, *one.also)]
    found = difflib.get_close_matches(word, flags, n=1, cutoff=0.7)
    return found[0] if found and found[0] != word else None
