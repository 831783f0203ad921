"""Fixtures of the trainer tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from trainer_runs import TINY

from gputrain.config import Config, Layer, from_layers


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 kB of English with few enough windows that 20 steps reach into the second epoch."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics))[:2_500])
    return path


@pytest.fixture
def tiny(text: Path) -> Callable[..., Config]:
    """``tiny({"optim.lr": 1e-2})``: the tiny configuration with changes."""

    def make(changes: Mapping[str, object] = {}) -> Config:
        values = {**TINY, "data.path": (str(text),), **changes}
        return from_layers([Layer("test", values)])[0]

    return make
