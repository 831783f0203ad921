"""A small fleet, scripted: what the fake daemon serves in tests, screenshots and by hand.

Every number is fixed, and time is `NOW`, so screens drawn from it are the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gpuproviders import worth
from gpuproviders.gpus import canonical, tflops
from gpuwatch.client import wire

NOW = 1_790_000_000.0
GB = 1_000_000_000
GIB = 1 << 30
USD = 1_000_000
SAFE = wire.Exposure(bytes=0, seconds=0.0, files=0)


def gpu_row(
    index: int, name: str, utilisation: float | None, used: float, total: float, power: float, heat: float
) -> wire.GpuRow:
    return wire.GpuRow(
        index=index,
        name=name,
        utilisation=None if utilisation is None else utilisation * 100,
        memory_used=int(used * GIB),
        memory_total=int(total * GIB),
        power=power,
        temperature=heat,
    )


def run_row(ident: str, name: str, state: str, **changes: object) -> wire.RunRow:
    """A run with everything unknown or zero except what is said."""
    values: dict[str, object] = {
        "id": ident,
        "name": name,
        "state": state,
        "attention": "none",
        "reason": None,
        "next": "",
        "attempt": 1,
        "provider": None,
        "instance_id": None,
        "gpu": None,
        "gpu_count": None,
        "price": None,
        "cost": 0,
        "exposure": SAFE,
        "holds": [],
        "gpus": [],
        "telemetry_age": None,
        "step": None,
        "steps": None,
        "loss": None,
        "tokens_per_second": None,
        "checkpoints": 0,
        "verified_bytes": 0,
        "transfer": None,
        "created_at": NOW - 600,
        "started_at": None,
        "ended_at": None,
        "exit_code": None,
    }
    return wire.RunRow(**{**values, **changes})  # type: ignore[arg-type]


def offer_row(
    number: int, gpu: str, count: int, memory: int, price: float, **changes: object
) -> wire.OfferRow:
    values: dict[str, object] = {
        "provider": "vast",
        "offer_id": str(number),
        "machine_id": str(number % 997),
        "gpu": gpu,
        "gpu_count": count,
        "gpu_memory": memory * GB,
        "price": int(price * USD),
        "disk_price": int(0.006 * USD),
        "spot": False,
        "reliability": 0.9871,
        "verified": True,
        "datacenter": False,
        "region": "Sweden, SE",
        "cpu_cores": 24.0,
        "memory": 128 * GB,
        "disk": 900 * GB,
        "download_speed": 2.1e9,
        "upload_speed": 1.4e9,
        "transfer_price": int(0.003 * USD),
        "cuda": "12.8",
        "ends_at": NOW + 40 * 86400,
    }
    row = wire.OfferRow(**{**values, **changes})  # type: ignore[arg-type]
    if "tflop_price" in changes:
        return row
    name = canonical(gpu)
    return msgspec.structs.replace(
        row, tflop_price=worth.per_tflop(row.price, name, count), tflops=tflops(name, count)
    )


def artifact(path: str, size: int, state: str, step: int | None = None) -> wire.ArtifactRow:
    proven = state == "verified"
    return wire.ArtifactRow(
        path=path,
        size=size,
        sha256="9f2c" * 16 if proven else None,
        state=state,
        verified_at=NOW - 300 if proven else None,
        step=step,
    )


def sample(step: int, *, at: float, gpus: list[wire.GpuRow], total: int = 5000) -> wire.Sample:
    wave = math.sin(step / 37) * 0.06 + math.sin(step / 11) * 0.03
    return wire.Sample(
        time=at,
        gpus=gpus,
        cpu=0.31,
        memory_used=41 * GIB,
        memory_total=180 * GIB,
        disk_free=96 * GB,
        disk_total=150 * GB,
        step=step,
        loss=2.4 + 7.2 * math.exp(-step / 420) + wave,
        tokens_per_second=184_000 + 9_000 * math.sin(step / 53),
    )


@dataclass
class World:
    """Everything the fake daemon knows. Tests change it and then push."""

    now: float = NOW
    burn: int = 0
    runs: list[wire.RunRow] = field(default_factory=list)
    accounts: list[wire.AccountRow] = field(default_factory=list)
    custody: dict[str, wire.CustodyReport] = field(default_factory=dict)
    events: list[wire.EventRow] = field(default_factory=list)
    samples: dict[str, list[wire.Sample]] = field(default_factory=dict)
    logs: dict[str, bytearray] = field(default_factory=dict)
    log_complete: set[str] = field(default_factory=set)
    log_paths: dict[str, str] = field(default_factory=dict)
    """Runs whose log is a file here; the others' comes over the socket."""
    specs: dict[str, str] = field(default_factory=dict)
    offers: list[wire.OfferRow] = field(default_factory=list)
    machines: list[wire.MachineRow] = field(default_factory=list)
    """What the daemon's book of machines says."""
    prices: list[wire.PriceSeries] = field(default_factory=list)
    offer_problems: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    fleet_alarms: list[str] = field(default_factory=list)
    """Alarms that come with the fleet's snapshot."""
    older: bool = False
    check: Callable[[wire.SpecText], wire.SpecCheck] | None = None

    def find(self, ref: str) -> wire.RunRow | None:
        """By id, name, or start of the id, as the daemon does."""
        for match in (lambda r: r.id == ref, lambda r: r.name == ref, lambda r: r.id.startswith(ref)):
            if found := next((run for run in self.runs if match(run)), None):
                return found
        return None

    def fleet(self) -> wire.Runs:
        return wire.Runs(
            runs=list(self.runs), accounts=list(self.accounts), burn=self.burn, now=self.now,
            alarms=list(self.fleet_alarms), older=self.older,
        )  # fmt: skip

    def detail(self, run: wire.RunRow) -> wire.RunDetail:
        return wire.RunDetail(
            run=run,
            custody=self.report(run),
            spec=self.specs.get(run.id, f'name = "{run.name}"\n'),
            ssh=["ssh", "-p", "40022", "root@ssh4.example.net"] if run.instance_id else [],
            events=[event for event in self.events if event.run == run.id][-200:],
            samples=self.samples.get(run.id, []),
            log_path=self.log_paths.get(run.id),
        )

    def report(self, run: wire.RunRow) -> wire.CustodyReport:
        return self.custody.get(run.id) or wire.CustodyReport(
            run=run.id,
            allowed=True,
            summary="Nothing would be lost.",
            holds=[],
            verified=[],
            unsafe=[],
            exposure=SAFE,
            receipt=None,
        )

    def why(self, run: wire.RunRow) -> wire.Why:
        report = self.report(run)
        return wire.Why(
            run=run.id,
            headline=f"{run.name} has a machine because its job is {run.state}.",
            lines=[
                f"{len(report.unsafe)} files are not yet verified here.",
                f"It has cost ${run.cost / USD:.2f}.",
            ],
            holds=run.holds,
            exposure=run.exposure,
            next=run.next,
        )

    def costs(self, runs: list[wire.RunRow]) -> wire.CostReport:
        """A bill for each: 9 parts GPU, the rest disk and traffic; the first has a budget and knows its end."""
        rows = [
            wire.CostRow(
                run=run.id, name=run.name, state=run.state, machines=run.attempt, gpu=run.cost * 9 // 10, disk=run.cost // 20,
                traffic=run.cost - run.cost * 9 // 10 - run.cost // 20, total=run.cost,
                burn=(run.price or 0) if run.instance_id else 0, ceiling=20 * USD if run.cost > 3 * USD else None,
                more=int(4.12 * USD) if run.state == "running" else None, seconds=6720.0 if run.state == "running" else None,
            )
            for run in runs
        ]  # fmt: skip
        accounts = [
            wire.RunwayRow(
                provider=a.provider, credit=a.credit, burn=self.burn // 2, seconds=9000.0, copies=300.0, copy_in=8700.0,
                alarm=False, text="lasts 2h30m; the copies need 5m",
            )
            for a in self.accounts
        ]  # fmt: skip
        return wire.CostReport(
            runs=rows, accounts=accounts, burn=self.burn, today=int(18.2 * USD), day_ceiling=50 * USD
        )

    def add_event(
        self,
        run: str,
        kind: str,
        text: str,
        *,
        at: float | None = None,
        data: dict[str, object] | None = None,
    ) -> wire.EventRow:
        event = wire.EventRow(
            seq=len(self.events) + 1,
            time=self.now if at is None else at,
            run=run,
            kind=kind,
            text=text,
            data=data or {},
        )
        self.events.append(event)
        return event


