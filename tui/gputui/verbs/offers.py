"""Offers: what can be rented, what it was, what a query can ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpuproviders import listing
from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import OK, PARTIAL, UNREACHABLE
from gputui.verbs.asking import SLOW, call, connect
from gpuwatch.client import wire


def offers(args: argparse.Namespace, console: Console) -> int:
    """List offers. Status 3 when one provider of several could not answer."""
    if args.fields:
        return _fields(console)
    if args.history:
        return _price_history(args, console)
    query = wire.OffersQuery(
        query=" ".join(args.query),
        transfer=args.transfer,
        gpu=args.gpu,
        gpu_count=args.count,
        max_price=args.max_price,
        spot=args.spot,
        min_reliability=args.min_reliability,
        disk=args.disk,
        unverified=args.unverified,
        limit=args.limit if args.sort == "price" else max(args.limit, 1000),
    )
    with connect(timeout=SLOW) as client:
        answer = call(client, "offers", query, wire.Offers)
    rows = sorted(answer.offers, key=_OFFER_SORTS[args.sort])[: args.limit]
    if console.json:
        console.write_json(wire.Offers(offers=rows, problems=answer.problems))
    elif rows:
        measured, ours = any(row.token_price is not None for row in rows), any(row.seen for row in rows)
        heads = [
            "OFFER",
            "GPU",
            ">MEMORY",
            ">PRICE",
            ">/TFLOPh",
            "KIND",
            ">RELIABLE",
            ">DOWN",
            ">DISK",
            "CUDA",
        ]
        heads += [">/1e9 TOKENS"] * measured + ["OURS"] * ours + ["REGION"]
        cells = [_offer_cells(row, measured=measured, ours=ours) for row in rows]
        console.table(tuple(heads), cells, shrink=len(heads) - 1)
    else:
        console.line(
            "No offer fits. Ask for less: a higher --max-price, another --gpu, or --unverified.", "dim"
        )
        _hint(query.query, console)
    for problem in answer.problems:
        console.note(f"gputui: {problem}")
    if answer.problems:
        return PARTIAL if rows else UNREACHABLE
    return OK


def _price_history(args: argparse.Namespace, console: Console) -> int:
    """What prices were each time somebody looked, from this machine's own notes."""
    from gputui import spark

    query = wire.PricesQuery(gpu=args.gpu, gpu_count=args.count, spot=args.spot, days=args.days)
    with connect(timeout=SLOW) as client:
        answer = call(client, "offers.history", query, wire.Prices)
    if console.json:
        console.write_json(answer)
        return OK
    if not answer.series:
        console.line("No prices were noted yet: they are, each time offers are listed.", "dim")
        return OK
    table = []
    for series in answer.series[: args.limit]:
        prices = [price for _, price, _ in series.points]
        table.append((
            series.provider, f"{series.gpu_count} × {series.gpu}", say.rate(min(prices)), say.rate(max(prices)), say.rate(prices[-1]),
            str(len(prices)), spark.sparkline(prices, 24),
        ))  # fmt: skip
    console.table(
        ("VENDOR", "MACHINE", ">LOWEST", ">HIGHEST", ">LAST", ">LOOKS", "CHEAPEST OVER TIME"), table, shrink=1
    )
    return OK


_OFFER_SORTS: dict[str, Callable[[wire.OfferRow], Any]] = {
    "price": listing.worth,
    "tflop": lambda o: (o.tflop_price is None, o.tflop_price, o.price),
    "tokens": lambda o: (o.token_price is None, o.token_price, o.price),
    "gpu": lambda o: (o.gpu, o.price),
    "count": lambda o: (-o.gpu_count, o.price),
    "reliability": lambda o: (-(o.reliability or 0), o.price),
    "region": lambda o: (o.region or "~", o.price),
    "memory": lambda o: (-o.gpu_memory, o.price),
    "download": lambda o: (-(o.download_speed or 0), o.price),
}


def _offer_cells(row: wire.OfferRow, *, measured: bool, ours: bool) -> list[Cell]:
    kind = "spot" if row.spot else "on-demand"
    price = say.rate(listing.worth(row))
    return [
        f"{row.provider}:{row.offer_id}",
        say.gpus(row.gpu, row.gpu_count),
        say.gigabytes(row.gpu_memory),
        # a vendor that does not tell what transfer costs: the price is at least that
        (price if row.all_in is not None or row.transfer_price is not None else f"{price} +?", "bold"),
        say.small(row.tflop_price),
        (kind if row.verified else f"{kind}, unverified", "" if row.verified else "warn"),
        say.percent(row.reliability) if row.stock is None else f"stock {row.stock}",
        say.network(row.download_speed),
        say.gigabytes(row.disk),
        row.cuda or say.UNKNOWN,
        *([say.money(row.token_price)] if measured else []),
        *([_ours(row.seen)] if ours else []),
        row.region or say.UNKNOWN,
    ]


def _ours(seen: wire.SeenRow | None) -> Cell:
    """Our own experience of a machine in few words."""
    if seen is None:
        return ""
    if seen.avoided_until is not None:
        return (f"avoided: {seen.trouble or seen.avoided_by or 'a person says so'}"[:40], "warn")
    parts = [f"{seen.tries - seen.duds} of {seen.tries} good"]
    if seen.boot_seconds is not None:
        parts.append(f"boots in {say.duration(seen.boot_seconds)}")
    if seen.download is not None:
        parts.append(f"{say.size(round(seen.download))}/s home")
    return (", ".join(parts), "warn" if seen.duds else "")


def _fields(console: Console) -> int:
    """What a query can ask for."""
    if console.json:
        fields = [
            {"name": f.name, "also": f.also, "kind": f.kind.name.lower(), "doc": f.doc}
            for f in listing.FIELDS
        ]
        console.write_json({"fields": fields})
        return OK
    console.table(
        ("FIELD", "ALSO", "VALUE", "WHAT"),
        [[f.name, ", ".join(f.also), f.kind.value, f.doc] for f in listing.FIELDS],
        shrink=3,
    )
    return OK


def _hint(text: str, console: Console) -> None:
    """A word that was looked for in the text may have been meant as a flag."""
    from gpuproviders.query import read

    for word in read(text, listing.FIELDS).words:
        meant = listing.near_flag(word)
        also = f"; did you mean {meant}?" if meant else ""
        console.line(f"{word!r} is no field: it was looked for as text{also}", "dim")
