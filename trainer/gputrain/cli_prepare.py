"""The command `prepare`: note 4's boot sequence, and then `train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  gputrain prepare hf:HuggingFaceFW/fineweb-edu@sample-10BT --experiment runpod-2b --profile 2b
  RUN_SHARD=0 gputrain prepare --experiment runpod-2b --profile 2b      # the shards are there
  gputrain prepare book.txt --experiment book --profile 22m --no-train

environment (weaker than options): WORKSPACE, RUN_EXPERIMENT, RUN_CONFIG, RUN_SHARD, SHARD_LINES, HF_HOME,
  HF_DATASETS_CACHE, HUGGINGFACEHUB_API_TOKEN or HF_TOKEN, and everything that `train` knows
"""


def add_commands(commands: Any) -> None:
    """Register it."""
    parser = commands.add_parser(
        "prepare",
        help="directories, tokenizer, shards, configuration, checks; then train",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", help="as of `shard`: files, or hf:DATASET[@SUBSET]")
    parser.add_argument("--validation", action="append", default=[], help="text that is only measured on")
    parser.add_argument(
        "--experiment", help="name of directories and run (default: $RUN_EXPERIMENT, else the profile)"
    )
    parser.add_argument(
        "--root", type=Path, help="the volume (default: $WORKSPACE, /workspace or ./workspace)"
    )
    parser.add_argument("--profile", help="built-in profile or TOML file (default: $RUN_CONFIG, else 22m)")
    parser.add_argument(
        "--vocab", type=int, default=0, help="of the tokenizer (default: the profile's; bytes if none)"
    )
    parser.add_argument(
        "--tokenizer-json", type=Path, help="take this tokenizer over instead of training one"
    )
    parser.add_argument(
        "--tokenizer-take", type=int, default=100_000, help="documents to train the tokenizer on"
    )
    parser.add_argument(
        "--mode", choices=["prod", "smoke"], default="prod", help="smoke: the first 1000 documents"
    )
    parser.add_argument("--take", type=int, default=0, help="stop after so many documents")
    parser.add_argument("--val-ratio", type=float, default=0.01, help="share held out without --validation")
    parser.add_argument("--shard-tokens", type=int, default=100_000_000, help="tokens in one shard")
    parser.add_argument("--lines-per-shard", type=int, default=0, help="documents in one shard at most")
    parser.add_argument(
        "--reuse-shards", action="store_true", help="they are there; do not read text (RUN_SHARD=0)"
    )
    parser.add_argument("--column", default="text", help="field with the text (default text)")
    parser.add_argument("--separator", default="", help="between documents of text; default: a file is one")
    parser.add_argument("--hub-split", default="train", help="split of a Hugging Face dataset")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of the training"
    )
    parser.add_argument("--processes", type=int, default=1, help="of the training, one per GPU (torchrun)")
    parser.add_argument("--no-train", action="store_true", help="stop before training")
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> int:
    from gputrain.documents import Reading
    from gputrain.errors import ConfigError
    from gputrain.prepare import Layout, Request, default_root, from_environment, prepare

    known = from_environment(os.environ)
    profile = args.profile or known.get("RUN_CONFIG", "22m")
    experiment = args.experiment or known.get("RUN_EXPERIMENT") or Path(profile).stem
    if Path(experiment).name != experiment or experiment.startswith("."):
        raise ConfigError(
            f"--experiment {experiment!r} names directories; it cannot hold / or begin with a dot."
        )
    if not 0 <= args.val_ratio < 1:
        raise ConfigError(f"--val-ratio must be at least 0 and below 1, not {args.val_ratio}.")
    separator = (
        args.separator.encode().decode("unicode_escape") if args.separator.isascii() else args.separator
    )
    layout = Layout(args.root or default_root(), experiment)
    request = Request(
        layout=layout,
        sources=tuple(args.text),
        validation=tuple(args.validation),
        reading=Reading(column=args.column, separator=separator, hub_split=args.hub_split),
        profile=profile,
        changes=tuple(args.set),
        vocab=args.vocab,
        tokenizer_json=args.tokenizer_json,
        tokenizer_documents=args.tokenizer_take,
        mode=args.mode,
        val_ratio=args.val_ratio,
        take=args.take,
        shard_tokens=args.shard_tokens,
        shard_documents=args.lines_per_shard or int(known.get("SHARD_LINES", "0")),
        reuse_shards=args.reuse_shards or known.get("RUN_SHARD") == "0",
    )
    path = prepare(request, os.environ, lambda text: print(text, flush=True))
    if args.no_train:
        print(f"ready: gputrain train --config {path} --out {layout.run}")
        return 0
    from gputrain.cli_train import start

    return start(["--config", str(path), "--out", str(layout.run), "--processes", str(args.processes)])
