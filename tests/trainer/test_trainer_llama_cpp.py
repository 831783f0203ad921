"""GGUF files in a real llama.cpp: the same logits as ours.

llama.cpp is compiled once, from the source package on PyPI, into a cache folder; that needs cmake, a C++
compiler and ten minutes of a quiet machine. It runs in a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gputrain.cli import main
from gputrain.config import ModelConfig
from gputrain.export_gguf import write_gguf
from gputrain.model import GPT

VERSION = "0.3.36"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"gputui-tests/llama-cpp-{VERSION}"
SETTINGS = "-DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF -DGGML_NATIVE=OFF -DLLAMA_CURL=OFF"
READ = """
import json, sys
from llama_cpp import Llama
tokens = json.loads(sys.argv[2])
# Type 0 is float32: keys and values kept in half precision, its default, would be most of the difference.
model = Llama(
    model_path=sys.argv[1], logits_all=True, n_ctx=64, n_threads=1, verbose=False, type_k=0, type_v=0
)
model.eval(tokens)
print(json.dumps(model.scores[:len(tokens)].tolist()))
"""


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of the compiled package, which is built if it is not there."""
    if not (CACHE / "llama_cpp" / "__init__.py").is_file():
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-input", "--quiet"]
        subprocess.run(
            [*install, "--target", str(CACHE), f"llama-cpp-python=={VERSION}", "diskcache"],
            check=True,
            env={**os.environ, "CMAKE_ARGS": SETTINGS},
            timeout=7000,
        )
    return CACHE


def logits(llama_cpp: Path, model: Path, tokens: list[int]) -> torch.Tensor:
    """What llama.cpp computes: (tokens, vocabulary)."""
    path = os.pathsep.join([str(llama_cpp), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(model), json.dumps(tokens)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


SHAPES: list[dict[str, object]] = [
    {},
    {"qk_norm": True},
    {"tied": False},
    {"kv_heads": 0, "rope_base": 5e5},
]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize(("kind", "limit"), [("f32", 1e-3), ("f16", 2e-2), ("bf16", 0.2), ("q8_0", 0.3)])
def test_llama_cpp_computes_our_logits(
    tmp_path: Path, text: Path, llama_cpp: Path, changes: dict[str, object], kind: str, limit: float
) -> None:
    assert main(["tokenizer", str(text), "--vocab", "300", "--out", str(tmp_path / "t")]) == 0
    shape = ModelConfig(layers=2, width=64, heads=4, kv_heads=2, context=64, vocab=300, ffn=96)
    gpt = GPT(dataclasses.replace(shape, **changes))  # type: ignore[arg-type]
    gpt.initialise(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1.3)
    parameters = {name: p.detach() for name, p in gpt.named_parameters()}
    write_gguf(gpt.config, parameters, tmp_path / "m.gguf", kind, tmp_path / "t" / "tokenizer.json", "x")
    tokens = torch.randint(300, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = gpt.eval().logits(tokens)[0]
    theirs = logits(llama_cpp, tmp_path / "m.gguf", tokens[0].tolist())
    print("largest difference", float((ours - theirs).abs().max()), "of", float(ours.abs().max()))
    assert ours.abs().max() > 1
    assert (ours - theirs).abs().max() < limit


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_computes_the_logits_of_models_of_others(
    tmp_path: Path, llama_cpp: Path, family: str
) -> None:
    from transformers import AutoModelForCausalLM
    from tuning_models import foreign_base

    source = foreign_base(tmp_path / "hf", family)
    assert main(["export", str(source), "--out", str(tmp_path / "m.gguf")]) == 0
    tokens = torch.randint(320, (1, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)(tokens).logits[0]
    ours = logits(llama_cpp, tmp_path / "m.gguf", tokens[0].tolist())
    assert (ours - theirs).abs().max() < 1e-3
