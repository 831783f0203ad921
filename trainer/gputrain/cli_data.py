"""Commands that prepare data: `shard` and `tokenizer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gputrain.documents import Reading, read_documents
from gputrain.errors import ConfigError

SMOKE_DOCUMENTS = 1000
SPLIT_RATIO = 0.01


def add_commands(commands: Any) -> None:
    """Register them."""
    shard = commands.add_parser("shard", help="turn text into shards; goes on where it was interrupted")
    _add_sources(shard)
    shard.add_argument("--tokenizer", default="bytes", help="bytes (default) or a tokenizer.json")
    shard.add_argument(
        "--mode",
        choices=["prod", "smoke", "split"],
        default="prod",
        help=f"prod: everything; smoke: the first {SMOKE_DOCUMENTS} documents; split: {SPLIT_RATIO:.0%} held out",
    )
    shard.add_argument("--val-ratio", type=float, help="share of documents held out, chosen by their hash")
    shard.add_argument("--take", type=int, help="stop after so many documents")
    shard.add_argument("--shard-tokens", type=int, default=100_000_000, help="tokens in one shard")
    shard.add_argument(
        "--text-shards",
        dest="text_form",
        action="store_true",
        help="write .jsonl shards of text instead of tokens",
    )
    shard.add_argument("--lines-per-shard", type=int, default=250_000, help="documents in a shard of text")
    shard.add_argument("--gzip", action="store_true", help="compress shards of text, reproducibly")
    shard.set_defaults(run=_shard)

    tokenizer = commands.add_parser("tokenizer", help="train a byte-level BPE, or take one over")
    _add_sources(tokenizer, several="*")
    tokenizer.add_argument("--vocab", type=int, default=32_768, help="tokens (default 32768)")
    tokenizer.add_argument("--take", type=int, help="train on the first so many documents")
    tokenizer.add_argument("--import", dest="imported", type=Path, help="use this tokenizer.json instead")
    tokenizer.set_defaults(run=_tokenizer)


def _add_sources(parser: argparse.ArgumentParser, *, several: str = "+") -> None:
    parser.add_argument(
        "text",
        nargs=several,
        help="text, .jsonl, .parquet (each also .gz but parquet), or hf:DATASET[@SUBSET] from the Hugging Face hub",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--column", default="text", help="field with the text (default text)")
    parser.add_argument("--separator", default="", help="between documents of text; default: a file is one")
    parser.add_argument("--hub-split", default="train", help="split of a Hugging Face dataset")


def _documents(args: argparse.Namespace, take: int | None, skip: int) -> Iterator[str]:
    separator = (
        args.separator.encode().decode("unicode_escape") if args.separator.isascii() else args.separator
    )
    reading = Reading(column=args.column, separator=separator, hub_split=args.hub_split)
    documents = read_documents(args.text, reading, skip)
    if take is None:
        yield from documents
        return
    for number, document in enumerate(documents, skip):
        if number >= take:
            return
        yield document


def _source(args: argparse.Namespace, take: int | None) -> dict[str, Any]:
    from gputrain.tokenizer_training import describe_sources

    return describe_sources(
        args.text, column=args.column, separator=args.separator, hub_split=args.hub_split, take=take
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _shard(args: argparse.Namespace) -> int:
    from gputrain.files import replace_file
    from gputrain.sharding import Form, ShardWriter, TextForm, TokenForm, write_shards
    from gputrain.tokenizer import open_tokenizer

    take = args.take or (SMOKE_DOCUMENTS if args.mode == "smoke" else None)
    ratio = args.val_ratio if args.val_ratio is not None else (SPLIT_RATIO if args.mode == "split" else 0.0)
    if not 0 <= ratio < 1:
        raise ConfigError(f"--val-ratio must be at least 0 and below 1, not {ratio}.")
    form: Form = (
        TextForm(args.lines_per_shard, args.gzip)
        if args.text_form
        else TokenForm(open_tokenizer(args.tokenizer), args.shard_tokens)
    )
    writer = ShardWriter(args.out, form, val_ratio=ratio, source=_source(args, take))
    if writer.complete:
        _say(f"{args.out} is complete already; nothing to do")
    sizes = [Path(name).stat().st_size for name in args.text if Path(name).is_file()]
    manifest = write_shards(
        partial(_documents, args, take),
        writer,
        total_bytes=sum(sizes) if take is None else 0,
        say=_say,
    )
    if not args.text_form and args.tokenizer != "bytes":
        replace_file(args.out / "tokenizer.json", Path(args.tokenizer).read_bytes())
    for split, totals in manifest["totals"].items():
        print(f"{split}: {totals['docs']} documents, {totals['tokens']} tokens, {totals['text_bytes']} bytes")
    return 0


def _tokenizer(args: argparse.Namespace) -> int:
    from gputrain.tokenizer_training import import_tokenizer, train_tokenizer

    if args.imported:
        made = import_tokenizer(args.imported, args.out)
    elif args.text:
        documents = _documents(args, args.take, 0)
        made = train_tokenizer(documents, args.out, args.vocab, _source(args, args.take))
    else:
        raise ConfigError("Give text to train on, or --import a tokenizer.json.")
    print(f"{made.path}: {made.vocab} tokens, {'used again' if made.reused else 'written'}")
    return 0
