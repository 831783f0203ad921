"""What each CLI command does: ask the daemon, hand the answer to the console, return the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from gpuproviders import listing
from gputui import wording as say
from gputui.clean import cleaned
from gputui.console import Cell, Console
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import DaemonUnreachable
from gpuwatch.paths import discover

R = TypeVar("R", bound=wire.Struct)

OK, DAMAGE, USAGE, PARTIAL, REFUSED, UNREACHABLE = range(6)
SLOW = 120.0
"""Seconds for calls that reach a vendor."""


def call(client: Client, method: str, params: wire.Struct, result: type[R]) -> R:
    """One call whose answer has been cleaned."""
    return cleaned(client.call(method, params, result))


def connect(*, timeout: float = 30.0) -> Client:
    """A client for the user's daemon, not yet opened."""
    return Client(discover().socket, timeout=timeout)


# --- listings ------------------------------------------------------------------------------------


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


def machines(args: argparse.Namespace, console: Console) -> int:
    """What we have seen of machines ourselves."""
    with connect() as client:
        answer = call(client, "machines", wire.MachinesQuery(provider=args.provider), wire.Machines)
    if console.json:
        console.write_json(answer)
        return OK
    if not answer.machines:
        console.line("Nothing is known yet: every machine that is rented adds to it.", "dim")
        return OK
    console.table(
        ("MACHINE", "GPU", ">TRIES", ">DUDS", ">BOOTS IN", ">TO HERE", ">DISK", "AVOIDED UNTIL", "WHY"),
        [_machine_cells(row) for row in answer.machines],
        shrink=8,
    )
    return OK


def _machine_cells(row: wire.MachineRow) -> list[Cell]:
    seen = row.seen
    return [
        row.machine,
        say.gpus(row.gpu, row.gpu_count),
        str(seen.tries),
        (str(seen.duds), "warn" if seen.duds else ""),
        say.duration(seen.boot_seconds),
        say.UNKNOWN if seen.download is None else f"{say.size(round(seen.download))}/s",
        say.UNKNOWN if seen.disk is None else f"{say.size(round(seen.disk))}/s",
        ""
        if seen.avoided_until is None
        else (f"{say.when(seen.avoided_until)} by {seen.avoided_by}", "warn"),
        row.reason or seen.trouble or "",
    ]


def avoid(args: argparse.Namespace, console: Console) -> int:
    """Rent a machine no more, for a time."""
    order = wire.MachineAvoid(machine=args.machine, seconds=args.seconds, reason=args.reason, by=_me())
    return _said("machine.avoid", order, f"is avoided for {say.duration(args.seconds)}", console)


def forgive(args: argparse.Namespace, console: Console) -> int:
    """Take a machine back."""
    return _said(
        "machine.forgive",
        wire.MachineForgive(machine=args.machine, reason=args.reason, by=_me()),
        "is taken back",
        console,
    )


def _said(method: str, order: wire.Struct, what: str, console: Console) -> int:
    with connect() as client:
        row = call(client, method, order, wire.MachineRow)
    if console.json:
        console.write_json(row)
    else:
        console.line(f"{row.machine} {what}", "good")
    return OK


def ls(args: argparse.Namespace, console: Console) -> int:
    """List runs."""
    with connect() as client:
        fleet = call(client, "runs", wire.Empty(), wire.Runs)
        runs = fleet.runs + (_older(client, fleet) if args.all else [])
    if console.json:
        console.write_json(wire.Runs(
            runs=runs, accounts=fleet.accounts, burn=fleet.burn, now=fleet.now, alarms=fleet.alarms,
            older=fleet.older and not args.all,
        ))  # fmt: skip
        return OK
    for alarm in fleet.alarms:
        console.line(f"▲ {alarm}", "bad")
    if not fleet.runs:
        console.line(
            "No runs yet. Start one: gputui launch SPEC.toml, or see it all first: gputui demo", "dim"
        )
        return OK
    console.table(
        ("ID", "NAME", "STATE", "GPU", "STEP", ">LOSS", ">PRICE", ">COST", "EXPOSED", "AGE", "NEXT"),
        [_run_cells(run, fleet.now) for run in runs],
        shrink=10,
    )
    if fleet.older and not args.all:
        console.line("older runs that have ended: gputui ls --all", "dim")
    console.line(f"burn {say.rate(fleet.burn)} · {_accounts(fleet.accounts)}", "dim")
    return OK


