"""The daemon's face: JSON-RPC 2.0, one JSON object per line, over a Unix socket.

The first call on a connection is `hello`. Money is integer micro-dollars (rates
per hour), sizes bytes, times Unix seconds UTC, durations seconds. `None` means
unknown and is shown as unknown, never as zero. Every string that came from a box
or a vendor has been through `gpuwatch.clean`: no control characters, bounded length.

`METHODS` lists every call with its parameter and result type; docs/protocol.md is made
from it (`python docs/make_protocol.py`), and a test keeps the two equal.
"""

from __future__ import annotations

from typing import Any

import msgspec

PROTOCOL = 1
MAX_LINE = 1 << 24
"""Longest line either side accepts, bytes: a market of 20,000 offers takes 10 MB."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a line can raise, when the other side is broken or of another version."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all messages: immutable, keyword-only."""


# --- framing -------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A call. `id` is chosen by the client."""

    jsonrpc: str = "2.0"
    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class Failure(Struct, frozen=True, kw_only=True):
    """An error: `code` is a stable word (see Code), `message` says what, why and what to do next."""

    code: str
    message: str
    data: dict[str, Any] | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer (`id` set) or a notification (`method` set)."""

    jsonrpc: str = "2.0"
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")


class Code:
    """The stable error codes and the CLI exit status each one becomes."""

    USAGE = "usage"
    SPEC = "spec"
    NOT_FOUND = "not-found"
    REFUSED = "refused-by-custody"
    UNREACHABLE = "unreachable"
    PROVIDER = "provider"
    CONFLICT = "conflict"
    INTERNAL = "internal"

    EXIT: dict[str, int] = {  # noqa: RUF012 - a constant table
        USAGE: 2,
        SPEC: 2,
        NOT_FOUND: 2,
        REFUSED: 4,
        UNREACHABLE: 5,
        PROVIDER: 5,
        CONFLICT: 4,
        INTERNAL: 1,
    }


# --- values --------------------------------------------------------------------------------------


class SeenRow(Struct, frozen=True, kw_only=True):
    """Our own experience of one machine: seconds, bytes per second (medians), times in Unix seconds."""

    tries: int
    """Times that it was rented."""
    duds: int
    """Times that it was no good."""
    trouble: str | None = None
    """What was wrong the last time."""
    boot_seconds: float | None = None
    download: float | None = None
    """From the machine to here."""
    disk: float | None = None
    """Written and synced to its disk when it was checked."""
    last_at: float | None = None
    avoided_until: float | None = None
    """Until when it is avoided, None when it is not."""
    avoided_by: str | None = None
    """Who says so: `experience`, or a person's name."""


class OfferRow(Struct, frozen=True, kw_only=True):
    """One offer, ready to show. `price` is micro-dollars per hour: the GPUs and the disk that was asked."""

    provider: str
    offer_id: str
    machine_id: str | None
    gpu: str
    gpu_count: int
    gpu_memory: int
    price: int
    disk_price: int
    spot: bool
    reliability: float | None
    verified: bool
    datacenter: bool
    region: str | None
    cpu_cores: float | None
    memory: int | None
    disk: int | None
    download_speed: float | None
    upload_speed: float | None
    transfer_price: int | None
    cuda: str | None
    ends_at: float | None
    stock: str | None = None
    """`low`, `medium` or `high` where an offer is a kind of machine and not one machine."""
    receive_price: int | None = None
    """Micro-dollars per GB into the machine; `transfer_price` is out of it."""
    all_in: int | None = None
    """Micro-dollars per hour with the transfer that was asked for; None when the vendor does not tell what it costs."""
    tflops: float | None = None
    """Peak dense bfloat16 of all its GPUs, 10^12 operations per second, by the maker's data sheet."""
    tflop_price: int | None = None
    """Micro-dollars per TFLOP-hour, all-in."""
    tokens_per_second: float | None = None
    """What our newest run on as many of these GPUs reached; `measured_by` names it."""
    measured_by: str | None = None
    token_price: int | None = None
    """Micro-dollars per 10^9 tokens at that speed, all-in."""
    seen: SeenRow | None = None
    """What we have seen of this machine ourselves, None when nothing."""


