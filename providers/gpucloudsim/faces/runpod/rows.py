"""The engine's instances as pods of REST v2."""

from __future__ import annotations

import time
from typing import Any

from gpucloudsim.engine.market import SECOND, Machine
from gpucloudsim.engine.model import Instance, Phase
from gpucloudsim.faces.runpod.house import pod_id

Row = dict[str, Any]

STATUS = {
    Phase.CREATED: "PROVISIONING", Phase.LOADING: "STARTING", Phase.RUNNING: "RUNNING", Phase.STOPPING: "RUNNING",
    Phase.STOPPED: "EXITED", Phase.RESUMING: "STARTING", Phase.OUTBID: "EXITED", Phase.FAILED: "ERROR",
    Phase.DESTROYED: "TERMINATED",
}  # fmt: skip
ACTIONS = {
    "RUNNING": ["stop", "restart", "terminate"], "EXITED": ["start", "terminate"], "ERROR": ["start", "terminate"],
    "PROVISIONING": ["stop", "terminate"], "STARTING": ["stop", "terminate"], "TERMINATED": [],
}  # fmt: skip


def iso(micro: int) -> str:
    """RFC 3339 with whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(micro / SECOND))


def _port(instance: Instance, ports: tuple[int, int] | None) -> list[Row]:
    found = []
    for name in instance.request.vendor.get("ports", []):
        inner, _, kind = name.partition("/")
        if kind == "tcp" and inner == "22" and ports is not None:
            found.append({"private": 22, "public": ports[0], "type": "tcp", "ip": "127.0.0.1"})
        elif kind == "http":
            found.append(
                {"private": int(inner), "public": 60_000 + instance.id % 5000, "type": "http", "ip": "100.65.0.101"}
            )  # fmt: skip
    return found


def runtime(instance: Instance, now: int, ports: tuple[int, int] | None, gpus: list[Row] | None) -> Row:
    """Utilisation and ports of a running pod."""
    since = instance.running_since_us or instance.stopped_us or now
    return {
        "uptime": max(0, (now - since) // SECOND),
        "gpus": [{"util": int(g["util"]), "memoryUtil": round(100 * g["mem_used"] / g["mem_total"])} for g in gpus or []],
        "cpu": {"util": 4},
        "memory": {"util": 11},
        "ports": _port(instance, ports),
    }  # fmt: skip


def pod_row(
    instance: Instance, machine: Machine, now: int, ports: tuple[int, int] | None, gpus: list[Row] | None
) -> Row:
    """One pod, every field of the schema."""
    request, vendor = instance.request, instance.request.vendor
    identity, status = pod_id(instance), STATUS[instance.phase]
    running = instance.phase is Phase.RUNNING
    direct = (
        ports is not None and running and "22/tcp" in vendor.get("ports", []) and not vendor.get("no_direct")
    )
    user = f"{identity}-64410f23"
    mounts: Row = {}
    if vendor.get("persistent"):
        mounts["persistent"] = vendor["persistent"]
    if vendor.get("volume"):
        mounts["network"] = [{"volumeId": vendor["volume"], "path": vendor.get("volume_path", "/workspace")}]
    row: Row = {
        "id": identity,
        "name": instance.label or "",
        "image": request.image,
        "args": vendor.get("args", ""),
        "disk": vendor["disk"],
        "ports": vendor.get("ports", []),
        "env": dict(request.env),
        "registry": vendor.get("registry"),
        "status": status,
        "actions": ACTIONS[status],
        "mounts": mounts,
        "gpu": {"id": machine.gpu.smi_name, "count": instance.num_gpus},
        "cloud": vendor["cloud"],
        "dataCenterId": vendor.get("place"),
        "cudaVersion": f"{machine.cuda:.1f}",
        "ssh": {
            "proxy": {"host": "ssh.runpod.io", "port": 22, "username": user, "command": f"ssh {user}@ssh.runpod.io"}
            if instance.phase is not Phase.CREATED
            else None,
            "direct": {"host": "127.0.0.1", "port": ports[0], "username": "root", "command": f"ssh root@127.0.0.1 -p {ports[0]}"}
            if direct and ports is not None
            else None,
        },
        "template": vendor.get("template"),
        "cost": instance.gpu_rate / 1e6 if status not in ("EXITED", "TERMINATED") else 0.0,
        "locked": bool(vendor.get("locked")),
        "globalNetworking": {"enabled": False},
        "runtime": runtime(instance, now, ports, gpus) if running and instance.host_online else None,
        "createdAt": iso(instance.created_us),
        "startedAt": iso(instance.running_since_us) if instance.running_since_us else None,
    }  # fmt: skip
    for name in ("cmd", "entrypoint"):
        if vendor.get(name):
            row[name] = vendor[name]
    return row


def system_lines(instance: Instance) -> list[tuple[int, str]]:
    """What the host says about a pod: (microseconds, line)."""
    vendor = instance.request.vendor
    lines: list[tuple[int, str]] = []
    for at, what in instance.history:
        match what:
            case "created":
                if vendor.get("persistent"):
                    lines.append((at, f"create {vendor['persistent']['size']}GB volume"))
                lines.append((at, f"create container {instance.request.image}"))
            case "loading":
                lines.append((at, f"{instance.request.image} Pulling from registry"))
            case "running":
                lines.append((at, "start container"))
            case "stopped" | "outbid":
                lines.append((at, "stop container"))
            case "failed":
                lines.append((at, f"error creating container: {instance.failure or ''}"))
            case _:
                lines.append((at, what))
    return lines
