"""The app's looks. Blue and orange carry good and bad, so that no one needs to tell red from green."""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme
from textual.theme import BUILTIN_THEMES, Theme

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
        "scrollbar": "#323a46",
        "scrollbar-hover": "#46515f",
        "scrollbar-active": "#7fb0dc",
        "scrollbar-background": "#14171c",
        "scrollbar-background-hover": "#14171c",
        "scrollbar-background-active": "#14171c",
        "scrollbar-corner-color": "#14171c",
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

CONTRAST = Theme(
    name="gputui-contrast",
    primary="#8fd0ff",
    secondary="#d0c4ff",
    accent="#8fd0ff",
    warning="#ffd75f",
    error="#ff9a5c",
    success="#5ff0e0",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    variables={
        "good": "#5ff0e0",
        "busy": "#d0c4ff",
        "warn": "#ffd75f",
        "bad": "#ff9a5c",
        "faint": "#c0c0c0",
        "cursor": "#003a66",
        "rule": "#8a8a8a",
        "block-cursor-background": "#003a66",
        "block-cursor-foreground": "#ffffff",
    },
)
"""For tired eyes and bright rooms: every word at 7:1 or better."""

SIXTEEN = Theme(
    name="gputui-16",
    ansi=True,
    primary="ansi_bright_blue",
    secondary="ansi_bright_magenta",
    accent="ansi_bright_blue",
    warning="ansi_yellow",
    error="ansi_bright_red",
    success="ansi_bright_cyan",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables=BUILTIN_THEMES["ansi-dark"].variables
    | {
        "good": "ansi_bright_cyan",
        "busy": "ansi_bright_magenta",
        "warn": "ansi_yellow",
        "bad": "ansi_bright_red",
        "faint": "ansi_bright_black",
        "cursor": "ansi_blue",
        "rule": "ansi_bright_black",
        "block-cursor-background": "ansi_blue",
        "block-cursor-foreground": "ansi_bright_white",
        "input-cursor-background": "ansi_bright_white",
        "input-cursor-foreground": "ansi_black",
        "input-selection-background": "ansi_blue",
        "input-selection-foreground": "ansi_bright_white",
    },
)
"""The terminal's own sixteen colours, for one that has no more; what they look like is the person's choice."""

THEMES = (DARK, LIGHT, CONTRAST)
"""Those whose colours are ours."""

VARIABLES = {
    name: DARK.variables[name] for name in ("good", "busy", "warn", "bad", "faint", "cursor", "rule")
}
"""What a theme that is not ours falls back to."""

ANSI = TerminalTheme(
    (0x14, 0x17, 0x1C),
    (0xD3, 0xD7, 0xDF),
    [
        (0x3A, 0x41, 0x4D), (0xE8, 0x82, 0x5A), (0x8F, 0xC0, 0x8A), (0xE0, 0xAF, 0x5C),
        (0x7F, 0xB0, 0xDC), (0xB5, 0x9B, 0xDD), (0x6F, 0xC3, 0xC0), (0xC4, 0xC9, 0xD2),
    ],
    [
        (0x76, 0x7E, 0x8C), (0xF5, 0x9A, 0x74), (0xA8, 0xD5, 0xA2), (0xF0, 0xC6, 0x7C),
        (0x9C, 0xC5, 0xEA), (0xC9, 0xB4, 0xEC), (0x8A, 0xD8, 0xD5), (0xEE, 0xF0, 0xF4),
    ],
)  # fmt: skip
"""The sixteen colours that logs ask for by number, in the key of the theme."""
