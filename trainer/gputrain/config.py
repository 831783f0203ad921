"""The configuration: frozen dataclasses, filled from layers that remember where a value came from.

Precedence, weakest first: built-in default < profile < file < environment < command line.
A key that does not exist is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gputrain.errors import ConfigError

PROFILE_DIR = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    kv_heads: int = 0
    """Key/value heads (grouped-query attention); 0 means as many as heads."""
    ffn: int = 0
    """Hidden units of the MLP; 0 means 8/3 width (SwiGLU) or 4 width (ReLU²), rounded up to 64."""
    context: int = 1024
    """Tokens in one training window."""
    vocab: int = 0
    """Token ids the model knows; 0 means those of the data. Padded to a multiple of 64."""
    mixer: str = "attention"
    """attention, or a memory that learns while it reads: moneta, yaad, memora."""
    residual: str = "plain"
    """plain, or mhc: manifold-constrained hyper-connections."""
    mlp: str = "swiglu"
    qk_norm: bool = False
    tied: bool = True
    dropout: float = 0.0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    mhc_streams: int = 4
    """Copies of the residual stream under mhc (the paper's n)."""
    mhc_alpha: float = 0.01
    """Start of the gates that let the maps depend on the tokens."""
    mhc_iterations: int = 20
    """Sinkhorn rounds that make the mixing matrix doubly stochastic."""
    memory: str = "matrix"
    """What moneta, yaad and memora train per head: a matrix, or an mlp of two layers."""
    memory_p: float = 3.0
    """Norm of the error that moneta punishes."""
    memory_q: float = 4.0
    """Norm of the weights that moneta holds down."""
    memory_chunk: int = 64
    """Tokens whose gradients are taken at the same weights; changes the function that is learned."""
    memory_detach: int = 256
    """Gradients do not flow back over multiples of so many tokens; 0 means they always do."""


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from."""

    path: tuple[str, ...] = ()
    """Directories of shards, text files (bytes are tokens) or patterns of them; empty means the
    text that ships with Python itself."""
    weights: tuple[float, ...] = ()
    """Share of each path in the mixture; empty means that an epoch reads everything once."""
    verify: bool = True
    """Hash every shard before training; without it presence, sizes and headers are checked."""
    val_fraction: float = 0.01
    """Share of a text file, taken from its end, that is never trained on."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and the learning rate over time."""

    name: str = "adamw"
    """adamw, or muon for the matrices of the blocks (AdamW for the rest)."""
    lr: float = 3e-4
    muon_lr: float = 0.0
    """Peak rate of the matrices under Muon; 0 means lr (updates are scaled to AdamW's size)."""
    muon_momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    """Largest gradient norm; 0 means no clipping."""
    schedule: str = "cosine"
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from 0."""
    decay: float = 0.2
    """Share of the run at its end over which wsd lowers the rate."""
    spike: float = 10.0
    """Skip a step whose gradient norm exceeds this many times the running mean."""
    patience: int = 3
    """Bad steps in a row before going back to the last checkpoint."""
    max_rollbacks: int = 2
    """Times to go back before the run counts as diverged."""
    final_lr: float = 0.1
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, from which seed."""

    steps: int = 0
    """Optimiser steps; 0 means: from tokens or epochs."""
    tokens: int = 0
    """Tokens to train on; 0 means: from epochs."""
    epochs: float = 1.0
    until: int = 0
    """Stop resumably (exit 75) at this step, as if asked to; 0 means never."""
    tokens_per_step: int = 0
    """Tokens in one optimiser step; 0 means one micro-batch on every process."""
    batch_size: int = 8
    """Windows in one micro-batch of one process."""
    seed: int = 1337
    init: str = ""
    """Checkpoint or run whose weights a new run begins with; ignored once the run has checkpoints."""
    log_every: int = 10
    eval_every: int = 0
    """Steps between validations; 0 means only at the end."""
    eval_windows: int = 64


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every_seconds: float = 300.0
    """Wall time between saves; one that falls due while another is being written is postponed."""
    every_steps: int = 0
    """Save after exactly these steps too, waiting for a save that is being written."""
    milestone_seconds: float = 3600.0
    """Accumulated training time between milestones; it goes on counting after a restart."""
    keep_last: int = 12
    keep_milestones: int = 24
    max_bytes: int = 0
    """Budget for all checkpoints; 0 means 80 % of the disk that is free at the start."""
    min_free_bytes: int = 1_000_000_000
    """Free disk space that saving must leave."""


@dataclass(frozen=True)
class SystemConfig:
    """How this machine runs it. None of it changes what is learned beyond rounding."""

    device: str = "auto"
    dtype: str = "auto"
    """Activations: float32 or bfloat16; auto takes bfloat16 where the hardware multiplies it."""
    parallel: str = "ddp"
    """With several processes: ddp (a whole model on each) or fsdp (parameters and states sharded)."""
    compile: str = "auto"
    """torch.compile: auto is on for CUDA and off elsewhere."""
    recompute: bool = False
    """Activation checkpointing: less memory, about a third more computation."""
    fp8: bool = False
    """Products inside the blocks in 8-bit floating point (Ada, Hopper and later)."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; slower on CUDA, needed there for exact resume."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    heartbeat_seconds: float = 2.0
    timeout_seconds: float = 1800.0
    """How long processes wait for each other before they give up."""


@dataclass(frozen=True)
class WatchConfig:
    """Who is told about the run."""

    name: str = ""
    """Name of the run for people; empty means the name of the run directory."""
    tee: bool = True
    """Lines on the console as well as in the log."""
    log_dir: str = ""
    """Directory of the log; empty means log.txt in the run directory."""
    tensorboard: bool = False
    wandb: str = "off"
    """Weights & Biases: off, online or offline."""
    wandb_project: str = ""
    wandb_entity: str = ""
    peak_flops: float = 0.0
    """Operations per second of one device for MFU; 0 means from the table of GPUs."""


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tuning by low-rank adapters: `gputrain sft` and `gputrain dpo`."""

    stage: str = ""
    """sft or dpo; the command says it."""
    base: str = ""
    """What is tuned: a run or checkpoint of ours, or the directory (or hub name) of a Hugging Face model."""
    adapters: tuple[str, ...] = ()
    """Tuning runs whose adapters belong to the base, in their order; they stay as they are."""
    rank: int = 16
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] = ()
    """Last parts of the names of the linear maps to adapt, such as q_proj; empty means all but the head."""
    examples_per_step: int = 0
    """Conversations or pairs in one optimiser step; 0 means one micro-batch on every process."""
    max_tokens: int = 0
    """Longest example; 0 means the base's context, at most 4096."""
    template: str = ""
    """Chat template: a Jinja file, or chatml; empty means the base's own."""
    turns: str = "all"
    """Which of the assistant's turns are learned: all, or only the last of each conversation."""
    beta: float = 0.1
    """How strongly DPO holds on to the reference."""
    reference: str = "cached"
    """DPO's log-probabilities of the reference: cached before the first step, or live in every step."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)

    def flat(self) -> dict[str, object]:
        """All settings as ``{"section.key": value}`` in declaration order."""
        return flatten(dataclasses.asdict(self))

    def sha256(self) -> str:
        """The identity of the configuration as one hash."""
        canonical = json.dumps(self.flat(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """The configuration as TOML that `from_layers` reads back to an equal value."""
        lines: list[str] = []
        for section, values in dataclasses.asdict(self).items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {to_literal(value)}" for key, value in values.items()]
            lines.append("")
        return "\n".join(lines)


@dataclass(frozen=True)
class Layer:
    """Settings from one place, with the name under which `--show-config` reports them."""

    origin: str
    values: Mapping[str, object]


def to_literal(value: object) -> str:
    """A value as TOML: JSON agrees with it on strings, numbers, booleans and flat arrays."""
    return json.dumps(value, ensure_ascii=False)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _field_types() -> dict[str, object]:
    known: dict[str, object] = {}
    for section in dataclasses.fields(Config):
        section_type = typing.get_type_hints(Config)[section.name]
        for key, annotation in typing.get_type_hints(section_type).items():
            known[f"{section.name}.{key}"] = annotation
    return known


FIELD_TYPES: Mapping[str, object] = types.MappingProxyType(_field_types())
"""Every setting and its type."""

CHOICES: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "model.mixer": ("attention", "moneta", "yaad", "memora"),
        "model.residual": ("plain", "mhc"),
        "model.memory": ("matrix", "mlp"),
        "model.mlp": ("swiglu", "relu2"),
        "optim.name": ("adamw", "muon"),
        "optim.schedule": ("cosine", "wsd", "constant"),
        "system.device": ("auto", "cpu", "cuda"),
        "watch.wandb": ("off", "online", "offline"),
        "system.parallel": ("ddp", "fsdp"),
        "system.compile": ("auto", "on", "off"),
        "system.dtype": ("auto", "float32", "bfloat16"),
        "tune.stage": ("", "sft", "dpo"),
        "tune.turns": ("all", "last"),
        "tune.reference": ("cached", "live"),
    }
)


def from_layers(layers: Iterable[Layer]) -> tuple[Config, dict[str, str]]:
    """Lay `layers` over the defaults, later ones winning.

    Returns the configuration and, for every setting, the origin of its value.
    Raises ConfigError for unknown keys, wrong types and values that make no sense.
    """
    flat = Config().flat()
    origins = dict.fromkeys(flat, "default")
    for layer in layers:
        for key, value in layer.values.items():
            if key not in FIELD_TYPES:
                raise ConfigError(f"{layer.origin}: there is no setting {key!r}{_nearest(key)}.")
            flat[key] = _coerce(layer.origin, key, value)
            origins[key] = layer.origin
    sections: dict[str, dict[str, typing.Any]] = {}
    for key, value in flat.items():
        section, name = key.split(".", 1)
        sections.setdefault(section, {})[name] = value
    config = Config(
        model=ModelConfig(**sections["model"]),
        data=DataConfig(**sections["data"]),
        optim=OptimConfig(**sections["optim"]),
        train=TrainConfig(**sections["train"]),
        checkpoint=CheckpointConfig(**sections["checkpoint"]),
        system=SystemConfig(**sections["system"]),
        watch=WatchConfig(**sections["watch"]),
        tune=TuneConfig(**sections["tune"]),
    )
    _check(config)
    return config, origins


def profile_names() -> list[str]:
    """Profiles that ship with gputrain, smallest first."""
    names = [path.stem for path in PROFILE_DIR.glob("*.toml")]
    size = {"k": 1e3, "m": 1e6, "b": 1e9}
    letters = {"miras-s": 2e12, "miras-m": 3e12, "miras-l": 4e12}
    return sorted(names, key=lambda n: float(n[:-1]) * size[n[-1]] if n[0].isdigit() else letters.get(n, 0.0))


def profile_layer(name: str) -> Layer:
    """The settings of a built-in profile. Raises ConfigError with the nearest names."""
    path = PROFILE_DIR / f"{name.lower()}.toml"
    if not path.is_file():
        raise ConfigError(f"There is no profile {name!r}. Profiles: {', '.join(profile_names())}.")
    return Layer(f"profile {name.lower()}", flatten(tomllib.loads(path.read_text())))


def file_layer(path: Path) -> Layer:
    """The settings of a TOML file. Raises ConfigError if it cannot be read or parsed."""
    try:
        tree = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    return Layer(str(path), flatten(tree))


def set_layer(assignments: Iterable[str]) -> Layer:
    """The settings of ``--set a.b=v`` options."""
    values: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as optim.lr=1e-3.")
        values[key.strip()] = value.strip()
    return Layer("--set", values)


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, FIELD_TYPES, n=1, cutoff=0.5)
    same_leaf = [known for known in FIELD_TYPES if known.split(".")[1] == key.rsplit(".", maxsplit=1)[-1]]
    guess = (same_leaf or close)[:1]
    return f"; did you mean {guess[0]!r}?" if guess else ""


def _coerce(origin: str, key: str, value: object) -> object:
    expected = FIELD_TYPES[key]
    try:
        return _convert(value, expected)
    except (TypeError, ValueError):
        name = getattr(expected, "__name__", str(expected))
        raise ConfigError(f"{origin}: {key} must be {name}, not {value!r}.") from None


def _convert(value: object, expected: object) -> object:
    if expected is bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() not in words:
            raise ValueError
        return words[str(value).lower()]
    if isinstance(value, bool):
        raise TypeError
    if expected is int:
        number = float(str(value).replace("_", ""))
        if number != int(number):
            raise ValueError
        return int(str(value).replace("_", "")) if str(value).lstrip("+-").isdigit() else int(number)
    if expected is float:
        return float(str(value).replace("_", ""))
    if expected is str:
        if not isinstance(value, str):
            raise TypeError
        return value
    item_type = typing.get_args(expected)[0]
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise TypeError
    return tuple(_convert(item, item_type) for item in items if item != "")


def _check(config: Config) -> None:
    flat = config.flat()
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, not {flat[key]!r}.")
    for key in (
        "model.layers", "model.width", "model.heads", "model.context", "train.batch_size", "tune.rank",
    ):  # fmt: skip
        if int(str(flat[key])) < 1:
            raise ConfigError(f"{key} must be at least 1, not {flat[key]}.")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} must be a finite number, not {value}.")
        if isinstance(value, int | float) and value < 0:
            raise ConfigError(f"{key} must not be negative: {value}.")
    model = config.model
    if model.width % model.heads or (model.width // model.heads) % 2:
        raise ConfigError(
            f"model.width ({model.width}) must be an even multiple of model.heads ({model.heads})."
        )
    if model.kv_heads and model.heads % model.kv_heads:
        raise ConfigError(
            f"model.heads ({model.heads}) must be a multiple of model.kv_heads ({model.kv_heads})."
        )
    if model.memory_chunk < 1 or model.mhc_streams < 1 or model.mhc_iterations < 1:
        raise ConfigError("model.memory_chunk, mhc_streams and mhc_iterations must be at least 1.")
    if model.memory_detach % model.memory_chunk:
        raise ConfigError(
            f"model.memory_detach ({model.memory_detach}) must be a multiple of model.memory_chunk ({model.memory_chunk})."
        )
    if max(model.dropout, config.data.val_fraction, config.tune.dropout) >= 1:
        raise ConfigError("model.dropout, tune.dropout and data.val_fraction must be below 1.")
