"""The engine's offers and instances as rows of the Vast API (all fields, units as there).

Sources of names and arithmetic: recorded payloads; diskHour = storage_cost x GB / 720,
totalHour = dph_base + diskHour, dph_total_adj = totalHour + one GB per hour each way.
"""

from __future__ import annotations

from typing import Any

from gpucloudsim.engine.market import MONTH_HOURS, SECOND, Machine, Offer
from gpucloudsim.engine.model import BootPlan, Instance, Phase, Want

Row = dict[str, Any]


def dollars(micro: int) -> float:
    """Micro-dollars as the API's floats."""
    return micro / 1_000_000


def _driver_number(version: str) -> int:
    major, minor, patch = (int(part) for part in version.split("."))
    return major * 1_000_000 + minor * 1000 + patch


def _prices(base: float, storage_per_gb: float, disk_gb: float) -> Row:
    disk_hour = storage_per_gb * disk_gb / MONTH_HOURS
    total = base + disk_hour
    return {
        "gpuCostPerHour": base,
        "diskHour": disk_hour,
        "totalHour": total,
        "discountTotalHour": 0,
        "discountedTotalPerHour": total,
    }


def machine_fields(machine: Machine, num_gpus: int, base: float, now: int) -> Row:
    """Fields that offers and instances share."""
    gpu = machine.gpu
    share = num_gpus / machine.num_gpus
    dlperf = round(gpu.dlperf * num_gpus, 4)
    flops = round(gpu.tflops * num_gpus, 3)
    verified = machine.verification == "verified"
    return {
        "machine_id": machine.machine_id,
        "host_id": machine.host_id,
        "bundle_id": machine.machine_id * 3 + num_gpus,
        "gpu_name": gpu.name,
        "num_gpus": num_gpus,
        "gpu_ram": gpu.vram_mib,
        "gpu_arch": "nvidia",
        "compute_cap": gpu.compute_cap,
        "cuda_max_good": machine.cuda,
        "driver_version": machine.driver,
        "driver_vers": _driver_number(machine.driver),
        "gpu_mem_bw": gpu.mem_bw_gbs,
        "gpu_lanes": 16,
        "gpu_frac": share,
        "gpu_max_power": float(gpu.power_w),
        "gpu_max_temp": 85.0,
        "gpu_display_active": False,
        "bw_nvlink": 450.0 if "SXM" in gpu.name else 0.0,
        "pci_gen": 4.0,
        "pcie_bw": 24.5,
        "cpu_name": machine.cpu_name,
        "cpu_arch": "amd64",
        "cpu_ghz": 3.1,
        "cpu_cores": machine.cpu_cores,
        "cpu_cores_effective": round(machine.cpu_cores * share, 2),
        "cpu_ram": machine.cpu_ram_mb,
        "has_avx": 1,
        "disk_name": "nvme",
        "disk_bw": machine.disk_bw,
        "inet_up": machine.inet_up,
        "inet_down": machine.inet_down,
        "inet_up_cost": dollars(machine.up_micro_per_gb),
        "inet_down_cost": dollars(machine.down_micro_per_gb),
        "internet_up_cost_per_tb": dollars(machine.up_micro_per_gb) * 1024,
        "internet_down_cost_per_tb": dollars(machine.down_micro_per_gb) * 1024,
        "storage_cost": dollars(machine.storage_micro_per_gb_month),
        "reliability2": machine.reliability,
        "verification": machine.verification,
        "vericode": 1 if verified else 0,
        "hosting_type": 1 if machine.datacenter else 0,
        "static_ip": machine.static_ip,
        "geolocation": machine.place,
        "country_code": machine.place.rpartition(", ")[2],
        "direct_port_count": machine.direct_ports,
        "external": False,
        "rentable": True,
        "os_version": "22.04",
        "mobo_name": "ROME2D32GM",
        "dlperf": dlperf,
        "dlperf_per_dphtotal": dlperf / base if base else 0.0,
        "total_flops": flops,
        "flops_per_dphtotal": flops / base if base else 0.0,
        "score": round(
            (dlperf / base if base else 0.0) * machine.reliability * (1.2 if verified else 0.6), 6
        ),
        "vram_costperhour": base / (gpu.vram_mib * num_gpus) if base else 0.0,
        "credit_discount_max": 0.1,
        "credit_discount": None,
        "client_run_time": 1.1,
        "host_run_time": 2592000.0,
        "resource_type": "gpu",
        "cluster_id": None,
        "logo": "/static/logos/vastai_small2.png",
        "webpage": None,
        "vms_enabled": machine.datacenter,
        "is_vm_deverified": False,
        "public_ipaddr": f"203.0.113.{machine.index % 250 + 1}",
        "start_date": now / SECOND - 86400.0 * (3 + machine.index),
    }


