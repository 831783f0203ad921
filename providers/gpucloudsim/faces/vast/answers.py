"""Answers that several parts of the Vast API share: failures, throttling, page tokens."""

from __future__ import annotations

import base64

from aiohttp import web

from gpucloudsim.engine.lifecycle import RefusalReason, Refused
from gpucloudsim.faces.http import answer

THRESHOLDS = {
    "list": 1.0, "show": 2.0, "state": 1.0, "create": 4.5, "destroy": 3.0, "reboot": 1.0, "recycle": 1.0, "bid": 5.5,
    "prepay": 2.0, "execute": 1.5, "ssh_add": 1.0, "ssh_attach": 1.0, "ssh_detach": 2.0, "charges": 1.0,
    "invoices": 3.0, "secrets": 5.0, "search": 6.0, "templates": 3.0,
}  # fmt: skip
"""Documented minimum interval per endpoint and identity, in seconds (search: 10 a minute)."""

SEARCHES = 10
"""Searches a minute."""

UNAVAILABLE = "Required resources are currently unavailable."


def error(code: str, text: str, status: int, **more: object) -> web.Response:
    """Vast's generic failure."""
    return answer({"success": False, "error": code, "msg": text, **more}, status)


def throttled(endpoint: str, kind: str, retry_after: float | None) -> web.Response:
    """429 in one of the bodies that were seen."""
    text = f"API requests too frequent endpoint threshold={THRESHOLDS.get(endpoint, 1.0)}"
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    if kind == "detail":
        return answer({"detail": text}, 429, headers)
    if kind == "text":
        return web.Response(
            body=b"API requests too frequent", status=429, content_type="text/plain", headers=headers
        )
    if kind == "quota":
        return answer(
            {"success": False, "error": "search_quota_exceeded", "msg": "daily search quota exceeded"},
            429,
            headers,
        )
    return answer({"success": False, "error": "rate_limit_exceeded", "msg": text}, 429, headers)


def gone(offer_id: int, status: int) -> web.Response:
    """The offer is not to be had: 404 for an id that never was, 410 (seen also as 400) for one taken."""
    if status == 404:
        text = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
        return error("invalid_args", text, 404, ask_id=offer_id)
    text = f"error 410/3907: no_such_ask Instance type {offer_id} is no longer available."
    return error("no_such_ask", text, status, ask_id=offer_id)


def refusal(refused: Refused, offer_id: int = 0) -> web.Response:
    """The engine's refusal in Vast's words."""
    match refused.reason:
        case RefusalReason.NO_SUCH_OFFER:
            return gone(offer_id, 404)
        case RefusalReason.OFFER_GONE:
            return gone(offer_id, 410)
        case RefusalReason.NO_CREDIT:
            return error("insufficient_credit", "Your account lacks credit; see the billing page.", 200)
        case RefusalReason.EXPIRED:
            return error("resources_unavailable", "The rental contract of this instance has ended.", 200)
        case _:
            return error("invalid_args", f"error 400/3467: {refused}", 400)


def page_token(offset: int, last: int = 0) -> str:
    """The opaque token of the page that starts at this row, behind the row with id `last`."""
    return base64.urlsafe_b64encode(f"after:{offset}:{last}".encode()).decode()


def page_position(token: str) -> tuple[int, int]:
    """(offset, id of the last row shown). Raises ValueError for a token that is not ours."""
    parts = base64.urlsafe_b64decode(token.encode()).decode(errors="replace").split(":")
    if len(parts) != 3 or parts[0] != "after":
        raise ValueError("invalid after_token")
    return int(parts[1]), int(parts[2])
