"""The sentinel's answers, as a hostile box would give them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from core_lives import harmless
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.box.errors import BoxFault
from gpuwatch.box.sentinel import (
    Sentinel,
    inventory_order,
    parse_facts,
    parse_inventory,
    parse_report,
)
from gpuwatch.box.ssh import Output
from gpuwatch.custody.rules import matches

BOOT = "b" * 32
FACTS: dict[str, Any] = {
    "version": 1, "python": "3.11.2", "workspace": "/workspace", "boot_id": BOOT, "gpus": ["RTX 4090"], "driver": "570.1",
    "smi": "ok", "disk_free": 10**11, "disk_total": 10**12, "cpus": 8,
}  # fmt: skip
END: dict[str, Any] = {"end": 1, "problems": [], "boot_id": BOOT, "at": 1_800_000_000.5}
ROW: list[Any] = ["out/a", 10, 5, 6, 7, False, None]
REPORT: dict[str, Any] = {
    "at": 1.8e9, "boot_id": BOOT, "job": {"phase": "running", "pid": 5, "exit_code": None}, "log": 100,
    "gpus": [["0", "RTX 4090", "97", "20000", "24564", "[N/A]", "61"]], "cpu": 50.0, "memory": [1, 2], "disk": [3, 4],
    "metrics": {"step": 10, "loss": 2.5, "tokens_per_second": 1e5}, "steps": 100, "files": [ROW], "problems": [],
}  # fmt: skip


class Parrot:
    """A box that fails at everything and says on standard error all that it was told."""

    async def run(self, _argv: list[str], *, stdin: bytes = b"", **_: Any) -> Output:
        told = json.loads(stdin).get("env", {}).values()
        return Output(1, b"", b"Traceback: " + " ".join(told).encode() + b" tail" * 40)


async def test_what_a_box_was_told_in_confidence_is_in_no_message_of_ours() -> None:
    agent: Any = Sentinel(Parrot(), "/w", "r1")  # type: ignore[arg-type]
    secret = "hf_0123456789abcdef0123456789abcdef"
    for place in (0, 250, 300):  # also where the message is cut in the middle of it
        with pytest.raises(BoxFault) as failure:
            await agent.stage("job", command="x", env={"PAD": "p" * place, "HF_TOKEN": secret})
        words = str(failure.value)
        assert not any(secret[n : n + 8] in words for n in range(len(secret) - 8)), words


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from([-1, 2**62, 2**64, 10**400, "running", "/", "../x", "\x1b[31m", "a\x00b", "\ud800", "x" * 2000]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def listing(*rows: object, **end: object) -> bytes:
    return b"".join(map(line, rows)) + line(END | {"end": len(rows)} | end)


def test_facts_are_read() -> None:
    facts = parse_facts(line(FACTS))
    assert (facts.workspace, facts.boot_id, facts.gpus, facts.disk_free) == (
        "/workspace",
        BOOT,
        ("RTX 4090",),
        10**11,
    )


@pytest.mark.parametrize("place", [None, "", "relative", "/a\nb", "/\x1b[1m", "/" + "x" * 1000, 5, ["/"]])
def test_a_workspace_that_could_be_more_than_a_path_is_refused(place: object) -> None:
    with pytest.raises(BoxFault, match="workspace"):
        parse_facts(line(FACTS | {"workspace": place}))


@given(st.sampled_from(sorted(FACTS)), JSON)
def test_any_fact_is_typed_or_refused(key: str, value: object) -> None:
    try:
        facts = parse_facts(line(FACTS | {key: value}))
    except BoxFault:
        return
    for text in (facts.python, facts.workspace, facts.boot_id, facts.driver or "", *facts.gpus):
        assert harmless(text)
        assert len(text) <= 1000
    assert facts.disk_free is None or 0 <= facts.disk_free < 2**62


def test_a_listing_is_read_when_its_last_line_says_that_it_is_whole() -> None:
    found = parse_inventory(listing(ROW, ["out/b", 0, 1, 1, 1, True, None]), "77")
    assert [(f.path, f.size, f.writer) for f in found.files] == [("out/a", 10, False), ("out/b", 0, True)]
    assert (found.instance_id, found.boot_id, found.problems) == ("77", BOOT, ())


WHOLE = listing(ROW, ["out/b", 0, 1, 1, 1, False, None])


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_listing_that_breaks_off_anywhere_is_none(cut: int) -> None:
    with pytest.raises(BoxFault):
        parse_inventory(WHOLE[:cut], "77")


@pytest.mark.parametrize(
    "data",
    [
        listing(ROW, ROW), listing(ROW, end=2), listing(ROW, end=0), listing(ROW, boot_id=None), listing(ROW, boot_id="a b"),
        listing(ROW, at="now"), listing(ROW, at=10**400), listing(ROW, at=float("nan")), listing(ROW, problems=None), listing(ROW[:6]), listing([*ROW, 1]), listing({"path": "x"}),
        listing(["", 1, 1, 1, 1, False, None]), listing(["a", -1, 1, 1, 1, False, None]), listing(["a", 2**62, 1, 1, 1, False, None]),
        listing(["a", 1, 2**63, 1, 1, False, None]), listing(["a", 1.0, 1, 1, 1, False, None]), listing(["a", True, 1, 1, 1, False, None]),
        listing([None, 1, 1, 1, 1, False, None]), listing(["a\x00b", 1, 1, 1, 1, False, None]), listing(["\ud800", 1, 1, 1, 1, False, None]),
        b"", b"\n", b"[]\n", b"null\n", b"<html>\n", line(ROW), WHOLE + b"x", WHOLE + b"\n", b"[" * 50_000 + b"\n",
    ],
    ids=range(30),
)  # fmt: skip
def test_a_listing_that_is_not_right_is_none(data: bytes) -> None:
    with pytest.raises(BoxFault):
        parse_inventory(data, "77")


@given(st.lists(st.lists(JSON, min_size=6, max_size=8), max_size=3), JSON, JSON)
def test_any_listing_is_typed_or_refused(rows: list[Any], problems: object, at: object) -> None:
    try:
        found = parse_inventory(listing(*rows, problems=problems, at=at), "77")
    except BoxFault:
        return
    for file in found.files:
        assert isinstance(file.path, str)
        assert all(isinstance(n, int) for n in file.identity)
    assert all(harmless(p) for p in found.problems)


def test_links_inside_the_tree_lose_nothing_and_others_are_problems() -> None:
    rows = [
        ROW,
        ["out/l", 0, 1, 1, 1, False, "out/a"],
        ["out/d", 0, 1, 1, 1, False, "out"],
        ["out/x", 0, 1, 1, 1, False, "../../etc"],
    ]
    found = parse_inventory(listing(*rows), "77")
    assert [f.path for f in found.files] == ["out/a"]
    assert [x.path for x in found.links if x.stray] == ["out/x"]
    assert found.problems == ()


@pytest.mark.parametrize("at", [None, True, "now", float("nan"), float("inf"), 10**400, [1]])
def test_a_report_without_a_time_is_none(at: object) -> None:
    with pytest.raises(BoxFault):
        parse_report(line(REPORT | {"at": at}))


def test_a_report_is_read() -> None:
    report = parse_report(line(REPORT))
    assert report.job.phase == "running"
    assert report.gpus is not None
    gpu = report.gpus[0]
    assert (gpu.utilisation, gpu.memory_used, gpu.power, gpu.temperature) == (97.0, 20000 << 20, None, 61.0)
    assert (report.step, report.steps, report.loss) == (10, 100, 2.5)
    assert report.files is not None
    assert report.files[0].path == "out/a"


@given(st.sampled_from(sorted(REPORT)), JSON)
def test_any_report_is_typed_or_refused(key: str, value: object) -> None:
    try:
        report = parse_report(line(REPORT | {key: value}))
    except BoxFault:
        return
    for number in (
        report.log_size,
        report.memory_used,
        report.memory_total,
        report.disk_free,
        report.step,
        report.steps,
    ):
        assert number is None or (type(number) is int and 0 <= number < 2**62)
    for real in (report.cpu, report.loss, report.tokens_per_second):
        assert real is None or (type(real) is float and real == real)
    assert report.at == report.at, "a report at NaN is no report"


@pytest.mark.parametrize(
    "cell", ["[N/A]", "[Not Supported]", "ERR!", "", "nan", "-5", "1e99", "inf", "[Unknown Error]"]
)
def test_what_the_driver_does_not_say_is_unknown(cell: str) -> None:
    report = parse_report(line(REPORT | {"gpus": [["0", "x", cell, cell, cell, cell, cell]]}))
    assert report.gpus is not None
    gpu = report.gpus[0]
    assert (gpu.utilisation, gpu.memory_used, gpu.memory_total, gpu.power, gpu.temperature) == (None,) * 5


def test_no_reading_is_not_an_idle_gpu() -> None:
    assert parse_report(line(REPORT | {"gpus": None})).gpus is None
    assert parse_report(line(REPORT | {"gpus": [["x"] * 7]})).gpus is None


def test_the_order_sends_the_same_patterns_that_judge() -> None:
    globs = ["out/*.gguf", "ckpt", "**/.cache/*.bin", "a[b]/c"]
    order = inventory_order("/work", globs)
    assert order["roots"] == ["out", "ckpt", ""]
    assert order["hidden"] is True
    for path in ("out/a.gguf", "ckpt/x/.y", "q/.cache/z.bin", "ab/c", "nope"):
        box = any(re.compile(p, re.DOTALL).fullmatch(path) for p in order["patterns"])
        assert box == any(matches(path, g) for g in globs)
