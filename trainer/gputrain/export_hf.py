"""A checkpoint as a Hugging Face model: safetensors and ``config.json`` that `transformers` loads.

Without QK-norm the network is a Llama, with it a Qwen3; both rotate halves as ours does, so the
matrices go over as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gputrain.config import ModelConfig
from gputrain.errors import ConfigError
from gputrain.estimate import ffn_width
from gputrain.files import write_durable
from gputrain.saver import block_of_memory
from gputrain.slices import DTYPE_NAME
from gputrain.tensorfile import BLOCK, encode_header, plan_layout, write_hashed

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

LAYER_NAMES = {
    "mixer_norm": "input_layernorm",
    "mixer.q": "self_attn.q_proj",
    "mixer.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.o": "self_attn.o_proj",
    "mixer.q_norm": "self_attn.q_norm",
    "mixer.k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def check_exportable(model: ModelConfig, target: str) -> None:
    """Raises ConfigError for a network that `target` has no architecture for."""
    wrong = []
    if model.mixer != "attention":
        wrong.append(f"the mixer {model.mixer}")
    if model.residual != "plain":
        wrong.append(f"{model.residual} residuals")
    if model.mlp != "swiglu":
        wrong.append(f"the MLP {model.mlp}")
    if wrong:
        raise ConfigError(
            f"{target} has no architecture with {' and '.join(wrong)}; this model cannot be exported to it."
        )


def hf_config(model: ModelConfig, dtype: str, end_of_text: int | None) -> dict[str, Any]:
    """The content of ``config.json``."""
    qwen = model.qk_norm
    return {
        "architectures": ["Qwen3ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen3" if qwen else "llama",
        "hidden_size": model.width,
        "intermediate_size": ffn_width(model),
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.width // model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied,
        "vocab_size": model.vocab,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype],
    }


def hf_tensors(parameters: dict[str, Tensor], vocab: int) -> dict[str, Tensor]:
    """The parameters by Hugging Face's names, without the padding of the vocabulary."""
    found: dict[str, Tensor] = {}
    for name, tensor in parameters.items():
        if name == "embed.weight":
            found["model.embed_tokens.weight"] = tensor[:vocab]
        elif name == "head.weight":
            found["lm_head.weight"] = tensor[:vocab]
        elif name == "norm.weight":
            found["model.norm.weight"] = tensor
        else:
            _, layer, rest = name.split(".", 2)
            found[f"model.layers.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"] = tensor
    return found


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """A safetensors file, durable on return; `dtype` for all tensors, or each its own."""
    kinds = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    entries = plan_layout((n, DTYPE_NAME[kinds[n]], tuple(t.shape)) for n, t in tensors.items())
    memory = block_of_memory(entries[-1].end, pin=False)
    for entry in entries:
        kind = kinds[entry.name]
        memory[entry.begin : entry.end].view(kind).view(entry.shape).copy_(tensors[entry.name])
    path.unlink(missing_ok=True)
    write_hashed(path, encode_header(entries, {"format": "pt"}, align=BLOCK), memory.numpy().data)


def write_hf(
    model: ModelConfig,
    parameters: dict[str, Tensor],
    out: Path,
    dtype: str,
    end_of_text: int | None,
    tokenizer: Path | None,
) -> None:
    """Write the model into the directory `out`. Raises ConfigError if it has no such architecture."""
    check_exportable(model, "transformers")
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "model.safetensors", hf_tensors(parameters, model.vocab), DTYPES[dtype])
    files: dict[str, Any] = {"config.json": hf_config(model, dtype, end_of_text)}
    files["generation_config.json"] = {"eos_token_id": end_of_text, "bos_token_id": end_of_text}
    if tokenizer is not None:
        write_durable(out / "tokenizer.json", tokenizer.read_bytes())
        files["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|endoftext|>",
            "bos_token": "<|endoftext|>",
            "model_max_length": model.context,
        }
    for name, content in files.items():
        write_durable(out / name, (json.dumps(content, indent=1) + "\n").encode())
