"""Run specs: TOML in, checked values out, or a list of problems that say where and what."""

from gpuwatch.spec.model import RunSpec
from gpuwatch.spec.read import SpecError, SpecProblem, read_spec

__all__ = ["RunSpec", "SpecError", "SpecProblem", "read_spec"]