def _older(client: Client, fleet: wire.Runs) -> list[wire.RunRow]:
    """The ended runs that are not in the snapshot, newest first."""
    known = {run.id for run in fleet.runs}
    found: list[wire.RunRow] = []
    before: float | None = fleet.now + 86_400
    while before is not None:
        page = call(client, "runs.ended", wire.EndedQuery(before=before, limit=500), wire.Ended)
        found += [run for run in page.runs if run.id not in known]
        before = page.next
    return found


def _run_cells(run: wire.RunRow, now: float) -> list[Cell]:
    glyph, tone = say.state_mark(run.state)
    exposed = say.exposure(run.exposure.bytes, run.exposure.seconds) if run.state not in say.ENDED else ""
    return [
        run.id[:16],
        run.name,
        (f"{glyph} {run.state}", tone),
        say.gpus(run.gpu, run.gpu_count),
        say.steps(run.step, run.steps),
        say.loss(run.loss),
        say.rate(run.price),
        say.money(run.cost),
        exposed,
        say.ago((run.ended_at and now - run.ended_at) or now - run.created_at),
        run.reason or run.next,
    ]


def _accounts(accounts: list[wire.AccountRow]) -> str:
    parts = []
    for account in accounts:
        text = f"{account.provider} {account.problem or say.money(account.credit)}"
        if account.foreign:
            text += f" (+{say.plural(account.foreign, 'machine')} of yours that gpuwatch does not touch)"
        parts.append(text)
    return " · ".join(parts) or "no account is set up"


def show(args: argparse.Namespace, console: Console) -> int:
    """Everything about one run."""
    with connect() as client:
        detail = call(client, "run", wire.RunRef(run=args.run), wire.RunDetail)
    if console.json:
        console.write_json(detail)
        return OK
    run, custody = detail.run, detail.custody
    glyph, tone = say.state_mark(run.state)
    console.line(f"{glyph} {run.name}  {run.state}", tone)
    facts = [
        ("run", run.id),
        ("why", run.reason or ""),
        ("next", run.next),
        ("machine", f"{run.provider} {run.instance_id}" if run.instance_id else ""),
        ("gpu", f"{say.gpus(run.gpu, run.gpu_count)} at {say.rate(run.price)}" if run.gpu else ""),
        ("cost", say.money(run.cost)),
        (
            "step",
            f"{say.steps(run.step, run.steps)} · loss {say.loss(run.loss)}" if run.step is not None else "",
        ),
        ("job", f"exit status {run.exit_code}" if run.exit_code is not None else ""),
        ("ssh", " ".join(detail.ssh)),
        ("custody", custody.summary),
        *(("hold", f"{hold.name}: {hold.reason}") for hold in custody.holds),
        ("verified", f"{say.plural(len(custody.verified), 'file')}, {say.size(run.verified_bytes)}"),
        *(("not safe", f"{row.path} ({say.size(row.size)}, {row.state})") for row in custody.unsafe[:20]),
    ]
    for name, value in facts:
        if value:
            console.line(f"  {name:<9} {value}")
    if detail.events:
        console.line()
        for event in detail.events[-12:]:
            _print_event(event, console)
    return OK


def why(args: argparse.Namespace, console: Console) -> int:
    """Why a run's machine exists."""
    with connect() as client:
        answer = call(client, "why", wire.RunRef(run=args.run), wire.Why)
    if console.json:
        console.write_json(answer)
        return OK
    console.line(answer.headline, "bold")
    for line in answer.lines:
        console.line(f"  {line}")
    for hold in answer.holds:
        console.line(f"  ▲ hold {hold.name}: {hold.reason}", "warn")
    console.line(f"Next: {answer.next}")
    return OK


