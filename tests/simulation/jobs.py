"""What people run: random specs, and jobs that write checkpoints, fail, and keep files open."""

from __future__ import annotations

import random

from simulation.cloud import Box, Job

from gpuwatch.spec import RunSpec

SPEC = """
name = "sim"
{top}
[gpu]
name = "RTX 4090"
[job]
command = "train"
[recover]
attempts = {attempts}
on_loss = "{on_loss}"
patience = "{patience}"
[boot]
timeout = "10m"
{rest}
"""
HOSTILE = (
    "ckpt/../../evil", "ckpt/../../../evil", "ckpt//x", "ckpt/step-1/.../../../../evil", "ckpt/\x1b]0;owned\x07.pt", "ckpt/a\nb",
    "ckpt/\udcff.pt", "ckpt/" + "x" * 300, "ckpt/job.log", "ckpt/.receipts", "ckpt/CON",
)  # fmt: skip
"""Names that a box may show, of files that are really there: each comes home inside the vault, or is refused."""
BUDGET_HOURS = 0.07
REMOTE = "s3:bucket/days"


def make_spec(draw: random.Random) -> str:
    """A random run spec."""
    kind = draw.choice(["both", "both", "artifacts", "checkpoints", "none"])
    rest, top = "", ""
    if kind in ("both", "checkpoints"):
        rest += '[checkpoints]\npath = "ckpt"\n'
    if kind in ("both", "artifacts"):
        rest += '[[artifacts]]\npath = "model.bin"\n'
        if draw.random() < 0.3:
            rest += '[[artifacts]]\npath = "extra.txt"\nrequired = false\n'
    if kind == "none":
        top = 'artifacts = "none"'
    if draw.random() < 0.2:
        rest += f"[budget]\nmax_hours = {BUDGET_HOURS}\n"
    rest += timers(draw)
    if draw.random() < 0.2:
        rest += '[setup]\ncommand = "pip"\n'
    return SPEC.format(
        top=top, attempts=draw.choice([1, 3, 6]), rest=rest, on_loss=draw.choice(["resume", "resume", "restart", "never"]),
        patience=draw.choice(["1m", "10m"]),
    )  # fmt: skip


TIMERS = (
    '[idle]\naction = "stop"\n',
    '[idle]\nafter = "1m"\naction = "stop"\n',
    '[idle]\nafter = "2m"\naction = "stop"\ndestroy_after = "3m"\n',
    '[idle]\nafter = "1m"\ndestroy_after = "1m"\n',
)
"""Machines that are stopped, and those that are ended some time after that."""


def timers(draw: random.Random) -> str:
    """Idle timers for every fourth run. Drawn beside `draw`, so that the days of other runs are what they were."""
    aside = random.Random(str(draw.getstate()[1][:40]))
    return aside.choice(TIMERS) if aside.random() < 0.25 else ""


def make_keeping_spec(draw: random.Random) -> str:
    """A random run spec whose old checkpoints may go, from one place or several."""
    places = draw.choice(
        ['"vault"', f'"{REMOTE}"', '"box"', f'"vault", "{REMOTE}"', f'"vault", "{REMOTE}", "box"']
    )
    rest = f'[checkpoints]\npath = "ckpt"\nkeep_last = {draw.choice([1, 2, 3])}\nkeep_milestones = 0\nkeep_days = 0\n'
    rest += f'keep_best = 0\nprune = [{places}]\n[mirror]\nremotes = ["{REMOTE}"]\n'
    if draw.random() < 0.5:
        rest += '[[artifacts]]\npath = "model.bin"\n'
    return SPEC.format(
        top="",
        attempts=draw.choice([3, 6]),
        rest=rest,
        on_loss=draw.choice(["resume", "restart"]),
        patience="10m",
    )


def make_box(draw: random.Random, spec: RunSpec | None) -> Box:
    """A random job: checkpoints as it goes, an artifact at the end, sometimes a failure, sometimes a late writer.

    Where a budget will end it, it may well go on for ever.
    """
    steps, period = draw.randint(0, 5), draw.uniform(15, 90)
    fails, contract = draw.random() < 0.25, draw.random() < 0.5
    length = steps * period + draw.uniform(1, 60)

    def checkpoint(step: int):
        def act(box: Box, at: float) -> None:
            if contract:
                for name in ("model.safetensors", "MANIFEST.json"):
                    box.write(f"ckpt/step-{step}/{name}", draw.randint(1, 6000), at)
                box.write("ckpt/latest.json", 100, at)
            else:
                box.write(f"ckpt/step-{step}.pt", draw.randint(1, 6000), at, busy=draw.uniform(0, 30))
            if draw.random() < 0.2:
                box.write("ckpt/.tmp-junk", 10, at)
            if draw.random() < 0.2 and step > 3:
                for path in [p for p in box.files if f"step-{step - 3}" in p]:
                    box.remove(path)  # the trainer's own retention

        return act

    def artifact(box: Box, at: float) -> None:
        box.write("model.bin", draw.randint(1, 12_000), at, busy=draw.uniform(0, 20))

    def rewrite(box: Box, at: float) -> None:
        box.write("model.bin", draw.randint(1, 1000), at)

    def mischief(box: Box, at: float) -> None:
        box.write(draw.choice(HOSTILE), 50, at)

    plan = [(step * period, checkpoint(step)) for step in range(1, steps + 1)]
    if not fails or draw.random() < 0.5:
        plan.append((length - 0.5, artifact))
    if draw.random() < 0.1:
        plan.append((length * 0.9, rewrite))
    if draw.random() < 0.06:
        plan.append((length * 0.3, mischief))
    plan.sort(key=lambda entry: entry[0])
    if spec is not None and spec.budget.max_time is not None and draw.random() < 0.6:
        length = 100_000.0
    box = Box(Job(plan, length, draw.choice([1, 137]) if fails else 0))
    if spec is not None and spec.idle.after is not None:
        box.sessions = 0  # where nobody can tell who is logged in no machine is ever idle
    return box
