"""The query language: what each term means, that what is not known matches nothing, and errors that teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders import listing
from gpuproviders.listing import AREAS, FIELDS, in_region, text_of, wish_of
from gpuproviders.query import Kind, QueryError, complete, marked, parse, read
from gpuwatch.client import wire

GB = 10**9


def offer(**changes: object) -> wire.OfferRow:
    base: dict[str, object] = {
        "provider": "vast", "offer_id": "21000001", "machine_id": "4711", "gpu": "H100 SXM", "gpu_count": 2, "gpu_memory": 80 * GB,
        "price": 4_000_000, "disk_price": 10_000, "spot": False, "reliability": 0.985, "verified": True, "datacenter": True,
        "region": "Sweden, SE", "cpu_cores": 64.0, "memory": 512 * GB, "disk": 900 * GB, "download_speed": 2.5e9,
        "upload_speed": 9e8, "transfer_price": 3000, "cuda": "12.8", "ends_at": None, "all_in": 4_006_000, "tflop_price": 2024,
    }  # fmt: skip
    return wire.OfferRow(**(base | changes))  # type: ignore[arg-type]


def fits(text: str, **changes: object) -> bool:
    row = offer(**changes)
    return parse(text, FIELDS).matches(row, text_of(row))


@pytest.mark.parametrize(
    "text",
    [
        "", "gpu=h100", "gpu=H100,a100", 'gpu="H100 SXM"', "gpu!=h200", "!gpu=h200", "gpus=2", "count>=2", "price<4.01", "price<=$4.01/h",
        "each<2.01", "reliability>0.98", "reliability>98%", "reliability>98", "reliable>=98.5%", "region=eu", "region=EU", "region=europe",
        "region=se", "region~swed", "!region=us", "vram=80", "vram>=80GB", "disk>0.5TB", "ram>=512", "down>1Gbps", "down>=2500", "up<1gbit/s",
        "cuda>=12.4", "tflop<0.0021", "!spot", "spot=no", "verified", "!unverified", "datacenter", "provider=vast", "vendor!=runpod",
        "machine=4711", "sweden", '"sweden, se"', "!texas", "price < 5   gpus = 2", "duds=0", "!avoided", "!known", "transfer<0.01",
    ],
)  # fmt: skip
def test_what_a_fitting_offer_is_asked_with(text: str) -> None:
    assert fits(text)


@pytest.mark.parametrize(
    "text",
    [
        "gpu=a100", "gpu!=h100", "gpus=1", "price<4", "each<2", "reliability>99%", "region=us", "region=asia", "disk>1TB", "down>3Gbps",
        "spot", "!verified", "unverified", "provider=runpod", "texas", "!sweden", "gpus=1,4", "known", "duds>0", "cuda>12.8",
    ],
)  # fmt: skip
def test_what_does_not_fit(text: str) -> None:
    assert not fits(text)


@pytest.mark.parametrize("name", ["reliability", "disk", "down", "cuda", "transfer", "tokens", "boot"])
def test_what_a_row_does_not_know_matches_no_comparison_whichever_way_it_is_asked(name: str) -> None:
    nothing = {
        "reliability": None,
        "disk": None,
        "download_speed": None,
        "cuda": None,
        "transfer_price": None,
    }
    assert not any(
        fits(f"{no}{name}{sign}1", **nothing)
        for sign in ("<", "<=", ">", ">=", "=", "!=")
        for no in ("", "!")
    )


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("prize<3", "there is no field 'prize'; did you mean price", "prize"),
        ("gpu=h100 prce>2", "did you mean price", "prce"),
        ("zzz=1", "there are avoided, boot, cpu", "zzz"),
        ("price<cheap", "price is dollars, e.g. 2.50; 'cheap' is not", "cheap"),
        ("price<", "price< lacks a value: dollars", "price<"),
        ("price<1,2", "price< takes one value, not 2", "1,2"),
        ("price~2", "price is no text", "2"),
        ("region<us", "region is text: use = or != or ~ (holds), not <", "us"),
        ("spot=maybe", "spot is yes or no: write spot or !spot", "maybe"),
        ("spot>1", "spot is yes or no", "1"),
        ("gpu=h1000", "no GPU is called 'h1000'; did you mean H100", "h1000"),
        ('gpu="H100', 'a quote (") is not closed', '"H100'),
        ("disk>5parsecs", "disk is a size in GB", "5parsecs"),
    ],
)
def test_what_is_not_understood_is_said_with_the_place_and_the_way_out(
    text: str, message: str, at: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text, FIELDS)
    error = caught.value
    assert message in str(error)
    assert text[error.start : error.end] == at or text[error.start :].startswith(at)
    query, mark = marked(text, error).splitlines()
    assert query.endswith(text)
    assert mark.index("^") - 2 == error.start


def test_while_somebody_types_an_unfinished_comparison_is_nothing_and_a_wrong_one_is_told() -> None:
    assert read("spot price<", FIELDS, typing=True).problems == ()
    assert len(read("spot price<", FIELDS, typing=True).terms) == 1
    assert [str(p)[:10] for p in read("prize<1 cuda>x", FIELDS, typing=True).problems] == [
        "there is n",
        "cuda is a ",
    ]


@pytest.mark.parametrize(
    ("wanted", "place", "there"),
    [
        ("eu", "EU-RO-1", True), ("eu", "EUR-IS-1", False), ("europe", "EUR-IS-1", True), ("eea", "EUR-IS-1", True), ("eu", "Sweden, SE", True),
        ("eu", "Norway, NO", False), ("america", "US-TX-3", True), ("us", "California, US", True), ("ca", "CA-MTL-1", True),
        ("america", "CA-MTL-1", True), ("asia", "AP-JP-1", True), ("oceania", "OC-AU-1", True), ("texas", "Texas, US", True), ("us", "Australia, AU", False),
        ("asia", "", False), ("eu", "???", False),
    ],
)  # fmt: skip
def test_regions_are_areas_countries_or_parts_of_names(wanted: str, place: str, there: bool) -> None:
    assert in_region(wanted, place.lower()) is there


def test_every_area_is_one_word_and_countries_are_codes() -> None:
    assert all(name.isalpha() and all(len(code) == 2 for code in area) for name, area in AREAS.items())


def test_vendors_are_only_told_what_surely_narrows() -> None:
    wish = wish_of(
        parse("gpu=h100,rtx_4090 gpus=2 price<2.5 price<=3 reliability>=98% spot region=eu", FIELDS)
    )
    assert wish.gpus == ("H100 SXM", "H100 PCIE", "H100 NVL", "RTX 4090")
    assert (wish.count, wish.max_price, wish.min_reliability, wish.spot, wish.unverified) == (
        2,
        2.5,
        0.98,
        True,
        False,
    )
    assert wish_of(parse("gpu=h100 gpu=h100_pcie", FIELDS)).gpus == ("H100 PCIE",)
    loose = wish_of(parse("!gpu=h100 gpu!=a100 !price<2 gpus>2 gpus!=4 !reliability>9 price>1", FIELDS))
    assert loose == listing.Wish()
    assert wish_of(parse("!verified", FIELDS)).unverified
    assert wish_of(parse("!spot", FIELDS)).spot is False


@given(st.text(max_size=60), st.booleans())
def test_no_text_at_all_breaks_the_reader(text: str, typing: bool) -> None:
    query = read(text, FIELDS, typing=typing)
    row = offer()
    assert query.matches(row, text_of(row)) in (True, False)
    for problem in query.problems:
        assert 0 <= problem.start <= problem.end <= len(text)
    assert query.keep(["a"], {"a": row}, {"a": text_of(row)}) == (
        ["a"] if query.matches(row, text_of(row)) else []
    )


def test_an_endless_query_is_refused() -> None:
    assert "longer than" in str(read("x " * 5000, FIELDS).problems[0])


@pytest.mark.parametrize(
    ("text", "proposed"),
    [
        ("pr", ["price<", "provider="]), ("gpu=h100 sp", ["spot"]), ("!data", ["datacenter"]), ("provider=", ["runpod", "ssh", "vast"]),
        ("provider=vast,r", ["runpod"]), ("region=a", ["africa", "america", "asia"]), ("gpu=h200", ["H200", '"H200 NVL"']), ("zz", []),
    ],
)  # fmt: skip
def test_what_could_be_typed_is_proposed(text: str, proposed: list[str]) -> None:
    found = complete(text, len(text), FIELDS)
    assert [c.text for c in found.candidates] == proposed
    for candidate in found.candidates:
        assert read(text[: found.start] + candidate.text, FIELDS, typing=True).problems == ()


def test_a_table_proposes_the_values_that_it_holds() -> None:
    found = complete(
        "region=", 7, FIELDS, lambda field: ["Texas, US", "EU-RO-1"] if field.name == "region" else []
    )
    assert [c.text for c in found.candidates] == ["EU-RO-1", '"Texas, US"']


def test_every_field_says_what_it_is_and_has_a_name_of_its_own() -> None:
    names = [name for f in FIELDS for name in (f.name, *f.also)]
    assert len(names) == len(set(names))
    assert all(f.doc and f.name.islower() for f in FIELDS)
    assert {f.kind for f in FIELDS} == set(Kind)
