"""Vast's boxes: sshd beside the image, the account's keys installed, an instance key in HOME."""

from __future__ import annotations

from pathlib import Path

from gpucloudsim.boxes.box import BoxSpec
from gpucloudsim.engine.model import Instance

BANNER = (
    "Welcome to vast.ai. If authentication fails, try again after a few seconds, and double check your ssh key.\n"
    "Have fun!\n"
)


class VastHouse:
    """Vast's manners."""

    name = "vast"

    def public_id(self, instance: Instance) -> str:
        """Vast shows the number itself."""
        return str(instance.id)

    def box(self, instance: Instance, api_url: str, state: Path) -> BoxSpec:
        """The inside of an instance."""
        runtype = instance.request.runtype
        return BoxSpec(
            instance_id=instance.id,
            api_key=instance.api_key,
            api_url=api_url,
            env=instance.request.env,
            onstart=instance.request.onstart,
            gpu_count=instance.num_gpus,
            ssh="ssh" in runtype or "jupyter" in runtype,
            quirks=instance.quirks,
            banner=BANNER,
            key_file=".vast_api_key",
            session=(
                ("CONTAINER_ID", str(instance.id)),
                ("CONTAINER_API_KEY", instance.api_key),
                ("VAST_CONTAINERLABEL", f"C.{instance.id}"),
                ("VAST_URL", api_url),
                ("VAST_TCP_PORT_22", "{port}"),
                ("PUBLIC_IPADDR", "127.0.0.1"),
                ("GPU_COUNT", str(instance.num_gpus)),
            ),
        )
