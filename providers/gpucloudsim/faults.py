"""Fault switches: everything that a cloud does wrong, by name.

One table, `switches.KINDS`, names every switch and says what it does. A switch can be set by flag
(`--fault name=arg`), over HTTP at run time (`POST /_sim/faults`), for so many calls (`count`), with a
probability, and from the k-th matching call on (`skip`). Several settings of one switch may be active.

Arguments of the general HTTP switches are `endpoint[:detail…]`; an endpoint is a name such as
`create`, `list`, `show`, `destroy`, `state`, `label`, `search`, `logs`, `user`, or `*` for all.
"""

from __future__ import annotations

import random

import msgspec

from gpucloudsim.engine.model import BootPlan, Quirks
from gpucloudsim.switches import KINDS


class Fault(msgspec.Struct):
    """One active setting of a switch."""

    name: str
    arg: str = ""
    count: int | None = None
    """Calls it still hits; None for ever."""
    probability: float = 1.0
    skip: int = 0
    """Matching calls to let pass first."""
    hits: int = 0


class UnknownFaultError(ValueError):
    """There is no switch of that name."""


def parse(text: str) -> Fault:
    """Read `name[=arg][*count][@k][~probability]`, e.g. `create_hang_after*1@2` (the second create, once).

    Raises UnknownFaultError, ValueError.
    """
    probability, skip, count = 1.0, 0, None
    if "~" in text:
        text, _, tail = text.rpartition("~")
        probability = float(tail)
    if "@" in text:
        text, _, tail = text.rpartition("@")
        skip = int(tail) - 1
    if "*" in text and text.rpartition("*")[2].isdigit():
        text, _, tail = text.rpartition("*")
        count = int(tail)
    name, _, arg = text.partition("=")
    check(name)
    return Fault(name, arg, count, probability, skip)


def check(name: str) -> None:
    """Raises UnknownFaultError unless there is such a switch."""
    if name not in KINDS:
        raise UnknownFaultError(f"no fault switch {name!r}; GET /_sim/faults lists them")


class Faults:
    """The switches that are on. Asking for one uses it up."""

    def __init__(self, seed: int, active: list[Fault] | None = None) -> None:
        self.active: list[Fault] = active if active is not None else []
        self._random = random.Random(seed)

    def add(self, fault: Fault) -> None:
        """Switch one on. Raises UnknownFaultError."""
        check(fault.name)
        self.active.append(fault)

    def clear(self, name: str | None = None) -> None:
        """Switch off all, or all settings of one name."""
        self.active[:] = [fault for fault in self.active if name is not None and fault.name != name]

    def take(self, name: str, endpoint: str | None = None) -> str | None:
        """The argument of the switch if it hits this call ('' when it has none), else None.

        For general switches `endpoint` selects the settings that concern this call and the rest of
        the argument is returned.
        """
        for fault in self.active:
            kind = KINDS[fault.name]
            if endpoint is not None and kind.base == name:
                target, _, rest = kind.base_arg.partition(":")
            elif fault.name == name:
                target, _, rest = fault.arg.partition(":") if endpoint is not None else ("", "", fault.arg)
            else:
                continue
            if endpoint is not None and target not in ("*", endpoint):
                continue
            if self._hits(fault):
                return rest
        return None

    def _hits(self, fault: Fault) -> bool:
        if fault.skip > 0:
            fault.skip -= 1
            return False
        if fault.count == 0 or (fault.probability < 1 and self._random.random() >= fault.probability):
            return False
        if fault.count is not None:
            fault.count -= 1
        fault.hits += 1
        return True

    def draw_quirks(self) -> Quirks:
        """What the next box will be like. Uses up one count of each box switch that is on."""
        boot = BootPlan.NORMAL
        for name, plan in (
            ("boot_stuck", BootPlan.STUCK),
            ("boot_oci_error", BootPlan.OCI_ERROR),
            ("boot_image_missing", BootPlan.IMAGE_MISSING),
            ("boot_strange", BootPlan.STRANGE),
        ):
            if boot is BootPlan.NORMAL and self.take(name) is not None:
                boot = plan
        quota = self.take("disk_full")
        base = Quirks()
        return Quirks(
            boot=boot,
            boot_factor=float(self.take("boot_slow") or 1),
            ssh_refused_s=float(self.take("ssh_refused") or base.ssh_refused_s),
            ssh_denied=int(self.take("ssh_denied") or base.ssh_denied),
            ssh_silent=self.take("ssh_never") is not None,
            host_key_changes=self.take("host_key_change") is not None,
            port_changes=self.take("port_change") is not None,
            no_python=self.take("no_python") is not None,
            quota_bytes=int(quota or 0) if quota is not None else None,
            smi=self.take("smi") or "",
            env_in_ssh=self.take("env_in_ssh") is not None,
            crash_after_s=None if (seconds := self.take("crash_loop")) is None else float(seconds or 2),
        )