class GpuRow(Struct, frozen=True, kw_only=True):
    """One GPU at one moment: per cent, bytes, watts, °C; each None when the driver did not say."""

    index: int
    name: str
    utilisation: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    temperature: float | None
    power_limit: float | None = None
    clock: float | None = None
    clock_max: float | None = None
    """Megahertz of the multiprocessors, now and at most."""
    throttle: list[str] = []
    """Why it runs below its clock, as NVML's words in lower case; empty when nothing or unknown."""
    ecc_errors: int | None = None


class AlarmRow(Struct, frozen=True, kw_only=True):
    """Something wrong with a box. `name` and `subject` identify it while it lasts."""

    name: str
    subject: str
    severity: str
    """`note`, `warn` or `alarm`."""
    text: str


class HoldRow(Struct, frozen=True, kw_only=True):
    """A named reason not to destroy. `name` is stable, `reason` is for people.

    `by` and `at` say who placed it and when, if a person did. `removal` is how it goes alone: `release`,
    `waive` (by giving up the files it protects), `waive-all`, or `itself`.
    """

    name: str
    reason: str
    by: str | None = None
    at: float | None = None
    removal: str = "itself"


class Exposure(Struct, frozen=True, kw_only=True):
    """Work that exists only on the box: bytes, and seconds since the newest verified copy."""

    bytes: int | None
    seconds: float | None
    files: int | None


class RunRow(Struct, frozen=True, kw_only=True):
    """One run in the fleet list."""

    id: str
    name: str
    state: str
    attention: str
    """`none`, `info`, `warn` or `alarm`: what needs a person first."""
    reason: str | None
    """Why it is in this state, when that is not obvious (a failure, a wait)."""
    next: str
    """What happens next and when, in plain words."""
    attempt: int
    provider: str | None
    instance_id: str | None
    gpu: str | None
    gpu_count: int | None
    price: int | None
    cost: int
    exposure: Exposure
    holds: list[HoldRow]
    gpus: list[GpuRow]
    telemetry_age: float | None
    """Seconds since the box last reported, None before it did."""
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_second: float | None
    checkpoints: int
    verified_bytes: int
    transfer: TransferRow | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    alarms: list[AlarmRow] = []
    """What telemetry finds wrong with the box now."""


class TransferRow(Struct, frozen=True, kw_only=True):
    """A transfer under way: files and bytes done of total, bytes per second, seconds left."""

    path: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rate: float
    eta: float | None
    up: bool = False
    """Whether files go to the box; else they come home."""


class ArtifactRow(Struct, frozen=True, kw_only=True):
    """One promised file and how far its proof has come."""

    path: str
    size: int
    sha256: str | None
    state: str
    """`on-box`, `downloading`, `verified`, `missing`, `waived`."""
    verified_at: float | None
    step: int | None


class CustodyReport(Struct, frozen=True, kw_only=True):
    """What would be lost if the machine were destroyed now, and why it is (not) allowed."""

    run: str
    allowed: bool
    summary: str
    holds: list[HoldRow]
    verified: list[ArtifactRow]
    unsafe: list[ArtifactRow]
    exposure: Exposure
    receipt: str | None
    """Digest of the receipt that proves the verified part, None before there is one."""


class EventRow(Struct, frozen=True, kw_only=True):
    """One line of a run's timeline. `data` holds the event's typed fields as in the ledger."""

    seq: int
    time: float
    run: str | None
    kind: str
    text: str
    data: dict[str, Any]


class Sample(Struct, frozen=True, kw_only=True):
    """One telemetry sample of a box. `cpu` is per cent of all cores."""

    time: float
    gpus: list[GpuRow]
    cpu: float | None
    memory_used: int | None
    memory_total: int | None
    disk_free: int | None
    disk_total: int | None
    step: int | None
    loss: float | None
    tokens_per_second: float | None
    cores: float | None = None
    """Cores that everybody but gpuwatch's own processes uses."""
    load: float | None = None
    net_received: float | None = None
    net_sent: float | None = None
    disk_read: float | None = None
    disk_written: float | None = None
    """Bytes per second."""
    sessions: int | None = None
    """Logins that are not ours."""


