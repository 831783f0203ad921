"""A checkpoint as one GGUF file for llama.cpp.

Without QK-norm the architecture is ``llama``, whose rotation pairs neighbours: rows of queries and
keys are re-ordered for it. With QK-norm it is ``qwen3``, which rotates halves as ours does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gputrain.config import ModelConfig
from gputrain.errors import ConfigError, DataError, StorageError
from gputrain.estimate import ffn_width
from gputrain.export_hf import check_exportable
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


def gguf_tensors(model: ModelConfig, parameters: dict[str, Tensor]) -> dict[str, Array]:
    """The parameters by llama.cpp's names, in float32."""
    found: dict[str, Array] = {}
    for name, tensor in parameters.items():
        value: Array = tensor.float().numpy()
        if name == "embed.weight":
            found["token_embd.weight"] = value[: model.vocab]
        elif name == "head.weight":
            found["output.weight"] = value[: model.vocab]
        elif name == "norm.weight":
            found["output_norm.weight"] = value
        else:
            _, layer, rest = name.split(".", 2)
            short = rest.removesuffix(".weight")
            if short in ("mixer.q", "mixer.k") and not model.qk_norm:
                value = neighbours(
                    value, model.heads if short == "mixer.q" else model.kv_heads or model.heads
                )
            found[f"blk.{layer}.{LAYER_NAMES[short]}.weight"] = value
    return found


def byte_letters() -> list[str]:
    """The letter by which byte-level BPE (GPT-2) writes each byte."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def vocabulary(tokenizer: Path | None, vocab: int) -> tuple[list[str], list[str], set[int]]:
    """Tokens in order, merges, and which of them are control tokens. Raises DataError if they do not fit."""
    if tokenizer is None:
        if vocab not in (256, 257):
            raise DataError(f"The model has {vocab} tokens; give its tokenizer.json with --tokenizer.")
        return ([*byte_letters(), END_OF_TEXT][:vocab], [], {256} & set(range(vocab)))
    content: dict[str, Any] = json.loads(tokenizer.read_text(encoding="utf-8"))
    if content["model"]["type"] != "BPE":
        raise DataError(f"{tokenizer} is not a BPE; llama.cpp reads it as GPT-2's.")
    by_id = {number: token for token, number in content["model"]["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in content.get("added_tokens", [])}
    by_id |= added
    if sorted(by_id) != list(range(vocab)):
        raise DataError(f"{tokenizer} has {len(by_id)} tokens, the model {vocab}.")
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    return [by_id[number] for number in range(vocab)], merges, set(added)


def write_gguf(
    model: ModelConfig, parameters: dict[str, Tensor], out: Path, kind: str, tokenizer: Path | None, name: str
) -> None:
    """Write the file `out` (replaced whole). `kind` is one of `TYPES`, or a K-quant if llama-quantize is there.

    Raises ConfigError for architectures and types that cannot be, StorageError when the disk is too small.
    """
    check_exportable(model, "llama.cpp")
    wide = "f32" if kind not in TYPES else kind
    if kind not in TYPES and shutil.which("llama-quantize") is None:
        raise ConfigError(
            f"The type {kind} is made by llama.cpp's llama-quantize, which is not on the PATH. "
            f"Without it: {', '.join(TYPES)}."
        )
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
        _write(model, parameters, temporary, wide, tokenizer, name)
        if kind not in TYPES:
            temporary = _quantise(temporary, out, kind)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    model: ModelConfig,
    parameters: dict[str, Tensor],
    path: Path,
    kind: str,
    tokenizer: Path | None,
    name: str,
) -> None:
    try:
        import gguf
    except ImportError:
        raise ConfigError("Writing GGUF needs the package: pip install gguf.") from None
    writer = gguf.GGUFWriter(path, "qwen3" if model.qk_norm else "llama")
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
    tokens, merges, control = vocabulary(tokenizer, model.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[number not in control] for number in range(len(tokens))])
    writer.add_token_merges(merges)
    if END_OF_TEXT in tokens:
        end = tokens.index(END_OF_TEXT)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    for tensor_name, value in gguf_tensors(model, parameters).items():
        # Vectors stay float32, as llama.cpp wants them.
        form = wanted if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        contiguous = np.ascontiguousarray(value)
        packed = (
            contiguous if form == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(contiguous, form)
        )
        writer.add_tensor(tensor_name, packed, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
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
