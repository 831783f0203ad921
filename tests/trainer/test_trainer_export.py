"""What is exported computes what was trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from gputrain.cli import main
from gputrain.config import Config, ModelConfig
from gputrain.errors import ConfigError, ExitCode
from gputrain.export_gguf import byte_letters, write_gguf
from gputrain.export_hf import write_hf
from gputrain.model import GPT
from gputrain.session import run_training
from gputrain.trained import load_model, open_trained

SMALL = ModelConfig(layers=2, width=64, heads=4, kv_heads=2, context=32, vocab=257, ffn=96)
SHAPES = [{}, {"qk_norm": True}, {"tied": False}, {"kv_heads": 0, "rope_base": 5e5}]


def built(**changes: object) -> GPT:
    gpt = GPT(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]
    gpt.initialise(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1.3)
    return gpt.eval().requires_grad_(False)


def parameters(gpt: GPT) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in gpt.named_parameters()}


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def rotate_neighbours(x: Tensor, base: float) -> Tensor:
    """Rotary positions as llama.cpp's `llama` applies them: (2i, 2i + 1) are a pair."""
    dim, tokens = x.shape[-1], x.shape[-2]
    angle = torch.arange(tokens)[:, None] * base ** (-torch.arange(0, dim, 2) / dim)
    left, right = x[..., 0::2], x[..., 1::2]
    turned = (left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin())
    return torch.stack(turned, dim=-1).flatten(-2)


def rotate_halves(x: Tensor, base: float) -> Tensor:
    """As `qwen3` and transformers apply them: (i, i + dim/2) are a pair."""
    dim, tokens = x.shape[-1], x.shape[-2]
    angle = torch.arange(tokens)[:, None] * base ** (-torch.arange(0, dim, 2) / dim)
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()), -1)


