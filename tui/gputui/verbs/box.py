"""On a run's box: a shell, one command, a port. The daemon says how, with the pinned host key; `ssh` does it."""

from __future__ import annotations

import argparse
import shlex
import subprocess

from gputui.console import Console
from gputui.exits import OK, USAGE
from gputui.verbs.asking import call, connect
from gpuwatch.client import wire

_OURS = 255
"""The status with which `ssh` itself fails."""


def _argv(run: str, console: Console) -> list[str] | None:
    with connect() as client:
        detail = call(client, "run", wire.RunRef(run=run), wire.RunDetail)
    if not detail.ssh:
        console.error(f"{detail.run.name} has no machine that SSH reaches now; gputui why {run} tells more")
        return None
    return detail.ssh


def ssh(args: argparse.Namespace, console: Console) -> int:
    """A shell on the box, or one command; the exit status is its own."""
    argv = _argv(args.run, console)
    if argv is None:
        return USAGE
    if args.print:
        console.text(shlex.join(argv) + "\n")
        return OK
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    # one word may hold a pipe and is the box's shell's to read; several are words, whatever is in them
    command = words[0] if len(words) == 1 else shlex.join(words)
    return subprocess.run([*argv, *(["--", command] if words else [])], check=False).returncode


def forward(args: argparse.Namespace, console: Console) -> int:
    """A port of the box on this machine's loopback, until ctrl+c."""
    argv = _argv(args.run, console)
    if argv is None:
        return USAGE
    local = args.local or (args.port if args.port >= 1024 else args.port + 8000)
    console.note(f"http://127.0.0.1:{local} is port {args.port} of {args.run}; ctrl+c ends it")
    console.flush()
    order = [
        *argv[:1], "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
        "-L", f"127.0.0.1:{local}:localhost:{args.port}", *argv[1:],
    ]  # fmt: skip
    status = subprocess.run(order, check=False).returncode
    if status == _OURS:
        console.error(f"ssh could not forward it: is port {local} taken here? --local PORT takes another")
    return status
