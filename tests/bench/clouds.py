"""Clouds in numbers: a refresh of 5,000 offers, what both vendors' libraries weigh, how often 500 machines are listed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.rows import Row

GPUS = ("H100 SXM", "H100 PCIE", "H100 NVL", "H200", "B200", "A100 SXM4", "A100 PCIE", "L40S", "L40", "L4", "A40", "RTX 6000Ada", "RTX A6000",
        "RTX 5090", "RTX 5080", "RTX 4090", "RTX 4080", "RTX 3090", "RTX 3090 Ti", "RTX A5000", "RTX A4000", "RTX 3080", "RTX 3060")  # fmt: skip
PLACES = 30
ROUNDS = 7


def vast_row(number: int, gpu: str) -> dict[str, Any]:
    """An offer with the fields that Vast sends."""
    return {
        "id": number, "ask_contract_id": number, "machine_id": number // 2, "gpu_name": gpu, "num_gpus": 1 + number % 8, "gpu_ram": 81559,
        "dph_total": 0.2 + (number * 7919 % 4000) / 1000, "storage_total_cost": 0.002, "reliability2": 0.97 + number % 30 / 1000,
        "verification": "verified", "rentable": True, "hosting_type": number % 2, "geolocation": "Sweden, SE", "cpu_cores_effective": 32.0,
        "cpu_ram": 128000, "disk_space": 900.0, "cuda_max_good": 12.8, "inet_down": 2000.0, "inet_up": 900.0, "inet_up_cost": 0.003,
        "inet_down_cost": 0.002, "direct_port_count": 100, "end_date": 1.9e9, "dlperf": 200.0, "cpu_name": "AMD EPYC 7763", "driver_version": "570.133",
        "public_ipaddr": "192.0.2.1", "total_flops": 80.0, "pci_gen": 4.0, "score": 300.0, "static_ip": True, "host_id": number // 3,
    }  # fmt: skip


def serve(pipe: Connection) -> None:
    """A server that answers searches from prebuilt bytes: its own time is what a plain client needs for the same requests."""
    from aiohttp import web

    shelf: dict[str, list[dict[str, Any]]] = {
        gpu: sorted((vast_row(i * 1000 + n, gpu) for n in range(192)), key=lambda r: r["dph_total"])
        for i, gpu in enumerate(GPUS)
    }
    stocks = [{"id": f"EU-P{n}-1", "availability": "HIGH"} for n in range(PLACES)]
    types = [
        {"id": f"NVIDIA {gpu}", "secure": True, "community": False, "memory": 80, "price": {"secure": 1.5 + i / 10}, "maxCount": {"secure": 8},
         "dataCenters": stocks, "cudaVersions": [{"version": "12.8", "available": True}]}
        for i, gpu in enumerate(GPUS[:12])
    ]  # fmt: skip
    catalog = json.dumps({"gpus": types}).encode()
    pages: dict[tuple[str, float], bytes] = {}

    async def search(request: web.Request) -> web.Response:
        wish = await request.json()
        key = (wish["gpu_name"]["eq"], (wish.get("dph_total") or {}).get("gte", 0.0))
        if key not in pages:
            pages[key] = json.dumps(
                {"offers": [r for r in shelf[key[0]] if r["dph_total"] >= key[1]][:64]}
            ).encode()
        return web.Response(body=pages[key], content_type="application/json")

    async def gpus(_: web.Request) -> web.Response:
        return web.Response(body=catalog, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.post("/api/v0/bundles/", search), web.get("/v2/catalog/gpus", gpus)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def refresh(url: str) -> tuple[int, list[float], list[float], list[float]]:
    """Offers in the table, and seconds of each refresh: whole, of the bare requests, and of processor in the whole."""
    import aiohttp
    import msgspec

    from gpuproviders import listing
    from gpuproviders.model import OfferQuery
    from gpuproviders.query import parse
    from gpuproviders.runpod import RunpodProvider
    from gpuproviders.vast import VastProvider
    from gpuwatch.client import wire
    from gpuwatch.daemon import rows

    vast = VastProvider(key=lambda: "k", url=url, paced=False)
    asked = parse("price<99", listing.FIELDS)
    whole, bare, worked, count = [], [], [], 0
    try:
        for _ in range(ROUNDS):
            runpod = RunpodProvider(
                key=lambda: "k", url=url, paced=False
            )  # a new one has no catalog in memory
            query = OfferQuery(gpu_names=GPUS, limit=20_000)
            began, busy = time.perf_counter(), time.process_time()
            found = await asyncio.gather(vast.offers(query), runpod.offers(query))
            table = [rows.offer_row(offer) for offers in found for offer in offers]
            table = [row for row in table if asked.matches(row, listing.text_of(row))]
            table.sort(key=lambda o: (listing.worth(o), o.provider, o.offer_id))
            msgspec.json.encode(wire.Offers(offers=table, problems=[]))
            whole.append(time.perf_counter() - began)
            worked.append(time.process_time() - busy)
            count = len(table)
            await runpod.close()
            began = time.perf_counter()
            async with aiohttp.ClientSession() as session:
                for gpu in GPUS:
                    least = 0.0
                    for _ in range(3):
                        wish = {"gpu_name": {"eq": gpu}, "dph_total": {"gte": least}}
                        async with session.post(f"{url}/api/v0/bundles/", json=wish) as answer:
                            offers = (await answer.json())["offers"]
                        least = offers[-1]["dph_total"]
                for _ in range(4):
                    async with session.get(f"{url}/v2/catalog/gpus") as answer:
                        await answer.json()
            bare.append(time.perf_counter() - began)
    finally:
        await vast.close()
    return count, whole, bare, worked


def market(_: Path) -> Row:
    """5,000 offers of both clouds, from the wish to the ranked table as the app gets it."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        count, whole, bare, worked = asyncio.run(refresh(f"http://127.0.0.1:{ours.recv()}"))
    finally:
        server.terminate()
        server.join()
    beyond = statistics.median(a - b for a, b in zip(whole, bare, strict=True))
    detail = (
        f"{count} offers; medians: whole {statistics.median(whole):.2f} s ({statistics.median(worked):.2f} s of processor), "
        f"bare requests {statistics.median(bare):.2f} s"
    )
    return Row("5,000 offers to the ranked table", beyond, 1.0, "s", detail)


