"""Stand-in for `nvidia-smi`: a script of its own, run by the box with `python -I -S`.

It prints what the real tool prints, from `var/gpu.json`, which the simulator renews every second; when
that file is stale (the simulator is down) it measures the load of the box's processes itself. It
imports as little as possible: it starts in about 20 ms.
"""

# Importing pathlib would cost half of the start-up time.
# ruff: noqa: PTH112, PTH118, PTH123, PTH208

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

STALE_S = 5.0
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)

Gpu = dict[str, Any]


def stamp() -> str:
    """Local time as the CSV shows it."""
    now = time.time()
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"


# field: (header, unit, key or function). The header is what --format=csv prints above the column.
FIELDS: dict[str, tuple[str, str, Any]] = {
    "timestamp": ("timestamp", "", lambda g: stamp()),
    "driver_version": ("driver_version", "", "driver"),
    "count": ("count", "", "count"),
    "name": ("name", "", "name"),
    "gpu_name": ("name", "", "name"),
    "uuid": ("uuid", "", "uuid"),
    "gpu_uuid": ("uuid", "", "uuid"),
    "serial": ("serial", "", lambda g: "[N/A]"),
    "index": ("index", "", "index"),
    "pci.bus_id": ("pci.bus_id", "", "bus"),
    "gpu_bus_id": ("pci.bus_id", "", "bus"),
    "pstate": ("pstate", "", lambda g: "P0" if g["util"] else "P8"),
    "persistence_mode": ("persistence_mode", "", lambda g: "Enabled"),
    "compute_mode": ("compute_mode", "", lambda g: "Default"),
    "compute_cap": ("compute_cap", "", "cap"),
    "mig.mode.current": ("mig.mode.current", "", lambda g: "[N/A]"),
    "ecc.errors.uncorrected.volatile.total": (
        "ecc.errors.uncorrected.volatile.total",
        "",
        lambda g: "0" if g["ecc"] else "[N/A]",
    ),
    "utilization.gpu": ("utilization.gpu [%]", "%", "util"),
    "utilization.memory": ("utilization.memory [%]", "%", lambda g: g["util"] // 2),
    "memory.total": ("memory.total [MiB]", "MiB", "mem_total"),
    "memory.used": ("memory.used [MiB]", "MiB", "mem_used"),
    "memory.free": (
        "memory.free [MiB]",
        "MiB",
        lambda g: max(0, g["mem_total"] - g["mem_used"] - g["mem_reserved"]),
    ),
    "memory.reserved": ("memory.reserved [MiB]", "MiB", "mem_reserved"),
    "temperature.gpu": ("temperature.gpu", "", "temp"),
    "temperature.memory": ("temperature.memory", "", lambda g: g["temp"] + 6 if g["ecc"] else "N/A"),
    "fan.speed": ("fan.speed [%]", "%", lambda g: "[N/A]" if g["ecc"] else 30 + g["util"] // 2),
    "power.draw": ("power.draw [W]", "W", lambda g: f"{g['power']:.2f}"),
    "power.draw.average": ("power.draw.average [W]", "W", lambda g: f"{g['power']:.2f}"),
    "power.draw.instant": ("power.draw.instant [W]", "W", lambda g: f"{g['power']:.2f}"),
    "power.limit": ("power.limit [W]", "W", lambda g: f"{g['power_limit']:.2f}"),
    "enforced.power.limit": ("enforced.power.limit [W]", "W", lambda g: f"{g['power_limit']:.2f}"),
    "power.max_limit": ("power.max_limit [W]", "W", lambda g: f"{g['power_limit']:.2f}"),
    "clocks.sm": ("clocks.current.sm [MHz]", "MHz", lambda g: 1980 if g["util"] else 345),
    "clocks.current.sm": ("clocks.current.sm [MHz]", "MHz", lambda g: 1980 if g["util"] else 345),
    "clocks.gr": ("clocks.current.graphics [MHz]", "MHz", lambda g: 1980 if g["util"] else 345),
    "clocks.current.graphics": ("clocks.current.graphics [MHz]", "MHz", lambda g: 1980 if g["util"] else 345),
    "clocks.mem": ("clocks.current.memory [MHz]", "MHz", lambda g: 2619 if g["util"] else 405),
    "clocks.current.memory": ("clocks.current.memory [MHz]", "MHz", lambda g: 2619 if g["util"] else 405),
    "clocks.max.sm": ("clocks.max.sm [MHz]", "MHz", lambda g: 1980),
    "clocks_throttle_reasons.active": (
        "clocks_throttle_reasons.active",
        "",
        lambda g: f"0x{int(not g['util']):016x}",
    ),
    "clocks_event_reasons.active": (
        "clocks_event_reasons.active",
        "",
        lambda g: f"0x{int(not g['util']):016x}",
    ),
    "pcie.link.gen.current": ("pcie.link.gen.current", "", lambda g: 4),
    "pcie.link.width.current": ("pcie.link.width.current", "", lambda g: 16),
    "encoder.stats.sessionCount": ("encoder.stats.sessionCount", "", lambda g: 0),
}
APP_FIELDS: dict[str, tuple[str, str, str]] = {
    "timestamp": ("timestamp", "", "timestamp"),
    "gpu_name": ("gpu_name", "", "gpu_name"),
    "gpu_bus_id": ("gpu_bus_id", "", "bus"),
    "gpu_uuid": ("gpu_uuid", "", "uuid"),
    "gpu_serial": ("gpu_serial", "", "serial"),
    "pid": ("pid", "", "pid"),
    "process_name": ("process_name", "", "name"),
    "name": ("process_name", "", "name"),
    "used_gpu_memory": ("used_gpu_memory [MiB]", "MiB", "mem"),
    "used_memory": ("used_gpu_memory [MiB]", "MiB", "mem"),
}


def cpu_seconds(marker: bytes) -> float:
    """CPU time of all processes of this box so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    own = os.getpid()
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == own:
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if marker not in file.read():
                    continue
            with open(f"/proc/{pid}/stat", "rb") as file:
                parts = file.read().rpartition(b")")[2].split()
            total += (int(parts[11]) + int(parts[12])) / ticks
        except (OSError, IndexError, ValueError):
            continue
    return total


def load_state(box: str) -> dict[str, Any]:
    """The state that the simulator left, brought up to date if it is old."""
    with open(os.path.join(box, "var", "gpu.json"), encoding="utf-8") as file:
        state: dict[str, Any] = json.load(file)
    if time.time() - float(state["at"]) > STALE_S and os.path.isdir("/proc/self"):
        marker = b"GPUCLOUDSIM_BOX=" + os.fsencode(box) + b"\0"
        first = cpu_seconds(marker)
        time.sleep(0.1)
        load = max(0.0, (cpu_seconds(marker) - first) / 0.1)
        for gpu in state["gpus"]:
            gpu["util"] = min(100, int(load * 100 / max(1.0, len(state["gpus"]) * 0.25)))
            gpu["power"] = gpu["power_limit"] * (0.12 + 0.0085 * gpu["util"])
    for gpu in state["gpus"]:
        gpu["driver"], gpu["count"] = state["driver"], len(state["gpus"])
    return state


def value_of(gpu: Gpu, field: str, nounits: bool, fault: str) -> str:
    """One cell of the CSV."""
    _, unit, key = FIELDS[field]
    value = key(gpu) if callable(key) else gpu[key]
    measured = unit or field.startswith(("temperature", "pstate"))
    if fault == "na" and measured and field != "memory.total":
        return "[N/A]"
    if fault == "err" and measured:
        return "[Unknown Error]" if field != "power.draw" else "ERR!"
    text = str(value)
    if not unit or nounits or text.startswith(("[", "N/A")):
        return text
    return f"{text} {unit}"


def query(state: dict[str, Any], gpus: list[Gpu], fields: list[str], header: bool, nounits: bool) -> int:
    """--query-gpu"""
    for field in fields:
        if field not in FIELDS:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if header:
        print(", ".join(FIELDS[field][0] for field in fields))
    for gpu in gpus:
        print(", ".join(value_of(gpu, field, nounits, state["fault"]) for field in fields))
    return 0


def query_apps(state: dict[str, Any], gpus: list[Gpu], fields: list[str], header: bool, nounits: bool) -> int:
    """--query-compute-apps"""
    for field in fields:
        if field not in APP_FIELDS:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if header:
        print(", ".join(APP_FIELDS[field][0] for field in fields))
    for app in state["apps"]:
        gpu = next((g for g in gpus if g["index"] == app["gpu"]), None)
        if gpu is None:
            continue
        row = {
            **app,
            "timestamp": stamp(),
            "gpu_name": gpu["name"],
            "bus": gpu["bus"],
            "uuid": gpu["uuid"],
            "serial": "[N/A]",
        }
        cells = []
        for field in fields:
            _, unit, key = APP_FIELDS[field]
            cells.append(f"{row[key]} {unit}" if unit and not nounits else str(row[key]))
        print(", ".join(cells))
    return 0


def table(state: dict[str, Any], gpus: list[Gpu]) -> int:
    """The screen that plain `nvidia-smi` prints."""
    fault = state["fault"]
    line = "+-----------------------------------------------------------------------------------------+"
    print(time.strftime("%a %b %e %H:%M:%S %Y"))
    print(line)
    driver, cuda = state["driver"], state["cuda"]
    print(f"| NVIDIA-SMI {driver:<23}Driver Version: {driver:<15}CUDA Version: {cuda:<9}|")
    print("|-----------------------------------------+------------------------+----------------------+")
    print("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |")
    print("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |")
    print("|                                         |                        |               MIG M. |")
    print("|=========================================+========================+======================|")
    for gpu in gpus:
        ecc = "0" if gpu["ecc"] else "N/A"
        fan = "N/A" if gpu["ecc"] else f"{30 + gpu['util'] // 2}%"
        perf = "P0" if gpu["util"] else "P8"
        temp, power, util = f"{gpu['temp']}C", f"{gpu['power']:.0f}W", f"{gpu['util']}%"
        memory = f"{gpu['mem_used']}MiB"
        if fault == "na":
            temp = power = util = memory = perf = "N/A"
        if fault == "err":
            temp = power = util = fan = "ERR!"
        usage = f"{power:>5} / {gpu['power_limit']:>4.0f}W"
        filled = f"{memory} / {gpu['mem_total']:>6}MiB"
        print(f"|{gpu['index']:>4}  {gpu['name'][:30]:<31}On  |   {gpu['bus']} Off | {ecc:>20} |")
        print(f"| {fan:>3}  {temp:>4}    {perf:<4}{usage:>22} | {filled:>22} |{util:>8}      Default |")
        print(f"|                                         |                        | {'N/A':>20} |")
        print("+-----------------------------------------+------------------------+----------------------+")
    print()
    print(line)
    print("| Processes:                                                                              |")
    print("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |")
    print("|        ID   ID                                                               Usage      |")
    print("|=========================================================================================|")
    shown = False
    for app in state["apps"]:
        shown = True
        row = f"{app['gpu']:>5}   N/A  N/A{app['pid']:>17}      C   {app['name'][:32]:<33}{app['mem']:>9}MiB "
        print(f"|{row}|")
    if not shown:
        print("|  No running processes found                                                             |")
    print(line)
    return 0


def xml(state: dict[str, Any], gpus: list[Gpu]) -> int:
    """-q -x, the part that programs read."""
    today = time.strftime("%a %b %e %H:%M:%S %Y")
    print('<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>')
    print(f"\t<timestamp>{today}</timestamp>\n\t<driver_version>{state['driver']}</driver_version>")
    print(f"\t<cuda_version>{state['cuda']}</cuda_version>\n\t<attached_gpus>{len(gpus)}</attached_gpus>")
    for gpu in gpus:
        free = max(0, gpu["mem_total"] - gpu["mem_used"] - gpu["mem_reserved"])
        print(f'\t<gpu id="{gpu["bus"]}">')
        print(f"\t\t<product_name>{gpu['name']}</product_name>\n\t\t<uuid>{gpu['uuid']}</uuid>")
        print(f"\t\t<minor_number>{gpu['index']}</minor_number>")
        print(
            f"\t\t<fb_memory_usage>\n\t\t\t<total>{gpu['mem_total']} MiB</total>\n\t\t\t<reserved>{gpu['mem_reserved']} MiB</reserved>"
        )
        print(
            f"\t\t\t<used>{gpu['mem_used']} MiB</used>\n\t\t\t<free>{free} MiB</free>\n\t\t</fb_memory_usage>"
        )
        print(
            f"\t\t<utilization>\n\t\t\t<gpu_util>{gpu['util']} %</gpu_util>\n\t\t\t<memory_util>{gpu['util'] // 2} %</memory_util>"
        )
        print("\t\t</utilization>")
        print(f"\t\t<temperature>\n\t\t\t<gpu_temp>{gpu['temp']} C</gpu_temp>\n\t\t</temperature>")
        print(f"\t\t<gpu_power_readings>\n\t\t\t<power_draw>{gpu['power']:.2f} W</power_draw>")
        print(
            f"\t\t\t<current_power_limit>{gpu['power_limit']:.2f} W</current_power_limit>\n\t\t</gpu_power_readings>"
        )
        print("\t\t<processes>")
        for app in state["apps"]:
            if app["gpu"] == gpu["index"]:
                print(f"\t\t\t<process_info>\n\t\t\t\t<pid>{app['pid']}</pid>\n\t\t\t\t<type>C</type>")
                print(
                    f"\t\t\t\t<process_name>{app['name']}</process_name>\n\t\t\t\t<used_memory>{app['mem']} MiB</used_memory>"
                )
                print("\t\t\t</process_info>")
        print("\t\t</processes>\n\t</gpu>")
    print("</nvidia_smi_log>")
    return 0


def once(state: dict[str, Any], options: dict[str, str]) -> int:
    """One answer. Returns the exit code."""
    gpus: list[Gpu] = state["gpus"]
    if "id" in options:
        wanted = options["id"].split(",")
        gpus = [gpu for gpu in gpus if str(gpu["index"]) in wanted or gpu["uuid"] in wanted]
        if not gpus:
            print("No devices were found")
            return 6
    formats = options.get("format", "csv").split(",")
    header, nounits = "noheader" not in formats, "nounits" in formats
    if "query-gpu" in options or "query-compute-apps" in options:
        if "csv" not in formats or "format" not in options:
            print('"--format=" switch is missing. Please specify it, e.g. --format=csv')
            return 2
        if "query-gpu" in options:
            return query(state, gpus, [f.strip() for f in options["query-gpu"].split(",")], header, nounits)
        return query_apps(
            state, gpus, [f.strip() for f in options["query-compute-apps"].split(",")], header, nounits
        )
    if "list" in options:
        for gpu in gpus:
            print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})")
        return 0
    if "xml" in options:
        return xml(state, gpus)
    return table(state, gpus)


def parse(argv: list[str]) -> dict[str, str] | None:
    """The options understood; None for one that is not."""
    options: dict[str, str] = {}
    names = {
        "-i": "id",
        "-l": "loop",
        "-lms": "loop-ms",
        "--id": "id",
        "--loop": "loop",
        "--loop-ms": "loop-ms",
    }
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, eq, value = word.partition("=")
        if word in ("-L", "--list-gpus"):
            options["list"] = ""
        elif word in ("-q", "--query"):
            options["query"] = ""
        elif word in ("-x", "--xml-format"):
            options["xml"] = ""
        elif name in ("--query-gpu", "--query-compute-apps", "--format") and (eq or rest):
            options[name.removeprefix("--")] = value if eq else rest.pop(0)
        elif name in names and (eq or rest):
            options[names[name]] = value if eq else rest.pop(0)
        else:
            print(f'Invalid combination of input arguments. Please run "nvidia-smi -h" for help.\n({word})')
            return None
    return options


def main(argv: list[str]) -> int:
    """Run as the box's nvidia-smi; the first argument is the box's directory."""
    box, *rest = argv
    options = parse(rest)
    if options is None:
        return 1
    period = float(options["loop"]) if "loop" in options else float(options.get("loop-ms", "0")) / 1000
    while True:
        state = load_state(box)
        fault = state["fault"]
        if fault == "mismatch":
            print(
                f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {state['driver'].rpartition('.')[0]}"
            )
            return 18
        if fault == "nodriver":
            print(NO_DRIVER)
            return 9
        if fault == "nodevices":
            print("No devices were found")
            return 6
        code = once(state, options)
        sys.stdout.flush()
        if period <= 0 or code != 0:
            return code
        time.sleep(period)
        if "query-gpu" in options or "query-compute-apps" in options:
            options["format"] = options["format"] + ",noheader"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(141)
