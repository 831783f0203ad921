"""The command line. Nothing here imports torch until a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gputrain import __version__, cli_data, cli_models, cli_prepare, cli_train, cli_tune
from gputrain.errors import ExitCode, TrainerError


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="gputrain",
        description="A compact PyTorch trainer for machines that vanish.",
        epilog=cli_train.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gputrain {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cli_train.add_commands(commands)
    cli_data.add_commands(commands)
    cli_prepare.add_commands(commands)
    cli_models.add_commands(commands)
    cli_tune.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(args.run(args))
    except TrainerError as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or error.exit_code == ExitCode.RANK_LOST:
            where = f" (process {rank})" if rank != "0" else ""
            print(f"gputrain{where}: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