SPEC = """\
name = "miras-s"
provider = ["vast", "runpod"]
image = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
disk = "150GB"

[gpu]
name = ["H100 SXM", "H100 PCIe"]
max_price = 2.50

[job]
command = "python train.py --model-size s --resume auto"

[[artifacts]]
path = "models/output/final/*.gguf"
"""

_LOG_LINES = (
    "\x1b[2m{t}\x1b[0m \x1b[32mINFO\x1b[0m  step {step:>5} | loss {loss:.4f} | lr 3.0e-04 | 184.2k tok/s | mfu 41.3%",
    "\x1b[2m{t}\x1b[0m \x1b[32mINFO\x1b[0m  step {step:>5} | loss {loss:.4f} | lr 3.0e-04 | 185.0k tok/s | mfu 41.5%",
    "\x1b[2m{t}\x1b[0m \x1b[33mWARN\x1b[0m  dataloader: worker 3 was slow ({step} ms)",
)


def training_log(lines: int, *, first_step: int = 1) -> bytes:
    """A trainer's log with colours, one line per step."""
    out = ["loading tokenizer … done", "\x1b[1mmiras-s\x1b[0m  152.3M parameters, bf16, 1 GPU"]
    for i in range(lines):
        step = first_step + i
        shape = _LOG_LINES[2] if i % 40 == 23 else _LOG_LINES[i % 2]
        t = f"14:{(i // 60) % 60:02}:{i % 60:02}"
        loss = 2.4 + 7.2 * math.exp(-step / 420) + math.sin(step / 37) * 0.06
        out.append(shape.format(t=t, step=step, loss=loss))
        if i % 250 == 249:
            out.append(f"\x1b[2m{t}\x1b[0m \x1b[36mCKPT\x1b[0m  ckpt/step-{step} written in 2.1 s (1.83 GB)")
    return ("\n".join(out) + "\n").encode()