class SeriesRead(Struct, frozen=True, kw_only=True):
    """The last `seconds` of some telemetry series of a run; no names: all that there are."""

    run: str
    seconds: float = 3600.0
    series: list[str] = []


class Series(Struct, frozen=True, kw_only=True):
    """One series: rows of [Unix seconds, lowest, mean, highest], each over `span` seconds, oldest first."""

    name: str
    span: float
    points: list[list[float]]


class SeriesOf(Struct, frozen=True, kw_only=True):
    """Telemetry history, at the finest resolution that reaches back as far as was asked."""

    run: str
    series: list[Series]


class CostQuery(Struct, frozen=True, kw_only=True):
    """Costs of one run, or of every run that is not over and the newest that are."""

    run: str | None = None


class CostRow(Struct, frozen=True, kw_only=True):
    """What one run has cost by the offered prices, micro-dollars; `traffic` None: the host's price is unknown."""

    run: str
    name: str
    state: str
    machines: int
    gpu: int
    disk: int
    traffic: int | None
    total: int
    burn: int
    """Micro-dollars per hour now."""
    ceiling: int | None
    more: int | None
    """Micro-dollars from now to the job's last step, None when its steps do not tell."""
    seconds: float | None
    """Seconds to the job's last step."""
    billed: int | None = None
    """What the vendor itself has charged, micro-dollars; None while that is unknown (`bill_note` says why)."""
    difference: int | None = None
    """`billed` less `total`, None while they cannot be compared."""
    bill_note: str = ""


class RunwayRow(Struct, frozen=True, kw_only=True):
    """How long an account's balance lasts at the present burn. Seconds, micro-dollars; None is unknown."""

    provider: str
    credit: int | None
    burn: int
    seconds: float | None
    copies: float | None
    """Seconds that the copies of everything not yet home need."""
    copy_in: float | None
    """Seconds until the copies must begin."""
    alarm: bool
    text: str


class CostReport(Struct, frozen=True, kw_only=True):
    """Costs and runways. `today` is since midnight UTC, `day_ceiling` the settings' `budget.per_day`."""

    runs: list[CostRow]
    accounts: list[RunwayRow]
    burn: int
    today: int
    day_ceiling: int | None


class MirrorQuery(Struct, frozen=True, kw_only=True):
    """How far mirrors are, of one run or of all that have any."""

    run: str | None = None


class MirrorRow(Struct, frozen=True, kw_only=True):
    """One run on one remote: what stands verified there, and what does not. None is unknown: never compared."""

    run: str
    remote: str
    required: bool
    """The machine is not destroyed before this remote has everything."""
    files: int
    bytes: int
    behind_files: int | None
    behind_bytes: int | None
    behind_seconds: float | None
    """How long something has not been verified there."""
    latest: int | None
    """Step that the remote's `latest.json` names, as far as this daemon wrote it."""
    problem: str | None
    refused: list[str]
    """Files that cannot go there, each with the reason."""
    done: int | None
    total: int | None
    rate: float | None
    """Bytes, and bytes per second, of the copy under way."""


class RetentionRow(Struct, frozen=True, kw_only=True):
    """What retention does about one run's checkpoints in one place. Counts are checkpoints, of `let_go` files."""

    run: str
    place: str
    kept: int
    kept_bytes: int
    going: int
    """May go, and have not gone yet."""
    going_bytes: int
    let_go: int
    let_go_bytes: int
    stay: list[str]
    """Beyond what is to be kept, and kept all the same: how many, and why."""
    problem: str | None


class MirrorStatus(Struct, frozen=True, kw_only=True):
    """All mirrors, and retention where specs ask for it."""

    mirrors: list[MirrorRow]
    retention: list[RetentionRow] = []


class Problem(Struct, frozen=True, kw_only=True):
    """One thing wrong with a run spec: where, what was found, what was expected."""

    file: str
    key: str
    found: str
    expected: str
    message: str


class AccountRow(Struct, frozen=True, kw_only=True):
    """One provider account as last heard. `problem` is set while it cannot be reached."""

    provider: str
    user: str | None
    credit: int | None
    age: float | None
    problem: str | None
    foreign: int
    """Machines in the account that are not ours: listed, never touched."""


# --- calls ---------------------------------------------------------------------------------------


