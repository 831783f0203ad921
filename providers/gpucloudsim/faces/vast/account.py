"""The account: SSH keys, credit, charges."""

from __future__ import annotations

import json
import time

from aiohttp import web

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import Instance, SshKey
from gpucloudsim.faces.http import answer, body_of, query_value
from gpucloudsim.faces.vast.answers import error, page_position, page_token
from gpucloudsim.faces.vast.desk import Desk
from gpucloudsim.faces.vast.rows import Row, dollars


class AccountRoutes:
    """What belongs to the account."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    def _key_rows(self) -> list[Row]:
        return [
            {
                "id": key.id,
                "user_id": 4242,
                "key": key.text,
                "created_at": _iso(key.created_us),
                "deleted_at": None,
            }
            for key in self.cloud.world.keys.values()
        ]

    async def keys(self, request: web.Request) -> web.Response:
        """Keys of the account; 404 when there are none."""
        rows = self._key_rows()
        return answer(rows) if rows else error("not_found", "No SSH keys found for the user.", 404)

    async def add_key(self, request: web.Request) -> web.Response:
        """Add a key to the account."""
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if not text.startswith(("ssh-", "ecdsa-", "sk-")):
            return error("invalid_args", "ssh_key: invalid public key", 400)
        if any(key.text == text for key in self.cloud.world.keys.values()):
            return error("invalid_args", "error 400: SSH key already exists", 400)
        key = lifecycle.add_key(self.cloud.world, text, self.cloud.now())
        await self.cloud.commit()
        row = {
            "id": key.id,
            "user_id": 4242,
            "public_key": text,
            "created_at": _iso(key.created_us),
            "deleted_at": None,
        }
        return answer({"success": True, "key": row})

    async def change_key(self, request: web.Request) -> web.Response:
        """Replace a key of the account."""
        number = int(request.match_info["key"])
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if number not in self.cloud.world.keys:
            return error("no_ssh_key", "no such ssh key", 400)
        self.cloud.world.keys[number] = SshKey(number, text, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True})

    async def delete_key(self, request: web.Request) -> web.Response:
        """Remove a key from the account (instances keep it)."""
        if self.cloud.world.keys.pop(int(request.match_info["key"]), None) is None:
            return error("no_ssh_key", "no such ssh key", 400)
        await self.cloud.commit()
        return answer({"success": True})

    async def instance_keys(self, request: web.Request) -> web.Response:
        """Keys of one instance: `ssh_keys` is JSON inside a string."""
        instance = self.desk.instance(request)
        rows = [{"id": key_id, "public_key": text} for key_id, text in instance.keys.items()]
        return answer({"success": True, "ssh_keys": json.dumps(rows)})

    async def attach_key(self, request: web.Request) -> web.Response:
        """Put a key on one instance."""
        instance = self.desk.instance(request)
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if not text.startswith(("ssh-", "ecdsa-", "sk-")):
            return error("invalid_args", "ssh_key: invalid public key", 400)
        lifecycle.attach_key(self.cloud.world, instance.id, text, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True, "msg": "SSH key added to instance."})

    async def detach_key(self, request: web.Request) -> web.Response:
        """Take a key off one instance."""
        instance = self.desk.instance(request)
        kept = dict(instance.keys)
        text = kept.pop(int(request.match_info["key"]), None)
        if text is None:
            return error("no_ssh_key", "no such ssh key", 400)
        instance.keys = kept
        box = self.cloud.fleet.boxes.get(instance.id)
        if box is not None:
            box.drop_key(text)
        await self.cloud.commit()
        return answer({"success": True})

    async def user(self, request: web.Request) -> web.Response:
        """The account; `credit` is what is left."""
        left: float | None = round(dollars(self.cloud.credit()), 6)
        if self.cloud.faults.take("credit_null") is not None:
            left = None
        return answer(
            {
                "id": 4242,
                "email": "sim@example.org",
                "username": "sim",
                "fullname": "Simulated Customer",
                "credit": left,
                "balance": 0.0,
                "balance_threshold": 1.0,
                "balance_threshold_enabled": False,
                "autobill_threshold": None,
                "can_pay": True,
                "has_billing": True,
                "email_verified": True,
                "ssh_key": next((key.text for key in self.cloud.world.keys.values()), None),
                "api_key": self.cloud.api_key,
            }
        )

    async def charges(self, request: web.Request) -> web.Response:
        """What each instance has cost, pages of at most 500."""
        filters = query_value(request, "select_filters") or {}
        day = filters.get("day") if isinstance(filters, dict) else None
        low, high = (
            (float(day.get("gte", 0)), float(day.get("lte", 1e12))) if isinstance(day, dict) else (0.0, 1e12)
        )
        try:
            limit = max(1, min(int(query_value(request, "limit") or 100), 500))
            token = request.query.get("after_token")
            offset = page_position(token)[0] if token else 0
        except (TypeError, ValueError) as problem:
            return error("invalid_token", str(problem), 400)
        known = self.cloud.books
        everything = self.cloud.world.instances.values()
        rows = [_charge(i, self.cloud.now()) for i in everything if i.created_us <= known]
        rows = [row for row in rows if row["end"] >= low and row["start"] <= high + 86400]
        rows.sort(key=lambda row: row["start"], reverse=bool(query_value(request, "latest_first")))
        more = page_token(offset + limit) if offset + limit < len(rows) else None
        part = rows[offset : offset + limit]
        return answer(
            {"success": True, "count": len(part), "total": len(rows), "next_token": more, "results": part}
        )

    async def invoices(self, request: web.Request) -> web.Response:
        """Payments made into the account."""
        filters = query_value(request, "select_filters")
        if not isinstance(filters, dict) or "when" not in filters:
            return error("invalid_request", "a date range is required", 200)
        world = self.cloud.world
        row = {"start": world.started_us / SECOND, "end": world.started_us / SECOND, "type": "invoice", "source": "stripe_payments",
               "description": "Credit", "amount": dollars(world.deposited_micro), "metadata": {}, "items": []}  # fmt: skip
        return answer({"success": True, "count": 1, "total": 1, "next_token": None, "results": [row]})

    async def balance(self, request: web.Request) -> web.Response:
        """Reserved deposit of an instance (there is none on demand)."""
        self.desk.instance(request)
        return answer({"success": True, "balance": 0.0, "discount": 0.0})

    async def secrets(self, request: web.Request) -> web.Response:
        """Environment variables of the account."""
        return answer({"success": True, "secrets": {}})

    async def templates(self, request: web.Request) -> web.Response:
        """No templates are simulated."""
        return answer({"success": True, "templates_found": 0, "templates": []})

    async def apikeys(self, request: web.Request) -> web.Response:
        """Keys of the account, without their text."""
        return answer(
            {"success": True, "apikeys": [{"id": 1, "name": "default", "permissions": {"api": {}}}]}
        )

    async def volumes(self, request: web.Request) -> web.Response:
        """No volumes are simulated yet."""
        return answer({"success": True, "volumes": []})


def _iso(micro: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micro / SECOND))


def _charge(instance: Instance, now: int) -> Row:
    end = instance.destroyed_us or now
    items = [
        {"type": "gpu", "amount": dollars(instance.gpu_cost),
         "description": f"{instance.gpu_us / 3.6e9:.3f} hours at ${dollars(instance.gpu_rate):.3f}/hour"},
        {"type": "disk", "amount": dollars(instance.disk_cost),
         "description": f"{instance.disk_us / 3.6e9:.3f} hours at ${dollars(instance.disk_rate):.3f}/hour"},
        {"type": "bwu", "amount": dollars(instance.bytes_up * instance.up_micro_per_gb // 10**9),
         "description": f"{instance.bytes_up / 1e9:.3f} GB at ${dollars(instance.up_micro_per_gb):.4f}/GB"},
        {"type": "bwd", "amount": dollars(instance.bytes_down * instance.down_micro_per_gb // 10**9),
         "description": f"{instance.bytes_down / 1e9:.3f} GB at ${dollars(instance.down_micro_per_gb):.4f}/GB"},
    ]  # fmt: skip
    return {
        "start": instance.created_us / SECOND,
        "end": end / SECOND,
        "type": "instance",
        "source": f"instance-{instance.id}",
        "description": f"Instance {instance.id} GPU charges",
        "amount": round(sum(float(str(item["amount"])) for item in items), 6),
        "metadata": {"label": instance.label},
        "items": items,
    }
