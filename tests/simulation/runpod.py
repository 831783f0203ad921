"""RunPod's face of the simulated cloud: REST v2 answers for the real adapter, with faults at every call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from simulation.cloud import Cloud, Machine
from simulation.faults import ANY_READ, ANY_WRITE, Faults, Kind
from simulation.vast import run_of

from gpuproviders.money import MicroUsd
from gpuproviders.runpod import balance, parse
from gpuproviders.runpod.adapter import RunpodProvider
from gpuproviders.runpod.transport import Answer, Transport

GPU = "NVIDIA GeForce RTX 4090"
PRICE = 0.34
PLACES = tuple(f"{land}-{n}" for land in ("US-KS", "EU-RO", "CA-MTL", "EU-SE") for n in range(1, 6))
_HTML = Answer(502, None, {})


class SimulatedRunpod(Transport):
    """The vendor's servers and the network to them."""

    def __init__(self, cloud: Cloud, faults: Faults) -> None:
        super().__init__(lambda: "key", "https://runpod.invalid")
        self._cloud = cloud
        self._faults = faults

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object,
        *,
        reserve: int = 0,
        seconds: float | None = None,
    ) -> Answer | None:
        write = method != "GET"
        name = f"runpod {method} {'/'.join(p for p in path.split('/')[2:] if not p.startswith('pod3'))}"
        kind = await self._faults.call(name, ANY_WRITE if write else ANY_READ, self._run(path, body))
        if self._faults.lasts(Kind.OFFLINE):
            self._faults.note(Kind.OFFLINE)
            await asyncio.sleep(20)
            return None
        await asyncio.sleep(self._cloud.draw.uniform(0.05, 0.6) + (15 if kind is Kind.DELAY else 0))
        if write:
            answer = await self._write(kind, method, path, body)
        else:
            answer = await self._read(kind, path)
        await self._faults.done(kind)
        return answer

    def _run(self, path: str, body: object) -> str | None:
        machine = self._cloud.machines.get(path.rsplit("/", 1)[-1])
        label = machine.label if machine is not None else body.get("name") if isinstance(body, dict) else None
        return None if label is None else run_of(label)

    async def _write(self, kind: Kind | None, method: str, path: str, body: Any) -> Answer | None:
        draw = self._cloud.draw
        act: Callable[[], Answer] = lambda: self._act(method, path, body)  # noqa: E731
        match kind:
            case Kind.HANG:
                if draw.random() < 0.5:
                    act()
                await asyncio.sleep(30)
                return None
            case Kind.ERROR_BEFORE:
                return draw.choice([Answer(503, None, {}), Answer(429, {"detail": "slow down"}, {}), None])
            case Kind.ERROR_AFTER:
                act()
                return draw.choice([_HTML, Answer(500, {"detail": "oops"}, {}), None])
            case Kind.WRONG:
                act()
                return draw.choice([Answer(200, None, {}), Answer(200, [], {}), Answer(201, {"id": 7}, {})])
        return act()

    def _act(self, method: str, path: str, body: Any) -> Answer:
        if method == "POST" and path == "/v2/pods":
            if self._cloud.draw.random() < 0.05:
                return Answer(400, {"detail": "There are no longer any instances available"}, {})
            machine = self._cloud.rent(
                body["name"], str(body.get("dataCenterIds")), vendor="runpod", price=PRICE
            )
            return Answer(201, self._pod(machine), {})
        number = path.split("/")[3]
        if method == "DELETE":
            gone = self._cloud.destroy(number)
            return Answer(204, None, {}) if gone else Answer(404, {"detail": "pod not found"}, {})
        found = self._cloud.machines.get(number)
        if found is None or not found.alive:
            return Answer(404, {"detail": "pod not found"}, {})
        return Answer(200, self._pod(found), {})

    async def _read(self, kind: Kind | None, path: str) -> Answer | None:
        draw = self._cloud.draw
        match kind:
            case Kind.HANG:
                await asyncio.sleep(30)
                return None
            case Kind.ERROR_BEFORE:
                return draw.choice(
                    [_HTML, Answer(429, {"detail": "slow down"}, {}), Answer(200, None, {}), None]
                )
            case Kind.WRONG:
                return Answer(200, draw.choice([{}, [], None, {"pods": {}}, {"gpus": []}]), {})
        if path == "/v2/catalog/gpus":
            return Answer(200, {"gpus": [self._catalog()]}, {})
        if path == "/v2/pods":
            return Answer(200, self._list(kind), {})
        found = self._cloud.machines.get(path.split("/")[3])
        if found is None or not self._cloud.visible(found):
            return Answer(404, {"detail": "pod not found"}, {})
        return Answer(200, {} if kind is Kind.PARTIAL else self._pod(found), {})

    def _list(self, kind: Kind | None) -> dict[str, Any]:
        mine = [m for m in self._cloud.machines.values() if m.vendor == "runpod" and self._cloud.visible(m)]
        pods = [self._pod(m) for m in mine]
        if kind is Kind.PARTIAL:
            return {"pods": pods[:-1], "pagination": {"hasNextPage": True}}
        if kind is Kind.DUPLICATE:
            pods += pods
        return {"pods": pods, "pagination": {"hasNextPage": False}}

    def _catalog(self) -> dict[str, Any]:
        return {
            "id": GPU, "memory": 24, "secure": True, "community": False, "price": {"secure": PRICE},
            "maxCount": {"secure": 8}, "dataCenters": [{"id": p, "availability": "HIGH"} for p in PLACES],
        }  # fmt: skip

    def _pod(self, machine: Machine) -> dict[str, Any]:
        now = self._cloud.time.now
        up = now >= machine.boots_at
        down = machine.down(now) is not None
        status = "EXITED" if down else "ERROR" if up and machine.trouble else "RUNNING" if up else "STARTING"
        return {
            "id": machine.instance_id, "name": machine.label, "status": status, "env": {parse.LABEL: machine.label},
            "gpu": {"id": GPU, "count": 1}, "cost": PRICE, "mounts": {"persistent": {"size": 10}},
            "runtime": {"uptime": 1} if status == "RUNNING" else None,
            "ssh": {"direct": {"host": "203.0.113.8", "port": int(machine.instance_id[3:]) % 60_000 + 1024, "username": "root"}},
        }  # fmt: skip


def provider(cloud: Cloud, faults: Faults) -> tuple[RunpodProvider, SimulatedRunpod]:
    """The real adapter over the simulated servers; the balance comes without a child process."""

    async def ask(_key: str, _url: str) -> balance.Money:
        return balance.Money("runpod-user", MicroUsd(int(cloud.left("runpod") * 1e6)))

    made = RunpodProvider(key=lambda: "key", url="https://runpod.invalid", ask_balance=ask)
    transport = SimulatedRunpod(cloud, faults)
    made._calls = transport
    return made, transport
