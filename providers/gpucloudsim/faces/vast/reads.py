"""Reading instances: the list, one, what can be filtered."""

from __future__ import annotations

from aiohttp import web

from gpucloudsim.faces.http import answer, query_value
from gpucloudsim.faces.vast.answers import error, page_position, page_token
from gpucloudsim.faces.vast.desk import Desk
from gpucloudsim.faces.vast.query import BadQuery, Row, conditions, ordered, row_matches

PAGE = 25
STORED_COLUMNS = frozenset(
    {"id", "label", "actual_status", "gpu_name", "verification", "machine_id", "intended_status"}
)


class ReadRoutes:
    """Instances as the API shows them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def list_v1(self, request: web.Request) -> web.Response:
        """GET /api/v1/instances/: pages of at most 25, by id unless ordered otherwise."""
        take = self.cloud.faults.take
        if take("list_retired") is not None:
            return retired("/api/v1/instances/", "/api/v2/instances/")
        filters = query_value(request, "select_filters") or {}
        columns = query_value(request, "select_cols")
        order = query_value(request, "order_by") or [{"col": "id", "dir": "asc"}]
        limit = query_value(request, "limit")
        token = request.query.get("after_token")
        if token and take("list_page_error") is not None:
            return error("internal_error", "internal server error", 500)
        if not isinstance(filters, dict) or not isinstance(order, list):
            return error("invalid_request", "select_filters must be an object, order_by a list", 400)
        strange = [name for name in filters if name not in STORED_COLUMNS]
        if strange:
            return error("invalid_request", f"column {strange[0]} cannot be filtered", 400)
        try:
            found = conditions(filters)
            count = min(int(PAGE if limit is None else limit), PAGE)
            after = page_position(token) if token else None
            keys = [(str(item["col"]), str(item.get("dir", "asc"))) for item in order]
        except (BadQuery, ValueError, TypeError, KeyError) as problem:
            return error(
                "invalid_token" if token and isinstance(problem, ValueError) else "invalid_request",
                str(problem),
                400,
            )
        everything = self.desk.rows(self.desk.visible())
        rows = ordered([row for row in everything if row_matches(row, found)], keys)
        if take("list_empty") is not None:
            rows = everything = []
        offset = 0 if after is None else _start(rows, keys, after)
        part = rows[offset : offset + count]
        following = (
            page_token(offset + count, part[-1]["id"]) if part and offset + count < len(rows) else None
        )
        if following and take("list_short") is not None:
            following = None
        labels: dict[str, int] = {}
        for row in everything:
            labels[str(row["label"] or "")] = labels.get(str(row["label"] or ""), 0) + 1
        if isinstance(columns, list) and "*" not in columns:
            part = [{"id": row["id"], **{name: row.get(name) for name in map(str, columns)}} for row in part]
        return answer(
            {
                "success": True,
                "instances_found": len(rows),
                "total_instances": len(everything) + (3 if take("list_bad_total") is not None else 0),
                "label_counts": labels,
                "next_token": following,
                "instances": part,
            }
        )

    async def list_v0(self, request: web.Request) -> web.Response:
        """The retired list."""
        return retired("/api/v0/instances/", "/api/v1/instances/")

    async def filters(self, request: web.Request) -> web.Response:
        """Distinct values that can be filtered."""
        rows = self.desk.rows(self.desk.visible())
        names = ("actual_status", "gpu_name", "verification", "label")
        return answer({"success": True, "filters": [{name: row[name] for name in names} for row in rows]})

    async def show(self, request: web.Request) -> web.Response:
        """One instance under the plural key; null when it is gone."""
        shown = self.desk.visible(int(request.match_info["id"]))
        if not shown or self.cloud.faults.take("show_null") is not None:
            return answer({"instances": None})
        row = self.desk.rows(shown)[0]
        row.pop("volume_info", None)
        return answer({"instances": row})


def retired(old: str, new: str) -> web.Response:
    """What an endpoint answers after its end."""
    return error("deprecated_endpoint", f"{old} is deprecated. Use {new} instead.", 410)


def _start(rows: list[Row], order: list[tuple[str, str]], after: tuple[int, int]) -> int:
    """Where the next page begins: behind the last row that was shown, though rows came and went meanwhile."""
    offset, last = after
    for index, row in enumerate(rows):
        if row["id"] == last:
            return index + 1
    if order and order[0][0] == "id":
        down = order[0][1].lower() == "desc"
        return sum(row["id"] > last if down else row["id"] < last for row in rows)
    return offset
