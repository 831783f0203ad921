"""A checkpoint as one GGUF file for llama.cpp.

Without QK-norm the architecture is ``llama``, whose rotation pairs neighbours: rows of queries and
keys are re-ordered for it. With QK-norm it is ``qwen3``, which rotates halves as ours does.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gputrain.chat import find_template
from gputrain.config import ModelConfig
from gputrain.errors import ConfigError, DataError, StorageError
from gputrain.estimate import ffn_width
from gputrain.export_hf import check_exportable
from gputrain.import_hf import Imported, pre_tokenizer
from gputrain.tokenizer import END_OF_TEXT

TYPES = ("f32", "f16", "bf16", "q8_0")
QUANTISE_TIMEOUT_S = 6 * 3600

LAYER_NAMES = {
    "mixer_norm": "attn_norm",
    "mixer.q": "attn_q",
    "mixer.k": "attn_k",
    "mixer.v": "attn_v",
    "mixer.o": "attn_output",
    "mixer.q_norm": "attn_q_norm",
    "mixer.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}

Array = npt.NDArray[np.float32]


def neighbours(weight: Array, heads: int) -> Array:
    """Rows of a map to `heads` heads, re-ordered from rotated halves to rotated neighbours."""
    rows, inputs = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def architecture(model: ModelConfig, parameters: Mapping[str, Tensor]) -> str:
    """llama.cpp's name for the network."""
    if any(name.endswith(".bias") for name in parameters):
        return "qwen2"
    return "qwen3" if model.qk_norm else "llama"


def gguf_tensors(
    model: ModelConfig, parameters: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Array]]]:
    """Name, shape and value (float32, read when asked for) of each tensor as llama.cpp has it."""
    fixed = {
        "embed.weight": "token_embd.weight",
        "head.weight": "output.weight",
        "norm.weight": "output_norm.weight",
    }
    neighbouring = architecture(model, parameters) == "llama"
    heads = {"mixer.q": model.heads, "mixer.k": model.kv_heads or model.heads}
    for name, tensor in parameters.items():
        if name in fixed:
            rows = tensor[: model.vocab] if name != "norm.weight" else tensor
            yield fixed[name], tuple(rows.shape), partial(_value, rows, 0)
            continue
        _, layer, rest = name.split(".", 2)
        short, _, leaf = rest.rpartition(".")
        turned = heads.get(short, 0) if neighbouring else 0
        yield f"blk.{layer}.{LAYER_NAMES[short]}.{leaf}", tuple(tensor.shape), partial(_value, tensor, turned)


def _value(tensor: Tensor, heads: int) -> Array:
    value: Array = tensor.float().numpy()
    return neighbours(value, heads) if heads else value


def byte_letters() -> list[str]:
    """The letter by which byte-level BPE (GPT-2) writes each byte."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    control: frozenset[int]
    unused: frozenset[int] = frozenset()
    """Rows of the model that are no tokens."""
    pre: str = "gpt-2"
    """llama.cpp's name for how text is cut before the merges."""
    begin: int | None = None
    end: int | None = None
    template: str = ""
    """Chat template."""


def vocabulary(tokenizer: Path | None, vocab: int) -> Vocabulary:
    """The tokens of a model of ours. Raises DataError if tokenizer and model do not fit."""
    if tokenizer is None:
        if vocab not in (256, 257):
            raise DataError(f"The model has {vocab} tokens; give its tokenizer.json with --tokenizer.")
        tokens, control = [*byte_letters(), END_OF_TEXT][:vocab], frozenset({256} & set(range(vocab)))
        end = 256 if vocab > 256 else None
        return Vocabulary(tuple(tokens), (), control, begin=end, end=end)
    by_id, merges, added, _ = _read_bpe(tokenizer)
    if sorted(by_id) != list(range(vocab)):
        raise DataError(f"{tokenizer} has {len(by_id)} tokens, the model {vocab}.")
    tokens = [by_id[number] for number in range(vocab)]
    end = tokens.index(END_OF_TEXT) if END_OF_TEXT in tokens else None
    return Vocabulary(tuple(tokens), merges, frozenset(added), begin=end, end=end)


def foreign_vocabulary(folder: Path, imported: Imported) -> Vocabulary:
    """The tokens of a Hugging Face model; rows without a token are marked unused.

    Raises ConfigError or DataError for a tokenizer that llama.cpp would read otherwise.
    """
    by_id, merges, added, content = _read_bpe(folder / "tokenizer.json")
    vocab = imported.model.vocab
    if max(by_id) >= vocab:
        raise DataError(f"{folder}: tokenizer.json has the id {max(by_id)}, the model {vocab} rows.")
    tokens = tuple(by_id.get(number, f"[PAD{number}]") for number in range(vocab))
    unused = frozenset(range(vocab)) - by_id.keys()
    try:
        template = find_template("", folder).source
    except ConfigError:
        template = ""
    return Vocabulary(
        tokens, merges, frozenset(added), unused, pre_tokenizer(content), imported.begin_of_text,
        imported.end_of_text, template,
    )  # fmt: skip


