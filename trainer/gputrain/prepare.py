"""`gputrain prepare`: everything between an empty volume and the first step, each part done once.

Directories, tokenizer, shards, training configuration, checks. Run again it finds what is there:
tokenizer and shards by their manifests, the configuration by its content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gputrain import config
from gputrain.config import Config, Layer
from gputrain.documents import Reading, read_documents
from gputrain.environment import environment_layers
from gputrain.errors import ConfigError, StorageError
from gputrain.estimate import checkpoint_bytes
from gputrain.files import read_json, replace_file
from gputrain.sharding import ShardWriter, TokenForm, write_shards
from gputrain.shards import DEFAULT_SHARD_TOKENS, open_shards
from gputrain.tokenizer import open_tokenizer
from gputrain.tokenizer_training import describe_sources, import_tokenizer, train_tokenizer

CONFIG = "training.toml"
TOKENIZER_DOCUMENTS = 100_000
"""Documents from which a tokenizer is learned, unless asked otherwise."""
OTHER_NAMES = {"m3_medium": "22m", "runpod_1b": "1b", "runpod_2b": "2b", "runpod_4b": "4b"}
"""Field note 4's configurations by our profiles."""
SMOKE_DOCUMENTS = 1000


@dataclass(frozen=True)
class Layout:
    """Where everything of an experiment lies on the volume."""

    root: Path
    experiment: str

    @property
    def shards(self) -> Path:
        """Tokens, held-out ones too."""
        return self.root / "datasets" / self.experiment

    @property
    def validation(self) -> Path:
        """Tokens of a separate corpus that is only measured on."""
        return self.root / "datasets" / f"{self.experiment}-validation"

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json and its manifest."""
        return self.root / "artifacts" / "tokenizer" / self.experiment

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "runs" / self.experiment

    @property
    def cache(self) -> Path:
        """For whatever wants to cache."""
        return self.root / "cache" / self.experiment

    @property
    def hub(self) -> Path:
        """Cache of the Hugging Face libraries."""
        return self.root / "hf_cache"

    def make(self) -> None:
        """Create the directories. Raises ConfigError when they cannot be made."""
        try:
            for path in (self.shards, self.tokenizer, self.run, self.cache, self.hub):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"Cannot prepare {self.root}: {error}. Is the volume mounted?") from error


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    layout: Layout
    sources: tuple[str, ...]
    validation: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)
    profile: str = ""
    """Built-in profile or TOML file."""
    changes: tuple[str, ...] = ()
    """``key=value`` settings."""
    vocab: int = 0
    """Tokens of the tokenizer; 0: those of the profile, and bytes if it says none."""
    tokenizer_json: Path | None = None
    tokenizer_documents: int = TOKENIZER_DOCUMENTS
    mode: str = "prod"
    val_ratio: float = 0.01
    take: int = 0
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    shard_documents: int = 0
    reuse_shards: bool = False


Say = Callable[[str], None]


def prepare(request: Request, environment: MutableMapping[str, str], say: Say) -> Path:
    """Do what is not done yet; returns the path of the training configuration.

    Sets ``HF_HOME`` and ``HF_DATASETS_CACHE`` in `environment` unless they are set. Raises TrainerError.
    """
    layout = request.layout
    layout.make()
    environment.setdefault("HF_HOME", str(layout.hub))
    environment.setdefault("HF_DATASETS_CACHE", str(layout.hub / "datasets"))
    say(f"1 directories  {layout.root}, experiment {layout.experiment}")
    base = config.from_layers(_layers(request, environment))[0]
    vocab = request.vocab or base.model.vocab
    if request.reuse_shards:
        _reuse(layout, say)
    else:
        tokenizer = _tokenizer(request, vocab, say)
        _shards(request, tokenizer, say)
    path = _configuration(request, environment, say)
    _check(path, layout, say)
    return path


def _layers(request: Request, environment: Mapping[str, str]) -> list[Layer]:
    """Profile or file, environment, settings."""
    layers = []
    name = OTHER_NAMES.get(Path(request.profile).stem, request.profile)
    if name.endswith(".toml"):
        layers.append(config.file_layer(Path(name)))
    elif name:
        layers.append(config.profile_layer(name))
    return [*layers, *environment_layers(environment), config.set_layer(request.changes)]


def _reuse(layout: Layout, say: Say) -> None:
    manifest = read_json(layout.shards / "manifest.json")
    if manifest is None or not manifest.get("complete"):
        state = "are not complete" if manifest else "are not there"
        raise ConfigError(
            f"Shards are to be reused, but those in {layout.shards} {state}. Make them with RUN_SHARD=1."
        )
    say(f"2 tokenizer    that of the shards ({manifest['tokenizer']['vocab']} tokens)")
    say(f"3 shards       reused: {len(manifest['shards'])} in {layout.shards}")


def _documents(request: Request, sources: Sequence[str], take: int, skip: int) -> Iterator[str]:
    documents = read_documents(sources, request.reading, skip)
    if not take:
        yield from documents
        return
    for number, document in enumerate(documents, skip):
        if number >= take:
            return
        yield document


def _described(request: Request, sources: Sequence[str], take: int) -> dict[str, Any]:
    reading = request.reading
    return describe_sources(
        sources,
        column=reading.column,
        separator=reading.separator,
        hub_split=reading.hub_split,
        take=take or None,
    )


def _tokenizer(request: Request, vocab: int, say: Say) -> str:
    """``bytes`` or the path of a tokenizer.json."""
    folder = request.layout.tokenizer
    if request.tokenizer_json is not None:
        made = import_tokenizer(request.tokenizer_json, folder)
    elif vocab <= 257:
        say("2 tokenizer    bytes")
        return "bytes"
    else:
        _need_sources(request)
        take = min(request.take or request.tokenizer_documents, request.tokenizer_documents)
        documents = _documents(request, request.sources, take, 0)
        made = train_tokenizer(documents, folder, vocab, _described(request, request.sources, take))
    say(f"2 tokenizer    {'reused' if made.reused else 'made'}: {made.vocab} tokens, {made.path}")
    return str(made.path)


def _need_sources(request: Request) -> None:
    if not request.sources:
        raise ConfigError(
            "Give the text to prepare from, or --reuse-shards (RUN_SHARD=0) when shards are there."
        )


def _shards(request: Request, tokenizer: str, say: Say) -> None:
    _need_sources(request)
    layout = request.layout
    form = TokenForm(open_tokenizer(tokenizer), request.shard_tokens, request.shard_documents)
    take = request.take or (SMOKE_DOCUMENTS if request.mode == "smoke" else 0)
    parts = [(layout.shards, request.sources, 0.0 if request.validation else request.val_ratio, take)]
    if request.validation:
        parts.append((layout.validation, request.validation, 1.0, 0))
    for folder, sources, ratio, limit in parts:
        described = _described(request, sources, limit)
        writer = ShardWriter(folder, form, val_ratio=ratio, source=described)
        if writer.complete:
            say(f"3 shards       complete before: {len(writer.shards)} in {folder}")
            continue
        begun = f", going on behind {len(writer.shards)} of them" if writer.shards else ""
        say(f"3 shards       {folder}{begun}")
        manifest = write_shards(partial(_documents, request, sources, limit), writer, say=say)
        totals = ", ".join(f"{split} {t['tokens']:,} tokens" for split, t in manifest["totals"].items())
        say(f"3 shards       {len(manifest['shards'])} in {folder}: {totals}")
        if tokenizer != "bytes":
            replace_file(folder / "tokenizer.json", Path(tokenizer).read_bytes())


def _configuration(request: Request, environment: Mapping[str, str], say: Say) -> Path:
    """The generated configuration: profile, environment and settings, with data and vocabulary filled in."""
    layout = request.layout
    paths = [layout.shards] + [layout.validation] * (layout.validation / "manifest.json").is_file()
    vocab = max(open_shards(path, full=False).vocab for path in paths)
    data = Layer("prepare", {"data.path": tuple(str(path) for path in paths)})
    made, _ = config.from_layers([*_layers(request, environment), data])
    if made.model.vocab < vocab:
        made = replace(made, model=replace(made.model, vocab=vocab))
    content = (
        "# Made by gputrain prepare; it is made anew when prepare is asked for something else.\n"
        + made.to_toml()
    ).encode()
    path = layout.run / CONFIG
    known = path.read_bytes() if path.is_file() else b""
    if known == content:
        say(f"4 config       unchanged: {path}")
    else:
        replace_file(path, content)
        say(f"4 config       {'changed' if known else 'written'}: {path}")
    return path


def _check(path: Path, layout: Layout, say: Say) -> None:
    """What would otherwise fail when the GPU is paid for: shards by their hashes, room for checkpoints."""
    made = config.from_layers([config.file_layer(path)])[0]
    tokens = 0
    for name in made.data.path:
        shards = open_shards(Path(name), full=made.data.verify)
        tokens += sum(shard.tokens for shard in shards.shards if shard.split == "train")
    if tokens <= made.model.context:
        raise ConfigError(f"The shards have {tokens} tokens, too few for one window of {made.model.context}.")
    size, free = checkpoint_bytes(made), shutil.disk_usage(layout.run).free
    needed = 2 * size + made.checkpoint.min_free_bytes
    if free < needed:
        raise StorageError(
            f"{layout.run} has {free / 1e9:.1f} GB free. A checkpoint takes {size / 1e9:.1f} GB, and room for two and "
            f"{made.checkpoint.min_free_bytes / 1e9:.1f} GB to spare is needed: {needed / 1e9:.1f} GB."
        )
    _check_tokens(made)
    say(
        f"5 checks       {tokens:,} tokens to train on, checkpoints of {size / 1e9:.2f} GB, {free / 1e9:.0f} GB free"
    )


def _check_tokens(made: Config) -> None:
    if made.train.tokens_per_step % (made.train.batch_size * made.model.context):
        raise ConfigError(
            f"train.tokens_per_step ({made.train.tokens_per_step}) is no multiple of batch_size × context = "
            f"{made.train.batch_size} × {made.model.context}."
        )


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Note 4's knobs that are set: RUN_EXPERIMENT, RUN_CONFIG, RUN_SHARD, SHARD_LINES.

    Raises ConfigError for a RUN_SHARD that is neither 0 nor 1.
    """
    known = {
        name: environment[name].strip()
        for name in ("RUN_EXPERIMENT", "RUN_CONFIG", "RUN_SHARD", "SHARD_LINES")
        if environment.get(name, "").strip()
    }
    if known.get("RUN_SHARD", "1") not in ("0", "1"):
        raise ConfigError(f"$RUN_SHARD must be 1 or 0, not {known['RUN_SHARD']!r}.")
    if not known.get("SHARD_LINES", "1").isdigit():
        raise ConfigError(f"$SHARD_LINES must be a number of documents, not {known['SHARD_LINES']!r}.")
    return known


def default_root() -> Path:
    """The volume: $WORKSPACE, else /workspace where it is, else ./workspace."""
    named = os.environ.get("WORKSPACE", "").strip()
    if named:
        return Path(named)
    usual = Path("/workspace")
    return usual if usual.is_dir() else Path("workspace")
