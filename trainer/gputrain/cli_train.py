"""The commands `train`, `plan` and `plot`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gputrain import config
from gputrain.environment import environment_layers, run_directory
from gputrain.errors import ConfigError, TrainerError

EPILOG = """\
examples:
  gputrain train --out runs/first --profile nano
  gputrain train --out runs/first --profile nano          # again: goes on where it stopped
  gputrain train --out runs/book --profile nano --data book.txt --steps 500 --set optim.lr=1e-3

exit codes:
  0 done   65 bad data   70 diverged   75 stopped, run again to go on   78 bad configuration
  anything else is a crash; run again to go on from the newest sound checkpoint
"""


def add_commands(commands: Any) -> None:
    """Register them."""
    _add_options(
        commands.add_parser(
            "train",
            help="train a model, or go on with a run",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    plan = commands.add_parser("plan", help="what a profile needs and costs on a GPU")
    plan.add_argument("profile", help=f"one of {', '.join(config.profile_names())}")
    plan.add_argument("--gpu", default="H100", help="card (default H100)")
    plan.add_argument("--gpus", type=int, default=1, help="how many")
    plan.add_argument("--hours", type=float, default=10.0, help="how long (default 10)")
    plan.add_argument("--price", type=float, help="USD per hour for all cards together")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting")
    plan.add_argument("--json", action="store_true", help="for programs")
    plan.set_defaults(run=_plan)

    plot = commands.add_parser("plot", help="draw curves of one or several runs as SVG")
    plot.add_argument("runs", nargs="+", type=Path, help="run directories")
    plot.add_argument("--metric", default="loss", help="loss (default), lr, grad_norm, tokens_per_second, …")
    plot.add_argument("--out", type=Path, default=Path("plot.svg"), help="file to write (default plot.svg)")
    plot.set_defaults(run=_plot)


def _add_options(train: argparse.ArgumentParser) -> None:
    train.add_argument(
        "--out",
        type=Path,
        help="run directory; made if absent (default: $CKPT_DIR, else runs/NAME or runs/PROFILE)",
    )
    train.add_argument("--profile", help=f"built-in: {', '.join(config.profile_names())}")
    train.add_argument("--config", type=Path, help="TOML file; wins over the profile")
    train.add_argument("--data", action="append", help="shards, text file or pattern; may be repeated")
    train.add_argument("--steps", help="optimiser steps (train.steps)")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; wins over all"
    )
    train.add_argument(
        "--resume",
        default="auto",
        metavar="WHERE",
        help="auto (default): the newest sound checkpoint in --out, else begin anew; none; a step of "
        "this run; the path or the rclone remote of a checkpoint or run",
    )
    train.add_argument("--processes", type=int, default=1, help="one per GPU of this machine (torchrun)")
    train.add_argument("--show-config", action="store_true", help="print every setting and its origin")
    train.set_defaults(run=_train)


def start(words: Sequence[str]) -> int:
    """`gputrain train WORDS…` for another command. Raises TrainerError."""
    parser = argparse.ArgumentParser(prog="gputrain train")
    _add_options(parser)
    return _train(parser.parse_args(words, argparse.Namespace(argv=["train", *words])))


def load_config(args: argparse.Namespace) -> tuple[config.Config, dict[str, str]]:
    """The configuration that the arguments of `train` describe."""
    layers = []
    if args.profile:
        layers.append(config.profile_layer(args.profile))
    if args.config:
        layers.append(config.file_layer(args.config))
    options: dict[str, object] = {}
    if args.data:
        options["data.path"] = tuple(args.data)
    if args.steps:
        options["train.steps"] = args.steps
    layers += environment_layers(os.environ)
    layers.append(config.Layer("command line", options))
    layers.append(config.set_layer(args.set))
    return config.from_layers(layers)


def default_out(name: str) -> Path:
    """Where a run lives when nobody says: $CKPT_DIR, else ``runs/`` and its name or profile."""
    chosen = run_directory(os.environ)
    if not chosen and not name:
        raise ConfigError("Where to? Give --out RUNDIR (or set CKPT_DIR).")
    return Path(chosen) if chosen else Path("runs", name)


def _train(args: argparse.Namespace) -> int:
    resolved, origins = load_config(args)
    if args.show_config:
        for key, value in resolved.flat().items():
            print(f"{key + ' = ' + config.to_literal(value):<44}# {origins[key]}")
        return 0
    args.out = args.out or default_out(resolved.watch.name or args.profile or "")
    from gputrain.launch import launch, worker_exit

    if args.processes > 1:
        return launch(args.processes, args.out, [*args.argv, "--out", str(args.out), "--processes", "1"])
    from gputrain.session import run_training

    try:
        code = int(run_training(resolved, args.out, args.resume))
    except TrainerError as error:
        worker_exit(args.out, int(error.exit_code))
        raise
    return worker_exit(args.out, code)


def _plan(args: argparse.Namespace) -> int:
    from gputrain.hardware import find_gpu
    from gputrain.plan import as_json, forecast, render

    layers = [config.profile_layer(args.profile), config.set_layer(args.set)]
    resolved, _ = config.from_layers(layers)
    if not resolved.model.vocab:
        # Bytes, unless the profile says otherwise.
        resolved, _ = config.from_layers([*layers, config.Layer("plan", {"model.vocab": 256})])
    gpu = find_gpu(args.gpu)
    found = forecast(resolved, gpu, args.gpus, args.hours, args.price)
    print(as_json(found) if args.json else render(resolved, gpu, args.gpus, args.hours, found))
    return 0 if found.fits else 1


def _plot(args: argparse.Namespace) -> int:
    from gputrain.plot import read_curve, render

    curves = [read_curve(run, args.metric) for run in args.runs]
    args.out.write_text(render(curves, args.metric))
    print(f"{args.out}: {args.metric} of {', '.join(curve.name for curve in curves)}")
    return 0
