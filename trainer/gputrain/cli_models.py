"""Commands on trained models: `grow`, `eval`, `sample`, `export`, `inspect`."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gputrain import config
from gputrain.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from gputrain.checkpoint import Loaded
    from gputrain.config import ModelConfig
    from gputrain.model import GPT
    from gputrain.tokenizer import Tokenizer

DAMAGED = 1


def add_commands(commands: Any) -> None:
    """Register them."""
    grow = commands.add_parser("grow", help="a larger model that computes the same, to train on from")
    grow.add_argument("source", type=Path, help="checkpoint or run")
    grow.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    grow.add_argument("--profile", help="take the shape of a built-in profile")
    grow.add_argument("--config", type=Path, help="take the shape of a TOML file")
    grow.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="model.layers=24 …")
    grow.add_argument("--seed", type=int, default=0, help="of the new random values")
    grow.set_defaults(run=_grow)

    measure = commands.add_parser("eval", help="bits per byte on text, and HellaSwag")
    measure.add_argument("source", type=Path, help="checkpoint or run")
    measure.add_argument("--data", action="append", help="shards or text; their held-out part is read")
    measure.add_argument("--val-fraction", type=float, default=0.01, help="of a text file, from its end")
    measure.add_argument("--windows", type=int, default=256, help="at most so many windows (default 256)")
    measure.add_argument("--batch-size", type=int, default=8, help="windows at a time")
    measure.add_argument("--hellaswag", type=Path, help="the published .jsonl file")
    measure.add_argument("--limit", type=int, default=0, help="at most so many questions")
    measure.add_argument("--tokenizer", help="tokenizer.json of the run, if it is not in its directory")
    measure.add_argument("--json", action="store_true", help="for programs")
    measure.add_argument("--out", type=Path, help="write the figures here too, as JSON")
    measure.set_defaults(run=_eval)

    sample = commands.add_parser("sample", help="text from a trained model")
    sample.add_argument("source", help="checkpoint, run, or directory of a Hugging Face model")
    sample.add_argument("prompt", help="how the text begins")
    sample.add_argument("--tokens", type=int, default=200, help="how many at most (default 200)")
    sample.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    sample.add_argument("--top-k", type=int, default=0, help="among the k likeliest")
    sample.add_argument(
        "--top-p", type=float, default=1.0, help="among the likeliest with this share together"
    )
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--tokenizer", help="tokenizer.json of the run, if it is not in its directory")
    sample.set_defaults(run=_sample)

    export = commands.add_parser("export", help="a Hugging Face directory, or a GGUF file for llama.cpp")
    export.add_argument(
        "source", type=Path, help="checkpoint or run (also of sft and dpo), or a Hugging Face model"
    )
    export.add_argument("--out", type=Path, required=True, help="FILE.gguf, or a directory for Hugging Face")
    export.add_argument(
        "--type",
        default="f32",
        help="f32 (default), f16, bf16; for GGUF also q8_0, and K-quants by llama-quantize",
    )
    export.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json of the run, if it is not in its directory"
    )
    export.add_argument("--base", help="of a tuning run, if it has moved")
    export.add_argument(
        "--adapter", action="append", help="earlier adapters of a tuning run, if they have moved"
    )
    export.add_argument(
        "--adapter-only", action="store_true", help="of a tuning run: all adapters as one that peft reads"
    )
    export.set_defaults(run=_export)

    look = commands.add_parser("inspect", help="what a checkpoint holds; needs no torch")
    look.add_argument("source", type=Path, help="checkpoint or run")
    look.add_argument("--tensors", action="store_true", help="list every tensor")
    look.add_argument("--verify", action="store_true", help="hash every file")
    look.add_argument("--json", action="store_true", help="for programs")
    look.set_defaults(run=_inspect)


def _grow(args: argparse.Namespace) -> int:
    from gputrain.grow import as_text, grow

    layers = [config.profile_layer(args.profile)] if args.profile else []
    layers += [config.file_layer(args.config)] if args.config else []
    layers.append(config.set_layer(args.set))

    def wanted(old: ModelConfig) -> ModelConfig:
        before = config.flatten({"model": vars(old)})
        asked = [
            config.Layer(x.origin, {k: v for k, v in x.values.items() if k.startswith("model.")})
            for x in layers
        ]
        wider = any("model.width" in layer.values for layer in asked)
        # A shape that says its width says its MLP too; the old number would not go with it.
        base = {**before, "model.ffn": 0} if wider else before
        new = config.from_layers([config.Layer("checkpoint", base), *asked])[0].model
        return new if new.vocab else replace(new, vocab=old.vocab)

    print(as_text(grow(args.source, wanted, args.out, args.seed)))
    return 0


def _tokenizer_of(source: Path, vocab: int, given: str | None) -> Tokenizer:
    """The tokenizer of a run: as given, as it lies in the run's directory, or bytes."""
    from gputrain.tokenizer import open_tokenizer
    from gputrain.trained import tokenizer_file

    tokenizer = open_tokenizer(given or str(tokenizer_file(source) or "bytes"))
    if tokenizer.vocab != vocab and not (tokenizer.kind == "bytes" and vocab == tokenizer.vocab - 1):
        raise ConfigError(
            f"The model has {vocab} tokens, the tokenizer {tokenizer.vocab}; give the right one with --tokenizer."
        )
    return tokenizer


