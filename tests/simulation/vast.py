"""Vast's face of the simulated cloud: HTTP answers for the real adapter, with faults at every call.

`gpuproviders.vast` runs unchanged above this: its paging, its checks of every answer, its
sorting of errors. Only the one function that sends a request is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from simulation.cloud import Cloud, Machine
from simulation.faults import ANY_READ, ANY_WRITE, Faults, Kind

from gpuproviders.vast.adapter import VastProvider
from gpuproviders.vast.transport import Answer, Transport

PAGE = 3
"""Instances a page, so that a handful is several pages."""
_ACCOUNT, _STRANGER = 7, 99
_NOT_THERE: dict[str, Any] = {"success": False, "error": "no_such_instance", "msg": "no such instance"}
_HTML = Answer(502, None, None)


class SimulatedVast(Transport):
    """The vendor's servers and the network to them."""

    def __init__(self, cloud: Cloud, faults: Faults) -> None:
        super().__init__(lambda: "key", "https://vast.invalid")
        self._cloud = cloud
        self._faults = faults
        self._hidden: dict[int, float] = {}
        """Machines that listings leave out although they exist, and until when."""
        self.introduced: Callable[[], bool] = lambda: True
        """Whether the daemon knows which account its machines are of: before that, any is as good as another."""
        self.lies: str | None = None
        """Which read may leave out what exists, never both at once: "list", "show" or None."""

    async def _call(
        self, method: str, path: str, endpoint: str, kwargs: dict[str, Any], *, attempts: int
    ) -> Answer | None:
        await self._pace(endpoint)
        write = endpoint in ("create", "destroy", "manage")
        kind = await self._faults.call(
            f"vast {endpoint}", ANY_WRITE if write else ANY_READ, self._run(path, kwargs)
        )
        if self._faults.lasts(Kind.OFFLINE):
            self._faults.note(Kind.OFFLINE)
            await asyncio.sleep(20)
            return None
        await asyncio.sleep(self._cloud.draw.uniform(0.05, 0.6) + (15 if kind is Kind.DELAY else 0))
        if self._faults.lasts(Kind.STRANGER) and self.introduced():
            self._faults.note(Kind.STRANGER)
            return self._as_stranger(endpoint)
        answer = await (self._write if write else self._read)(kind, endpoint, path, kwargs)
        await self._faults.done(kind)
        return answer

    def _run(self, path: str, kwargs: dict[str, Any]) -> str | None:
        """The run that a call is about, when it is about one."""
        label = (kwargs.get("json_data") or {}).get("label")
        machine = self._cloud.machines.get(path.split("/")[-2])
        label = machine.label if machine is not None else label
        return None if label is None else run_of(label)

    async def _write(
        self, kind: Kind | None, endpoint: str, path: str, kwargs: dict[str, Any]
    ) -> Answer | None:
        draw = self._cloud.draw
        acts: dict[str, Callable[[], Answer]] = {
            "create": lambda: self._create(path, kwargs),
            "destroy": lambda: self._destroy(path),
            "manage": lambda: self._manage(path, kwargs),
        }
        act = acts[endpoint]
        match kind:
            case Kind.HANG:
                if draw.random() < 0.5:
                    act()
                await asyncio.sleep(20)
                return None
            case Kind.ERROR_BEFORE:
                return draw.choice(
                    [_HTML, Answer(429, {"msg": "too frequent"}, draw.choice([None, 3.0])), Answer(400, {"msg": "no"}, None), None]
                )  # fmt: skip
            case Kind.ERROR_AFTER:
                done = act()
                made = done.body.get("new_contract")
                told = {"success": False, "msg": "oops", "new_contract": made} if made else {}
                return draw.choice([_HTML, Answer(500, told, None), Answer(409, {"msg": "conflict"}, None)])
            case Kind.WRONG:
                act()
                return Answer(200, draw.choice([[], None, {"success": True, "new_contract": "x"}, 3]), None)
        return act()

    def _create(self, path: str, kwargs: dict[str, Any]) -> Answer:
        offer = path.split("/")[-2]
        if offer in self._cloud.offers_taken or self._cloud.draw.random() < 0.05:
            return Answer(400, {"success": False, "error": "invalid_args", "msg": "no_such_ask"}, None)
        machine = self._cloud.rent(kwargs["json_data"]["label"], offer)
        return Answer(200, {"success": True, "new_contract": int(machine.instance_id)}, None)

    def _destroy(self, path: str) -> Answer:
        if self._cloud.destroy(path.split("/")[-2]):
            return Answer(200, {"success": True}, None)
        return Answer(404, dict(_NOT_THERE), None)

    def _manage(self, path: str, kwargs: dict[str, Any]) -> Answer:
        """Stop, or start: which is queued, with a 200, when the GPU was let to somebody else meanwhile."""
        machine = self._cloud.machines.get(path.split("/")[-2])
        if machine is None or not machine.alive:
            return Answer(404, dict(_NOT_THERE), None)
        if kwargs["json_data"]["state"] == "stopped":
            self._cloud.halt(machine)
        elif machine.halted and not self._faults.quiet and self._cloud.draw.random() < 0.2:
            return Answer(
                200, {"success": False, "error": "resources_unavailable", "msg": "state change queued."}, None
            )
        else:
            self._cloud.resume(machine)
        return Answer(200, {"success": True}, None)

    async def _read(
        self, kind: Kind | None, endpoint: str, path: str, kwargs: dict[str, Any]
    ) -> Answer | None:
        draw = self._cloud.draw
        if kind is Kind.HANG:
            await asyncio.sleep(40)
            return None
        if kind is Kind.ERROR_BEFORE:
            return draw.choice(
                [_HTML, Answer(429, {"msg": "too frequent"}, 5.0), Answer(200, None, None), None]
            )
        if kind is Kind.WRONG and endpoint != self.lies:
            return Answer(
                200, draw.choice([{}, [], None, {"success": False}, {"instances": {}}, "<html>"]), None
            )
        match endpoint:
            case "user":
                return Answer(200, {"id": _ACCOUNT, "credit": round(self._cloud.left("vast"), 4)}, None)
            case "ssh":
                return Answer(200, [{"key": "ssh-ed25519 AAAA"}], None)
            case "search":
                return self._search(kind)
            case "list":
                return self._list(kind, kwargs["query_args"])
            case "show":
                return self._show(kind, path.split("/")[-2])
        raise AssertionError(f"Vast has no endpoint {endpoint} in this simulation")

    def _search(self, kind: Kind | None) -> Answer:
        rows = [
            {
                "ask_contract_id": n, "machine_id": n + 5000, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564,
                "dph_total": 0.3 + n / 1e6, "verification": "verified", "disk_space": 500.0, "reliability2": 0.99,
            }
            for n in range(100, 140)
            if str(n) not in self._cloud.offers_taken
        ][:6]  # fmt: skip
        if kind is Kind.PARTIAL:
            rows = [{k: v for k, v in row.items() if k != "dph_total"} for row in rows]
        if kind is Kind.DUPLICATE:
            rows += rows
        return Answer(200, {"offers": rows}, None)

    def _list(self, kind: Kind | None, query: dict[str, Any]) -> Answer:
        after = int(query.get("after_token", 0))
        mine = [m for m in self._cloud.machines.values() if m.vendor == "vast"]
        shown = [self._cloud.status(m) for m in mine if self._cloud.visible(m)]
        if kind is Kind.WRONG and shown:  # a liar: well-formed, complete by its own word, and one is missing
            now, victim = self._cloud.time.now, self._cloud.draw.choice(shown)["id"]
            # of a machine that was never seen nobody could tell; one that was known for a while must not vanish
            if now - self._cloud.machines[str(victim)].created > 240:
                self._hidden[victim] = now + self._cloud.draw.uniform(20, 400)
        shown = [row for row in shown if self._hidden.get(row["id"], 0) <= self._cloud.time.now]
        shown += [
            {"id": int(n), "label": label, "actual_status": "running"}
            for n, label in self._cloud.foreign.items()
        ]
        shown.sort(key=lambda row: row["id"])
        total = len(shown)
        page = [row for row in shown if row["id"] > after][:PAGE]
        more = bool(page) and page[-1]["id"] != shown[-1]["id"]
        token = str(page[-1]["id"]) if more else None
        if (
            kind is Kind.PARTIAL
        ):  # the first page as if it were all, a page that is cut, a page that never comes
            match self._cloud.draw.randrange(3):
                case 0:
                    token, total = None, max(total, PAGE + 1)
                case 1:
                    page = page[:-1]
                case _:
                    token = "0"
        if kind is Kind.DUPLICATE:
            page += page
        body = {"success": True, "instances": page, "next_token": token, "total_instances": total}
        return Answer(200, body, None)

    def _show(self, kind: Kind | None, instance_id: str) -> Answer:
        machine = self._cloud.machines.get(instance_id)
        if machine is None or not self._cloud.visible(machine) or kind is Kind.WRONG:
            return (
                Answer(404, dict(_NOT_THERE), None)
                if self._cloud.draw.random() < 0.5
                else Answer(200, {"instances": None}, None)
            )
        if kind is Kind.PARTIAL:
            return Answer(200, {"instances": {"label": machine.label}}, None)
        if kind is Kind.DUPLICATE:
            return Answer(200, {"instances": [self._cloud.status(machine)] * 2}, None)
        return Answer(200, {"instances": self._cloud.status(machine)}, None)

    def _as_stranger(self, endpoint: str) -> Answer:
        """The key belongs to somebody else for now: well-formed answers about other machines."""
        match endpoint:
            case "user":
                return Answer(200, {"id": _STRANGER, "credit": 500.0}, None)
            case "list":
                row = {"id": 77, "label": None, "actual_status": "running"}
                return Answer(
                    200, {"success": True, "instances": [row], "next_token": None, "total_instances": 1}, None
                )
            case "ssh":
                return Answer(200, [], None)
            case "search":
                return self._search(None)
            case "show" | "destroy":
                return Answer(404, dict(_NOT_THERE), None)
        return Answer(401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}, None)


def provider(cloud: Cloud, faults: Faults) -> tuple[VastProvider, SimulatedVast]:
    """The real adapter over the simulated servers."""
    made = VastProvider(key=lambda: "key", url="https://vast.invalid")
    made._calls.close()
    transport = SimulatedVast(cloud, faults)
    made._calls = transport
    return made, transport


def run_of(label: str) -> str:
    """The run that a label names."""
    return label.removeprefix("gputui-").rsplit("-", 2)[0]


def machine_of(cloud: Cloud, alias: str) -> Machine | None:
    """The machine behind an SSH alias."""
    return cloud.machines.get(alias.partition("-")[2])