class Hello(Struct, frozen=True, kw_only=True):
    """First call."""

    protocol: int = PROTOCOL
    client: str = ""


class Welcome(Struct, frozen=True, kw_only=True):
    """Answer to hello."""

    protocol: int
    version: str
    pid: int
    state_dir: str
    vault: str


class Empty(Struct, frozen=True, kw_only=True):
    """No parameters, or no result."""


class OffersQuery(Struct, frozen=True, kw_only=True):
    """`gpu` are names (any spelling); prices in micro-dollars per hour; `disk` bytes.

    `query` is in the query language of offers (docs/guide.md); it holds besides the other fields. `transfer` is
    what is expected to go out and in, bytes an hour each way: it is in the all-in price, which `max_price` caps.
    """

    gpu: list[str] = []
    gpu_count: int | None = None
    max_price: int | None = None
    spot: bool = False
    min_reliability: float | None = None
    disk: int = 20_000_000_000
    unverified: bool = False
    limit: int = 200
    query: str = ""
    transfer: int = 1_000_000_000


class Offers(Struct, frozen=True, kw_only=True):
    """Offers, cheapest first; `problems` names each provider that could not answer, and why."""

    offers: list[OfferRow]
    problems: list[str]


class MachinesQuery(Struct, frozen=True, kw_only=True):
    """What we have seen of machines, of all providers or of one."""

    provider: str | None = None


class MachineRow(Struct, frozen=True, kw_only=True):
    """One machine that we know something of. `machine` is `provider:id`, or the kind where a vendor names no machine."""

    machine: str
    gpu: str | None
    gpu_count: int | None
    good: int
    """Jobs that ran there."""
    seen: SeenRow
    reason: str | None = None
    """Why it is avoided."""


class Machines(Struct, frozen=True, kw_only=True):
    """Those that are avoided first, then the ones seen last."""

    machines: list[MachineRow]


class MachineAvoid(Struct, frozen=True, kw_only=True):
    """Rent this machine no more for `seconds`: `provider:id`, or a run whose machine is meant."""

    machine: str
    seconds: float
    by: str
    reason: str = ""


class MachineForgive(Struct, frozen=True, kw_only=True):
    """Forget what speaks against a machine."""

    machine: str
    by: str
    reason: str = ""


class PricesQuery(Struct, frozen=True, kw_only=True):
    """What prices were: `gpu` are names (any spelling, empty: all), `days` back."""

    gpu: list[str] = []
    gpu_count: int | None = None
    spot: bool = False
    days: float = 14


class PriceSeries(Struct, frozen=True, kw_only=True):
    """The cheapest verified price of one kind of machine, each time somebody looked.

    `points` are [UTC seconds, micro-dollars per hour with 20 GB of disk, offers], oldest first.
    """

    provider: str
    gpu: str
    gpu_count: int
    spot: bool
    points: list[tuple[float, int, int]]


class Prices(Struct, frozen=True, kw_only=True):
    """Series, the cheapest now first."""

    series: list[PriceSeries]


class SpecText(Struct, frozen=True, kw_only=True):
    """A run spec as text. `file` is for messages, `base` the absolute folder that paths are relative to.

    `market` lets a check also ask what would be rented now.
    """

    text: str
    file: str
    base: str
    market: bool = False


class SpecCheck(Struct, frozen=True, kw_only=True):
    """Problems of a spec (empty: it is good) and what it would do, a line each.

    `candidates` are the offers that fit now, in the order in which a launch would try them, when `market` was asked.
    """

    problems: list[Problem]
    name: str | None
    plan: list[str]
    candidates: list[OfferRow] = []


class Launch(Struct, frozen=True, kw_only=True):
    """Start a run. The same `key` again returns the same run instead of a second one."""

    spec: SpecText
    key: str
    provider: str | None = None
    offer_id: str | None = None
    """Rent exactly this offer instead of the cheapest that fits."""
    resume_from: str | None = None
    """Put this checkpoint on the box, proved, before the job: `latest`, a step, RUN:STEP, an absolute path, a remote."""


class Launched(Struct, frozen=True, kw_only=True):
    """The new run."""

    run: str
    name: str