def _own_model(source: Path) -> GPT:
    """The model of a run or checkpoint of ours; adapters are put together with their base in memory."""
    from gputrain.merging import is_tuned, merged_own, whole
    from gputrain.model import GPT
    from gputrain.trained import load_model, open_trained

    loaded = open_trained(source)
    if not is_tuned(loaded):
        return load_model(loaded)
    base, adapters = whole(loaded)
    if base.own is None:
        raise ConfigError(
            f"{source} tunes a Hugging Face model: `gputrain export {source} --out DIR` writes one that can be read."
        )
    shape, parameters = merged_own(base, adapters)
    model = GPT(shape)
    model.initialise(None)
    model.load_state_dict(parameters)
    return model.eval().requires_grad_(False)


def _eval(args: argparse.Namespace) -> int:
    import torch

    from gputrain.data import Windows, open_data
    from gputrain.evaluate import bits_per_byte, held_out_loss
    from gputrain.files import replace_file, to_json
    from gputrain.hellaswag import read_questions, score
    from gputrain.world import World

    if not args.data and not args.hellaswag:
        raise ConfigError("What to measure? Give --data, --hellaswag, or both.")
    model = _own_model(args.source)
    found: dict[str, float] = {}
    if args.data:
        data = open_data(config.DataConfig(path=tuple(args.data), val_fraction=args.val_fraction))
        if data.vocab > model.config.vocab:
            raise ConfigError(f"The data has {data.vocab} token ids, the model {model.config.vocab}.")
        windows = Windows(data.val, model.config.context)
        alone = World(0, 1, 0, torch.device("cpu"))
        loss = held_out_loss(model, windows, args.windows, min(args.batch_size, max(1, len(windows))), alone)
        if loss is None:
            raise ConfigError("The held-out part is shorter than one window; raise --val-fraction.")
        found |= {"loss": loss, "bits_per_byte": bits_per_byte(loss, data.bytes_per_token)}
    if args.hellaswag:
        tokenizer = _tokenizer_of(args.source, model.config.vocab, args.tokenizer)
        result = score(
            read_questions(args.hellaswag),
            model.logits,
            lambda text: tokenizer.encode(text).tolist(),
            model.config.context,
            args.limit,
        )
        found |= {
            "hellaswag_acc": result.acc,
            "hellaswag_acc_norm": result.acc_norm,
            "questions": result.questions,
        }
    if args.out:
        replace_file(args.out, to_json(found))
    print(
        json.dumps(found)
        if args.json
        else "\n".join(f"{name:<20}{value:.4f}" for name, value in found.items())
    )
    return 0


