"""Where experience is kept: a cache of the ledger's fold, and what people said of machines, beside the ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gpuproviders.model import Offer
from gpuwatch.experience.facts import KINDS, VERSION, Facts, Machine, Speed, fold, key_of, kind_of
from gpuwatch.experience.judge import Standing, Word, standing
from gpuwatch.ledger import Ledger

log = structlog.get_logger()
_PAGE: Final = 2000
_LARGEST: Final = 32 << 20


@dataclass(slots=True)
class Experience:
    """What was seen of machines, and what people said of them. `catch_up` first, then ask.

    `folder` is the daemon's state folder: `experience.json` can be deleted at any time and is made again from the
    ledger; `machines.jsonl` holds people's words, one a line, appended.
    """

    folder: Path
    now: Callable[[], float]
    facts: Facts = field(default_factory=Facts)
    _words: dict[str, list[Word]] = field(default_factory=dict)
    _loaded: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def catch_up(self, ledger: Ledger) -> None:
        """Take in what happened since the last time. Raises LedgerDamaged."""
        async with self._turn:
            if not self._loaded:
                self.facts, self._words = await asyncio.to_thread(_load, self.folder)
                if self.facts.seq > ledger.last_seq:
                    self.facts = Facts()  # of another ledger
                self._loaded = True
            before = self.facts.seq
            while page := await ledger.events_of(KINDS, since=self.facts.seq, limit=_PAGE):
                for stored in page:
                    fold(self.facts, stored.seq, stored.at, stored.run, stored.event)
            if self.facts.seq != before:
                await asyncio.to_thread(
                    _save, self.folder / "experience.json", msgspec.json.encode(self.facts)
                )

    async def say(self, word: Word) -> None:
        """Keep what a person says of a machine; durable on return. Raises OSError."""
        async with self._turn:
            await asyncio.to_thread(
                _append, self.folder / "machines.jsonl", msgspec.json.encode(word) + b"\n"
            )
            self._words.setdefault(word.machine, []).append(word)

    def machine(self, key: str) -> Machine | None:
        """What was seen of it."""
        return self.facts.machines.get(key)

    def standing(self, key: str) -> Standing:
        """How it stands now."""
        return standing(self.facts.machines.get(key), self._words.get(key, ()), self.now())

    def of(self, offer: Offer) -> tuple[Machine | None, Standing]:
        """What was seen of an offer's machine, and how it stands."""
        key = key_of(offer.provider, offer.machine_id, offer.offer_id)
        stands = self.standing(key)
        if offer.machine_id is None and not stands.excluded:
            stands = Standing(
                forgiven=stands.forgiven
            )  # a kind of machine: one dud does not speak against the next machine of it
        return self.facts.machines.get(key), stands

    def speed(self, gpu: str, count: int) -> Speed | None:
        """What runs have reached on so many of these GPUs."""
        return self.facts.speeds.get(kind_of(gpu, count))

    def keys(self) -> Sequence[str]:
        """Every machine that something is known of."""
        return sorted({*self.facts.machines, *self._words})


def _load(folder: Path) -> tuple[Facts, dict[str, list[Word]]]:
    """What the files hold; what cannot be read is made again, or (people's words) left out and logged."""
    facts = Facts()
    try:
        data = (folder / "experience.json").read_bytes()
        read = msgspec.json.decode(data[:_LARGEST], type=Facts)
        if read.version == VERSION:
            facts = read
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("experience is made again from the ledger", error=str(error)[:200])
    words: dict[str, list[Word]] = {}
    try:
        with (folder / "machines.jsonl").open("rb") as file:
            lines = file.read(_LARGEST).splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        log.warning("what was said of machines cannot be read", error=str(error)[:200])
        lines = []
    for line in lines:
        try:
            word = msgspec.json.decode(line, type=Word)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("a line of machines.jsonl is left out: it cannot be read")
            continue
        words.setdefault(word.machine, []).append(word)
    return facts, words


def _save(path: Path, data: bytes) -> None:
    """A cache: a disk that refuses it costs time at the next start, nothing else."""
    part = path.with_suffix(".new")
    try:
        part.write_bytes(data)
        part.chmod(0o600)
        part.replace(path)
    except OSError as error:
        log.warning("experience is not kept", error=str(error)[:200])


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