def offer_row(offer: Offer, bid: bool, storage_gb: float, now: int) -> Row:
    """One offer, priced with this much storage."""
    machine = offer.machine
    base = dollars(offer.min_bid_micro if bid else offer.price_micro)
    storage = dollars(machine.storage_micro_per_gb_month)
    search = _prices(base, storage, storage_gb)
    row = machine_fields(machine, offer.num_gpus, base, now)
    row.update(
        id=offer.offer_id,
        ask_contract_id=offer.offer_id,
        gpu_total_ram=machine.gpu.vram_mib * offer.num_gpus,
        gpu_ids=list(range(offer.num_gpus)),
        reliability=machine.reliability,
        expected_reliability=machine.reliability,
        disk_space=float(machine.disk_gb),
        dph_base=base,
        dph_total=search["totalHour"],
        discounted_dph_total=search["totalHour"],
        dph_total_adj=search["totalHour"] + row["inet_up_cost"] + row["inet_down_cost"],
        storage_total_cost=search["diskHour"],
        min_bid=dollars(offer.min_bid_micro),
        is_bid=bid,
        rented=False,
        search=search,
        instance={**_prices(0.0, storage, storage_gb)},
        end_date=offer.end_us / SECOND,
        duration=(offer.end_us - now) / SECOND,
        time_remaining="",
        time_remaining_isbid="",
        avail_vol_ask_id=None,
        avail_vol_dph=None,
        avail_vol_size=None,
    )
    return row


PULL = (
    "4c7d45f7c63c: Pulling fs layer",
    "4c7d45f7c63c: Download complete",
    "0d30c18b26f8: Retrying in 5 seconds",
    "0d30c18b26f8: Pull complete",
)


def status(instance: Instance, now: int) -> Row:
    """The four words of a Vast instance and its message, from the engine's phase."""
    image = instance.request.image
    wanted = instance.want.value
    actual: str | None
    message: str | None = None
    current = "running"
    match instance.phase:
        case Phase.CREATED:
            actual = None
        case Phase.LOADING:
            actual = "loading"
            if instance.quirks.boot is BootPlan.STRANGE:
                actual = "prewarming"
            current = "stopped" if instance.id % 3 == 0 else "running"
            done = (now - instance.booting_since_us) / SECOND
            message = PULL[int(done * 2) % len(PULL)] if instance.boots == 0 else f"starting {image}"
        case Phase.RUNNING:
            actual = "running" if instance.host_online else "offline"
            message = f"success, running {image.replace('/', '_').replace(':', '_')}/ssh"
        case Phase.STOPPING:
            actual, current = "running", "stopped"
        case Phase.STOPPED:
            actual = "exited" if instance.boots else None
            current = "running" if instance.want is Want.RUNNING else "stopped"
        case Phase.RESUMING:
            actual = "exited"
        case Phase.OUTBID:
            actual, current, wanted = ("exited" if instance.boots else None), "stopped", "stopped"
        case Phase.FAILED:
            actual = "created" if instance.quirks.boot is BootPlan.OCI_ERROR else "loading"
            current, message = "stopped", instance.failure
        case Phase.DESTROYED:
            actual, current, wanted = "exited", "stopped", "stopped"
    return {
        "actual_status": actual,
        "intended_status": wanted,
        "cur_state": current,
        "next_state": wanted,
        "status_msg": message,
    }


def _bindings(container: str, port: int) -> Row:
    text = str(port)
    return {container: [{"HostIp": "0.0.0.0", "HostPort": text}, {"HostIp": "::", "HostPort": text}]}  # noqa: S104


