"""The calls that end a machine or hold it. None destroys: they write wishes, and custody decides (I1)."""

from __future__ import annotations

import asyncio

from gpuwatch.box.hostkeys import fingerprint
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.custody import holds as named
from gpuwatch.custody.facts import BoxFile, Inventory
from gpuwatch.custody.rules import Assessment, assess, is_promised, is_safe, matches, spoken, waivable
from gpuwatch.daemon import rows
from gpuwatch.daemon.desk import Desk
from gpuwatch.daemon.link import alias
from gpuwatch.ledger import Record
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.run import EVERYTHING, FINAL, Phase, Run, State

MOST_LOST = 20_000
"""Files that a waiver names one by one in the ledger; a box that lists more says so with its last line."""


class Ending(Desk):
    """Destroy, waive, hold, release, resolve."""

    async def destroy(self, order: wire.Destroy) -> wire.CustodyReport:
        """Ask for the end: a wish in the ledger. With `waive`, named files may be lost."""
        record = await self.record(order.run)
        run = record.run
        if order.preview:
            return self._report(record)
        if run.state in FINAL:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is {run.state.value} already; there is nothing to destroy"
            )
        waived = None
        if order.waive:
            waived = self._consent(record, order.waive, order.confirm, order.reason, order.by)
        await self._wish(run, order.by, order.reason if order.waive else "")
        if waived is not None:
            await self._give_up(run, waived)
        self._nudge(run.id)
        return self._report(await self._ctx.ledger.record(run.id))

    async def cancel(self, order: wire.Cancel) -> wire.Empty:
        """Take a wish back that custody has not acted on."""
        run = await self.find(order.run)
        if run.end_requested_by is None:
            raise CallFailed(wire.Code.CONFLICT, f"nobody asked to end {run.id}")
        self._not_too_late(run)
        await self._ctx.ledger.append(run.id, e.EndCancelled())
        self._nudge(run.id)
        return wire.Empty()

    def _not_too_late(self, run: Run) -> None:
        sent = run.machine is not None and run.machine.destroy is not Phase.NONE
        if run.state is State.DESTROYING or sent:
            raise CallFailed(wire.Code.CONFLICT, f"too late: the destroy of {run.id} has been sent")

    # --- waivers ---------------------------------------------------------------------------------

    async def _wish(self, run: Run, by: str, reason: str) -> None:
        if run.end_requested_by is None:
            await self._ctx.ledger.append(run.id, e.EndRequested(by=_person(by), reason=reason))

    async def _give_up(self, run: Run, waived: e.Waived) -> None:
        """After the wish: a crash between the two must not leave consent that a later wish would find."""
        try:
            await self._ctx.ledger.append(run.id, waived)
        except Impossible as error:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} has changed meanwhile, nothing was given up: look at it again"
            ) from error

    def _consent(self, record: Record, names: list[str], confirm: str, reason: str, by: str) -> e.Waived:
        """That these files may be lost, each with its size; to be written down. Raises CallFailed."""
        run = record.run
        if confirm != run.name:
            raise CallFailed(
                wire.Code.REFUSED,
                f"giving up files needs the run's name typed: confirm = {run.name!r}, not {clean(confirm, 40)!r}",
            )
        if not reason.strip():
            raise CallFailed(wire.Code.REFUSED, "giving up files needs a reason; it stays in the ledger")
        if not run.data_at_risk or run.state is State.DESTROYING:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is {run.state.value}: there is nothing to give up"
            )
        files = list(dict.fromkeys(names))
        if files != [EVERYTHING]:
            self._check_waivable(record, files)
        lost = [e.LostFile(path=spoken(f.path), size=f.size) for f in self._lost(record, files)]
        return e.Waived(files=files, reason=reason.strip(), by=_person(by), lost=lost[:MOST_LOST])

    def _check_waivable(self, record: Record, names: list[str]) -> None:
        spec, verdict = self._spec(record.run), self._verdict(record)
        if spec is None or verdict is None:
            raise CallFailed(
                wire.Code.REFUSED,
                "the box has not been heard, so single files cannot be named; `--waive-all` gives up everything",
            )
        known = waivable(verdict, spec)
        unknown = [w for w in names if w not in known]
        if unknown:
            raise CallFailed(
                wire.Code.USAGE,
                f"not among what is unsafe: {', '.join(clean(u, 80) for u in unknown)}; unsafe now: "
                + (", ".join(clean(k, 80) for k in known[:20]) or "nothing"),
            )

    def _verdict(self, record: Record) -> Assessment | None:
        """Custody's view by the newest report, None while the box has not been heard."""
        run, spec, live = record.run, self._spec(record.run), self.live(record.run.id)
        if spec is None or live.boot_id is None:
            return None
        inventory = Inventory("", live.boot_id, self._ctx.now(), live.files, links=live.links)
        return assess(spec, inventory, record.copies, run.waivers, job_succeeded=run.exit_code == 0)

    def _lost(self, record: Record, names: list[str]) -> list[BoxFile]:
        """The files on the box, by its newest report, that go with this waiver and are not proved at home."""
        spec, live = self._spec(record.run), self.live(record.run.id)
        if spec is None:
            return []
        unsafe = [
            f for f in live.files if is_promised(f.path, spec) and not is_safe(f, record.copies.get(f.path))
        ]
        if names == [EVERYTHING]:
            return unsafe
        return [f for f in unsafe if spoken(f.path) in names]

    # --- holds -----------------------------------------------------------------------------------

    async def holds(self, query: wire.HoldsQuery) -> wire.Holds:
        """Every hold, of one run or of all whose machine exists, and how each is removed."""
        if query.run is not None:
            records = [await self.record(query.run)]
        else:
            runs = [
                r for r in self._ctx.ledger.runs.values() if r.state not in FINAL and (r.exists or r.pins)
            ]
            records = [await self._ctx.ledger.record(r.id) for r in runs]
        found = []
        for record in records:
            run, live = record.run, self.live(record.run.id)
            held = rows.standing_holds(run, self._spec(run), live, record.copies, now=self._ctx.now())
            found += [wire.RunHold(run=run.id, name=run.name, hold=hold) for hold in held]
        return wire.Holds(holds=found)

    async def hold(self, order: wire.HoldPlace) -> wire.Empty:
        """Hold a run's machine under a name until it is released."""
        run = await self.find(order.run)
        name = order.hold or named.PIN
        if not name.isascii() or not name.replace("-", "").isalnum() or len(name) > 40:
            raise CallFailed(
                wire.Code.USAGE,
                f"{clean(name, 60)!r} is no name of a hold: letters, digits and dashes, at most 40",
            )
        if name in named.KINDS and name != named.PIN:
            raise CallFailed(
                wire.Code.USAGE, f"{name} is a hold that facts make, nobody places it; choose another name"
            )
        if run.state in FINAL:
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} is {run.state.value}; there is nothing to hold")
        self._not_too_late(run)
        placed = e.HoldPlaced(name=name, by=_person(order.by), reason=order.reason.strip())
        await self._ctx.ledger.append(run.id, placed)
        self._nudge(run.id)
        return wire.Empty()

    async def release(self, order: wire.HoldRelease) -> wire.CustodyReport:
        """Remove one hold alone. What protects files goes only with the run's name typed and a reason."""
        record = await self.record(order.run)
        run, name = record.run, order.hold or named.PIN
        standing = {
            h.name
            for h in rows.standing_holds(
                run, self._spec(run), self.live(run.id), record.copies, now=self._ctx.now()
            )
        }
        if name not in standing:
            there = ", ".join(sorted(standing)) or "none"
            raise CallFailed(wire.Code.USAGE, f"{run.id} has no hold {clean(name, 40)!r}; it has: {there}")
        match named.removal(name):
            case named.Removal.RELEASE:
                if name == "inventory":
                    self._confirmed(run, order)
                reason = order.reason.strip()
                if name == named.HOST_KEY:
                    reason = await self._accept_key(run, reason)
                released = e.HoldReleased(name=name, by=_person(order.by), reason=reason)
                await self._ctx.ledger.append(run.id, released)
            case named.Removal.WAIVE | named.Removal.WAIVE_ALL:
                if run.end_requested_by is None and run.state is not State.FAILED:
                    # consent is given for an end; releasing must not end a job by the way
                    raise CallFailed(
                        wire.Code.CONFLICT,
                        f"nobody wants {run.id} to end; `gputui destroy {run.id} --waive …` asks for it and gives up files",
                    )
                every = named.removal(name) is named.Removal.WAIVE_ALL
                files = [EVERYTHING] if every else self._protected(record, name)
                waived = self._consent(record, files, order.confirm, order.reason, order.by)
                await self._wish(run, order.by, order.reason)
                await self._give_up(run, waived)
            case named.Removal.ITSELF:
                raise CallFailed(
                    wire.Code.REFUSED, f"{name}: {named.KINDS[name].meaning}; it goes by itself, not by hand"
                )
        self._nudge(run.id)
        return self._report(await self._ctx.ledger.record(run.id))

    async def _accept_key(self, run: Run, reason: str) -> str:
        """Pin exactly the key that was shown, in place of the one of the first contact; the reason names both."""
        live, machine = self.live(run.id), run.machine
        key, live.stranger = live.stranger, None
        if key is None or machine is None:
            raise CallFailed(wire.Code.CONFLICT, f"the box of {run.id} has just shown its own key again")
        await asyncio.to_thread(self._ctx.hostkeys.accept, alias(machine), key)
        live.say(None)
        before = f" in place of {machine.fingerprint}" if machine.fingerprint is not None else ""
        return f"{fingerprint(key)} accepted{before}" + (f": {reason}" if reason else "")

    def _confirmed(self, run: Run, order: wire.HoldRelease) -> None:
        if order.confirm != run.name or not order.reason.strip():
            raise CallFailed(
                wire.Code.REFUSED,
                f"this may lose files: give the run's name ({run.name!r}) as confirm, and a reason; both stay in the ledger",
            )

    def _protected(self, record: Record, name: str) -> list[str]:
        """What must be given up, as a waiver names it, so that this hold goes and no other. Raises CallFailed."""
        spec, verdict = self._spec(record.run), self._verdict(record)
        if spec is None or verdict is None:
            raise CallFailed(
                wire.Code.REFUSED,
                "the box has not been heard, so nothing can be named; `gputui destroy --waive-all` gives up everything",
            )
        unsafe = [spoken(f.path) for f in verdict.unsafe]
        links = [spoken(x.path) for x in verdict.strays]
        patterns = [n for n in waivable(verdict, spec) if n not in unsafe and n not in links]
        match name:
            case "missing" | "empty":
                return patterns
            case "link":
                return [spoken(x.path) for x in verdict.strays]
            case "too-small":
                small = [
                    spoken(f.path)
                    for f in self.live(record.run.id).files
                    for a in spec.artifacts
                    if matches(f.path, a.path) and f.size < a.min_size
                ]
                return small or patterns
            case "writing":
                return [spoken(f.path) for f in self.live(record.run.id).files if f.writer] or unsafe
            case _:
                return unsafe or patterns

    # --- machines --------------------------------------------------------------------------------

    async def resolve(self, order: wire.Resolve) -> wire.Empty:
        """A person answers for an alarm about a machine: it was looked for, and what was found is the reason."""
        entry = self._ctx.ledger.register.get(order.label)
        if entry is None or entry.alarm is None:
            labels = [x.label for x in self._ctx.ledger.register.values() if x.alarm is not None]
            raise CallFailed(
                wire.Code.NOT_FOUND,
                f"no alarm stands about {clean(order.label, 100)!r}; open: {', '.join(labels[:10]) or 'none'}",
            )
        if not order.reason.strip():
            raise CallFailed(
                wire.Code.REFUSED,
                "say with --reason what was found in the provider's console; it stays in the ledger",
            )
        resolved = e.AlarmResolved(label=entry.label, by=_person(order.by), reason=order.reason.strip())
        await self._ctx.ledger.note(resolved)
        for run_id in list(self.actors):
            self._nudge(run_id)
        return wire.Empty()


def _person(by: str) -> str:
    return clean(by, 60) or "a person"
