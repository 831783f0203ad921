"""RunPod: REST v2, the GraphQL that its SDK still sends, and pods that are containers."""

from gpucloudsim.faces.runpod.face import RunpodFace

__all__ = ["RunpodFace"]
