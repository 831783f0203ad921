"""One number next to its target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    name: str
    measured: float
    target: float
    unit: str
    detail: str
    at_least: bool = False

    def __str__(self) -> str:
        good = self.measured >= self.target if self.at_least else self.measured <= self.target
        sign = ">=" if self.at_least else "<="
        mark = "ok" if good else "MISS"
        return f"{self.name:<34} {self.measured:8.2f} {self.unit:<6} {sign} {self.target:<8g} {mark:<5} {self.detail}"