class Retry(Struct, frozen=True, kw_only=True):
    """Try a run that failed, was lost or ended badly once more.

    With files on its machine they are collected again. Without a machine the same spec is launched as another run,
    from the newest checkpoint at home unless `fresh`; the same `key` again returns that run instead of a second one.
    """

    run: str
    key: str
    fresh: bool = False


class Recover(Struct, frozen=True, kw_only=True):
    """Leave a run's machine and go on elsewhere from its newest checkpoint at home; the old one is collected and ended."""

    run: str
    reason: str = ""
    by: str = ""


class Stop(Struct, frozen=True, kw_only=True):
    """Stop a run's machine and keep its disk: the job is ended, its files are collected, then it is stopped."""

    run: str
    reason: str = ""
    by: str = ""


class Start(Struct, frozen=True, kw_only=True):
    """Start a stopped machine again, under the same run. Its job is not started."""

    run: str
    reason: str = ""
    by: str = ""


class Retried(Struct, frozen=True, kw_only=True):
    """The run that goes on (the same, or a new one), and in words what happens now."""

    run: str
    name: str
    text: str


class RunRef(Struct, frozen=True, kw_only=True):
    """A run by id, unique id prefix, or name (the newest of that name)."""

    run: str


class Runs(Struct, frozen=True, kw_only=True):
    """Every run that is not over and the newest that are, newest first."""

    runs: list[RunRow]
    accounts: list[AccountRow]
    burn: int
    """Micro-dollars per hour of everything that is rented now."""
    now: float
    alarms: list[str] = []
    """What needs a person now, each with what to do; as in DaemonStatus."""
    older: bool = False
    """True when there may be more ended runs: `runs.ended` reads them."""


class EndedQuery(Struct, frozen=True, kw_only=True):
    """Runs that ended before this time (Unix seconds), newest first, at most `limit`."""

    before: float
    limit: int = 100


class Ended(Struct, frozen=True, kw_only=True):
    """`next` is what to pass as `before` the next time, None when there is no more."""

    runs: list[RunRow]
    next: float | None


class RunDetail(Struct, frozen=True, kw_only=True):
    """One run, whole."""

    run: RunRow
    custody: CustodyReport
    spec: str
    ssh: list[str]
    """Argument list of the ssh command that reaches the box, empty when there is none."""
    events: list[EventRow]
    samples: list[Sample]
    log_path: str | None = None
    """Where the captured log lies on this machine (append-only): gigabytes are read in place, not over the socket."""


class Why(Struct, frozen=True, kw_only=True):
    """Why a run's machine (still) exists: a headline and the facts, in plain words."""

    run: str
    headline: str
    lines: list[str]
    holds: list[HoldRow]
    exposure: Exposure
    next: str


class Destroy(Struct, frozen=True, kw_only=True):
    """Ask for the machine's end: collect and verify first, always.

    `waive` names files that may be lost, with the typed `confirm` (the run's name)
    and a `reason`; all three or none. `preview` changes nothing.
    """

    run: str
    preview: bool = False
    waive: list[str] = []
    confirm: str = ""
    reason: str = ""
    by: str = ""
    """Who asks, for the ledger; empty is `a person`."""


class Cancel(Struct, frozen=True, kw_only=True):
    """Take back a destroy that has not been sent yet."""

    run: str


class HoldsQuery(Struct, frozen=True, kw_only=True):
    """The holds of one run, or of every run whose machine exists."""

    run: str | None = None


class RunHold(Struct, frozen=True, kw_only=True):
    """One hold and the run (id and name) that it is on."""

    run: str
    name: str
    hold: HoldRow


class Holds(Struct, frozen=True, kw_only=True):
    """All holds that stand."""

    holds: list[RunHold]


class HoldPlace(Struct, frozen=True, kw_only=True):
    """Hold a run's machine under a name of the person's choice (`pin` when empty) until it is released."""

    run: str
    hold: str = "pin"
    reason: str = ""
    by: str = ""


class HoldRelease(Struct, frozen=True, kw_only=True):
    """Remove one hold alone; the others stand. One that protects files needs `confirm` (the run's name) and `reason`."""

    run: str
    hold: str = "pin"
    reason: str = ""
    confirm: str = ""
    by: str = ""


