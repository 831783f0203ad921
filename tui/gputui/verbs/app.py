"""The app beside the terminal: recordings, the browser, completion."""

from __future__ import annotations

import argparse

from gputui.console import Console
from gputui.exits import OK, USAGE


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
    from gputui.command_line import build_parser

    try:
        import shtab
    except ImportError:
        console.error("shell completion needs the package shtab: pip install shtab")
        return USAGE
    console.text(shtab.complete(build_parser(), args.shell))
    return OK
