"""The permit to destroy: who gets one, how long it lives, and that nobody else can make one."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from core_lives import BOOT, INSTANCE, NOW, machine, receipt, run

import gpuproviders
import gpuwatch
from gpuproviders.model import Permit, Provider
from gpuproviders.runpod import RunpodProvider
from gpuproviders.ssh import SshProvider
from gpuproviders.vast import VastProvider
from gpuwatch.custody import permit as module
from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.custody.permit import (
    PERMIT_MAX_AGE,
    RECEIPT_MAX_AGE,
    DestroyPermit,
    Refusal,
    grant,
    grant_empty,
    grant_given_up,
)
from gpuwatch.custody.rules import assess
from gpuwatch.lifecycle.run import EVERYTHING, ReceiptRef, Run, State
from gpuwatch.spec.model import Artifact, Job, RunSpec

SPEC = RunSpec(name="r", job=Job(command="x"), artifacts=(Artifact(path="out"),))
FILE = BoxFile("out/a", 10, 5, 6, 7)
COPIES = {"out/a": Copy("out/a", 10, "0" * 64, FILE.identity, BOOT, NOW)}
VERIFIED = run(State.VERIFIED, machine=machine(job_started_at=NOW - 9, boot_id=BOOT), receipt=receipt())


def ask(
    who: Run = VERIFIED, proof: ReceiptRef | None = receipt(), *files: BoxFile, instance: str = INSTANCE, boot: str = BOOT, now: float = NOW
) -> DestroyPermit:  # fmt: skip
    look = Inventory(instance, boot, now, files or (FILE,))
    return grant(who, proof, assess(SPEC, look, COPIES), look, now=now)


def test_a_fresh_receipt_and_an_unchanged_box_give_a_permit_for_this_machine() -> None:
    permit = ask()
    assert isinstance(permit, Permit)
    assert permit.instance_id == INSTANCE
    assert "receipt " + "d" * 64 in permit.ground


def test_without_a_receipt_there_is_none() -> None:
    with pytest.raises(Refusal, match="no receipt"):
        ask(VERIFIED, None)


def test_a_receipt_of_another_boot_is_void() -> None:
    with pytest.raises(Refusal, match="restarted"):
        ask(boot="c" * 32)


def test_a_listing_of_another_machine_is_no_last_look() -> None:
    with pytest.raises(Refusal, match="another machine"):
        ask(instance="78")


def test_the_limits_are_those_that_the_documents_promise() -> None:
    assert RECEIPT_MAX_AGE == 3600
    assert PERMIT_MAX_AGE == 120


@pytest.mark.parametrize(
    ("age", "granted"), [(0.0, True), (RECEIPT_MAX_AGE, True), (RECEIPT_MAX_AGE + 1, False), (-1.0, False)]
)
def test_a_receipt_ages_and_one_from_the_future_has_no_age(age: float, granted: bool) -> None:
    if granted:
        assert ask(now=NOW + age)
    else:
        with pytest.raises(Refusal, match="renewed"):
            ask(now=NOW + age)


@pytest.mark.parametrize(
    "files",
    [
        (FILE, BoxFile("out/new", 1, 1, 1, 1)),
        (BoxFile("out/a", 11, 5, 6, 7),),
        (BoxFile("out/a", 10, 5, 6, 8),),
        (BoxFile("out/a", 10, 9, 6, 7),),
        (BoxFile("out/a", 10, 5, 9, 7),),
        (BoxFile("out/a", 10, 5, 6, 7, writer=True),),
        (BoxFile("elsewhere", 10, 5, 6, 7),),
    ],
    ids=["new file", "grown", "replaced", "mtime", "ctime", "being written", "all gone"],
)
def test_what_changed_since_the_receipt_refuses(files: tuple[BoxFile, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        ask(VERIFIED, receipt(), *files)
    assert caught.value.holds


@pytest.mark.parametrize("who", [run(), run(machine=machine(instance_id=None))], ids=["none", "unknown"])
def test_there_is_no_permit_for_no_machine(who: Run) -> None:
    for wish in (lambda: ask(who), lambda: grant_empty(who), lambda: grant_given_up(who)):
        with pytest.raises(Refusal, match="no machine"):
            wish()


def test_a_machine_where_no_job_ran_needs_no_receipt() -> None:
    permit = grant_empty(run(State.BOOTING, machine=machine()))
    assert permit.instance_id == INSTANCE
    with pytest.raises(Refusal, match="a job ran"):
        grant_empty(VERIFIED)


def test_only_the_waiver_of_everything_permits_without_a_look() -> None:
    with pytest.raises(Refusal, match="not everything"):
        grant_given_up(run(State.FAILED, machine=machine(job_started_at=NOW), waivers=("out/a", "out", "**")))
    assert grant_given_up(run(State.FAILED, machine=machine(job_started_at=NOW), waivers=(EVERYTHING,)))


def test_a_permit_is_used_once() -> None:
    permit = ask()
    permit.spend()
    with pytest.raises(PermissionError, match="used up"):
        permit.spend()


@pytest.mark.parametrize("system", ["has a clock that sleeps not", "has none"])
def test_a_permit_ages(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the computer sleeps, where its system counts that time (CLOCK_BOOTTIME)."""
    clock = [1000.0]
    if system == "has none":
        monkeypatch.delattr(module.time, "CLOCK_BOOTTIME", raising=False)
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    else:
        monkeypatch.setattr(module.time, "CLOCK_BOOTTIME", 7, raising=False)
        monkeypatch.setattr(module.time, "clock_gettime", lambda number: clock[0] if number == 7 else 0.0)
    young, old = ask(), ask()
    clock[0] += PERMIT_MAX_AGE
    young.spend()
    clock[0] += 1
    with pytest.raises(PermissionError, match="too old"):
        old.spend()


