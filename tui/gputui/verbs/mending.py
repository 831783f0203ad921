"""Another try: collect again or rent again, another machine, the same one after a stop."""

from __future__ import annotations

import argparse
import sys
from uuid import uuid4

from gputui.console import Console
from gputui.exits import OK, USAGE
from gputui.verbs.asking import SLOW, call, connect, me
from gpuwatch.client import wire


def retry(args: argparse.Namespace, console: Console) -> int:
    """Try a run that failed once more."""
    if not _consent(f"Try {args.run} again? Where it has no machine any more, one is rented.", args, console):
        return USAGE
    order = wire.Retry(run=args.run, key=uuid4().hex, fresh=args.fresh)
    return _tell("run.retry", order, console)


def recover(args: argparse.Namespace, console: Console) -> int:
    """Leave a machine and go on elsewhere."""
    text = f"Rent another machine for {args.run} and leave this one? Both cost until this one is collected."
    if not _consent(text, args, console):
        return USAGE
    return _tell("run.recover", wire.Recover(run=args.run, reason=args.reason, by=me()), console)


def stop(args: argparse.Namespace, console: Console) -> int:
    """Stop a machine and keep its disk."""
    return _tell("run.stop", wire.Stop(run=args.run, reason=args.reason, by=me()), console)


def start(args: argparse.Namespace, console: Console) -> int:
    """Start a stopped machine again."""
    if not _consent(f"Start the machine of {args.run}? It costs its full price again.", args, console):
        return USAGE
    return _tell("run.start", wire.Start(run=args.run, reason=args.reason, by=me()), console)


def _consent(text: str, args: argparse.Namespace, console: Console) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        console.error("this may rent a machine; add --yes to say so where nobody can be asked")
        return False
    return console.ask(text)


def _tell(method: str, order: wire.Struct, console: Console) -> int:
    with connect(timeout=SLOW) as client:
        answer = call(client, method, order, wire.Retried)
    if console.json:
        console.write_json(answer)
    else:
        console.line(f"{answer.name}: {answer.text}", "good")
    return OK
