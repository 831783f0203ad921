"""The calls that spend: offers, what a spec would do, launching."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

from gpuproviders import listing
from gpuproviders.errors import ProviderError
from gpuproviders.gpus import UnknownGpu, resolve
from gpuproviders.model import Offer, OfferQuery
from gpuproviders.money import MicroUsd, format_usd
from gpuproviders.query import Query, QueryError, marked, parse
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon import accounting, rows
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.knowing import Knowing
from gpuwatch.daemon.renting import candidates
from gpuwatch.daemon.resuming import ResumeError
from gpuwatch.daemon.resuming import resolve as resolve_resume
from gpuwatch.lifecycle import events as e
from gpuwatch.prices import USUAL_DISK, PriceBook
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.spec.sizing import reckoned, settled
from gpuwatch.spec.units import format_duration, format_size

_RANKED = 20
"""Offers of a market check that are told one by one."""
_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"


def _names(wishes: list[str]) -> tuple[str, ...]:
    """Canonical GPU names of any spelling. Raises CallFailed(usage)."""
    try:
        return tuple(dict.fromkeys(n for wish in wishes for n in resolve(wish)))
    except UnknownGpu as error:
        raise CallFailed(
            wire.Code.USAGE, f"{error}. Names are matched in any spelling (h100, rtx_4090)."
        ) from error


def _wish(query: wire.OffersQuery) -> tuple[Query[listing.Listed], OfferQuery]:
    """What is asked, and what of it vendors are told: they may send too much, never too little. Raises CallFailed(usage)."""
    try:
        asked = parse(query.query, listing.FIELDS)
    except QueryError as error:
        raise CallFailed(wire.Code.USAGE, f"{error}\n{marked(query.query, error)}") from error
    wish = listing.wish_of(asked)
    names = _names(query.gpu)
    if wish.gpus is not None:
        names = tuple(n for n in wish.gpus if n in names) if names else wish.gpus
        if not names:
            raise CallFailed(wire.Code.USAGE, "no GPU fits both --gpu and the query; leave one of them out")
    prices = [
        p
        for p in (query.max_price, None if wish.max_price is None else round(wish.max_price * 1e6))
        if p is not None
    ]
    shares = [s for s in (query.min_reliability, wish.min_reliability) if s is not None]
    limit = max(1, min(query.limit, 20_000))
    return asked, OfferQuery(
        gpu_names=names,
        gpu_count=query.gpu_count if query.gpu_count is not None else wish.count,
        max_price=MicroUsd(min(prices)) if prices else None,
        spot=query.spot if wish.spot is None else wish.spot,
        min_reliability=max(shares) if shares else None,
        disk=query.disk,
        verified_only=not (query.unverified or wish.unverified),
        limit=20_000 if asked else limit,
    )


class Launching(Knowing):
    """Looking at the market and renting from it. `start_run` starts driving a run."""

    def __init__(self, ctx: Context, *, start_run: Callable[[str], None], prices: PriceBook) -> None:
        super().__init__(ctx)
        self._prices = prices
        self._start_run = start_run

    async def offers(self, query: wire.OffersQuery) -> wire.Offers:
        asked, wish = _wish(query)
        found: list[wire.OfferRow] = []
        problems: list[str] = []
        fleets = list(self._ctx.fleets.values())
        book = await self.known()
        speeds: dict[tuple[str, int], tuple[float, str] | None] = {}
        answers = await asyncio.gather(*(f.provider.offers(wish) for f in fleets), return_exceptions=True)
        for fleet, answer in zip(fleets, answers, strict=True):
            if isinstance(answer, ProviderError):
                problems.append(f"{fleet.provider.name}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                for offer in answer:
                    kind = (offer.gpu_name, offer.gpu_count)
                    if kind not in speeds:
                        speeds[kind] = self.speed(book, offer)
                    found.append(
                        rows.offer_row(
                            offer, transfer=query.transfer, seen=self.seen(book, offer), speed=speeds[kind]
                        )
                    )
                if wish.disk == USUAL_DISK:
                    await asyncio.to_thread(self._prices.record, answer, self._ctx.now())
        if problems and not found and len(problems) == len(fleets):
            raise CallFailed(wire.Code.PROVIDER, "; ".join(problems))
        found = [
            row
            for row in found
            if (wish.max_price is None or listing.worth(row) <= wish.max_price)
            and asked.matches(row, listing.text_of(row))
        ]
        found.sort(key=lambda o: (listing.worth(o), o.provider, o.offer_id))
        return wire.Offers(offers=found[: max(1, query.limit)], problems=problems)

    async def prices(self, query: wire.PricesQuery) -> wire.Prices:
        """What was seen before of the kinds asked for; nothing is asked of a vendor."""
        names, now = _names(query.gpu), self._ctx.now()
        seen = await asyncio.to_thread(self._prices.series, now, now - max(0.0, query.days) * 86_400)
        series = [
            wire.PriceSeries(
                provider=kind.provider, gpu=clean(kind.gpu, 60), gpu_count=kind.gpus, spot=kind.spot,
                points=[(p.at, p.price, p.offers) for p in points[-2000:]],
            )
            for kind, points in seen.items()
            if (not names or kind.gpu in names)
            and (query.gpu_count is None or kind.gpus == query.gpu_count)
            and kind.spot == query.spot
        ]  # fmt: skip
        return wire.Prices(
            series=sorted(series, key=lambda s: (s.points[-1][1], s.provider, s.gpu, s.gpu_count))
        )

    async def check_spec(self, text: wire.SpecText) -> wire.SpecCheck:
        try:
            spec = await asyncio.to_thread(_read, text)
        except SpecError as error:
            return wire.SpecCheck(problems=_problems(error), name=None, plan=[])
        lines = plan(spec)
        ranked: list[Offer] = []
        if text.market:
            ranked, market = await candidates(self._ctx, spec)
            lines[1:1] = market
        return wire.SpecCheck(
            problems=[], name=spec.name, plan=lines, candidates=[rows.offer_row(o) for o in ranked[:_RANKED]]
        )

    async def launch(self, order: wire.Launch) -> wire.Launched:
        try:
            spec = await asyncio.to_thread(_read, order.spec)
        except SpecError as error:
            problems = [p.__dict__ if hasattr(p, "__dict__") else {} for p in error.problems]
            listing = "\n".join(f"  {p}" for p in error.problems)
            raise CallFailed(
                wire.Code.SPEC, f"{error.file} cannot be launched:\n{listing}", {"problems": problems}
            ) from error
        if not order.key or len(order.key) > 200:
            raise CallFailed(wire.Code.USAGE, "a launch needs a key of at most 200 characters")
        if not any(name in self._ctx.fleets for name in spec.providers):
            raise CallFailed(
                wire.Code.PROVIDER,
                f"no account of {' or '.join(spec.providers)} is configured; `gpuwatch doctor` says what is missing",
            )
        known = await self._ctx.ledger.run_for_key(order.key)
        reached = accounting.day_ceiling_reached(self._ctx, self._ctx.now()) if known is None else None
        if reached is not None:
            raise CallFailed(wire.Code.REFUSED, f"nothing is rented today: {reached}")
        text = _settled(order.spec, spec)
        resume_from = await self._resume_from(spec, order.resume_from)
        run_id = await self._new_id(spec.name)
        # from here to `create` the event loop does not turn: one key makes one run
        known = self._ctx.ledger.launched(order.key) or known
        if known is not None:
            return wire.Launched(run=known, name=(await self._ctx.ledger.record(known)).run.name)
        event = e.Requested(
            name=spec.name, spec=text, file=order.spec.file, base=order.spec.base, key=order.key,
            provider=order.provider, offer_id=order.offer_id, resume_from=resume_from,
        )  # fmt: skip
        await self._ctx.ledger.create(run_id, event)
        # only now: whoever goes by the specs leaves no trace of a run that never was
        self._ctx.specs[run_id] = spec
        self._start_run(run_id)
        return wire.Launched(run=run_id, name=spec.name)

    async def _resume_from(self, spec: RunSpec, text: str | None) -> str | None:
        """What the launch shall begin from, found now. Raises CallFailed(usage)."""
        if text is None:
            return None
        if spec.checkpoints is None:
            raise CallFailed(
                wire.Code.USAGE,
                "--resume-from needs [checkpoints] in the spec: its path is where the job looks for them",
            )
        vault = self._ctx.vault.root
        inside = Path(text)
        ids = [text.partition(":")[0]]
        if inside.is_absolute() and inside.is_relative_to(vault):
            ids += inside.relative_to(vault).parts[:1]
        runs = await self._ctx.ledger.with_checkpoints(spec.name, ids)
        try:
            return await asyncio.to_thread(resolve_resume, text, spec.name, runs, vault)
        except ResumeError as error:
            raise CallFailed(wire.Code.USAGE, str(error)) from error

    async def _new_id(self, name: str) -> str:
        while True:
            run_id = f"{name}-{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"
            if not await self._ctx.ledger.known(run_id):
                return run_id


def plan(spec: RunSpec) -> list[str]:
    """What a launch would do, a line each. Pure."""
    gpus = " or ".join(spec.gpu.names) or "any GPU"
    limit = (
        f" up to {format_usd(spec.gpu.max_price)}/h" if spec.gpu.max_price is not None else ", cheapest first"
    )
    lines = [
        f"rent {spec.gpu.count} × {gpus} on {' or '.join(spec.providers)}{limit}, {format_size(spec.disk)} of disk",
        f"image {spec.image}; SSH must answer within {format_duration(spec.boot.timeout)}",
    ]
    lines += spec.disk_words
    if spec.upload.paths:
        lines.append(f"upload {', '.join(spec.upload.paths)}")
    if spec.setup is not None:
        lines.append(f"set up: {clean(spec.setup.command, 100)}")
    lines.append(f"run: {clean(spec.job.command, 120)}")
    if spec.checkpoints is not None:
        lines.append(f"mirror checkpoints from {spec.checkpoints.path} as they appear")
    for remote in spec.mirror.remotes:
        must = " (required before the machine goes)" if remote in spec.mirror.require else ""
        lines.append(f"copy what is verified on to {remote}{must}")
    promised = ", ".join(a.path for a in spec.artifacts if a.required)
    lines.append(
        f"at the end collect and verify {promised or 'nothing but the log'}, then destroy the machine"
    )
    if spec.budget.max_cost is not None:
        lines.append(f"at {format_usd(spec.budget.max_cost)} stop the job, collect, verify, destroy")
    if spec.budget.max_time is not None:
        lines.append(f"after {format_duration(spec.budget.max_time)} stop the job, collect, verify, destroy")
    return lines


def _read(text: wire.SpecText) -> RunSpec:
    base = Path(text.base)
    return read_spec(text.text, file=text.file, base=base if base.is_absolute() and base.is_dir() else None)


def _settled(text: wire.SpecText, spec: RunSpec) -> str:
    """The spec as it is kept: what `disk = "auto"` was reckoned to stands in its place. Raises CallFailed(spec)."""
    if not reckoned(spec):
        return text.text
    kept = settled(text.text, spec.disk)
    if kept is None:
        raise CallFailed(
            wire.Code.SPEC,
            f'{text.file}: disk = "auto" must be a line of its own, above the first [table]',
            {"problems": []},
        )
    return kept


def _problems(error: SpecError) -> list[wire.Problem]:
    return [
        wire.Problem(file=error.file, key=p.key, found=p.found, expected=p.expected, message=str(p))
        for p in error.problems
    ]
