"""What each command prints with `--json`: the stable shapes, from which the schema in docs/ is made."""

from __future__ import annotations

from gpuwatch.client import wire

SHAPES: dict[str, tuple[type[wire.Struct], ...]] = {
    "offers": (wire.Offers, wire.Prices),
    "launch": (wire.Launched, wire.SpecCheck, wire.EventRow),
    "machines": (wire.Machines,),
    "avoid": (wire.MachineRow,),
    "forgive": (wire.MachineRow,),
    "ls": (wire.Runs,),
    "show": (wire.RunDetail,),
    "logs": (wire.LogChunk,),
    "destroy": (wire.CustodyReport, wire.Empty),
    "why": (wire.Why,),
    "holds": (wire.Holds,),
    "hold": (wire.Empty,),
    "pin": (wire.Empty,),
    "release": (wire.CustodyReport,),
    "unpin": (wire.CustodyReport,),
    "resolve": (wire.Empty,),
    "evacuate": (wire.Empty,),
    "retry": (wire.Retried,),
    "stop": (wire.Retried,),
    "start": (wire.Retried,),
    "recover": (wire.Retried,),
    "mirror": (wire.MirrorStatus,),
    "cost": (wire.CostReport,),
    "events": (wire.EventRow,),
    "status": (wire.DaemonStatus,),
}
"""command -> what a line of its output can be"""