def test_a_refusal_says_every_reason() -> None:
    with pytest.raises(Refusal, match=r"restarted.*; .*another machine"):
        ask(boot="c" * 32, instance="78")


@pytest.mark.parametrize("seal", [object(), None, True, "seal", DestroyPermit])
def test_nobody_else_makes_one(seal: object) -> None:
    with pytest.raises(PermissionError, match="only custody"):
        DestroyPermit(seal, instance_id=INSTANCE, ground="because")


# --- the source itself ---------------------------------------------------------------------------

PACKAGES = [Path(package.__path__[0]) for package in (gpuwatch, gpuproviders)]
SOURCES = [p for package in PACKAGES for p in package.rglob("*.py")]


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


ADAPTERS = {"vast/adapter.py", "runpod/adapter.py", "ssh/adapter.py"}
ENDING = ("destroy", "stop", "recycle", "update_template", "terminate")
"""What a provider could be asked to do that ends a machine or loses its disk."""


def place(path: Path) -> str:
    return path.relative_to(path.parents[1]).as_posix()


def test_only_custody_constructs_permits_and_touches_the_seal() -> None:
    makers, sealers = set(), set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if "_SEAL" in text:
            sealers.add(path.name)
        for call in calls(path):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in ("DestroyPermit", "StopPermit", "_OneUse") or "Permit.__new__" in ast.unparse(
                call.func
            ):
                makers.add(place(path))
    assert makers == {"custody/permit.py"}
    assert sealers == {"permit.py"}


def test_only_one_module_ends_machines_and_one_stops_them_and_both_hand_over_a_permit() -> None:
    """The choke point of I1: whoever else gets a provider into his hands asks it for something harmless.

    The conformance checks destroy what they made on simulators of their own; nothing of the product imports them.
    """
    found = set()
    for path in SOURCES:
        if path.parent.name == "conformance":
            continue
        assert "gpuproviders.conformance" not in path.read_text(encoding="utf-8"), path
        for call in calls(path):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ENDING:
                receiver = ast.unparse(call.func.value)
                if receiver.split(".")[-1].removeprefix("_") == "provider":
                    found.add((place(path), call.func.attr, tuple(ast.unparse(a) for a in call.args)))
    assert found == {
        ("daemon/destroying.py", "destroy", ("permit",)),
        ("daemon/pausing.py", "stop", ("permit",)),
    }


def test_nobody_reaches_a_providers_method_by_its_name() -> None:
    """`getattr(provider, "destroy")` would pass the test above."""
    for path in SOURCES:
        for call in calls(path):
            if ast.unparse(call.func) in ("getattr", "operator.methodcaller", "methodcaller"):
                words = [a.value for a in call.args if isinstance(a, ast.Constant)]
                assert not set(words) & set(ENDING), path


@pytest.mark.parametrize("method", ["destroy", "stop"])
def test_the_contract_takes_a_permit_and_nothing_else(method: str) -> None:
    for kind in (Provider, VastProvider, RunpodProvider, SshProvider):
        signature = inspect.signature(getattr(kind, method))
        assert [(p.name, p.annotation) for p in signature.parameters.values()][1:] == [("permit", "Permit")]
        assert all(p.default is p.empty for p in signature.parameters.values())


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("method", ["destroy", "stop"])
def test_an_adapter_spends_the_permit_before_it_sends_anything(adapter: str, method: str) -> None:
    path = next(p for p in SOURCES if place(p) == adapter)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef) and n.name == method)
    done = [ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)]
    lines = {ast.unparse(n.func): n.lineno for n in ast.walk(function) if isinstance(n, ast.Call)}
    writes = [name for name in done if name.endswith((".write", "._state", "._act", "._ask"))]
    assert writes or "raise Refused" in ast.unparse(function), "it acts, or it refuses"
    assert all(lines["permit.spend"] < lines[name] for name in writes)


def test_only_adapters_speak_the_words_that_end_a_machine() -> None:
    words = {"delete", "DELETE", "recycle", "update_template", "podTerminate"}
    for path in SOURCES:
        if path.parent.name == "conformance":
            continue
        spoken = {a.value for call in calls(path) for a in call.args if isinstance(a, ast.Constant)}
        called = {call.func.attr for call in calls(path) if isinstance(call.func, ast.Attribute)}
        if words & (spoken | called):
            assert place(path) in ADAPTERS, path
