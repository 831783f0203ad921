"""Processes that crashed in a simulation leave frozen coroutines behind; they go quietly."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def bury_the_dead() -> Iterator[None]:
    """What a dead process's clean-up code would still do is no finding of the test."""
    yield
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
