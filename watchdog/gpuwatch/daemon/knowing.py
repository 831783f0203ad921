"""The calls about our own experience of machines: what is known, whom to avoid, whom to forgive."""

from __future__ import annotations

from gpuproviders.model import Offer
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon.desk import Desk
from gpuwatch.experience.book import Experience
from gpuwatch.experience.facts import Machine, key_of, median
from gpuwatch.experience.judge import Standing, Word

LONGEST = 3650 * 86_400.0


class Knowing(Desk):
    """Experience, as people ask for it. Nothing here touches a machine."""

    async def known(self) -> Experience | None:
        """What we have seen, as of now."""
        book = self._ctx.experience
        if book is not None:
            await book.catch_up(self._ctx.ledger)
        return book

    async def machines(self, query: wire.MachinesQuery) -> wire.Machines:
        book = await self.known()
        keys = book.keys() if book is not None else ()
        found = [
            self._machine(book, key)
            for key in keys
            if book is not None and query.provider in (None, key.partition(":")[0])
        ]
        found.sort(key=lambda m: (m.seen.avoided_until is None, -(m.seen.last_at or 0), m.machine))
        return wire.Machines(machines=found)

    async def avoid(self, order: wire.MachineAvoid) -> wire.MachineRow:
        if not 60 <= order.seconds <= LONGEST:
            raise CallFailed(
                wire.Code.USAGE, "a machine is avoided for a minute at least and ten years at most"
            )
        until = self._ctx.now() + order.seconds
        return await self._say(order.machine, order.by, order.reason, until=until)

    async def forgive(self, order: wire.MachineForgive) -> wire.MachineRow:
        return await self._say(order.machine, order.by, order.reason, forgive=True)

    async def _say(
        self, name: str, by: str, reason: str, *, until: float = 0.0, forgive: bool = False
    ) -> wire.MachineRow:
        book = await self.known()
        if book is None:
            raise CallFailed(wire.Code.CONFLICT, "this daemon keeps no experience of machines")
        key = await self._key(name, book)
        who, why = clean(by, 60) or "a person", clean(reason, 200)
        await book.say(
            Word(at=self._ctx.now(), machine=key, by=who, reason=why, until=until, forgive=forgive)
        )
        return self._machine(book, key)

    async def _key(self, name: str, book: Experience) -> str:
        """The machine that is meant. Raises CallFailed."""
        if len(name) > 200 or not name.isprintable():
            raise CallFailed(
                wire.Code.USAGE, "that is no machine; `gputui machines` lists those that are known"
            )
        if name in book.facts.machines:
            return name
        provider, colon, ident = name.partition(":")
        if colon:
            if provider not in self._ctx.fleets or not ident:
                names = ", ".join(sorted(self._ctx.fleets))
                raise CallFailed(
                    wire.Code.USAGE,
                    f"{clean(name, 60)!r} is no machine: write PROVIDER:MACHINE, with one of {names}",
                )
            return name
        run = await self.find(name)
        machine = run.machine or (run.past[-1] if run.past else None)
        if machine is None:
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} has had no machine yet")
        return key_of(machine.provider, machine.machine_id, machine.offer_id)

    def _machine(self, book: Experience | None, key: str) -> wire.MachineRow:
        machine = book.machine(key) if book is not None else None
        stands = book.standing(key) if book is not None else Standing()
        return wire.MachineRow(
            machine=clean(key, 200), gpu=clean(machine.gpu, 60) if machine else None,
            gpu_count=machine.gpu_count if machine else None, good=machine.good if machine else 0,
            seen=seen_row(machine, stands), reason=clean(stands.reason, 200) if stands.reason else None,
        )  # fmt: skip

    def seen(self, book: Experience | None, offer: Offer) -> wire.SeenRow | None:
        """Our experience of an offer's machine, None when there is none."""
        if book is None:
            return None
        machine, stands = book.of(offer)
        return None if machine is None and stands.until is None else seen_row(machine, stands)

    def speed(self, book: Experience | None, offer: Offer) -> tuple[float, str] | None:
        """Tokens per second on such GPUs, and the run that reached them: one that trains now before what is over."""
        for run in sorted(self._ctx.ledger.runs.values(), key=lambda r: -r.created_at):
            machine = run.machine
            if machine is None or (machine.gpu, machine.gpu_count) != (offer.gpu_name, offer.gpu_count):
                continue
            live = self.lives.get(run.id)
            now = (
                live.watching.progress.tokens_per_second
                if live is not None and run.job_ended_at is None
                else None
            )
            if now is not None and now > 0:
                return now, run.id
        known = book.speed(offer.gpu_name, offer.gpu_count) if book is not None else None
        return None if known is None else (known.tokens_per_second, known.run)


def seen_row(machine: Machine | None, stands: Standing) -> wire.SeenRow:
    """Experience as it is told. Pure."""
    duds = machine.duds if machine is not None else []
    return wire.SeenRow(
        tries=machine.tries if machine else 0,
        duds=len(duds),
        trouble=clean(duds[-1][1], 200) if duds else None,
        boot_seconds=median(machine.boots) if machine else None,
        download=median(machine.downloads) if machine else None,
        disk=median(machine.disks) if machine else None,
        last_at=machine.last_at if machine else None,
        avoided_until=stands.until,
        avoided_by=stands.by,
    )