def holds(args: argparse.Namespace, console: Console) -> int:
    """Every hold that stands, and how each goes alone. Status 4 when there is one."""
    with connect() as client:
        answer = call(client, "holds", wire.HoldsQuery(run=args.run), wire.Holds)
    if console.json:
        console.write_json(answer)
    elif answer.holds:
        cells: list[list[Cell]] = [
            [
                row.run,
                (row.hold.name, "warn"),
                row.hold.by or "",
                say.when(row.hold.at),
                _way_out(row),
                row.hold.reason,
            ]
            for row in answer.holds
        ]
        console.table(("RUN", "HOLD", "BY", "SINCE", "GOES BY", "WHY"), cells, shrink=5)
    else:
        console.line("Nothing is held.", "dim")
    return REFUSED if answer.holds else OK


def _way_out(row: wire.RunHold) -> str:
    match row.hold.removal:
        case "release":
            return f"gputui release {row.run} {row.hold.name}"
        case "waive":
            return f"gputui destroy {row.run} --waive …"
        case "waive-all":
            return f"gputui destroy {row.run} --waive-all"
        case _:
            return "itself"


def hold(args: argparse.Namespace, console: Console) -> int:
    """Hold a run's machine under a name."""
    order = wire.HoldPlace(run=args.run, hold=args.name, reason=args.reason, by=_me())
    with connect() as client:
        call(client, "hold", order, wire.Empty)
    if console.json:
        console.write_json(wire.Empty())
    else:
        console.line(
            f"held ({args.name}); the machine stays, and costs, until: gputui release {args.run} {args.name}",
            "good",
        )
    return OK


def pin(args: argparse.Namespace, console: Console) -> int:
    """Hold a run's machine under the name pin."""
    args.name = "pin"
    return hold(args, console)


def release(args: argparse.Namespace, console: Console) -> int:
    """Remove one hold. Status 4 while others stand."""
    order = wire.HoldRelease(
        run=args.run, hold=args.hold, reason=args.reason, confirm=getattr(args, "confirm", ""), by=_me()
    )
    with connect(timeout=SLOW) as client:
        report = call(client, "hold.release", order, wire.CustodyReport)
    if console.json:
        console.write_json(report)
        return OK
    console.line(f"released ({args.hold})", "good")
    for left in report.holds:
        console.line(f"  ▲ still held by {left.name}: {left.reason}", "warn")
    return OK


def unpin(args: argparse.Namespace, console: Console) -> int:
    """Remove the pin."""
    args.hold = "pin"
    return release(args, console)


def resolve(args: argparse.Namespace, console: Console) -> int:
    """Answer for an alarm about a machine."""
    with connect() as client:
        call(
            client, "alarm.resolve", wire.Resolve(label=args.label, reason=args.reason, by=_me()), wire.Empty
        )
    if console.json:
        console.write_json(wire.Empty())
    else:
        console.line("written down; the alarm is answered", "good")
    return OK


def _me() -> str:
    """Who types, for the ledger."""
    import getpass

    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return "a person (command line)"


def cost(args: argparse.Namespace, console: Console) -> int:
    """Costs, forecasts and runways. Status 1 while a balance ends too soon or the day's ceiling is reached."""
    with connect() as client:
        answer = call(client, "cost", wire.CostQuery(run=args.run), wire.CostReport)
    reached = answer.day_ceiling is not None and answer.today >= answer.day_ceiling
    alarm = reached or any(account.alarm for account in answer.accounts)
    if console.json:
        console.write_json(answer)
        return DAMAGE if alarm else OK
    if answer.runs:
        console.table(
            ("RUN", "STATE", ">GPU", ">DISK", ">TRAFFIC", ">TOTAL", ">NOW", ">TO THE END"),
            [_cost_cells(row) for row in answer.runs],
            shrink=0,
        )
    else:
        console.line("No run has cost anything.", "dim")
    ceiling = f" of {say.money(answer.day_ceiling)}" if answer.day_ceiling is not None else ""
    console.line(
        f"Today (UTC) {say.money(answer.today)}{ceiling}, now {say.rate(answer.burn)}",
        "warn" if reached else "",
    )
    for account in answer.accounts:
        console.line(f"{account.provider}: {account.text}", "warn" if account.alarm else "")
    return DAMAGE if alarm else OK


