"""The app's looks. Blue and orange carry good and bad, so that no one needs to tell red from green."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="gputui",
    primary="#7fb0dc",
    secondary="#9a94c9",
    accent="#7fb0dc",
    warning="#e0af5c",
    error="#e8825a",
    success="#6fc3c0",
    foreground="#d3d7df",
    background="#14171c",
    surface="#181c22",
    panel="#20252d",
    dark=True,
    variables={
        "good": "#6fc3c0",
        "busy": "#a7a2dd",
        "warn": "#e0af5c",
        "bad": "#f0875c",
        "faint": "#767e8c",
        "cursor": "#2a3440",
        "rule": "#2b313b",
        "block-cursor-background": "#2a3440",
        "block-cursor-foreground": "#d3d7df",
        "input-selection-background": "#7fb0dc 35%",
    },
)

LIGHT = Theme(
    name="gputui-light",
    primary="#1f5f99",
    secondary="#5a4fa0",
    accent="#1f5f99",
    warning="#8a5a00",
    error="#b3400f",
    success="#00706c",
    foreground="#20242b",
    background="#f7f8fa",
    surface="#eef0f4",
    panel="#e2e6ec",
    dark=False,
    variables={
        "good": "#00706c",
        "busy": "#5a4fa0",
        "warn": "#8a5a00",
        "bad": "#b3400f",
        "faint": "#697080",
        "cursor": "#d3dfeb",
        "rule": "#cfd5de",
    },
)

VARIABLES = {
    name: DARK.variables[name] for name in ("good", "busy", "warn", "bad", "faint", "cursor", "rule")
}
"""What a theme that is not ours falls back to."""