def rss_of(pid: int) -> float:
    """Resident memory, MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def weight(home: Path) -> Row:
    """What a daemon grows by when it lists, searches and asks both vendors' libraries."""
    from gpuwatch.client import wire
    from integration.test_daemon_runpod import RunpodWorld

    idle = RunpodWorld(home / "idle")
    (home / "idle" / "config").mkdir(parents=True)
    (home / "idle" / "config" / "config.toml").write_text(
        "[providers.vast]\nenabled = false\n[providers.runpod]\nenabled = false\n"
    )
    busy = RunpodWorld(home / "busy")
    (home / "busy").mkdir()
    busy.both = True
    try:
        idle.start_daemon()
        assert idle.daemon is not None
        before = rss_of(idle.daemon.pid)
        busy.start_simulator("--ephemeral")
        config = home / "busy" / "config" / "config.toml"
        config.write_text(config.read_text().replace("[watch]", '[watch]\nreconcile = "1s"'))
        busy.start_daemon()
        assert busy.daemon is not None
        run = busy.script("echo done", top='provider = ["vast", "runpod"]\nartifacts = "none"')
        busy.wait_end(run)
        for _ in range(5):
            busy.call("offers", wire.OffersQuery(limit=20_000, unverified=True), wire.Offers)
        told = time.monotonic() + 60
        while any(
            account.credit is None
            for account in busy.call("status", wire.Empty(), wire.DaemonStatus).accounts
        ):
            assert time.monotonic() < told, "both libraries answer within a minute"
            time.sleep(0.5)
        after = rss_of(busy.daemon.pid)
    finally:
        idle.stop()
        busy.stop()
    return Row(
        "gpuwatch growth, both vendors in use",
        after - before,
        40,
        "MiB",
        f"{before:.0f} to {after:.0f} MiB after a run and 5 refreshes",
    )


ROWS = {"market": market, "vendor-weight": weight}