def _extra_ports(env: dict[str, str]) -> list[str]:
    found = []
    for name in env:
        if name.startswith("-p "):
            inner = name[3:].rpartition(":")[2]
            found.append(inner if "/" in inner else f"{inner}/tcp")
    return found


def _network(instance: Instance, ports: tuple[int, int] | None) -> Row:
    """Addresses. The box answers on 127.0.0.1: direct and 'proxy' ports both lead to it."""
    runtype = instance.request.runtype
    up = instance.phase is Phase.RUNNING and instance.boots > 0 and ports is not None
    direct, proxy = ports or (0, 0)
    table: Row | None = None if instance.phase is Phase.CREATED else {}
    if up:
        table = {}
        if "direc" in runtype:
            table.update(_bindings("22/tcp", direct))
        for offset, container in enumerate(_extra_ports(instance.request.env)):
            table.update(_bindings(container, direct + 1 + offset))
    jupyter = "jupyter" in runtype
    return {
        "public_ipaddr": "127.0.0.1\n" if instance.id % 2 else "127.0.0.1",
        "local_ipaddrs": "127.0.0.1 172.17.0.1 \n",
        "ssh_host": "127.0.0.1",
        "ssh_port": proxy - 1 if jupyter and proxy else proxy or None,
        "ssh_idx": str(instance.id % 10),
        "machine_dir_ssh_port": 5300,
        "ports": table,
        "direct_port_start": direct if up else -1,
        "direct_port_end": direct + 12 if up else -1,
    }


def instance_row(
    instance: Instance,
    machine: Machine,
    now: int,
    ports: tuple[int, int] | None,
    gpu_rows: list[Row] | None,
    disk_used: int | None,
    credit: float,
) -> Row:
    """One instance with everything the v1 list returns."""
    request = instance.request
    base = dollars(instance.gpu_rate)
    search = _prices(base, dollars(machine.storage_micro_per_gb_month), request.disk_gb)
    running = instance.phase is Phase.RUNNING and instance.host_online
    row = machine_fields(machine, instance.num_gpus, base, now)
    vendor = request.vendor
    row.update(status(instance, now))
    row.update(_network(instance, ports))
    row.update(
        id=instance.id,
        label=instance.label,
        image_uuid=request.image,
        image_runtype=request.runtype,
        image_args=vendor.get("args") or [],
        extra_env=[[key, value] for key, value in request.env.items()],
        onstart=request.onstart,
        template_id=None,
        template_hash_id=vendor.get("template_hash_id"),
        template_name=None,
        jupyter_token=instance.api_key[::-1] if "jupyter" in request.runtype else None,
        gpu_totalram=machine.gpu.vram_mib * instance.num_gpus,
        disk_space=request.disk_gb,
        disk_usage=-1 if disk_used is None else round(disk_used / 1e9, 4),
        disk_util=-1 if disk_used is None else round(disk_used / (request.disk_gb * 1e9), 6),
        dph_base=base,
        dph_total=search["totalHour"],
        min_bid=dollars(instance.bid_micro or 0),
        is_bid=instance.bid_micro is not None,
        search=search,
        instance=search
        if running
        else _prices(0.0, dollars(machine.storage_micro_per_gb_month), request.disk_gb),
        storage_total_cost=search["diskHour"],
        start_date=instance.created_us / SECOND,
        end_date=instance.end_us / SECOND,
        duration=(instance.end_us - now) / SECOND,
        uptime_mins=(now - instance.running_since_us) / 60 / SECOND
        if running and instance.running_since_us
        else None,
        gpu_util=float(sum(g["util"] for g in gpu_rows)) / len(gpu_rows) if running and gpu_rows else None,
        gpu_temp=float(max(g["temp"] for g in gpu_rows)) if running and gpu_rows else None,
        vmem_usage=round(sum(g["mem_used"] for g in gpu_rows) / 1024, 3) if running and gpu_rows else None,
        cpu_util=0.0,
        mem_limit=round(machine.cpu_ram_mb * instance.num_gpus / machine.num_gpus / 1000, 3),
        mem_usage=None,
        inet_up_billed=instance.bytes_up / 1e6,
        inet_down_billed=instance.bytes_down / 1e6,
        credit_balance=credit,
        time_remaining="",
        time_remaining_isbid="",
        volume_info=[],
    )
    return row