def _cost_cells(row: wire.CostRow) -> list[Cell]:
    end = ""
    if row.more is not None:
        end = f"{say.money(row.more)} more, {say.duration(row.seconds)}"
    traffic = "unknown" if row.traffic is None else say.money(row.traffic)
    total = say.money(row.total) + (f" of {say.money(row.ceiling)}" if row.ceiling is not None else "")
    now = say.rate(row.burn) if row.burn else ""
    return [row.run, row.state, say.money(row.gpu), say.money(row.disk), traffic, total, now, end]


def mirror(args: argparse.Namespace, console: Console) -> int:
    """Every run on every remote of its spec. Status 3 while something is behind or was never compared."""
    with connect() as client:
        answer = call(client, "mirror.status", wire.MirrorQuery(run=args.run), wire.MirrorStatus)
    late = any(row.behind_files is None or row.behind_files for row in answer.mirrors)
    if console.json:
        console.write_json(answer)
        return PARTIAL if late else OK
    if not answer.mirrors:
        console.line("No run names a remote; see [mirror] in docs/run-spec.md.")
        return OK
    console.table(
        ("RUN", "REMOTE", ">VERIFIED", ">BEHIND", ">SINCE", ">LATEST", "STATE"),
        [_mirror_cells(row) for row in answer.mirrors],
        shrink=6,
    )
    for row in answer.mirrors:
        for refused in row.refused:
            console.line(f"  ▲ {row.run}: cannot go to {row.remote}: {refused}", "warn")
    return PARTIAL if late else OK


def _mirror_cells(row: wire.MirrorRow) -> list[Cell]:
    if row.problem is not None:
        state = row.problem
    elif row.done is not None and row.total:
        state = f"copying {row.done / row.total:.0%} at {say.speed(row.rate)}"
    else:
        state = "waiting" if row.behind_files else "verified"
    behind = "unknown" if row.behind_files is None else f"{row.behind_files} · {say.size(row.behind_bytes)}"
    return [
        row.run,
        row.remote + (" *" if row.required else ""),
        f"{row.files} · {say.size(row.bytes)}",
        behind if row.behind_files != 0 else "nothing",
        say.duration(row.behind_seconds) if row.behind_seconds is not None else "",
        str(row.latest) if row.latest is not None else "",
        state,
    ]


def status(args: argparse.Namespace, console: Console) -> int:
    """The daemon's own state. Status 1 while an alarm stands."""
    with connect() as client:
        answer = call(client, "status", wire.Empty(), wire.DaemonStatus)
    if console.json:
        console.write_json(answer)
        return DAMAGE if answer.alarms else OK
    console.line(f"gpuwatch {answer.version}, process {answer.pid}, up {say.duration(answer.uptime)}", "bold")
    runs = ", ".join(f"{count} {state}" for state, count in answer.runs.items()) or "none"
    for name, value in (
        ("runs", runs),
        ("accounts", _accounts(answer.accounts)),
        ("vault", answer.vault),
        ("state", answer.state_dir),
        ("socket", answer.socket),
        ("memory", say.size(answer.rss)),
    ):
        console.line(f"  {name:<9} {value}")
    for alarm in answer.alarms:
        console.line(f"  ▲ {alarm}", "bad")
    return DAMAGE if answer.alarms else OK


def login(args: argparse.Namespace, console: Console) -> int:
    """Hand over to `gpuwatch login`: keys are the daemon's business, and travel by the terminal or a pipe only."""
    import subprocess
    import sys

    options = ["--forget"] * args.forget + ["--file"] * args.file
    return subprocess.run(
        [sys.executable, "-m", "gpuwatch", "login", args.vendor, *options], check=False
    ).returncode


