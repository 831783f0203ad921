"""Start a run."""

from __future__ import annotations

import argparse
import sys

from gputui.console import Console
from gputui.exits import OK, USAGE
from gputui.verbs.asking import SLOW, call, connect
from gpuwatch.client import wire
from gpuwatch.paths import discover


def launch(args: argparse.Namespace, console: Console) -> int:
    """Check a spec, show its plan, ask, start the run; with --wait or --follow stay with it."""
    from gputui.launching import read_spec, whence
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
            resume_from=whence(args.resume_from),
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
