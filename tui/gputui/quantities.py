"""Words of a command line as values in base units; what is wrong with them says what to type instead."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number from 1."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too few; give a number from 1")
    return value


def count(text: str) -> int:
    """A whole number from 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 is any."""
    value = count(text)
    if value > 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; they end at 65535")
    return value


def usd(text: str) -> int:
    """Micro-dollars."""
    from gpuproviders.money import parse_usd

    amount = parse_usd(text.removeprefix("$"))
    if amount is None or amount <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars; try 2.50")
    return amount


def duration(text: str) -> float:
    """Seconds, from 12h or 30d."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    factor = units.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * factor if factor else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; try 12h or 30d")
    return value


def speed(text: str) -> float:
    """A factor, from 4 or 4x."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = -1
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no speed; try 4")
    return value


def share(text: str) -> float:
    """0…1, from 0.98 or 98%."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; try 0.98 or 98%")
    return value


def size(text: str) -> int:
    """Bytes, from 150GB; a bare number is gigabytes."""
    units = {
        "": 10**9,
        "b": 1,
        "k": 10**3,
        "kb": 10**3,
        "m": 10**6,
        "mb": 10**6,
        "g": 10**9,
        "gb": 10**9,
        "t": 10**12,
        "tb": 10**12,
    }
    digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    factor = units.get(text.strip()[len(digits) :].strip().lower())
    try:
        value = int(float(digits) * factor) if factor else 0
    except (ValueError, OverflowError):
        value = 0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 150GB")
    return value


def offer(text: str) -> tuple[str, str]:
    """Provider and id of an offer."""
    provider, _, ident = text.partition(":")
    if not provider or not ident:
        raise argparse.ArgumentTypeError(f"{text!r} is no offer; try vast:1234567 (from `gputui offers`)")
    return provider, ident
