"""Which files are promised, which are safe, what holds a machine."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest
from core_lives import BOOT, INSTANCE, NOW
from hypothesis import example, given
from hypothesis import strategies as st

from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.custody.rules import (
    assess,
    glob_pattern,
    is_promised,
    is_safe,
    matches,
    promised_globs,
    spoken,
    waivable,
)
from gpuwatch.lifecycle.run import EVERYTHING
from gpuwatch.spec.model import Artifact, Checkpoints, Job, RunSpec

# --- globs, against a second implementation that uses no regular expressions ----------------------


def reference(path: str, glob: str) -> bool:
    """Whether the glob stands for the path or for a folder above it, letter by letter."""
    parts = path.split("/")
    return any(_whole("/".join(parts[:n]), glob) for n in range(1, len(parts) + 1))


def _whole(path: str, glob: str) -> bool:
    def starts(p: int) -> bool:
        return p == 0 or path[p - 1] == "/"

    def wild(p: int) -> bool:
        """Whether a wildcard may stand for the character at p."""
        return p < len(path) and not (starts(p) and path[p] == ".")

    @cache
    def match(g: int, p: int) -> bool:
        if g == len(glob):
            return p == len(path)
        if glob.startswith("**/", g) and (g == 0 or glob[g - 1] == "/"):
            if match(g + 3, p):
                return True
            end = path.find("/", p)
            return end > p and path[p] != "." and match(g, end + 1)
        if glob.startswith("**", g):
            if not (starts(p) and path[p : p + 1] == ".") and match(g + 2, p):
                return True
            return (p < len(path) and path[p] == "/" and path[p + 1 : p + 2] != "." and match(g, p + 1)) or (
                wild(p) and path[p] != "/" and match(g, p + 1)
            )
        if glob[g] == "*":
            if not (starts(p) and path[p : p + 1] == ".") and match(g + 1, p):
                return True
            return wild(p) and path[p] != "/" and match(g, p + 1)
        if glob[g] == "?":
            return wild(p) and path[p] != "/" and match(g + 1, p + 1)
        if glob[g] == "[":
            end = glob.find("]", g + (3 if glob.startswith("[!", g) else 2))
            if end > 0:
                return (
                    wild(p)
                    and path[p] != "/"
                    and _in_class(path[p], glob[g + 1 : end])
                    and match(end + 1, p + 1)
                )
        return p < len(path) and path[p] == glob[g] and match(g + 1, p + 1)

    return match(0, 0)


def _in_class(char: str, body: str) -> bool:
    negated = len(body) > 1 and body[0] in "!^"
    rest, found = (body[1:] if negated else body), False
    while rest:
        if len(rest) > 2 and rest[1] == "-":
            found, rest = found or rest[0] <= char <= rest[2], rest[3:]
        else:
            found, rest = found or char == rest[0], rest[1:]
    return found != negated


PART = st.text("ab.[-", min_size=1, max_size=3)
PATHS = st.lists(PART, min_size=1, max_size=4).map("/".join)
GLOBS = st.one_of(
    st.text("ab./*?[]!-^", min_size=1, max_size=7),
    st.lists(st.sampled_from(["a", "*", "**", "?", "*a", "a**", ".a", ".*", "[ab]", "[!a]", "[b-a]", "[]a]"]), min_size=1, max_size=4).map("/".join),
)  # fmt: skip


@given(PATHS, GLOBS)
@example("a/.metadata", "a")
@example("a//b", "a/*")
@example("b", "[b-a]")
@example("a/b", "a[!a]b")
def test_globs_mean_what_the_reference_says(path: str, glob: str) -> None:
    assert matches(path, glob) == reference(path, glob), (path, glob)


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_glob_is_an_error(path: str, glob: str) -> None:
    assert matches(path, glob) in (True, False)
    assert matches(path, "**") or path.startswith((".", "/")) or "/." in path or path == ""


@pytest.mark.parametrize(
    ("path", "glob", "promised"),
    [
        ("out/model.gguf", "out/*.gguf", True),
        ("out/sub/model.gguf", "out/*.gguf", False),
        ("out/sub/model.gguf", "out/**/*.gguf", True),
        ("out/model.gguf", "out/**/*.gguf", True),
        ("out/model.gguf", "out", True),
        ("output/model.gguf", "out", False),
        ("ckpt/step-5/__0_0.distcp", "ckpt", True),
        ("ckpt/step-5/.metadata", "ckpt", True),
        ("out/.cache/x", "out/*", False),
        (".git/config", "**", False),
        (".cache/x.gguf", "**/.cache/*.gguf", True),
        ("a/.cache/x.gguf", "**/.cache/*.gguf", True),
        ("a\nb/x", "a\nb/*", True),
        ("a/b\n", "a/*", True),
        ("A.gguf", "*.GGUF", False),
    ],
)
def test_what_people_promise(path: str, glob: str, promised: bool) -> None:
    assert matches(path, glob) is promised


def test_many_stars_do_not_take_for_ever() -> None:
    assert not matches("/".join(["a"] * 200) + "/b", "**/**/**/**/**/**/**/c")
    assert glob_pattern("**/**/a").pattern == glob_pattern("**/a").pattern


# --- assess --------------------------------------------------------------------------------------


def spec(*artifacts: Artifact, ckpt: str | None = None, none: bool = False) -> RunSpec:
    checkpoints = None if ckpt is None else Checkpoints(path=ckpt)
    return RunSpec(
        name="r", job=Job(command="x"), artifacts=artifacts, checkpoints=checkpoints, no_artifacts=none
    )


OUT = spec(Artifact(path="out"))


def file(path: str, size: int = 10, *, inode: int = 1, writer: bool = False) -> BoxFile:
    return BoxFile(path, size, 5, 6, inode, writer)


def copy(f: BoxFile) -> Copy:
    return Copy(f.path, f.size, "0" * 64, f.identity, BOOT, NOW)


def listing(*files: BoxFile, problems: tuple[str, ...] = ()) -> Inventory:
    return Inventory(INSTANCE, BOOT, NOW, files, problems)


def copies(*files: BoxFile) -> dict[str, Copy]:
    return {f.path: copy(f) for f in files}


FILE = file("out/a")


def test_a_proved_file_is_safe_and_nothing_holds() -> None:
    verdict = assess(OUT, listing(FILE), copies(FILE))
    assert verdict.clear
    assert [c.path for c in verdict.safe] == ["out/a"]


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode"])
def test_a_copy_of_another_version_proves_nothing(field: str) -> None:
    import dataclasses

    other = dataclasses.replace(FILE, **{field: getattr(FILE, field) + 1})
    assert not is_safe(other, copy(FILE))
    verdict = assess(OUT, listing(other), copies(FILE))
    assert [h.name for h in verdict.holds] == ["artifacts"]
    assert verdict.unsafe == (other,)


FILES = st.lists(
    st.builds(file, st.sampled_from(["out/a", "out/b", "out/c", "tmp/d"]), st.integers(0, 3), inode=st.integers(0, 2), writer=st.booleans()),
    max_size=4, unique_by=lambda f: f.path,
)  # fmt: skip


@given(FILES, FILES, st.sets(st.sampled_from(["out/a", "out/b", "tmp/d", "out"])))
def test_unsafe_is_exactly_what_is_promised_and_not_proved_and_not_waived(
    on_box: list[BoxFile], at_home: list[BoxFile], waived: set[str]
) -> None:
    verdict = assess(OUT, listing(*on_box), copies(*at_home), waived)
    identities = {f.path: f.identity for f in at_home}
    promised = [f for f in on_box if f.path.startswith("out/")]
    unproved = {f.path for f in promised if identities.get(f.path) != f.identity}
    assert {f.path for f in verdict.unsafe} == unproved - waived
    assert {f.path for f in verdict.waived} == unproved & waived
    assert {c.path for c in verdict.safe} == {f.path for f in promised} - unproved
    if verdict.clear:
        assert not verdict.unsafe
        assert promised or "out" in waived, "nothing tracked blocks; it does not pass"


def names(*args: object, **kwargs: object) -> list[str]:
    return [h.name for h in assess(*args, **kwargs).holds]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "empty",
    [
        OUT,
        spec(Artifact(path="out", required=False)),
        spec(ckpt="ckpt"),
        spec(Artifact(path="x", required=False), ckpt="ckpt"),
    ],
)
def test_an_empty_listing_blocks_even_when_copies_are_at_home(empty: RunSpec) -> None:
    assert names(empty, listing(), {})
    assert names(empty, listing(), copies(FILE))
    assert names(empty, listing(file("elsewhere/x")), {})
    assert names(empty, listing(), {}, ["out/some-old-file"]), (
        "an old waiver is not consent to lose everything"
    )


def test_only_the_word_none_or_a_waiver_of_each_pattern_lets_an_empty_listing_pass() -> None:
    assert assess(spec(none=True), listing(), {}).clear
    two = spec(Artifact(path="x", required=False), ckpt="ckpt")
    assert names(two, listing(), {}, ["x"])
    assert assess(two, listing(), {}, ["x", "ckpt"]).clear


def test_what_was_promised_and_does_not_exist_holds() -> None:
    assert names(OUT, listing(), {}) == ["missing"]
    assert "the job failed" in assess(OUT, listing(), {}, job_succeeded=False).holds[0].reason
    two = spec(Artifact(path="out"), Artifact(path="logs/*.txt"))
    assert names(two, listing(FILE), copies(FILE)) == ["missing"]
    assert assess(two, listing(FILE), copies(FILE), ["logs/*.txt"]).clear


def test_files_that_are_too_few_or_too_small_hold() -> None:
    strict = spec(Artifact(path="out/*", count=2, min_size=10))
    small, other = file("out/b", 9), file("out/c", 10)
    assert names(strict, listing(FILE), copies(FILE)) == ["missing"]
    assert names(strict, listing(FILE, small), copies(FILE, small)) == ["too-small"]
    assert assess(strict, listing(FILE, small), copies(FILE, small), ["out/b"]).clear
    assert assess(strict, listing(FILE, other), copies(FILE, other)).clear
    optional = spec(Artifact(path="out"), Artifact(path="maybe/*", required=False, count=3))
    assert assess(optional, listing(FILE), copies(FILE)).clear


def test_a_writer_holds_although_the_copy_matches() -> None:
    busy = file("out/a", writer=True)
    assert names(OUT, listing(busy), copies(busy)) == ["writing"]


def test_what_the_box_could_not_list_holds() -> None:
    assert names(OUT, listing(FILE, problems=("cannot list out/x: Permission denied",)), copies(FILE)) == [
        "inventory"
    ]


def test_unfinished_checkpoints_are_not_promised_and_finished_ones_are_whole() -> None:
    ckpt = spec(ckpt="run/ckpt")
    assert not is_promised("run/ckpt/.tmp-5/model.bin", ckpt)
    assert is_promised("run/ckpt/step-5/.metadata", ckpt)
    assert is_promised("run/ckpt/latest.json", ckpt)
    assert not is_promised("run/ckpts/x", ckpt)
    assert is_promised("ckpt.pt", spec(ckpt="ckpt.pt"))


# --- names ---------------------------------------------------------------------------------------

ODD = "out/a\udcff\x1b[31m\n"


def test_odd_names_can_be_held_waived_and_written_down() -> None:
    odd = file(ODD)
    verdict = assess(OUT, listing(odd), {})
    assert "\x1b" not in verdict.holds[0].reason
    msgspec.json.encode([str(h) for h in verdict.holds])
    assert waivable(verdict, OUT) == (spoken(ODD),)
    assert assess(OUT, listing(odd), {}, waivable(verdict, OUT)).clear


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_two_files_are_spoken_of_differently(a: bytes, b: bytes) -> None:
    one, two = a.decode("utf-8", "surrogateescape"), b.decode("utf-8", "surrogateescape")
    msgspec.json.encode(spoken(one))
    if b"\\" not in a + b:
        assert (spoken(one) == spoken(two)) == (a == b)


@given(st.text(st.characters(), max_size=10))
def test_any_text_can_be_spoken(text: str) -> None:
    msgspec.json.encode(spoken(text))


def test_a_pattern_called_star_cannot_be_waived_by_that_word_alone() -> None:
    star = spec(Artifact(path="*"), Artifact(path="x"))
    verdict = assess(star, listing(), {})
    assert promised_globs(star) == ("*", "x")
    assert EVERYTHING not in waivable(verdict, star)
    assert "x" in waivable(verdict, star)
