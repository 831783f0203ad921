"""Every tone can be read, and good and bad can be told apart by everybody."""

from itertools import combinations

import pytest
from textual.color import Color
from textual.theme import Theme

from gputui import theme

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
BLINDNESS = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}


def linear(color: str) -> tuple[float, float, float]:
    parts = [channel / 255 for channel in Color.parse(color).rgb]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return r, g, b


def luminance(color: str) -> float:
    r, g, b = linear(color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def seen(color: str, kind: str) -> tuple[float, ...]:
    rgb = linear(color)
    return tuple(
        max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True))) ** (1 / 2.2) for row in BLINDNESS[kind]
    )


@pytest.mark.parametrize("one", theme.THEMES, ids=lambda one: one.name)
def test_every_tone_can_be_read_on_its_background(one: Theme) -> None:
    wanted = 7.0 if one is theme.CONTRAST else 4.0
    for name in ("good", "busy", "warn", "bad", "faint"):
        assert contrast(one.variables[name], str(one.background)) >= wanted, name
    assert contrast(str(one.foreground), str(one.background)) >= 7


@pytest.mark.parametrize("kind", sorted(BLINDNESS))
@pytest.mark.parametrize("one", theme.THEMES, ids=lambda one: one.name)
def test_good_and_bad_differ_for_every_eye(one: Theme, kind: str) -> None:
    good, bad, warn = (seen(one.variables[name], kind) for name in ("good", "bad", "warn"))
    for a, b in combinations((good, bad), 2):
        assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 0.2
    assert sum((x - y) ** 2 for x, y in zip(good, warn, strict=True)) ** 0.5 > 0.15