def read_gguf(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Values and tensors of a file by the public reader."""
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
        for t in reader.tensors
    }
    return values, tensors


def llama(values: dict[str, object], tensors: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The forward pass that llama.cpp documents for its `llama` and `qwen3` graphs, from the file alone."""
    arch = str(values["general.architecture"])
    heads, kv = int(values[f"{arch}.attention.head_count"]), int(values[f"{arch}.attention.head_count_kv"])
    eps, base = (
        float(values[f"{arch}.attention.layer_norm_rms_epsilon"]),
        float(values[f"{arch}.rope.freq_base"]),
    )
    turn = rotate_neighbours if arch == "llama" else rotate_halves
    x = tensors["token_embd.weight"][tokens]
    for layer in range(int(values[f"{arch}.block_count"])):
        t = {name.split(".")[2]: value for name, value in tensors.items() if name.startswith(f"blk.{layer}.")}
        y = norm(x, t["attn_norm"], eps)
        q, k, v = (
            linear(y, t[f"attn_{n}"]).unflatten(-1, (h, -1)).transpose(1, 2)
            for n, h in (("q", heads), ("k", kv), ("v", kv))
        )
        if "attn_q_norm" in t:
            q, k = norm(q, t["attn_q_norm"], eps), norm(k, t["attn_k_norm"], eps)
        mixed = scaled_dot_product_attention(turn(q, base), turn(k, base), v, is_causal=True, enable_gqa=True)
        x = x + linear(mixed.transpose(1, 2).flatten(-2), t["attn_output"])
        y = norm(x, t["ffn_norm"], eps)
        x = x + linear(silu(linear(y, t["ffn_gate"])) * linear(y, t["ffn_up"]), t["ffn_down"])
    x = norm(x, tensors["output_norm.weight"], eps)
    return linear(x, tensors.get("output.weight", tensors["token_embd.weight"]))


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize(("kind", "limit"), [("f32", 1e-3), ("f16", 2e-2), ("bf16", 0.2), ("q8_0", 0.2)])
def test_the_gguf_file_alone_gives_the_logits(
    tmp_path: Path, changes: dict[str, object], kind: str, limit: float
) -> None:
    gpt, tokens = built(**changes), torch.randint(257, (2, 32))
    out = tmp_path / "model.gguf"
    write_gguf(gpt.config, parameters(gpt), out, kind, None, "test")
    ours, theirs = gpt.logits(tokens), llama(*read_gguf(out), tokens)
    assert ours.abs().max() > 1
    assert (ours - theirs).abs().max() < limit * max(1.0, float(ours.abs().max()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_the_tokens_of_a_gguf_file(tmp_path: Path, text: Path) -> None:
    gpt, out = built(), tmp_path / "model.gguf"
    write_gguf(gpt.config, parameters(gpt), out, "f32", None, "bytes")
    values, _ = read_gguf(out)
    assert values["tokenizer.ggml.tokens"] == [*byte_letters(), "<|endoftext|>"]
    assert values["tokenizer.ggml.eos_token_id"] == 256
    assert main(["tokenizer", str(text), "--vocab", "300", "--out", str(tmp_path / "t")]) == 0
    path = tmp_path / "t" / "tokenizer.json"
    gpt = built(vocab=300)
    write_gguf(gpt.config, parameters(gpt), out, "f32", path, "bpe")
    values, _ = read_gguf(out)
    model = json.loads(path.read_text())["model"]
    tokens = values["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert {token: number for number, token in enumerate(tokens)} == model["vocab"]
    assert values["tokenizer.ggml.merges"] == [
        m if isinstance(m, str) else " ".join(m) for m in model["merges"]
    ]


def test_the_letters_of_bytes_are_those_of_the_library() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_letters()) == set(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in (" a\n", "é", "🎈"):
        (word, _), *_ = byte_level.pre_tokenize_str(text)
        assert word == "".join(byte_letters()[byte] for byte in text.encode())


@pytest.mark.parametrize("changes", SHAPES)
def test_the_hugging_face_files_alone_give_the_logits(tmp_path: Path, changes: dict[str, object]) -> None:
    """Llama's and Qwen3's graph from config.json and the library's reader of safetensors."""
    gpt, tokens = built(**changes), torch.randint(257, (2, 32))
    write_hf(gpt.config, parameters(gpt), tmp_path, "f32", 256, None)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    inner = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    tensors = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if name in names:
            tensors[names[name]] = tensor
        else:
            _, _, layer, rest = name.split(".", 3)
            tensors[f"blk.{layer}.{inner[rest.removesuffix('.weight')]}.weight"] = tensor
    # Both of transformers' graphs rotate halves.
    values = {
        "general.architecture": "qwen3",
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "qwen3.rope.freq_base": config["rope_theta"],
        "qwen3.block_count": config["num_hidden_layers"],
    }
    assert config["architectures"] == ["Qwen3ForCausalLM" if changes.get("qk_norm") else "LlamaForCausalLM"]
    assert config["tie_word_embeddings"] == ("lm_head.weight" not in names or "output.weight" not in tensors)
    assert (gpt.logits(tokens) - llama(values, tensors, tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("changes", [{"mixer": "moneta"}, {"residual": "mhc"}, {"mlp": "relu2"}])
def test_networks_that_others_do_not_have_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    gpt = built(**changes)
    with pytest.raises(ConfigError, match=r"llama\.cpp has no architecture with"):
        write_gguf(gpt.config, parameters(gpt), tmp_path / "x.gguf", "f32", None, "x")
    with pytest.raises(ConfigError, match="transformers has no architecture with"):
        write_hf(gpt.config, parameters(gpt), tmp_path / "x", "f32", None, None)
    assert not list(tmp_path.iterdir())


def test_the_export_command(
    tmp_path: Path,
    tiny: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_training(tiny({"train.steps": 3}), tmp_path / "run", "auto")
    source = ["export", str(tmp_path / "run"), "--out"]
    assert main([*source, str(tmp_path / "hf"), "--type", "bf16"]) == 0
    assert load_file(tmp_path / "hf" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    assert main([*source, str(tmp_path / "m.gguf"), "--type", "q8_0"]) == 0
    assert "m.gguf" in capsys.readouterr().out
    tokens = torch.randint(256, (1, 16))
    ours = load_model(open_trained(tmp_path / "run")).logits(tokens)
    theirs = llama(*read_gguf(tmp_path / "m.gguf"), tokens)
    assert (ours - theirs).abs().max() < 0.1
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*source, str(tmp_path / "k.gguf"), "--type", "q4_k_m"]) == ExitCode.CONFIG
    assert "llama-quantize, which is not on the PATH" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main([*source, str(tmp_path / "big.gguf"), "--type", "f32"]) == ExitCode.STORAGE
    assert not (tmp_path / "big.gguf").exists()


def test_k_quants_are_left_to_llama_quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "llama-quantize"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] || exit 1\ncp "$1" "$2"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    gpt, folder = built(), tmp_path / "out"
    folder.mkdir()
    write_gguf(gpt.config, parameters(gpt), folder / "m.gguf", "q4_k_m", None, "x")
    assert [path.name for path in folder.iterdir()] == ["m.gguf"]
    with pytest.raises(ConfigError, match="llama-quantize Q9_X failed"):
        write_gguf(gpt.config, parameters(gpt), folder / "n.gguf", "q9_x", None, "x")
    assert [path.name for path in folder.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("changes", SHAPES)
def test_transformers_computes_what_we_export(tmp_path: Path, changes: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM

    gpt, tokens = built(**changes), torch.randint(257, (2, 32))
    write_hf(gpt.config, parameters(gpt), tmp_path, "f32", 256, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
    assert (gpt.logits(tokens) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"width": 256, "heads": 2, "kv_heads": 1, "qk_norm": True}]
)
def test_transformers_reads_our_gguf(tmp_path: Path, text: Path, changes: dict[str, object]) -> None:
    """Its loader takes the size of Qwen3's heads from nowhere and assumes 128, so that is what is tested."""
    from transformers import AutoModelForCausalLM

    assert main(["tokenizer", str(text), "--vocab", "300", "--out", str(tmp_path / "t")]) == 0
    gpt, tokens = built(vocab=300, **changes), torch.randint(300, (2, 32))
    write_gguf(
        gpt.config, parameters(gpt), tmp_path / "m.gguf", "f32", tmp_path / "t" / "tokenizer.json", "x"
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)(
        tokens
    ).logits
    assert (gpt.logits(tokens) - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_models_of_others_become_gguf(tmp_path: Path, family: str) -> None:
    """Qwen2 has biases; the file alone gives transformers' logits."""
    from transformers import AutoModelForCausalLM
    from tuning_models import foreign_base

    heads = (
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1} if family == "qwen3" else {}
    )
    source = foreign_base(tmp_path / "hf", family, **heads)
    if family == "qwen3":
        config = json.loads((source / "config.json").read_text())
        assert config["head_dim"] == 128
    assert main(["export", str(source), "--out", str(tmp_path / "m.gguf")]) == 0
    tokens = torch.randint(320, (2, 16))
    theirs = AutoModelForCausalLM.from_pretrained(source)(tokens).logits
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")(tokens).logits
    assert (theirs - read).abs().max() < 1e-4
    values, _ = read_gguf(tmp_path / "m.gguf")
    assert values["general.architecture"] == family
    assert values["tokenizer.ggml.pre"] == "gpt-2"
    assert "im_start" in str(values["tokenizer.chat_template"])


def test_tokenizers_that_cut_text_in_an_unknown_way_are_refused(tmp_path: Path) -> None:
    from gputrain.import_hf import PATTERNS, pre_tokenizer

    def split(pattern: str) -> dict[str, object]:
        cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        return {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [cut, {"type": "ByteLevel", "use_regex": False}],
            }
        }

    assert {pre_tokenizer(split(pattern)) for pattern in PATTERNS.values()} == set(PATTERNS)
    with pytest.raises(ConfigError, match=r"not known here .*convert_hf_to_gguf\.py knows more"):
        pre_tokenizer(split(r"\s+"))
