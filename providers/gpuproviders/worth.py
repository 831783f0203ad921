"""What an offer is worth: its price with everything, per unit of arithmetic, per token. Pure; micro-dollars."""

from __future__ import annotations

from typing import Final

from gpuproviders.gpus import tflops
from gpuproviders.model import GB, Offer
from gpuproviders.money import MicroUsd

TRANSFER: Final = GB
"""Bytes an hour, each way, that are expected to go in and out when nobody says: what Vast's own `dph_total_adj` assumes."""
DEARER: Final = 1.1
"""How many times its offer's price a machine may be listed at: prices move a little between a search and a create."""


def all_in(offer: Offer, transfer: int = TRANSFER) -> MicroUsd | None:
    """Micro-dollars per hour for GPUs, disk and `transfer` bytes an hour each way; None when a price per GB is unknown."""
    if offer.transfer_price is None or offer.receive_price is None:
        return None
    # rounded up: an estimate that is a little dear is the honest one
    moved = -(-(offer.transfer_price + offer.receive_price) * transfer // GB)
    return MicroUsd(offer.price + moved)


def compared(offer: Offer, transfer: int = TRANSFER) -> MicroUsd:
    """The price that offers are ranked and capped by: all-in, or what is known of it."""
    whole = all_in(offer, transfer)
    return offer.price if whole is None else whole


def per_tflop(price: int, gpu: str, count: int) -> MicroUsd | None:
    """Micro-dollars per TFLOP-hour of peak dense bfloat16; None for a card whose peak is not known."""
    peak = tflops(gpu, count)
    return None if not peak else MicroUsd(round(price / peak))


def per_billion_tokens(price: int, tokens_per_second: float | None) -> MicroUsd | None:
    """Micro-dollars for 10^9 tokens at a measured speed; None when nothing was measured."""
    if tokens_per_second is None or not 0 < tokens_per_second < 1e12:
        return None
    return MicroUsd(round(price * 1e9 / (tokens_per_second * 3600)))