class Resolve(Struct, frozen=True, kw_only=True):
    """Answer for the alarm about the machine of this label: `reason` says what was found."""

    label: str
    reason: str
    by: str = ""


class LogRead(Struct, frozen=True, kw_only=True):
    """Bytes `offset`…`offset+limit` of the captured log; a negative offset counts from its end."""

    run: str
    offset: int = 0
    limit: int = 65536


class LogChunk(Struct, frozen=True, kw_only=True):
    """`data` starts at byte `offset`; `size` is the length of what is captured so far."""

    run: str
    offset: int
    data: bytes
    size: int
    complete: bool
    """True when the job has ended and the log is all here."""


class EventsRead(Struct, frozen=True, kw_only=True):
    """Events after `since`, of one run or all, at most `limit`, oldest first."""

    since: int = 0
    run: str | None = None
    limit: int = 500


class Events(Struct, frozen=True, kw_only=True):
    """`next` is what to pass as `since` the next time."""

    events: list[EventRow]
    next: int


class Subscribe(Struct, frozen=True, kw_only=True):
    """A stream of notifications on this connection.

    topic `runs`: a Runs snapshot now and whenever something changed, at most 4 a second.
    topic `events`: EventRow after `since`. topic `log`: LogChunk of `run` from byte `since`.
    topic `telemetry`: Sample of `run`.
    """

    topic: str
    run: str | None = None
    since: int = 0


class Subscribed(Struct, frozen=True, kw_only=True):
    """`subscription` comes back in each notification of the stream."""

    subscription: int


class Unsubscribe(Struct, frozen=True, kw_only=True):
    """End a stream."""

    subscription: int


class Notice(Struct, frozen=True, kw_only=True):
    """Params of a `notice` notification; exactly one of the payloads is set."""

    subscription: int
    runs: Runs | None = None
    event: EventRow | None = None
    log: LogChunk | None = None
    sample: Sample | None = None
    lost: str | None = None
    """The stream ended on the daemon's side; the reason. Subscribe again to go on."""


class DaemonStatus(Struct, frozen=True, kw_only=True):
    """What `gpuwatch status` shows."""

    version: str
    pid: int
    uptime: float
    state_dir: str
    vault: str
    socket: str
    runs: dict[str, int]
    accounts: list[AccountRow]
    alarms: list[str]
    rss: int


METHODS: dict[str, tuple[type[Struct], type[Struct]]] = {
    "hello": (Hello, Welcome),
    "status": (Empty, DaemonStatus),
    "shutdown": (Empty, Empty),
    "offers": (OffersQuery, Offers),
    "offers.history": (PricesQuery, Prices),
    "machines": (MachinesQuery, Machines),
    "machine.avoid": (MachineAvoid, MachineRow),
    "machine.forgive": (MachineForgive, MachineRow),
    "spec.check": (SpecText, SpecCheck),
    "launch": (Launch, Launched),
    "run.retry": (Retry, Retried),
    "run.stop": (Stop, Retried),
    "run.start": (Start, Retried),
    "run.recover": (Recover, Retried),
    "runs": (Empty, Runs),
    "runs.ended": (EndedQuery, Ended),
    "run": (RunRef, RunDetail),
    "why": (RunRef, Why),
    "destroy": (Destroy, CustodyReport),
    "destroy.cancel": (Cancel, Empty),
    "holds": (HoldsQuery, Holds),
    "hold": (HoldPlace, Empty),
    "hold.release": (HoldRelease, CustodyReport),
    "alarm.resolve": (Resolve, Empty),
    "log.read": (LogRead, LogChunk),
    "telemetry.history": (SeriesRead, SeriesOf),
    "mirror.status": (MirrorQuery, MirrorStatus),
    "cost": (CostQuery, CostReport),
    "events": (EventsRead, Events),
    "subscribe": (Subscribe, Subscribed),
    "unsubscribe": (Unsubscribe, Empty),
}
"""method -> (parameters, result)"""

READS = frozenset({
    "hello", "status", "offers", "offers.history", "machines", "spec.check", "runs", "runs.ended", "run", "why", "holds",
    "log.read", "telemetry.history", "mirror.status", "cost", "events", "subscribe", "unsubscribe",
})  # fmt: skip
"""The calls that change nothing: all that a client which only looks may send."""