def _read_bpe(path: Path) -> tuple[dict[int, str], tuple[str, ...], set[int], dict[str, Any]]:
    """Tokens by id, merges, ids of added tokens, and the whole file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = content["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"Cannot read the tokenizer {path}: {error}.") from error
    if kind != "BPE":
        raise DataError(f"{path} is not a BPE; llama.cpp reads it as GPT-2's.")
    by_id = {int(number): str(token) for token, number in content["model"]["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in content.get("added_tokens", [])}
    merges = tuple(m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"])
    return by_id | added, merges, set(added), content


def check_kind(kind: str) -> None:
    """Raises ConfigError for a type that cannot be written on this machine."""
    if kind.lower() not in TYPES and shutil.which("llama-quantize") is None:
        raise ConfigError(
            f"The type {kind} is made by llama.cpp's llama-quantize, which is not on the PATH. "
            f"Without it: {', '.join(TYPES)}."
        )


def write_gguf(
    model: ModelConfig,
    parameters: Mapping[str, Tensor],
    out: Path,
    kind: str,
    tokenizer: Path | Vocabulary | None,
    name: str,
) -> None:
    """Write the file `out` (replaced whole). `kind` is one of `TYPES`, or a K-quant if llama-quantize is there.

    One tensor at a time is converted, so that a model that is mapped from its files need not fit into memory.

    Raises ConfigError for architectures and types that cannot be, StorageError when the disk is too small.
    """
    check_exportable(model, "llama.cpp")
    wide = "f32" if kind not in TYPES else kind
    check_kind(kind)
    if kind == "q8_0" and (model.width % 32 or ffn_width(model) % 32):
        raise ConfigError("q8_0 needs model.width and model.ffn to be multiples of 32.")
    expected = (
        sum(t.numel() for t in parameters.values()) * {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 1.07}[wide]
    )
    free = shutil.disk_usage(out.parent).free
    if free < expected * (1 if kind in TYPES else 1.3):
        raise StorageError(f"{out} needs {expected / 1e9:.1f} GB, {free / 1e9:.1f} GB are free.")
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        words = tokenizer if isinstance(tokenizer, Vocabulary) else vocabulary(tokenizer, model.vocab)
        _write(model, parameters, temporary, wide, words, name)
        if kind not in TYPES:
            temporary = _quantise(temporary, out, kind)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    model: ModelConfig,
    parameters: Mapping[str, Tensor],
    path: Path,
    kind: str,
    words: Vocabulary,
    name: str,
) -> None:
    try:
        import gguf
    except ImportError:
        raise ConfigError("Writing GGUF needs the package: pip install gguf.") from None
    writer = gguf.GGUFWriter(path, architecture(model, parameters))
    dim = model.width // model.heads
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[kind]
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(ffn_width(model))
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads or model.heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_vocab_size(model.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(list(words.tokens))
    kinds = [gguf.TokenType.NORMAL] * len(words.tokens)
    for numbers, token_type in (
        (words.control, gguf.TokenType.CONTROL),
        (words.unused, gguf.TokenType.UNUSED),
    ):
        for number in numbers:
            kinds[number] = token_type
    writer.add_token_types(kinds)
    writer.add_token_merges(list(words.merges))
    if words.begin is not None:
        writer.add_bos_token_id(words.begin)
    if words.end is not None:
        writer.add_eos_token_id(words.end)
    if words.template:
        writer.add_chat_template(words.template)
    writer.add_add_bos_token(False)
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    float32 = gguf.GGMLQuantizationType.F32
    tensors = list(gguf_tensors(model, parameters))
    for tensor_name, shape, _ in tensors:
        # Vectors stay float32, as llama.cpp wants them.
        form = wanted if len(shape) == 2 else float32
        block, block_bytes = gguf.GGML_QUANT_SIZES[form]
        size = math.prod(shape) // block * block_bytes
        writer.add_tensor_info(tensor_name, shape, np.dtype(np.float32), size, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, shape, read in tensors:
        value = np.ascontiguousarray(read())
        packed = gguf.quants.quantize(value, wanted) if len(shape) == 2 and wanted != float32 else value
        writer.write_tensor_data(packed)
    writer.close()


def _quantise(source: Path, out: Path, kind: str) -> Path:
    """Let llama-quantize make a K-quant of a float file; returns the new temporary file."""
    target = out.with_name(f".tmp-{kind}-{out.name}")
    try:
        done = subprocess.run(
            ["llama-quantize", str(source), str(target), kind.upper()],
            capture_output=True,
            text=True,
            timeout=QUANTISE_TIMEOUT_S,
            check=False,
        )
    finally:
        source.unlink(missing_ok=True)
    if done.returncode:
        target.unlink(missing_ok=True)
        raise ConfigError(f"llama-quantize {kind.upper()} failed: {done.stderr.strip()[-300:]}")
    return target