def small_fleet() -> World:
    """Five runs, each in another phase of life, two accounts, 44 offers."""
    world = World(burn=int(8.94 * USD))
    h100 = [gpu_row(0, "H100 SXM", 0.97, 61.2, 79.6, 664, 63)]
    pair = [gpu_row(0, "H100 PCIe", 0.02, 1.1, 79.6, 71, 38), gpu_row(1, "H100 PCIe", 0.0, 0.9, 79.6, 68, 37)]
    world.runs = [
        run_row(
            "r7k2m9qa",
            "miras-s",
            "running",
            next="checkpoint expected in 2m; then it is copied and verified",
            provider="vast",
            instance_id="24817311",
            gpu="H100 SXM",
            gpu_count=1,
            price=int(2.21 * USD),
            cost=int(3.48 * USD),
            exposure=wire.Exposure(bytes=1_830_000_000, seconds=252, files=3),
            holds=[wire.HoldRow(name="job-running", reason="the job is running")],
            gpus=h100,
            telemetry_age=1.2,
            step=1840,
            steps=5000,
            loss=2.4907,
            tokens_per_second=184_200,
            checkpoints=7,
            verified_bytes=12_810_000_000,
            created_at=NOW - 5700,
            started_at=NOW - 5280,
        ),
        run_row(
            "p3d8x1zz",
            "nanogpt-owt",
            "collecting",
            attention="info",
            next="destroyed when the last 3 files are verified, in about 4m",
            provider="runpod",
            instance_id="k9s7x2v1",
            gpu="H100 PCIe",
            gpu_count=2,
            price=int(4.78 * USD),
            cost=int(21.07 * USD),
            exposure=wire.Exposure(bytes=4_410_000_000, seconds=610, files=3),
            holds=[wire.HoldRow(name="unverified-files", reason="3 files are not yet verified here")],
            gpus=pair,
            telemetry_age=2.4,
            step=19073,
            steps=19073,
            loss=3.0712,
            tokens_per_second=None,
            checkpoints=19,
            verified_bytes=28_310_000_000,
            transfer=wire.TransferRow(
                path="log/model_19072.pt",
                files_done=16,
                files_total=19,
                bytes_done=28_310_000_000,
                bytes_total=32_720_000_000,
                rate=18_400_000.0,
                eta=239.0,
            ),
            created_at=NOW - 16_400,
            started_at=NOW - 15_900,
            exit_code=0,
        ),
        run_row(
            "t5v0c4hn",
            "onyx-1b-grow",
            "failed",
            attention="alarm",
            reason="the job ended with status 1: CUDA out of memory; its files are held",
            next="waits for you: destroy it, or start it again",
            provider="vast",
            instance_id="24790022",
            gpu="A100 SXM4",
            gpu_count=1,
            price=int(1.29 * USD),
            cost=int(6.20 * USD),
            exposure=wire.Exposure(bytes=740_000_000, seconds=4210, files=2),
            holds=[
                wire.HoldRow(name="job-failed", reason="a person should look before the box goes"),
                wire.HoldRow(name="unverified-files", reason="2 files are not yet verified here"),
            ],
            gpus=[gpu_row(0, "A100 SXM4", 0.0, 0.4, 80.0, 61, 34)],
            telemetry_age=1.0,
            step=412,
            steps=20_000,
            loss=5.832,
            checkpoints=1,
            verified_bytes=2_100_000_000,
            created_at=NOW - 18_900,
            started_at=NOW - 18_500,
            ended_at=None,
            exit_code=1,
        ),
        run_row(
            "b1n6w8ey",
            "runpod-2b",
            "booting",
            next="image is being pulled; given up after 9m more, then the next offer",
            attempt=2,
            provider="runpod",
            instance_id="z0a3f8k2",
            gpu="A100 SXM4",
            gpu_count=1,
            price=int(0.66 * USD),
            cost=int(0.03 * USD),
            created_at=NOW - 190,
        ),
        run_row(
            "q8f4j2ls",
            "miras-xs",
            "gone",
            next="nothing: the machine is confirmed gone",
            provider="vast",
            gpu="RTX 4090",
            gpu_count=1,
            price=None,
            cost=int(0.87 * USD),
            step=2000,
            steps=2000,
            loss=3.312,
            checkpoints=8,
            verified_bytes=3_120_000_000,
            created_at=NOW - 90_000,
            started_at=NOW - 89_600,
            ended_at=NOW - 82_000,
            exit_code=0,
        ),
    ]
    world.accounts = [
        wire.AccountRow(
            provider="vast", user="41207", credit=int(38.12 * USD), age=12.0, problem=None, foreign=1
        ),
        wire.AccountRow(
            provider="runpod", user="usr_9", credit=int(11.40 * USD), age=14.0, problem=None, foreign=0
        ),
    ]
    world.machines = [
        wire.MachineRow(
            machine="vast:8812", gpu="RTX 4090", gpu_count=1, good=0,
            seen=wire.SeenRow(
                tries=3, duds=3, trouble="SSH never answered", last_at=NOW - 7200, avoided_until=NOW + 86_400,
                avoided_by="experience",
            ),
        ),
        wire.MachineRow(
            machine="vast:417", gpu="H100 SXM", gpu_count=1, good=4,
            seen=wire.SeenRow(tries=5, duds=1, boot_seconds=48.0, download=41e6, disk=1.1e9, last_at=NOW - 3600),
        ),
        wire.MachineRow(
            machine="runpod:A100 SXM4", gpu="A100 SXM4", gpu_count=1, good=2,
            seen=wire.SeenRow(tries=2, duds=0, boot_seconds=95.0, download=18e6, last_at=NOW - 90_000),
        ),
    ]  # fmt: skip
    world.alarms = ["onyx-1b-grow failed and waits for you"]
    world.custody = {
        "r7k2m9qa": wire.CustodyReport(
            run="r7k2m9qa",
            allowed=False,
            summary="Destroying now would lose 3 files (1.83 GB, 4m12s of work).",
            holds=world.runs[0].holds,
            verified=[
                artifact(f"runs/miras-s/ckpt/step-{n}/model.pt", 1_830_000_000, "verified", n)
                for n in range(250, 1751, 250)
            ],
            unsafe=[
                artifact("runs/miras-s/ckpt/step-1840/model.pt", 1_240_000_000, "downloading", 1840),
                artifact("runs/miras-s/ckpt/step-1840/optim.pt", 589_000_000, "on-box", 1840),
                artifact("runs/miras-s/metrics.jsonl", 1_000_000, "on-box"),
            ],
            exposure=world.runs[0].exposure,
            receipt="5be1d2",
        ),
        "t5v0c4hn": wire.CustodyReport(
            run="t5v0c4hn",
            allowed=False,
            summary="Destroying now would lose 2 files (740 MB).",
            holds=world.runs[2].holds,
            verified=[artifact("checkpoints/onyx_1b/step-400.pt", 2_100_000_000, "verified", 400)],
            unsafe=[
                artifact("logs/train.log", 3_100_000, "on-box"),
                artifact("checkpoints/onyx_1b/step-412.pt", 736_900_000, "missing", 412),
            ],
            exposure=world.runs[2].exposure,
            receipt=None,
        ),
        "q8f4j2ls": wire.CustodyReport(
            run="q8f4j2ls",
            allowed=True,
            summary="Everything is verified; the machine is gone.",
            holds=[],
            verified=[artifact("final/miras-xs.gguf", 3_120_000_000, "verified")],
            unsafe=[],
            exposure=SAFE,
            receipt="a11ce0",
        ),
    }
    for kind, text, age in (
        ("requested", "launched from miras-s.toml", 5700),
        ("rented", "vast offer 9120443: H100 SXM in Sweden, $2.21/h", 5690),
        ("booted", "SSH answers; host key pinned", 5512),
        ("prepared", "2 files uploaded, setup done in 3m12s", 5284),
        ("started", "the job runs, process 412", 5280),
        ("checkpoint", "step 250 verified: 1.83 GB in 54s", 4630),
        ("checkpoint", "step 500 verified: 1.83 GB in 52s", 3910),
        ("checkpoint", "step 750 verified: 1.83 GB in 55s", 3200),
        ("checkpoint", "step 1000 verified: 1.83 GB in 51s", 2500),
        ("checkpoint", "step 1250 verified: 1.83 GB in 53s", 1790),
        ("checkpoint", "step 1500 verified: 1.83 GB in 58s", 1080),
        ("checkpoint", "step 1750 verified: 1.83 GB in 52s", 380),
    ):
        place = {"workspace": "/workspace"} if kind == "prepared" else None
        world.add_event("r7k2m9qa", kind, text, at=NOW - age, data=place)
    world.add_event("t5v0c4hn", "job-ended", "the job ended with status 1: CUDA out of memory", at=NOW - 4210)
    world.add_event("p3d8x1zz", "job-ended", "the job ended with status 0", at=NOW - 610)
    world.samples["r7k2m9qa"] = [
        sample(
            step,
            at=NOW - (1840 - step) * 2.9,
            gpus=[
                gpu_row(
                    0, "H100 SXM", 0.94 + 0.04 * math.sin(step), 61.2, 79.6, 655 + 20 * math.sin(step / 3), 63
                )
            ],
        )
        for step in range(40, 1841, 10)
    ]
    world.logs["r7k2m9qa"] = bytearray(training_log(1840))
    world.logs["t5v0c4hn"] = bytearray(
        training_log(412)
        + b"\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to allocate 2.50 GiB\n"
    )
    world.logs["q8f4j2ls"] = bytearray(training_log(200))
    world.log_complete = {"q8f4j2ls", "t5v0c4hn"}
    world.specs["r7k2m9qa"] = SPEC
    world.offers = some_offers()
    seen = wire.SeenRow(tries=3, duds=1, trouble="SSH never answered", boot_seconds=41.0, download=48e6)
    world.offers = [
        msgspec.structs.replace(o, seen=seen) if o.offer_id == "9120422" else o for o in world.offers
    ]
    world.prices = [
        wire.PriceSeries(
            provider="vast", gpu=gpu, gpu_count=1, spot=False,
            points=[(NOW - (14 - day) * 86_400, int(price * USD * (1 + 0.12 * math.sin(day * 1.3))), 9) for day in range(14)],
        )
        for gpu, price in (("RTX 4090", 0.33), ("H100 SXM", 2.2), ("A100 SXM4", 1.1))
    ]  # fmt: skip
    return world


