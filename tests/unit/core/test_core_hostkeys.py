"""When another host key is taken without asking: only after a stop that was listed since the last contact."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import HostKeyChanged
from gpuwatch.box.hostkeys import HostKeys, fingerprint, words
from gpuwatch.daemon.link import Link, _way_out
from gpuwatch.daemon.live import Live

ALIAS = "runpod-pod1"


class Machine:
    """A box that shows one key; contact pins it."""

    def __init__(self, hostkeys: HostKeys) -> None:
        self.hostkeys = hostkeys
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.closed = False

    async def connect(self, _endpoint: Endpoint, *, alias: str) -> Machine:
        pinned = self.hostkeys.pinned(alias).decode()
        if pinned and words(self.key) not in pinned:
            raise HostKeyChanged("another host key", words(self.key))
        self.hostkeys.pin(alias, self.key)
        self.closed = False
        return self

    async def close(self) -> None:
        self.closed = True

    def restart(self) -> None:
        """A new container: what was connected breaks, the key is new."""
        self.closed, self.key = True, asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def box(tmp_path: Path) -> Machine:
    return Machine(HostKeys(tmp_path))


@pytest.fixture
def link(box: Machine) -> Link:
    at = SimpleNamespace(provider="runpod", instance_id="pod1", label="l", host="h", port=22, user="root")
    fleet = SimpleNamespace(instance=lambda _: None)
    ledger = SimpleNamespace(runs={"run": SimpleNamespace(machine=at)})
    ctx = SimpleNamespace(hostkeys=box.hostkeys, boxes=box, fleets={"runpod": fleet}, ledger=ledger)
    return Link(cast("Any", ctx), "run", Live())


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_after_a_listed_stop_a_new_key_is_taken_and_the_one_after_that_is_not(
    box: Machine, link: Link
) -> None:
    await link.box()
    box.restart()
    await link.expect_new_key(now())
    assert await link.box() is box
    assert words(box.key) in box.hostkeys.pinned(ALIAS).decode()
    box.restart()
    with pytest.raises(HostKeyChanged):
        await link.box()


async def test_a_listing_from_before_the_last_contact_explains_nothing(box: Machine, link: Link) -> None:
    listed = now()
    await link.box()
    await link.expect_new_key(listed)
    box.restart()
    with pytest.raises(HostKeyChanged):
        await link.box()


async def test_what_was_listed_outlives_the_daemon_and_an_unchanged_key_uses_it_up(
    box: Machine, link: Link
) -> None:
    await link.box()
    await link.expect_new_key(now())
    assert HostKeys(box.hostkeys.path(ALIAS).parent.parent).expects_new(ALIAS), "it is on the disk"
    box.closed = True
    await link.box()
    assert not box.hostkeys.expects_new(ALIAS)


async def test_another_key_is_said_with_the_way_out_and_what_a_person_accepts_is_pinned(
    box: Machine, link: Link
) -> None:
    await link.box()
    box.restart()
    with pytest.raises(HostKeyChanged):
        await link.box()
    live = link._live
    assert live.stranger == words(box.key)
    assert "gputui release run host-key" in (live.trouble or "")
    assert fingerprint(live.stranger).startswith("SHA256:")
    box.hostkeys.accept(ALIAS, live.stranger)
    await link.box()
    assert (live.stranger, live.trouble) == (None, None)
    box.hostkeys.forget(ALIAS)
    assert box.hostkeys.pinned(ALIAS) == b""


def test_an_own_machine_is_the_business_of_the_users_known_hosts() -> None:
    own = Endpoint("gpubox", 22, kind="own")
    assert "ssh-keygen -R gpubox" in _way_out("run", own, HostKeyChanged("another"))
    assert "gputui release run host-key" in _way_out(
        "run", Endpoint("h", 1), HostKeyChanged("another", "ssh-ed25519 A")
    )


def test_names_of_own_machines_are_pins_too_and_no_name_leaves_the_folder(tmp_path: Path) -> None:
    keys = HostKeys(tmp_path)
    keys.accept("ssh-Lab.e67f155f2b", "ssh-ed25519 AAAA")
    keys.accept("ssh-Lab.other", "ssh-ed25519 BBBB")
    assert keys.pinned("ssh-Lab.e67f155f2b") == b"ssh-Lab.e67f155f2b ssh-ed25519 AAAA\n"
    keys.expect_new("ssh-Lab.e67f155f2b")
    assert not keys.expects_new("ssh-Lab.other")
    for name in ("", "..", "../x", "a/b", ".new", "a\n", "x" * 200):
        with pytest.raises(ValueError, match="no host alias"):
            keys.path(name)
