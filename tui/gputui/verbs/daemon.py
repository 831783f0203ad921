"""The daemon, and the commands that are its own."""

from __future__ import annotations

import argparse

from gputui import wording as say
from gputui.console import Console
from gputui.exits import DAMAGE, OK, UNREACHABLE
from gputui.verbs.asking import call, connect
from gpuwatch.client import wire
from gpuwatch.client.errors import DaemonUnreachable
from gpuwatch.paths import discover


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
        ("accounts", say.accounts(answer.accounts)),
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
