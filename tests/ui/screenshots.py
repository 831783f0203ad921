"""Pictures of the app for README and guide, from the scripted fleet: `python tests/ui/screenshots.py OUTDIR`."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ui.conftest import Clock
from ui.fake_daemon import FakeDaemon
from ui.scenario import SPEC
from ui.test_snapshots import (
    alarms,
    bulk,
    cost,
    custody,
    destroy,
    files,
    holds,
    keys,
    launch,
    log,
    metrics,
    money,
    offers,
    run,
    runs,
    spec,
    timeline,
    tour,
    why,
)

SCENES = {
    "runs": (runs, (120, 22)),
    "run": (run, (140, 36)),
    "log": (log, (120, 28)),
    "metrics": (metrics, (120, 40)),
    "timeline": (timeline, (120, 24)),
    "custody": (custody, (120, 26)),
    "files": (files, (120, 26)),
    "spec": (spec, (120, 26)),
    "cost": (cost, (120, 22)),
    "holds": (holds, (100, 22)),
    "launch": (launch, (130, 34)),
    "tour": (tour, (100, 22)),
    "why": (why, (100, 24)),
    "help": (keys, (100, 34)),
    "destroy": (destroy, (100, 28)),
    "evacuate": (bulk, (100, 24)),
    "offers": (offers, (120, 30)),
    "alarms": (alarms, (120, 20)),
    "money": (money, (120, 24)),
}


_LEADING = re.compile(r'x="([0-9.]+)" y="([0-9.]+)" textLength="([0-9.]+)"([^>]*)>((?:&#160;)+)(?=[^<&])')
_CELL = 12.2
"""Width of a character in Textual's SVG."""


def indent(svg: str) -> str:
    """Texts that begin with blanks begin further right instead: not every viewer keeps such blanks."""

    def moved(match: re.Match[str]) -> str:
        x, y, length, rest, blanks = match.groups()
        by = _CELL * (len(blanks) // len("&#160;"))
        return f'x="{float(x) + by:g}" y="{y}" textLength="{float(length) - by:g}"{rest}>'

    return _LEADING.sub(moved, svg)


async def draw(out: Path) -> None:
    """One SVG per scene."""
    from gputui.app import GpuTui

    with tempfile.TemporaryDirectory(prefix="gputui-") as folder:
        daemon = FakeDaemon(Path(folder) / "s")
        await daemon.start()
        out = out.absolute()
        os.chdir(folder)  # where the launch dialog finds one spec
        Path("run.toml").write_text(SPEC)
        for name, (scene, size) in SCENES.items():
            app = GpuTui(daemon.path, clock=Clock(), heartbeat=3600)
            async with app.run_test(size=size) as pilot:
                await scene(pilot)
                await pilot.pause()
                (out / f"{name}.svg").write_text(
                    indent(app.export_screenshot(title="gputui")), encoding="utf-8"
                )
            print(f"{name}.svg")
        await daemon.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    folder = parser.parse_args().outdir
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(TZ="UTC", TEXTUAL_ANIMATIONS="none")
    time.tzset()
    asyncio.run(draw(folder))
