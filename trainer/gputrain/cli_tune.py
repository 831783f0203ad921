"""Commands that fine-tune: `sft` and `dpo`, and all stages to a GGUF file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gputrain import config
from gputrain.environment import environment_layers
from gputrain.errors import ConfigError, TrainerError

EPILOG = """\
examples:
  gputrain sft --base models/Qwen3-0.6B --data chat.jsonl --out runs/sft
  gputrain dpo --base models/Qwen3-0.6B --adapter runs/sft --data pairs.jsonl --out runs/dpo
  gputrain export runs/dpo --out merged                    # base and adapters in one
  gputrain sft --stage all --base models/Qwen3-0.6B --data chat.jsonl --pairs pairs.jsonl --out runs/mine

data, one JSON object per line:
  sft   {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
        or {"prompt": "…", "completion": "…"}
  dpo   {"prompt": "…", "chosen": "…", "rejected": "…"}; each a text or a list of messages
"""

DEFAULTS: dict[str, dict[str, object]] = {
    "sft": {"optim.lr": 2e-4, "optim.weight_decay": 0.0, "optim.warmup": 0.03, "train.epochs": 1.0},
    "dpo": {"optim.lr": 2e-5, "optim.weight_decay": 0.0, "optim.warmup": 0.1, "train.epochs": 1.0},
}
"""Where a stage differs from pre-training unless it is told otherwise."""


def add_commands(commands: Any) -> None:
    """Register them."""
    for stage, what in (
        ("sft", "teach a model to answer, from conversations (LoRA)"),
        ("dpo", "teach a model what to prefer, from pairs of answers (LoRA)"),
    ):
        parser = commands.add_parser(
            stage, help=what, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--base", help="run or checkpoint of ours, or directory or hub name of a model")
        parser.add_argument(
            "--adapter", action="append", help="tuning run that belongs to the base; repeatable"
        )
        parser.add_argument(
            "--data", action="append", help=".jsonl of conversations or pairs; may be repeated"
        )
        parser.add_argument("--out", type=Path, required=True, help="run directory; made if absent")
        parser.add_argument("--config", type=Path, help="TOML file of settings")
        parser.add_argument(
            "--template", help="chat template: chatml or a Jinja file (default: the base's own)"
        )
        parser.add_argument("--steps", help="optimiser steps (default: one epoch)")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting")
        parser.add_argument("--resume", default="auto", help="as of `train` (default auto)")
        parser.add_argument("--processes", type=int, default=1, help="one per GPU of this machine (torchrun)")
        parser.add_argument("--show-config", action="store_true", help="print every setting and its origin")
        if stage == "sft":
            parser.add_argument(
                "--stage",
                choices=["sft", "all"],
                default="sft",
                help="all: sft, dpo, merge, gguf under --out",
            )
            parser.add_argument("--pairs", action="append", help="with --stage all: .jsonl of pairs for dpo")
            parser.add_argument(
                "--dpo-set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="settings of the dpo stage only",
            )
            parser.add_argument("--type", default="q8_0", help="with --stage all: of the GGUF file (q8_0)")
        parser.set_defaults(run=_run, tune_stage=stage)


def tune_config(
    args: argparse.Namespace, stage: str, *, data: Sequence[str] | None, changes: Sequence[str] = ()
) -> tuple[config.Config, dict[str, str]]:
    """The configuration that the arguments describe for one stage."""
    layers = [config.Layer(f"defaults of {stage}", DEFAULTS[stage])]
    if args.config:
        layers.append(config.file_layer(args.config))
    layers += environment_layers(os.environ)
    given = {"tune.base": args.base, "tune.template": args.template, "train.steps": args.steps}
    options: dict[str, object] = {"tune.stage": stage} | {k: v for k, v in given.items() if v}
    if args.adapter:
        options["tune.adapters"] = tuple(args.adapter)
    if data:
        options["data.path"] = tuple(data)
    layers.append(config.Layer("command line", options))
    layers.append(config.set_layer([*args.set, *changes]))
    return config.from_layers(layers)


def _run(args: argparse.Namespace) -> int:
    if getattr(args, "stage", "") == "all":
        return _all(args)
    settings, origins = tune_config(args, args.tune_stage, data=args.data)
    if args.show_config:
        for key, value in settings.flat().items():
            print(f"{key + ' = ' + config.to_literal(value):<44}# {origins[key]}")
        return 0
    if args.processes > 1:
        from gputrain.launch import launch

        return launch(args.processes, args.out, [*args.argv, "--processes", "1"])
    return _train(settings, args.out, args.resume)


def _train(settings: config.Config, out: Path, resume: str) -> int:
    from gputrain.launch import worker_exit
    from gputrain.session import run_training
    from gputrain.tuning import Tuning

    try:
        code = int(run_training(settings, out, resume, Tuning))
    except TrainerError as error:
        worker_exit(out, int(error.exit_code))
        raise
    return worker_exit(out, code)


def _all(args: argparse.Namespace) -> int:
    from gputrain.bases import find_base
    from gputrain.stages import Pipeline, check_base, run_stages

    if not args.pairs or not args.data:
        raise ConfigError("--stage all needs conversations (--data) and pairs (--pairs).")
    if args.adapter:
        raise ConfigError("--stage all begins with the base alone; leave --adapter out.")
    pipeline = Pipeline(args.out, args.type)
    check_base(find_base(args.base or ""))

    def train(stage: str, out: Path) -> int:
        data, changes = (args.data, []) if stage == "sft" else (args.pairs, args.dpo_set)
        if stage == "dpo":
            args.adapter = [str(pipeline.folder("sft"))]
        settings, _ = tune_config(args, stage, data=data, changes=changes)
        if args.processes == 1:
            return _train(settings, out, "auto")
        from gputrain.files import write_durable
        from gputrain.launch import launch

        out.mkdir(parents=True, exist_ok=True)
        resolved = out / "stage.toml"
        write_durable(resolved, settings.to_toml().encode())
        return launch(args.processes, out, [stage, "--config", str(resolved), "--out", str(out)])

    return run_stages(pipeline, train, lambda text: print(text, flush=True))