def canary(words: list[str]) -> int:
    """Hand over to `gpuwatch canary`, with a daemon to do it: accounts and their keys are the daemon's business."""
    import subprocess
    import sys

    from gputui.spawn import start_daemon

    if not {"-h", "--help"} & set(words):
        try:
            start_daemon(discover())
        except DaemonUnreachable as error:
            Console().error(str(error))
            return UNREACHABLE
    return subprocess.run([sys.executable, "-m", "gpuwatch", "canary", *words], check=False).returncode


def rescue(words: list[str]) -> int:
    """Hand over to `gpuwatch rescue`; no daemon is needed."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-m", "gpuwatch", "rescue", *words], check=False).returncode


# --- actions -------------------------------------------------------------------------------------


def launch(args: argparse.Namespace, console: Console) -> int:
    """Check a spec, show its plan, ask, start the run; with --wait or --follow stay with it."""
    from gputui.launching import read_spec
    from gputui.spawn import start_daemon

    try:
        spec = read_spec(args.spec)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        console.error(f"cannot read the spec {args.spec}: {error}")
        return USAGE
    if args.dry_run:
        spec = wire.SpecText(text=spec.text, file=spec.file, base=spec.base, market=True)
    paths = discover()
    if start_daemon(paths) and not console.json:
        console.note("started gpuwatch; it goes on when you close this (stop it with `gpuwatch stop`)")
    with connect(timeout=SLOW) as client:
        check = call(client, "spec.check", spec, wire.SpecCheck)
        if check.problems or args.dry_run:
            if console.json:
                console.write_json(check)
            else:
                _print_check(check, console)
            return USAGE if check.problems else OK
        if not args.yes and not _consent(check, console):
            return USAGE
        provider, offer = args.offer or (None, None)
        from uuid import uuid4

        order = wire.Launch(
            spec=spec,
            key=uuid4().hex,
            provider=provider,
            offer_id=offer,
            resume_from=_whence(args.resume_from),
        )
        launched = call(client, "launch", order, wire.Launched)
    if console.json:
        console.write_json(launched)
    else:
        console.line(
            f"launched {launched.name} ({launched.run}); watch it: gputui logs -f {launched.name}", "good"
        )
    if args.wait or args.follow:
        from gputui.following import follow_run

        return follow_run(launched.run, console, with_log=args.follow)
    return OK


def _whence(text: str | None) -> str | None:
    """What --resume-from says, with a path of this machine made absolute: the daemon works elsewhere."""
    if text is None or text == "latest" or text.isdigit():
        return text
    from pathlib import Path

    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() or text.startswith((".", "/", "~")) else text


def _print_check(check: wire.SpecCheck, console: Console) -> None:
    for problem in check.problems:
        console.error(f"{problem.file}: {problem.key}: {problem.message}")
        if problem.found or problem.expected:
            console.note(f"  found {problem.found or 'nothing'}, expected {problem.expected}")
    for line in check.plan:
        console.line(line)


def _consent(check: wire.SpecCheck, console: Console) -> bool:
    if not sys.stdin.isatty():
        console.error(
            "this rents a machine; add --yes to say so where nobody can be asked (--dry-run shows the plan)"
        )
        return False
    for line in check.plan:
        console.note(line)
    return console.ask(f"Rent a machine for {check.name}?")


def destroy(args: argparse.Namespace, console: Console) -> int:
    """Ask for a machine's end. Files are collected and verified first unless a person waives them by name."""
    waiving = bool(args.waive or args.waive_all)
    if waiving and not (args.confirm and args.reason):
        console.error(
            "to waive files give also --confirm with the run's name and --reason with why they may be lost"
        )
        return USAGE
    if (args.confirm or args.reason) and not waiving:
        console.error(
            "--confirm and --reason go with --waive or --waive-all; without those nothing is ever lost"
        )
        return USAGE
    with connect(timeout=SLOW) as client:
        if args.cancel:
            call(client, "destroy.cancel", wire.Cancel(run=args.run), wire.Empty)
            if console.json:
                console.write_json(wire.Empty())
            else:
                console.line("taken back; the machine stays (and costs)", "good")
            return OK
        waive = list(args.waive)
        if args.waive_all:
            preview = call(client, "destroy", wire.Destroy(run=args.run, preview=True), wire.CustodyReport)
            # a box that has not been heard lists nothing: then everything on it is given up, whatever it is
            unheard = preview.exposure.bytes is None
            waive = ["*"] if unheard else [row.path for row in preview.unsafe if row.state != "waived"]
            if waive and not console.json:
                _print_lost(preview, console)
        order = wire.Destroy(
            run=args.run,
            preview=args.preview,
            waive=waive,
            confirm=args.confirm if waive else "",
            reason=args.reason if waive else "",
            by=_me(),
        )
        report = call(client, "destroy", order, wire.CustodyReport)
    if console.json:
        console.write_json(report)
    else:
        _print_custody(report, console, preview=args.preview)
    if args.preview:
        return OK if report.allowed else REFUSED
    if args.wait:
        from gputui.following import follow_run

        return follow_run(report.run, console, with_log=False, want_gone=True)
    return OK