def some_offers(number: int = 44) -> list[wire.OfferRow]:
    """Offers of a plausible market, cheapest first."""
    kinds = (
        ("RTX 4090", 1, 24, 0.34),
        ("RTX 5090", 1, 32, 0.52),
        ("L40S", 1, 48, 0.71),
        ("A100 SXM4", 1, 80, 1.12),
        ("H100 PCIe", 1, 80, 1.99),
        ("H100 SXM", 1, 80, 2.21),
        ("H200", 1, 141, 2.94),
        ("RTX 4090", 4, 24, 1.31),
        ("A100 SXM4", 8, 80, 8.60),
        ("H100 SXM", 8, 80, 17.52),
        ("B200", 1, 180, 4.39),
    )
    regions = ("Sweden, SE", "Texas, US", "Quebec, CA", "Iceland, IS", "Japan, JP", "Norway, NO", None)
    rows = []
    for i in range(number):
        name, count, memory, price = kinds[i % len(kinds)]
        rows.append(
            offer_row(
                9_120_400 + i,
                name,
                count,
                memory,
                price * (1 + 0.031 * (i * 7 % 11)),
                provider="runpod" if i % 5 == 4 else "vast",
                spot=i % 6 == 5,
                reliability=None if i % 9 == 8 else 0.9 + (i * 13 % 100) / 1000,
                verified=i % 7 != 6,
                region=regions[i % len(regions)],
                download_speed=None if i % 8 == 7 else 2e8 + (i * 29 % 37) * 1.3e8,
                cuda=("12.8", "12.6", "13.0")[i % 3],
                disk=(120 + i * 37 % 1900) * GB,
            )
        )
    return sorted(rows, key=lambda row: row.price)
