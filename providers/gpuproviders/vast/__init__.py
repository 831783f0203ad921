"""Vast.ai, through its official SDK. `VastProvider` is the adapter; the SDK loads on its first call."""

from gpuproviders.vast.adapter import VastProvider

__all__ = ["VastProvider"]
