"""What happens to running machines and to the account by itself, when a fault switch says so.

Each switch is drawn for once a second and for each machine that it can hit, so a probability is one per machine and
second, and a count is so many machines.
"""

from __future__ import annotations

from typing import Protocol

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import Instance, Phase, World


class Switches(Protocol):
    """The fault switches, as far as they are asked here."""

    def take(self, name: str) -> str | None:
        """The argument of a switch that hits now, None when it does not."""
        ...


def strike(world: World, switches: Switches, now: int) -> None:
    """Draw for every running machine; end what was to last only so long."""
    if switches.take("credit_gone") is not None:
        lifecycle.deposit(world, -max(0, lifecycle.credit(world)), now)
    for instance in list(world.instances.values()):
        if not instance.exists:
            continue
        if instance.relief_us is not None and now >= instance.relief_us:
            _relieve(world, instance, now)
        if instance.phase is Phase.RUNNING and instance.host_online:
            _hit(world, switches, instance, now)


def _hit(world: World, switches: Switches, instance: Instance, now: int) -> None:
    if instance.bid_micro is not None and (seconds := switches.take("preempt")) is not None:
        if instance.request.runtype == "pod":
            lifecycle.evict(world, instance.id, now)
        else:
            lifecycle.force_outbid(world, instance.id, now)
            instance.relief_us = _until(seconds, now)
    elif (seconds := switches.take("host_loss")) is not None:
        lifecycle.set_online(world, instance.id, False, now)
        instance.relief_us = _until(seconds, now)
    elif switches.take("container_dies") is not None:
        lifecycle.kill_container(world, instance.id, now)
    elif switches.take("expire") is not None:
        instance.end_us = now
    elif switches.take("machine_taken") is not None:
        lifecycle.destroy(world, instance.id, now, "the vendor")


def _until(seconds: str, now: int) -> int | None:
    return now + round(float(seconds) * SECOND) if seconds else None


def _relieve(world: World, instance: Instance, now: int) -> None:
    instance.relief_us = None
    if not instance.host_online:
        lifecycle.set_online(world, instance.id, True, now)
    else:
        lifecycle.release_floor(world, instance.id, now)