def _print_lost(report: wire.CustodyReport, console: Console) -> None:
    """Every file that a waiver gives up, with its size."""
    if report.exposure.bytes is None:
        console.line(
            "the box has not been heard: everything on it is given up, and nobody can name it", "warn"
        )
    for row in report.unsafe:
        if row.state != "waived":
            console.line(f"  ✗ given up: {row.path}  {say.size(row.size)}", "bad")


def _print_custody(report: wire.CustodyReport, console: Console, *, preview: bool) -> None:
    console.line(report.summary, "good" if report.allowed else "warn")
    held = sum(row.size for row in report.verified)
    console.line(f"  ✓ {say.plural(len(report.verified), 'file')} verified here ({say.size(held)})", "good")
    for row in report.unsafe[:40]:
        glyph, tone = say.ARTIFACTS.get(row.state, ("?", "warn"))
        console.line(f"  {glyph} {row.path}  {say.size(row.size)}  {row.state}", tone)
    if len(report.unsafe) > 40:
        console.line(f"  … and {len(report.unsafe) - 40} more; --json lists all", "warn")
    for hold in report.holds:
        console.line(f"  ▲ hold {hold.name}: {hold.reason}", "warn")
    if not preview and not report.allowed:
        console.line(
            "  the machine goes when the rest is collected and verified; gputui why tells how far it is",
            "dim",
        )


# --- streams -------------------------------------------------------------------------------------


def logs(args: argparse.Namespace, console: Console) -> int:
    """Print a run's captured log."""
    from gputui.following import print_log

    return print_log(args.run, console, tail=args.tail, follow=args.follow, raw=args.raw)


def events(args: argparse.Namespace, console: Console) -> int:
    """Print the timeline."""
    from gputui.following import print_events

    return print_events(args.run, console, since=args.since, follow=args.follow)


def _print_event(event: wire.EventRow, console: Console) -> None:
    console.line(f"{say.clock(event.time)}  {event.kind:<18} {event.text}")


def record(args: argparse.Namespace, console: Console) -> int:
    """Write a recording."""
    from gputui.replay.commands import record as go

    return go(args, console)


def replay(args: argparse.Namespace, console: Console) -> int:
    """Play a recording."""
    from gputui.replay.commands import replay as go

    return go(args, console)


def serve(args: argparse.Namespace, console: Console) -> int:
    """The app in a browser."""
    from gputui.web.serve import serve as go

    return go(args, console)


def completion(args: argparse.Namespace, console: Console) -> int:
    """Print a completion script for one shell."""
    from gputui.cli import build_parser

    try:
        import shtab
    except ImportError:
        console.error("shell completion needs the package shtab: pip install shtab")
        return USAGE
    console.text(shtab.complete(build_parser(), args.shell))
    return OK
