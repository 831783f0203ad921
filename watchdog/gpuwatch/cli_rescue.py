"""`gpuwatch rescue`: bring files from a RunPod network volume home through its S3 address; no pod need run."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from gpuproviders.errors import ProviderError
from gpuproviders.runpod.parse import NetworkVolume
from gpuwatch.clean import clean
from gpuwatch.config import ConfigError, load
from gpuwatch.daemon.main import providers_of
from gpuwatch.paths import discover
from gpuwatch.rescue.bring import Brought, Rescue
from gpuwatch.rescue.volume import KEYS, NoRescue, Source
from gpuwatch.spec.units import format_size, parse_size

DOC = f"""\
A network volume outlives its pods. Its files can be fetched through RunPod's S3 address with no pod running and no GPU
paid. Every file is read back from both sides after the copy and named with its SHA-256 in SHA256SUMS. Nothing on the
volume is changed, and nothing here is lost: a file whose name another version takes stays as NAME.replaced-TIME. An S3
key of its own is needed (RunPod's console, Settings): set {KEYS[0]} and {KEYS[1]}.
Without VOLUME your volumes are listed. Run it again after a break: what is here is not copied again.
"""


def main(argv: list[str]) -> int:
    """0 everything is home and proved, 2 usage, 3 some files are not, 5 the volume or the account is out of reach."""
    parser = argparse.ArgumentParser(prog="gpuwatch rescue", description=DOC)
    parser.add_argument(
        "volume", nargs="?", metavar="VOLUME", help="the volume's id; without it your volumes are listed"
    )
    parser.add_argument("--folder", default="", metavar="PATH", help="only this folder of the volume")
    parser.add_argument(
        "--to", type=Path, default=None, metavar="DIR", help="where the files go (rescued-VOLUME)"
    )
    parser.add_argument(
        "--place",
        default="",
        metavar="ID",
        help="its data centre, e.g. EU-RO-1; asked of RunPod when left out",
    )
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help="another S3 address than that of the data centre"
    )
    parser.add_argument(
        "--rate", type=_rate, default=None, metavar="SIZE", help="at most so much per second, e.g. 20MB"
    )
    options = parser.parse_args(argv)
    try:
        if options.volume is None:
            return _list()
        return _bring(options)
    except NoRescue as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return 2
    except (ProviderError, ConfigError, TimeoutError) as error:
        print(
            f"gpuwatch: RunPod cannot be asked for its volumes: {clean(str(error), 300)}; --place names the data centre",
            file=sys.stderr,
        )
        return 5
    except OSError as error:
        print(f"gpuwatch: {clean(str(error), 300)}", file=sys.stderr)
        return 5


def _bring(options: argparse.Namespace) -> int:
    from gpuwatch.rescue.volume import key_of

    key = key_of(os.environ)
    place = options.place
    if not place and not options.endpoint:
        place = next((v.place for v in asyncio.run(_volumes()) if v.volume_id == options.volume), "")
        if not place:
            raise NoRescue(f"the account has no volume {options.volume[:60]!r}; `gputui rescue` lists yours")
    source = Source(options.volume, place.upper(), options.folder.strip("/"), options.endpoint)
    target = options.to if options.to is not None else Path(f"rescued-{options.volume}")
    rescue = Rescue(source, key, target, say=lambda line: print(line, flush=True), rate=options.rate)
    wanted = rescue.listing()
    if not wanted.files and not wanted.refused:
        raise NoRescue("there is no file there; a folder is named as it lies on the volume, e.g. runs/big")
    done = rescue.bring(wanted)
    _print(done, target)
    return 3 if done.failed or done.refused else 0


def _print(done: Brought, target: Path) -> None:
    print(
        f"{len(done.proved)} files ({format_size(done.bytes)}) are in {target}, read back and equal; {done.sums} names them"
    )
    for path, why in [*done.failed.items(), *done.refused.items()][:40]:
        print(f"gpuwatch: not home: {clean(path, 200)}: {clean(why, 200)}", file=sys.stderr)
    missing = len(done.failed) + len(done.refused)
    if missing:
        print(
            f"gpuwatch: {missing} files are not home; run it again, or start a pod with the volume",
            file=sys.stderr,
        )


def _list() -> int:
    volumes = asyncio.run(_volumes())
    for volume in volumes:
        print(f"{volume.volume_id}  {clean(volume.name, 40)}  {format_size(volume.size)}  {volume.place}")
    if not volumes:
        print("the account has no network volumes")
    return 0


async def _volumes() -> tuple[NetworkVolume, ...]:
    """The account's volumes. Raises ProviderError, ConfigError."""
    from gpuproviders.runpod import RunpodProvider

    found = providers_of(load(discover().config_file))
    provider = found.pop("runpod", None)
    for other in found.values():
        await other.close()
    if not isinstance(provider, RunpodProvider):
        from gpuproviders import keys

        raise ConfigError(keys.missing("runpod"))
    try:
        async with asyncio.timeout(60):
            return await provider.volumes()
    finally:
        await provider.close()


def _rate(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be {error}") from error
