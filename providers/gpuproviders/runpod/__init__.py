"""RunPod, through its REST v2. `RunpodProvider` is the adapter; nothing is imported until its first call."""

from gpuproviders.runpod.adapter import RunpodProvider

__all__ = ["RunpodProvider"]
