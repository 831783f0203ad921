"""RunPod's pods: a container that runs its command, with sshd only if the command starts it."""

from __future__ import annotations

from pathlib import Path

from gpucloudsim.boxes.box import BoxSpec
from gpucloudsim.boxes.container import Program
from gpucloudsim.engine.model import Instance

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def pod_id(instance: Instance) -> str:
    """Fourteen letters and digits, made of the pod's own secret: the same for ever, in no order."""
    number, letters = int(instance.api_key[:20], 16), ""
    while len(letters) < 14:
        number, digit = divmod(number, 36)
        letters += _LETTERS[digit]
    return letters


def has_start_script(image: str) -> bool:
    """Official images carry /start.sh and sshd; nobody else's do."""
    return image.startswith("runpod/")


class RunpodHouse:
    """RunPod's manners."""

    name = "runpod"

    def public_id(self, instance: Instance) -> str:
        """Pods have ids of letters and digits."""
        return pod_id(instance)

    def box(self, instance: Instance, api_url: str, state: Path) -> BoxSpec:
        """The inside of a pod: what RunPod adds to the environment reaches process 1 only, not SSH."""
        request, vendor = instance.request, instance.request.vendor
        volume = vendor.get("volume")
        identity = pod_id(instance)
        own = {
            "RUNPOD_POD_ID": identity,
            "RUNPOD_API_KEY": instance.api_key,
            "RUNPOD_API_BASE_URL": api_url,
            "RUNPOD_DC_ID": str(vendor.get("place") or ""),
            "RUNPOD_GPU_COUNT": str(instance.num_gpus),
            "RUNPOD_PUBLIC_IP": "127.0.0.1",
            "RUNPOD_POD_HOSTNAME": f"{identity}-64410f23",
        }
        if volume:
            own["RUNPOD_VOLUME_ID"] = str(volume)
        return BoxSpec(
            instance_id=instance.id,
            api_key=instance.api_key,
            api_url=api_url,
            env={**own, **request.env},
            onstart=None,
            gpu_count=instance.num_gpus,
            ssh="22/tcp" in vendor.get("ports", []) and not vendor.get("no_direct"),
            quirks=instance.quirks,
            session=(),
            program=Program(
                command=tuple(vendor.get("command") or ()),
                image_has_sshd=has_start_script(request.image),
                keeps_workspace=bool(vendor.get("persistent")) or bool(volume),
                volume=state / "volumes" / str(volume) if volume else None,
            ),
        )
