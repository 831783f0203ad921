"""Command line and HTTP server of the simulator."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.control import Control
from gpucloudsim.engine.market import moment_of
from gpucloudsim.engine.model import World
from gpucloudsim.faces.http import stops
from gpucloudsim.faces.runpod import RunpodFace
from gpucloudsim.faces.runpod.house import RunpodHouse
from gpucloudsim.faces.vast import VastFace
from gpucloudsim.faces.vast.house import VastHouse
from gpucloudsim.faults import UnknownFaultError, parse
from gpucloudsim.store import ForeignStateError, Memory, StateInUseError, Store
from gpucloudsim.switches import KINDS

EPILOG = """\
The simulator prints one line of JSON on stdout when it is ready, {"url", "pid", …}, and leaves the same in
DIR/ready.json. Point any client of the vendor at it:
  vast     VAST_URL=<url> vastai --api-key <key> search offers
  runpod   RUNPOD_API_BASE_URL=<url>, for the SDK (GraphQL) and for REST v2 (<url>/v2/…)
State lives in DIR and survives kill -9; the boxes' processes do, too. It listens on 127.0.0.1 only.

A fault is set as NAME[=ARG][*COUNT][@K][~PROBABILITY]: create_hang_after*1@2 makes the second create hang
once after the machine was rented. --list-faults prints all switches.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m gpucloudsim",
        description="A simulated GPU cloud with real boxes: Vast.ai's or RunPod's API, SSH, processes, disks and bills.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--state", metavar="DIR", type=Path, help="directory that holds the cloud; made if it is missing"
    )
    top.add_argument(
        "--cloud",
        choices=CLOUDS,
        default=None,
        help="whose API it speaks; one directory is one account (default: what DIR remembers, else vast)",
    )
    top.add_argument(
        "--port",
        type=int,
        default=0,
        help="port of the API; 0 takes the one used last in DIR, else any (default: 0)",
    )
    top.add_argument(
        "--api-key", default=None, help="the account's key (default: what DIR remembers, else 'sim-key')"
    )
    top.add_argument("--boot-seconds", type=float, default=2.0, help="from create to running (default: 2)")
    top.add_argument("--credit", type=float, default=25.0, help="USD on a new account (default: 25)")
    top.add_argument("--seed", type=int, default=1, help="seed of a new market (default: 1)")
    top.add_argument(
        "--market-at",
        type=moment_of,
        metavar="TIME",
        help="prices and stock stand still as they are at this time: seconds since 1970, or 'stocked', when nearly every"
        " machine is free (default: they move with the clock)",
    )
    top.add_argument(
        "--fault", action="append", default=[], metavar="NAME[=ARG]", help="switch on a fault; repeatable"
    )
    top.add_argument(
        "--rate-limits", action="store_true", help="enforce the documented interval of each endpoint with 429"
    )
    top.add_argument(
        "--ephemeral",
        action="store_true",
        help="at a clean exit kill all processes of the boxes and delete the boxes",
    )
    top.add_argument("--list-faults", action="store_true", help="print the fault switches and exit")
    return top


CLOUDS = ("vast", "runpod")


def _bind(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_again(wanted: int, remembered: int) -> socket.socket:
    """The wanted port, else the one used last if it is free, else any. Raises OSError for a wanted one."""
    if wanted or not remembered:
        return _bind(wanted)
    with contextlib.suppress(OSError):
        return _bind(remembered)
    return _bind(0)


def _memory(args: argparse.Namespace, store: Store) -> Memory:
    memory = store.load()
    if memory is None:
        now = Cloud.now()
        world = World(seed=args.seed, started_us=now, deposited_micro=round(args.credit * 1e6), clock_us=now)
        memory = Memory(world=world, api_key=args.api_key or "sim-key", cloud=args.cloud or "vast")
    elif args.cloud not in (None, memory.cloud):
        raise ForeignStateError(f"{args.state} holds a simulated {memory.cloud}; choose another --state")
    if args.api_key:
        memory.api_key = args.api_key
    if args.market_at is not None:
        memory.world.market_us = args.market_at
    memory.world.boot_us = round(args.boot_seconds * 1e6)
    memory.faults.extend(parse(text) for text in args.fault)
    return memory


def _announce(directory: Path, ready: dict[str, Any], api_key: str) -> None:
    fresh = directory / "ready.json.new"
    fresh.write_text(json.dumps({**ready, "api_key": api_key}) + "\n")
    fresh.chmod(0o600)
    fresh.replace(directory / "ready.json")
    print(json.dumps(ready), flush=True)


async def serve(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    directory: Path = args.state
    store = Store(directory)
    memory = _memory(args, store)
    cloud = Cloud(store, memory, directory, RunpodHouse() if memory.cloud == "runpod" else VastHouse())
    control = Control(cloud)
    api, results = web.Application(client_max_size=4 << 20, middlewares=[stops]), web.Application()
    api.add_routes(control.routes())
    if memory.cloud == "runpod":
        api.add_routes(RunpodFace(cloud, args.rate_limits).routes())
    else:
        vast = VastFace(cloud, args.rate_limits)
        api.add_routes(vast.routes())
        results.add_routes(vast.result_routes())
    api_socket = _bind_again(args.port, memory.port)
    results_socket = _bind_again(0, memory.results_port)
    memory.port, memory.results_port = api_socket.getsockname()[1], results_socket.getsockname()[1]
    cloud.url = f"http://127.0.0.1:{memory.port}"
    cloud.results_url = f"http://127.0.0.1:{memory.results_port}"

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    runners = [web.AppRunner(app, access_log=None, shutdown_timeout=0.2) for app in (api, results)]
    for runner, sock in zip(runners, (api_socket, results_socket), strict=True):
        await runner.setup()
        await web.SockSite(runner, sock).start()
    clock = asyncio.create_task(cloud.run())
    ready = {"url": cloud.url, "pid": os.getpid(), "state": str(directory)}
    _announce(directory, ready, memory.api_key)

    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({stopped, clock}, return_when=asyncio.FIRST_COMPLETED)
    failed = clock.done() and not stopping.is_set()
    clock.cancel()
    stopped.cancel()
    await asyncio.gather(clock, stopped, return_exceptions=True)
    if failed and not clock.cancelled() and (problem := clock.exception()) is not None:
        raise problem
    cloud.advance()
    store.save(memory)
    await cloud.fleet.close(kill=args.ephemeral)
    for runner in runners:
        await runner.cleanup()
    (directory / "ready.json").unlink(missing_ok=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the simulator. Returns an exit code: 0 after a clean stop, 2 for a wrong command line."""
    top = parser()
    args = top.parse_args(argv)
    if args.list_faults:
        for name, kind in KINDS.items():
            print(f"{name:32} {kind.doc}")
        return 0
    if args.state is None:
        top.error("--state DIR is required (the directory that holds the simulated cloud)")
    try:
        for text in args.fault:
            parse(text)
    except (UnknownFaultError, ValueError) as problem:
        top.error(f"--fault: {problem}")
    args.state = args.state.resolve()
    try:
        args.state.mkdir(parents=True, exist_ok=True)
        return asyncio.run(serve(args))
    except (OSError, StateInUseError, ForeignStateError) as problem:
        print(f"gpucloudsim: {problem}", file=sys.stderr)
        return 5
