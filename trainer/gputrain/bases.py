"""What is fine-tuned: a checkpoint of ours, or a Hugging Face model that `transformers` computes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gputrain.chat import ChatTokenizer, PlacedBPE, PlacedBytes
from gputrain.checkpoint import Loaded, load_kind, open_checkpoint, paths_of
from gputrain.errors import CheckpointError, ConfigError
from gputrain.files import read_json
from gputrain.lora import Adapter, as_adapter
from gputrain.model import GPT
from gputrain.resume import newest_of_run
from gputrain.slices import slices_of, view_tensors
from gputrain.tensorfile import hash_file
from gputrain.tokenizer import END_OF_TEXT
from gputrain.trained import model_config, tokenizer_file

LONGEST = 4096
"""Tokens of an example unless the settings allow more."""


@dataclass(frozen=True)
class Base:
    """Where a base lies and what is known of it before it is loaded."""

    path: Path
    sha256: str
    context: int
    own: Loaded | None
    """The checkpoint, if it is one of ours."""

    @property
    def folder(self) -> Path | None:
        """The directory of a Hugging Face model."""
        return None if self.own else self.path


def find_base(name: str) -> Base:
    """The base called `name`, with its files hashed. Raises ConfigError or CheckpointError."""
    if not name:
        raise ConfigError("What is to be tuned? Give --base: a run of ours, or the directory of a model.")
    path = Path(name)
    if not path.exists():
        path = _from_hub(name)
    if (path / "config.json").is_file():
        return _foreign(path)
    own = open_checkpoint(newest_of_run(path))
    if "tune.stage" in own.state.get("identity", {}):
        raise ConfigError(
            f"{name} holds adapters, not a model. Give its base with --base and this run with --adapter."
        )
    # The content alone: a copy at another place, or of another run's name, is the same base.
    files = sorted(
        f"{f['path']} {f['sha256']}" for f in own.manifest["files"] if f["path"].startswith("model")
    )
    shape = model_config(own)
    digest = hashlib.sha256("\n".join([*files, repr(shape)]).encode()).hexdigest()
    return Base(path, digest, shape.context, own)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ConfigError(f"There is no model at {name}.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            f"There is no model at {name}. Fetching one from the hub needs: pip install huggingface_hub."
        ) from None
    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the library's errors have no common type
        raise ConfigError(f"Cannot fetch {name} from the hub: {error}") from error


def _foreign(path: Path) -> Base:
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"{path} has no .safetensors files; pickled weights are not read. Convert them first."
        )
    files = [path / "config.json", *weights]
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = [found.sha256 for found in pool.map(hash_file, files)]
    named = "\n".join(f"{file.name} {sha256}" for file, sha256 in zip(files, hashes, strict=True))
    about = read_json(path / "config.json") or {}
    context = int(about.get("max_position_embeddings") or LONGEST)
    return Base(path, hashlib.sha256(named.encode()).hexdigest(), context, None)


def chat_tokenizer(base: Base) -> ChatTokenizer:
    """The base's tokenizer. Raises ConfigError."""
    path = tokenizer_file(base.path) if base.own else base.path / "tokenizer.json"
    if path is None:
        assert base.own is not None  # noqa: S101
        vocab = model_config(base.own).vocab
        if vocab not in (256, 257):
            raise ConfigError(
                f"{base.path} has {vocab} tokens and no tokenizer.json beside it; put it there."
            )
        return PlacedBytes(hashlib.sha256(b"bytes").hexdigest())
    if not path.is_file():
        raise ConfigError(f"{base.path} has no tokenizer.json.")
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("Conversations need the library: pip install tokenizers.") from None
    content = path.read_bytes()
    model = tokenizers.Tokenizer.from_buffer(content)
    # Templates of Hugging Face end a turn themselves; ours know only the token that ends a document.
    end = model.token_to_id(END_OF_TEXT) if base.own else None
    return PlacedBPE(model, hashlib.sha256(content).hexdigest(), end)


class Language(nn.Module):
    """What tuning needs of a model: hidden states, and the head that makes logits of them."""

    model: nn.Module

    def hidden(self, tokens: Tensor) -> Tensor:
        """Hidden states (batch, tokens, width) behind the last norm."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Module | None:
        """The linear map that is the head, if it is a map of its own."""
        raise NotImplementedError

    @property
    def head_weight(self) -> Tensor:
        """(rows, width)."""
        raise NotImplementedError

    @property
    def vocab(self) -> int:
        """Rows of the head that are tokens."""
        raise NotImplementedError


class OwnLanguage(Language):
    """A model of ours."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    @property
    def _gpt(self) -> GPT:
        return cast(GPT, self.model)

    def hidden(self, tokens: Tensor) -> Tensor:
        return self._gpt.hidden(tokens)

    @property
    def head(self) -> nn.Module | None:
        return self._gpt.head

    @property
    def head_weight(self) -> Tensor:
        return self._gpt.head_weight

    @property
    def vocab(self) -> int:
        return self._gpt.config.vocab


