"""A Hugging Face directory of the Llama family by our names, for writing GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gputrain.config import ModelConfig
from gputrain.errors import ConfigError
from gputrain.export_hf import LAYER_NAMES
from gputrain.files import read_json
from gputrain.slices import view_tensors

FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Imported:
    """A model of another maker in our terms."""

    model: ModelConfig
    parameters: dict[str, Tensor]
    """By our names; Qwen2's biases beside its weights."""
    family: str
    end_of_text: int | None
    begin_of_text: int | None


def read_hf(path: Path) -> Imported:
    """Settings and tensors (mapped, not read) of the model at `path`.

    Raises ConfigError for what is not one of `FAMILIES` or uses something that we do not write.
    """
    about = read_json(path / "config.json")
    if about is None:
        raise ConfigError(f"{path} has no readable config.json.")
    family = str(about.get("model_type", ""))
    if family not in FAMILIES:
        raise ConfigError(
            f"{path} is of the family {family or 'unknown'}; GGUF is written for {', '.join(FAMILIES)}. "
            "llama.cpp's own convert_hf_to_gguf.py knows more."
        )
    _refuse_extras(path, about)
    renamed = {
        ours_of(name): tensor for name, tensor in view_tensors(sorted(path.glob("*.safetensors"))).items()
    }
    heads, width = int(about["num_attention_heads"]), int(about["hidden_size"])
    head_dim = int(about.get("head_dim") or width // heads)
    tied = bool(about.get("tie_word_embeddings", False)) or "head.weight" not in renamed
    if head_dim * heads != width:
        raise ConfigError(f"{path}: heads of {head_dim} × {heads} are not its width {width}; not supported.")
    if tied:
        renamed.pop("head.weight", None)
    rope = about.get("rope_parameters") or {}
    model = ModelConfig(
        layers=int(about["num_hidden_layers"]),
        width=width,
        heads=heads,
        kv_heads=int(about.get("num_key_value_heads") or heads),
        ffn=int(about["intermediate_size"]),
        context=int(about["max_position_embeddings"]),
        vocab=int(about["vocab_size"]),
        qk_norm=family == "qwen3",
        tied=tied,
        rope_base=float(rope.get("rope_theta") or about.get("rope_theta") or 10_000.0),
        norm_eps=float(about["rms_norm_eps"]),
    )
    return Imported(model, renamed, family, _one(about.get("eos_token_id")), _one(about.get("bos_token_id")))


def _one(value: Any) -> int | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else None


def _refuse_extras(path: Path, about: dict[str, Any]) -> None:
    rope = about.get("rope_parameters") or about.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    wrong = []
    if kind not in ("default", None):
        wrong.append(f"{kind} rotary positions")
    if about.get("use_sliding_window"):
        wrong.append("a sliding window")
    if about.get("quantization_config"):
        wrong.append("quantised weights")
    if about.get("model_type") != "qwen2" and (about.get("attention_bias") or about.get("mlp_bias")):
        wrong.append("biases")
    if wrong:
        raise ConfigError(
            f"{path} has {' and '.join(wrong)}, which gputrain does not write to GGUF; llama.cpp's own "
            "convert_hf_to_gguf.py does."
        )


def ours_of(name: str) -> str:
    """Our name of a Hugging Face tensor. Raises ConfigError if it is none of the family's."""
    fixed = {
        "model.embed_tokens.weight": "embed.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    }
    if name in fixed:
        return fixed[name]
    back = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
    parts = name.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"]:
        stem, _, leaf = parts[3].rpartition(".")
        if stem in back and leaf in ("weight", "bias"):
            return f"blocks.{parts[2]}.{back[stem]}.{leaf}"
    raise ConfigError(f"The tensor {name} has no counterpart in GGUF's llama family.")


PATTERNS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How text is cut before the merges, by llama.cpp's name for it."""


def pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a tokenizer.json cuts text.

    Raises ConfigError if it is not known: with the wrong one the model would read other tokens.
    """
    cut = content.get("pre_tokenizer") or {}
    parts = cut.get("pretokenizers", [cut])
    if [p.get("type") for p in parts] == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    patterns = [p.get("pattern", {}).get("Regex") for p in parts if p.get("type") == "Split"]
    for name, pattern in PATTERNS.items():
        if patterns == [pattern]:
            return name
    raise ConfigError(
        "The tokenizer cuts text in a way that is not known here "
        f"({json.dumps(patterns or [p.get('type') for p in parts])}); llama.cpp's own convert_hf_to_gguf.py knows more."
    )
