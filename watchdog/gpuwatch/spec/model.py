"""A run spec as the daemon uses it: checked, in base units (bytes, seconds, micro-dollars)."""

from __future__ import annotations

import msgspec

DEFAULT_IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the spec's parts."""


class Gpu(Struct, frozen=True, kw_only=True):
    """Which machine. `names` are canonical; empty means any. `max_price` is micro-dollars per hour, all-in."""

    names: tuple[str, ...] = ()
    count: int = 1
    max_price: int | None = None
    spot: bool = False
    min_reliability: float | None = None
    verified_only: bool = True
    transfer: int = 1_000_000_000
    """Bytes an hour, out and in each, that the all-in price counts."""


class Upload(Struct, frozen=True, kw_only=True):
    """What goes to the box before the job: paths relative to the spec's folder."""

    paths: tuple[str, ...] = ()


class Setup(Struct, frozen=True, kw_only=True):
    """A shell command run once in the work folder before the job; at most `timeout` seconds."""

    command: str
    timeout: float = 1800.0


class Job(Struct, frozen=True, kw_only=True):
    """The training command (a shell line run in the work folder), its environment, its secrets' names."""

    command: str
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()


class Train(Struct, frozen=True, kw_only=True):
    """A `gputrain` job: gputui ships the trainer and makes the command."""

    profile: str = ""
    data: str | None = None
    steps: int | None = None
    options: tuple[str, ...] = ()
    """Extra `key=value` settings, handed on as `--set`."""
    commands: tuple[str, ...] = ()
    """In place of a profile: `gputrain` command lines, run in turn; each goes on when it is started again."""
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()


class Checkpoints(Struct, frozen=True, kw_only=True):
    """Where checkpoints appear, relative to the work folder, and how many to keep (`gpuwatch.mirror.retention`)."""

    path: str
    keep_last: int = 12
    keep_milestones: int = 24
    """One per hour, the newest so many."""
    keep_days: int = 7
    """One per day, the newest so many."""
    keep_best: int = 1
    metric: str | None = None
    """The key of the manifests' `val` that says which are best; None where nothing does."""
    highest: bool = False
    """Whether a higher `metric` is better."""
    keep_on_box: int = 2
    """On the box, while its disk is short."""
    prune: tuple[str, ...] = ()
    """Where the rest is let go, in this order: `vault`, `box`, remotes. Nowhere, when empty."""
    size: int | None = None
    """Bytes of one, where the spec says it: for `disk = "auto"`."""
    required: bool = True
    """Whether a run that made none is held; not where another run goes on in its place."""


class Artifact(Struct, frozen=True, kw_only=True):
    """Files the run promises: a glob relative to the work folder, with what must hold for it."""

    path: str
    min_size: int = 0
    required: bool = True
    count: int | None = None


class Mirror(Struct, frozen=True, kw_only=True):
    """Second copies, and which copies must be verified before destroy (`vault` or a remote)."""

    remotes: tuple[str, ...] = ()
    require: tuple[str, ...] = ("vault",)
    bandwidth: int | None = None
    """Bytes per second at most, to each remote."""
    read_back: bool = True
    """Where hashes cannot be compared, read everything back; False refuses such a remote."""


class Idle(Struct, frozen=True, kw_only=True):
    """What to do with a machine that does nothing. Seconds.

    Without `after` there are no timers: the end of the job alone decides, by `action`. With it the machine is
    watched by evidence (`gpuwatch.idle`), and `action` happens after so much idleness; `destroy_after` is the
    second timer, counted from the stop.
    """

    after: float | None = None
    action: str = "collect-and-destroy"
    destroy_after: float | None = None
    ssh_quiet: float = 3600.0
    """An open terminal in which nobody typed and nothing was printed for so long is a forgotten one."""


class Deadman(Struct, frozen=True, kw_only=True):
    """Seconds without a sign of the daemon, and with nothing happening, after which a box stops itself."""

    after: float | None = None


class Budget(Struct, frozen=True, kw_only=True):
    """Ceilings: micro-dollars and seconds."""

    max_cost: int | None = None
    max_time: float | None = None


class Recover(Struct, frozen=True, kw_only=True):
    """How many machines one run may use up in turn, and what a loss means. Seconds.

    `on_loss`: `resume` goes on from the newest proved checkpoint (a run without `[checkpoints]` does not go
    on), `restart` begins anew where there is none, `never` leaves the run lost. `wait` is how long offers
    are looked for after a loss; `patience` how long a machine may be listed as stopped or offline before
    the run goes on without it.
    """

    attempts: int = 3
    on_loss: str = "resume"
    wait: float = 6 * 3600.0
    patience: float = 900.0


class Boot(Struct, frozen=True, kw_only=True):
    """Seconds from create to SSH before the machine counts as a dud."""

    timeout: float = 1200.0


class RunSpec(Struct, frozen=True, kw_only=True):
    """One job, whole."""

    name: str
    job: Job
    providers: tuple[str, ...] = ("vast",)
    image: str = DEFAULT_IMAGE
    disk: int = 20_000_000_000
    disk_words: tuple[str, ...] = ()
    """How `disk = "auto"` came to that size, or that a size of one's own looks small; lines for people."""
    gpu: Gpu = Gpu()
    upload: Upload = Upload()
    setup: Setup | None = None
    train: Train | None = None
    checkpoints: Checkpoints | None = None
    artifacts: tuple[Artifact, ...] = ()
    no_artifacts: bool = False
    """True for `artifacts = "none"`: the run promises nothing but its log."""
    mirror: Mirror = Mirror()
    idle: Idle = Idle()
    deadman: Deadman = Deadman()
    budget: Budget = Budget()
    recover: Recover = Recover()
    boot: Boot = Boot()