class ForeignLanguage(Language):
    """A causal language model of `transformers`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model

    def hidden(self, tokens: Tensor) -> Tensor:
        out: Tensor = self._body(input_ids=tokens, use_cache=False).last_hidden_state
        return out

    @property
    def head(self) -> nn.Module | None:
        return cast(Any, self.model).get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def head_weight(self) -> Tensor:
        return cast(Tensor, cast(Any, self.head).weight)

    @property
    def vocab(self) -> int:
        return int(self.head_weight.shape[0])


def load_language(base: Base, dtype: torch.dtype, device: torch.device, *, recompute: bool) -> Language:
    """The base with its weights, activations in `dtype`. Raises ConfigError."""
    return _load_own(base, dtype, device, recompute=recompute) if base.own else _load_foreign(
        base, dtype, device, recompute=recompute
    )  # fmt: skip


def _load_own(base: Base, dtype: torch.dtype, device: torch.device, *, recompute: bool) -> Language:
    assert base.own is not None  # noqa: S101
    # Dropout belongs to the adapter, so that the base is the same in every step.
    with torch.device("meta"):
        model = GPT(replace(model_config(base.own), dropout=0.0), dtype, recompute=recompute)
    model.to_empty(device="cpu")
    model.initialise(None)
    load_kind(base.own, "model", slices_of(dict(model.named_parameters())))
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            # Frozen, so its rounding to the dtype of activations need not be done in every step.
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    return OwnLanguage(model.to(device))


def _load_foreign(base: Base, dtype: torch.dtype, device: torch.device, *, recompute: bool) -> Language:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise ConfigError(
            "Tuning Hugging Face models needs the package: pip install transformers. Models of ours need nothing."
        ) from None
    try:
        settings = AutoConfig.from_pretrained(base.path, local_files_only=True)
        for name, value in vars(settings).items():
            if name.endswith(("dropout", "pdrop")) and isinstance(value, float):
                setattr(settings, name, 0.0)
        model = AutoModelForCausalLM.from_pretrained(
            base.path, config=settings, dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"transformers cannot load {base.path}: {error}") from error
    language = ForeignLanguage(cast(Any, model).to(device))
    _check_head(language, device)
    if recompute:
        _recompute(model)
    return language


def _recompute(model: Any) -> None:
    """Activation checkpointing; the reentrant variant would find no gradient behind a frozen embedding."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    else:  # its name before transformers 5.20
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


@torch.no_grad()
def _check_head(language: ForeignLanguage, device: torch.device) -> None:
    """Raises ConfigError for a model whose logits are more than hidden states times the head."""
    tokens = torch.arange(8, device=device)[None] % language.vocab
    language.eval()
    theirs = cast(Any, language.model)(input_ids=tokens, use_cache=False).logits.float()
    ours = (language.hidden(tokens) @ language.head_weight.t()).float()
    if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
        raise ConfigError(
            f"{type(language.model).__name__} changes its logits behind the head (a bias, a scale or a soft cap), "
            "which tuning does not know."
        )


def find_adapters(runs: Sequence[str], base: Base) -> list[Adapter]:
    """The adapters of tuning runs, each trained on `base` with those before it.

    Raises CheckpointError when one is of another base.
    """
    found: list[Adapter] = []
    known: list[str] = []
    for name in runs:
        if not Path(name).exists():
            raise CheckpointError(f"There is no tuning run at {name}.")
        loaded = open_checkpoint(newest_of_run(Path(name)))
        identity = loaded.state.get("identity", {})
        if "tune.stage" not in identity:
            raise CheckpointError(f"{name} is no tuning run; it holds a model, not adapters.")
        if identity.get("tune.base_sha256") != base.sha256:
            raise CheckpointError(
                f"The adapter {name} is for another base than {base.path} (its files have other contents)."
            )
        if list(identity.get("tune.adapters", [])) != known:
            raise CheckpointError(
                f"The adapter {name} was trained on top of other adapters; give all of them, in their order."
            )
        found.append(read_adapter(loaded))
        known.append(adapter_sha256(loaded))
    return found


def adapter_sha256(loaded: Loaded) -> str:
    """Identity of an adapter: the content of its file."""
    return next(str(f["sha256"]) for f in loaded.manifest["files"] if str(f["path"]).startswith("adapter"))


def read_adapter(loaded: Loaded) -> Adapter:
    """The adapter in a checkpoint of a tuning run."""
    identity = loaded.state["identity"]
    scale = float(identity["tune.alpha"]) / int(identity["tune.rank"])
    return as_adapter(view_tensors(paths_of(loaded, "adapter")), scale)
