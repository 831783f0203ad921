"""Tiny bases, conversations and preferences for the tests of fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gputrain.config import Config, Layer, from_layers
from gputrain.session import run_training

CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"It is {n * n}."},
        ]
    }
    for n in range(24)
]
PAIRS = [
    {"prompt": f"What is {n}?", "chosen": f"It is {n * n}.", "rejected": f"No idea about {n}, sorry."}
    for n in range(24)
]
QUICK: dict[str, object] = {
    "tune.template": "chatml",
    "tune.rank": 4,
    "tune.alpha": 8,
    "train.batch_size": 2,
    "tune.examples_per_step": 4,
    "train.steps": 6,
    "train.log_every": 1,
    "optim.lr": 1e-2,
    "system.threads": 1,
    "system.device": "cpu",
    "system.dtype": "float32",
    "checkpoint.min_free_bytes": 0,
    "data.val_fraction": 0.0,
}


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tune(stage: str, base: Path, data: Path, changes: dict[str, object] | None = None) -> Config:
    """A configuration for `stage`."""
    values = {
        **QUICK,
        "tune.stage": stage,
        "tune.base": str(base),
        "data.path": (str(data),),
        **(changes or {}),
    }
    return from_layers([Layer("test", values)])[0]


def own_base(folder: Path, text: Path) -> Path:
    """A run of ours on bytes, three steps old."""
    shape = {"model.layers": 2, "model.width": 32, "model.heads": 4, "model.kv_heads": 2, "model.vocab": 257}
    values = {
        **shape, "model.context": 128, "train.steps": 3, "train.batch_size": 2, "optim.lr": 3e-3,
        "system.threads": 1, "system.device": "cpu", "checkpoint.min_free_bytes": 0, "data.path": (str(text),),
    }  # fmt: skip
    run_training(from_layers([Layer("test", values)])[0], folder, "auto")
    return folder


def chat_tokenizer(folder: Path) -> None:
    """A small byte-level BPE with ChatML's tokens and template, as Hugging Face models have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(record) for record in CHAT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def foreign_base(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny random model of `transformers` with a tokenizer."""
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": None,
    } | changes  # fmt: skip
    if family == "qwen3":
        shape["head_dim"] = shape["hidden_size"] // shape["num_attention_heads"]
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            # Large enough that logits differ by far more than rounding; biases too, which begin at 0.
            parameter.copy_(
                torch.randn(parameter.shape) * (0.15 if parameter.dim() > 1 else 0.3) + (parameter.dim() == 1)
            )
    model.save_pretrained(folder)
    chat_tokenizer(folder)
    return folder