def _sample(args: argparse.Namespace) -> int:
    from gputrain.sampling import ForeignReader, Sampling, TextStream, generate, reading

    how = Sampling(args.temperature, args.top_k, args.top_p, args.seed)
    print(args.prompt, end="", flush=True)
    source = Path(args.source)
    if (source / "config.json").is_file():
        foreign = ForeignReader(args.source)
        _stream(
            generate(foreign, foreign.encode(args.prompt), how, args.tokens, foreign.end),
            TextStream(foreign.decode),
        )
        return 0
    model = _own_model(source)
    tokenizer = _tokenizer_of(source, model.config.vocab, args.tokenizer)
    with reading(model) as reader:
        prompt = tokenizer.encode(args.prompt).tolist()
        tokens = generate(reader, prompt, how, args.tokens, tokenizer.end_of_text)
        _stream(tokens, TextStream(tokenizer.decode))
    return 0


def _stream(tokens: Any, text: Any) -> None:
    for token in tokens:
        print(text.push(token), end="", flush=True)
    print()


def _export(args: argparse.Namespace) -> int:
    from gputrain.stages import hf_to_gguf

    kind = args.type.lower()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if (args.source / "config.json").is_file():
        if args.out.suffix != ".gguf":
            raise ConfigError(f"{args.source} is a Hugging Face model already; give --out FILE.gguf.")
        hf_to_gguf(args.source, args.out, kind)
        print(f"{args.out}: {kind}")
        return 0
    from gputrain.merging import is_tuned
    from gputrain.trained import open_trained

    loaded = open_trained(args.source)
    if is_tuned(loaded):
        return _export_tuned(args, loaded, kind)
    if args.adapter_only:
        raise ConfigError(f"{args.source} holds a model, not adapters.")
    from gputrain.export_gguf import write_gguf
    from gputrain.export_hf import DTYPES, write_hf
    from gputrain.trained import load_model, tokenizer_file

    model = load_model(loaded)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    tokenizer = args.tokenizer or tokenizer_file(args.source)
    known = _tokenizer_of(args.source, model.config.vocab, str(tokenizer) if tokenizer else None)
    if args.out.suffix == ".gguf":
        write_gguf(model.config, parameters, args.out, kind, tokenizer, args.source.name)
    elif kind not in DTYPES:
        raise ConfigError(f"A Hugging Face directory can have the types {', '.join(DTYPES)}, not {kind}.")
    else:
        end = known.end_of_text if known.end_of_text < model.config.vocab else None
        write_hf(model.config, parameters, args.out, kind, end, tokenizer)
    print(f"{args.out}: step {loaded.state['step']}, {kind}")
    return 0


def _export_tuned(args: argparse.Namespace, loaded: Loaded, kind: str) -> int:
    """Adapters: merged with their base, or alone as peft reads them."""
    from gputrain.merging import whole, write_peft
    from gputrain.stages import hf_to_gguf, write_whole

    base, adapters = whole(loaded, args.base or "", args.adapter or ())
    if args.adapter_only:
        write_peft(base, adapters, args.out)
    elif args.out.suffix == ".gguf":
        folder = args.out.with_name(f".tmp-merged-{args.out.stem}")
        try:
            write_whole(base, adapters, folder, "f32")
            hf_to_gguf(folder, args.out, kind)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        write_whole(base, adapters, args.out, kind)
    print(f"{args.out}: {base.path} with {len(adapters)} adapter{'s' * (len(adapters) > 1)}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from gputrain.inspection import as_text, inspect

    facts = inspect(args.source, verify=args.verify)
    print(json.dumps(facts) if args.json else as_text(facts, tensors=args.tensors))
    return DAMAGED if facts["problems"] else int(ExitCode.DONE)
