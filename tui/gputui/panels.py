"""What the panels say about a run, as lines of (text, tone). Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gputui import spark
from gputui import wording as say
from gputui.fleet import mean_utilisation
from gputui.table import Piece
from gpuwatch.client import wire

Line = list[Piece]
HOT = 85.0
"""Degrees Celsius from which a GPU is shown as hot."""
SILENT = 30.0
"""Seconds without telemetry after which a box is shown as silent."""


def heading(run: wire.RunRow, age: float | None) -> Line:
    """Name, state, machine, price."""
    glyph, tone = say.state_mark(run.state)
    line: Line = [(f"{glyph} {run.state}", tone), ("  ", ""), (run.name, "bold")]
    facts = []
    if run.instance_id is not None:
        facts.append(f"{run.provider} {run.instance_id}")
    if run.gpu is not None:
        facts.append(say.gpus(run.gpu, run.gpu_count))
    if run.price is not None and run.state not in say.ENDED:
        facts.append(say.rate(run.price))
    facts.append(f"{say.money(run.cost)} so far")
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    line += [("  " + " · ".join(facts), "dim")]
    if age is not None and age > SILENT and run.state == "running":
        line.append((f"  △ silent for {say.duration(age)}", "warn"))
    return line


def outlook(run: wire.RunRow) -> list[Line]:
    """What needs a person, and what comes next."""
    lines: list[Line] = []
    if run.reason:
        glyph, tone = say.ATTENTION.get(run.attention, (" ", ""))
        mark: Line = [(glyph + " ", tone)] if run.attention != "none" else []
        lines.append([*mark, (run.reason, "bold")])
    if run.next:
        lines.append([("next  ", "dim"), (run.next, "")])
    return lines


def transfer(run: wire.RunRow, width: int) -> list[Line]:
    """The download or upload under way."""
    move = run.transfer
    if move is None:
        return []
    share = move.bytes_done / move.bytes_total if move.bytes_total else None
    full, rest = spark.bar(share, max(8, min(24, width // 4)))
    eta = f", {say.duration(move.eta)} left" if move.eta is not None else ""
    text = f"{say.percent(share)}  {move.files_done}/{move.files_total} files  {say.speed(move.rate)}{eta}"
    return [
        [
            ("send  " if move.up else "copy  ", "dim"),
            (full, "busy"),
            (rest, "dim"),
            (f"  {text}  ", ""),
            (move.path, "dim"),
        ]
    ]


def safety(run: wire.RunRow) -> Line:
    """How much would be lost now."""
    held = run.exposure
    saved = f"{say.plural(run.checkpoints, 'checkpoint')}, {say.size(run.verified_bytes)} verified"
    if held.bytes == 0 and not run.checkpoints and not run.verified_bytes:
        return [("safe  ", "dim"), ("✓ ", "good"), ("nothing to lose yet", "dim")]
    if held.bytes == 0:
        return [("safe  ", "dim"), ("✓ ", "good"), (saved, "")]
    risk = say.exposure(held.bytes, held.seconds)
    return [("safe  ", "dim"), (f"△ {risk} only on the box", "warn"), (f"  ·  {saved}", "dim")]


def holds(run: wire.RunRow) -> list[Line]:
    """Why the machine may not be destroyed."""
    return [[("hold  ", "dim"), (hold.reason, "")] for hold in run.holds]


def gpu_lines(gpus: Sequence[wire.GpuRow], width: int, limit: int = 8) -> list[Line]:
    """A bar per GPU with memory, power and temperature."""
    lines: list[Line] = []
    room = max(6, min(28, width - 42))
    for gpu in gpus[:limit]:
        share = mean_utilisation([gpu])
        full, rest = spark.bar(share, room)
        memory = say.UNKNOWN
        if gpu.memory_used is not None and gpu.memory_total:
            memory = f"{gpu.memory_used / (1 << 30):.0f}/{gpu.memory_total / (1 << 30):.0f} GiB"
        heat = say.UNKNOWN if gpu.temperature is None else f"{gpu.temperature:.0f}°C"
        hot = gpu.temperature is not None and gpu.temperature >= HOT
        power = say.UNKNOWN if gpu.power is None else f"{gpu.power:.0f} W"
        use = say.UNKNOWN if share is None else f"{share:.0%}"
        lines.append(
            [
                (f"gpu {gpu.index} ", "dim"),
                (full, "good"),
                (rest, "dim"),
                (f" {use:>4}", "bold"),
                (f"  {memory:>10}  {power:>5}  ", ""),
                (f"▲ {heat}" if hot else heat, "bad" if hot else ""),
            ]
        )
    if len(gpus) > limit:
        lines.append([(f"… and {len(gpus) - limit} more", "dim")])
    return lines


def chart(
    name: str,
    value: str,
    values: Sequence[float | None],
    width: int,
    height: int,
    tone: str,
    form: Callable[[float], str] = say.loss,
    scale: tuple[float, float] | None = None,
) -> list[Line]:
    """A titled braille chart with its newest value and its range, written by `form`; `scale` fixes the axis."""
    ends = spark.bounds(values)
    span = f"{form(ends[0])} … {form(ends[1])}" if ends else ""
    head: Line = [(name, "dim"), (f"  {value}", "bold")]
    pad = width - sum(len(text) for text, _ in head) - len(span)
    if pad > 2:
        head.append((" " * pad + span, "dim"))
    low, high = scale or (None, None)
    return [head, *([(line, tone)] for line in spark.chart(values, width, height, low, high))]


def peek(run: wire.RunRow, age: float | None, losses: Sequence[float], width: int) -> list[Line]:
    """A run in a few lines, for the panel under the list."""
    lines = [heading(run, age), *outlook(run), *transfer(run, width)]
    if run.instance_id is not None:
        lines.append(safety(run))
    lines += gpu_lines(run.gpus, width, limit=4)
    if len(losses) > 1:
        shown = spark.sparkline(losses, max(10, min(60, width - 40)))
        rate = f"  {say.count(run.tokens_per_second)} tok/s" if run.tokens_per_second is not None else ""
        lines.append(
            [("loss  ", "dim"), (shown, "accent"), (f"  {say.loss(run.loss)}", "bold"), (rate, "dim")]
        )
    return lines
