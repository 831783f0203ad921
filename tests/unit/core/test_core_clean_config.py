"""Text from outside is safe to show; settings say what is wrong with them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.clean import clean, clean_bytes, show_path
from gpuwatch.config import Config, ConfigError, load

NASTY = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]),
        st.sampled_from("\x1b[]\\PX^_\x07\x9b\x9d;?0123456789mHJ \r\n\t"),
    ),
    max_size=200,
)


def assert_safe(text: str) -> None:
    for char in text:
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), hex(ord(char))


@given(NASTY, st.integers(min_value=1, max_value=300))
def test_nothing_that_a_terminal_obeys_survives_and_length_is_bounded(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert_safe(shown)
    assert len(shown) <= limit


@given(NASTY)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.binary(max_size=200))
def test_bytes_are_cleaned_whatever_they_are(data: bytes) -> None:
    assert_safe(clean_bytes(data))
    assert_safe(show_path(data.decode("utf-8", "surrogateescape")))


@given(
    st.text(
        st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u115f\u1160\u3164\uffa0"),
        max_size=100,
    )
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x07", ""),
        ("\x1bP1$r0m\x1b\\ok", "ok"),
        ("\x1b\x1b[0m[31mx", "[31mx"),
        ("\x9b31mx", "\ufffd31mx"),
        ("10%\r20%\r30%", "30%"),
        ("done\r\r", "done"),
        ("a\tb", "a    b"),
        ("abc\u202efdp.exe", "abc\ufffdfdp.exe"),
        ("tag\U000e0041", "tag\ufffd"),
        ("zero\u200bwidth", "zero\ufffdwidth"),
        ("one\ntwo", "one\ufffdtwo"),
    ],
)
def test_known_tricks(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


def test_a_line_without_end_is_cut_and_says_so() -> None:
    assert clean("x" * 10**6) == "x" * 499 + "…"


# --- config --------------------------------------------------------------------------------------


def test_no_file_means_defaults(tmp_path: Path) -> None:
    config = load(tmp_path / "config.toml")
    assert config == Config()
    assert config.account_interval > 0


def test_settings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('vault = "/v"\n[watch]\naccounts = "30s"\n[providers.vast]\nurl = "http://127.0.0.1:1"\n')
    config = load(file)
    assert (config.vault, config.account_interval, config.providers.vast.url) == (
        "/v",
        30.0,
        "http://127.0.0.1:1",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vaults = 1", "vaults"),
        ("[watch]\nacounts = '3s'", "acounts"),
        ("[providers.lambda]\n", "lambda"),
        ("vault = 3", "vault"),
        ("[watch]\naccounts = 'often'", "duration"),
        ("[watch]\naccounts = '0s'", "duration"),
        ("[watch]\nbooting = '99999999999d'", "duration"),
        ("[watch\n", "TOML"),
    ],
)
def test_a_wrong_setting_names_the_file_and_the_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load(file)
    assert str(file) in str(caught.value)
