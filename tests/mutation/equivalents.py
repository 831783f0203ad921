"""Mutants that no test can notice, or that change only words: module → {the mutant's key: why}."""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {}
