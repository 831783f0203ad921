"""The `gputui` command: without a word it opens the app, with one it is a tool for scripts.

The listing path imports argparse, msgspec and sockets, nothing more; `docs/guide.md`
documents the JSON and the exit codes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gputui.command_line import build_parser
from gputui.exits import DAMAGE, UNREACHABLE
from gpuwatch.client.errors import CallFailed, DaemonUnreachable
from gpuwatch.client.wire import Code

if TYPE_CHECKING:
    from gputui.console import Console

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["demo"]:
            from gputui.demo import main as demo

            return demo(words[1:])
        if words[:1] in (["canary"], ["rescue"]):
            from gputui.verbs import daemon

            return daemon.canary(words[1:]) if words[0] == "canary" else daemon.rescue(words[1:])
        parser = build_parser()
        args = parser.parse_args(words)
        if args.read_only and args.verb not in {None, "serve"}:
            parser.error("--read-only is for the app; a command does what it is called")
        if args.verb is None:
            import gc

            os.environ.setdefault("TEXTUAL_FPS", "120")  # a key is painted in 8 ms instead of 16
            gc.disable()  # 20 ms of the first frame; the app turns it on again once it is up
            from gputui.app import run_app

            return run_app(read_only=args.read_only)
        return _run_verb(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read us has enough; keep the interpreter from complaining when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run_verb(args: argparse.Namespace) -> int:
    from gputui.console import Console
    from gputui.verbs import verb

    console = Console(json=getattr(args, "json", False))
    try:
        status = verb(args.verb)(args, console)
        console.flush()
        while (seconds := getattr(args, "watch", None)) is not None:
            time.sleep(seconds)
            console.clear()
            status = _again(args, console)
        return status
    except DaemonUnreachable as error:
        console.error(str(error))
        return UNREACHABLE
    except CallFailed as error:
        console.error(str(error))
        return Code.EXIT.get(error.code, DAMAGE)


def _again(args: argparse.Namespace, console: Console) -> int:
    """Once more; a daemon that is away for a moment is said, and asked again the next time."""
    from gputui.verbs import verb

    try:
        status = verb(args.verb)(args, console)
    except DaemonUnreachable as error:
        console.error(str(error))
        status = UNREACHABLE
    console.flush()
    return status
