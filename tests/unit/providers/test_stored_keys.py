"""Where a key is kept: in a keyring that works, else in a file; never both, and a keyring that hangs stops nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest

from gpuproviders import keychain, keys


class Memory(keyring.backend.KeyringBackend):
    """A keyring for one test."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.asked = 0

    def get_password(self, service: str, username: str) -> str | None:
        self.asked += 1
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Liar(Memory):
    """Takes a secret and keeps nothing, as a null keyring does."""

    def set_password(self, service: str, username: str, password: str) -> None:
        return


class Broken(Memory):
    """A bus that nobody serves."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise keyring.errors.KeyringLocked("prompt dismissed")

    get_password = set_password  # type: ignore[assignment]


class Hanging(Memory):
    """A prompt that nobody sees."""

    released = threading.Event()

    def set_password(self, service: str, username: str, password: str) -> None:
        self.released.wait()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GPUTUI_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    monkeypatch.setattr(keychain, "SECONDS", 0.5)
    keys._KEPT.clear()
    before = keyring.get_keyring()
    yield tmp_path
    Hanging.released.set()
    keyring.set_keyring(before)


def test_a_keyring_that_works_keeps_the_key_and_no_file_does(home: Path) -> None:
    ring = Memory()
    keyring.set_keyring(ring)
    assert "keyring" in keys.keep("vast", "the-key")
    assert ring.kept == {("gputui", "vast-api-key"): "the-key"}
    assert keys.vast() == "the-key"
    assert b"the-key" not in b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert keys.forget("vast") == []
    assert (ring.kept, keys.vast()) == ({}, None)


@pytest.mark.parametrize(
    "ring", [keyring.backends.fail.Keyring, Liar, Broken, Hanging], ids=lambda r: r.__name__
)
def test_any_other_keyring_means_a_file_for_the_owner_only(
    home: Path, ring: type[keyring.backend.KeyringBackend]
) -> None:
    keyring.set_keyring(ring())
    place = Path(keys.keep("vast", "the-key"))
    assert (place.read_text(), place.stat().st_mode & 0o777) == ("the-key\n", 0o600)
    assert keys.vast() == "the-key"
    assert keys.forget("vast") == []
    assert keys.vast() is None


def test_a_login_elsewhere_leaves_nothing_behind(home: Path) -> None:
    ring = Memory()
    keyring.set_keyring(ring)
    keys.keep("vast", "first")
    keys.keep("vast", "second", file=True)
    assert (ring.kept, keys.vast()) == ({}, "second")
    keys.keep("vast", "third")
    assert keys.vast() == "third"
    assert not keys.store_path("vast").exists()


def test_the_keyring_is_asked_once_for_each_login_and_not_for_each_call() -> None:
    ring = Memory()
    keyring.set_keyring(ring)
    keys.keep("vast", "first")
    ring.asked = 0
    assert {keys.vast() for _ in range(50)} == {"first"}
    assert ring.asked == 1
    keys.keep("vast", "second")
    assert keys.vast() == "second"


def test_a_keyring_that_was_closed_since_is_said_so_with_the_way_out() -> None:
    keyring.set_keyring(Memory())
    keys.keep("vast", "the-key")
    keys._KEPT.clear()
    keyring.set_keyring(Broken())
    assert keys.vast() is None
    assert "gputui login vast --file" in keys.missing("vast")
    assert keys.forget("vast") == ["the keyring did not remove it: service gputui, user vast-api-key"]


def test_without_a_marker_no_keyring_is_asked() -> None:
    ring = Memory()
    keyring.set_keyring(ring)
    assert keys.vast() is None
    assert ring.asked == 0
    assert keys.missing("vast") == "set VAST_API_KEY or run `gputui login vast`"
