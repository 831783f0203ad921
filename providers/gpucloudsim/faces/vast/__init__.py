"""Vast.ai."""

from gpucloudsim.faces.vast.face import VastFace

__all__ = ["VastFace"]
