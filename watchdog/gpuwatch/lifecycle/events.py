"""What can happen to a run. Each event is one line of the append-only ledger.

Events are facts, in the past tense, with everything that replaying them needs.
Their names and fields are a file format: old ledgers must stay readable, so fields
are only ever added, with a default.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base: encoded with its kind, e.g. `{"kind": "job-ended", "exit_code": 0}`."""


class LostFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a waiver gives up: its name as people see it and its size in bytes."""

    path: str
    size: int


class Requested(Event, frozen=True, kw_only=True, tag="requested"):
    """A person asked for the run. `spec` is the TOML as typed, `base` its folder, `key` the launch key."""

    name: str
    spec: str
    file: str
    base: str
    key: str
    provider: str | None = None
    offer_id: str | None = None
    resume_from: str | None = None
    """The checkpoint to begin from: `run:<id>/<name>`, `path:<absolute>` or `remote:<rclone remote>`."""


class OfferChosen(Event, frozen=True, kw_only=True, tag="offer-chosen"):
    """This offer will be rented under this label. Written before the create is sent (I2)."""

    label: str
    provider: str
    offer_id: str
    machine_id: str | None
    gpu: str
    gpu_count: int
    gpu_memory: int
    price: int
    disk_price: int
    region: str | None = None
    transfer_price: int | None = None


class NoOffer(Event, frozen=True, kw_only=True, tag="no-offer"):
    """Nothing can be rented for this run; `reason` says why."""

    reason: str


class CreateSent(Event, frozen=True, kw_only=True, tag="create-sent"):
    """The create for `label` is about to go out. From here on a machine may exist."""

    label: str


class CreateRefused(Event, frozen=True, kw_only=True, tag="create-refused"):
    """There is no machine under `label`: the vendor said so, or (`absent`) it never showed up.

    An absent one is looked for further on, because it may still appear.
    """

    label: str
    reason: str
    offer_gone: bool = False
    absent: bool = False


class CreateUnknown(Event, frozen=True, kw_only=True, tag="create-unknown"):
    """No usable answer to the create; only looking for the label can tell."""

    label: str
    reason: str


class Rented(Event, frozen=True, kw_only=True, tag="rented"):
    """The machine exists and bills. `adopted` when it was found by its label."""

    label: str
    instance_id: str
    adopted: bool = False


class Booted(Event, frozen=True, kw_only=True, tag="booted"):
    """SSH answers with a key that is now pinned."""

    host: str
    port: int
    user: str
    fingerprint: str
    seconds: float


class Dud(Event, frozen=True, kw_only=True, tag="dud"):
    """The machine is no good; no job ever ran on it."""

    reason: str


class BoxChecked(Event, frozen=True, kw_only=True, tag="box-checked"):
    """What the box is: facts gathered before anything is put on it."""

    boot_id: str
    workspace: str
    python: str
    gpus: int
    driver: str | None = None
    disk_free: int | None = None
    disk_speed: float | None = None
    """Bytes per second that were written to the work folder's disk and synced."""


class PrepareFailed(Event, frozen=True, kw_only=True, tag="prepare-failed"):
    """Upload or setup failed for a reason that another machine would not mend."""

    reason: str


class StartSent(Event, frozen=True, kw_only=True, tag="start-sent"):
    """The order to start the job is about to go to the box. From here on there may be something to lose."""

    boot_id: str


class JobStarted(Event, frozen=True, kw_only=True, tag="job-started"):
    """The job runs on the box."""

    boot_id: str
    pid: int


class FilesVerified(Event, frozen=True, kw_only=True, tag="files-verified"):
    """Files came home and were proved: SHA-256 on the box = SHA-256 re-read from the local disk."""

    files: int
    bytes: int
    step: int | None = None
    path: str | None = None
    digest: str | None = None
    seconds: float | None = None
    moved: int | None = None
    """What went over the wire for them, bytes, and how long that took."""


class CheckpointHome(Event, frozen=True, kw_only=True, tag="checkpoint-home"):
    """One checkpoint stands whole and proved in the vault. `digest` is of its paths and their SHA-256."""

    name: str
    step: int | None
    files: int
    bytes: int
    digest: str


class Restored(Event, frozen=True, kw_only=True, tag="restored"):
    """A checkpoint was put on the box before the job: each file hashed there equal to its proved copy."""

    source: str
    name: str
    step: int | None
    files: int
    bytes: int


class JobEnded(Event, frozen=True, kw_only=True, tag="job-ended"):
    """The job's process is gone. `exit_code` is None when only its absence is known."""

    exit_code: int | None
    reason: str = ""
    tokens_per_second: float | None = None
    """What it sustained in its last minutes, where it told."""


class CollectStarted(Event, frozen=True, kw_only=True, tag="collect-started"):
    """The last copy home has begun."""


class CollectBlocked(Event, frozen=True, kw_only=True, tag="collect-blocked"):
    """Not everything promised could be proved; each hold is `name: reason`."""

    holds: list[str]


class CollectFailed(Event, frozen=True, kw_only=True, tag="collect-failed"):
    """Copying did not work this time and is tried again; nothing is lost by that."""

    reason: str


class ReceiptWritten(Event, frozen=True, kw_only=True, tag="receipt-written"):
    """Everything promised is home and proved, bound to this machine and this boot of it."""

    digest: str
    files: int
    bytes: int
    boot_id: str
    at: float
    waived: list[str] = []


class EndRequested(Event, frozen=True, kw_only=True, tag="end-requested"):
    """Someone wants the machine gone: stop the job, collect, verify, destroy. `by` says who."""

    by: str
    reason: str = ""


class EndCancelled(Event, frozen=True, kw_only=True, tag="end-cancelled"):
    """The wish was taken back before the destroy was sent."""


class Waived(Event, frozen=True, kw_only=True, tag="waived"):
    """A person gave up named files, with a typed reason that stays here (I1).

    `lost` names each file that goes with its size, as the box listed it then; the waiver of everything
    on a box that could not be heard has none.
    """

    files: list[str]
    reason: str
    by: str = "a person"
    lost: list[LostFile] = []


class HoldPlaced(Event, frozen=True, kw_only=True, tag="hold-placed"):
    """A person holds the machine under a name (`pin`, or one of their own) until it is released."""

    name: str
    by: str
    reason: str = ""


class HoldReleased(Event, frozen=True, kw_only=True, tag="hold-released"):
    """One named hold was removed: a placed one, or one that facts make (`ssh-session`) for this machine."""

    name: str
    by: str
    reason: str = ""


class StopRequested(Event, frozen=True, kw_only=True, tag="stop-requested"):
    """Someone wants the machine stopped and kept: end the job, collect, stop. `by` says who."""

    by: str
    reason: str = ""


class StopSent(Event, frozen=True, kw_only=True, tag="stop-sent"):
    """The stop is about to go out, under the permit described here."""

    permit: str
    instance_id: str


class StopFailed(Event, frozen=True, kw_only=True, tag="stop-failed"):
    """The stop was refused or its answer is unknown. `never`: this machine cannot be stopped and keep its disk."""

    reason: str
    refused: bool = False
    never: bool = False


class Paused(Event, frozen=True, kw_only=True, tag="paused"):
    """The machine is listed as stopped: it bills its disk only. `evidence` says by what."""

    evidence: str


class WakeRequested(Event, frozen=True, kw_only=True, tag="wake-requested"):
    """A person wants the stopped machine to run again, under the same run."""

    by: str
    reason: str = ""


class Woken(Event, frozen=True, kw_only=True, tag="woken"):
    """The machine that was stopped is listed as running."""

    evidence: str


class DestroySent(Event, frozen=True, kw_only=True, tag="destroy-sent"):
    """The destroy is about to go out, under the permit described here."""

    permit: str
    instance_id: str


class DestroyAccepted(Event, frozen=True, kw_only=True, tag="destroy-accepted"):
    """The vendor took the destroy; the machine counts as existing until confirmed gone."""


class DestroyFailed(Event, frozen=True, kw_only=True, tag="destroy-failed"):
    """The destroy was refused or its answer unknown; it is tried again."""

    reason: str


class Gone(Event, frozen=True, kw_only=True, tag="gone"):
    """Confirmed gone: complete listings and a look-up agree. `evidence` says which."""

    evidence: str


class DudGone(Event, frozen=True, kw_only=True, tag="dud-gone"):
    """A machine that was no good is confirmed gone; the run goes on with the next offer."""

    evidence: str


class Lost(Event, frozen=True, kw_only=True, tag="lost"):
    """The provider took the machine. What was verified is safe; the rest is named in `evidence`."""

    evidence: str


class Recovering(Event, frozen=True, kw_only=True, tag="recovering"):
    """The run goes on without its machine: another is rented, and the newest proved checkpoint restored there.

    The provider took the machine, or, when `handed_to` names a run, it is still there and that run
    collects what is on it. `step` is of the checkpoint to go on from; what is lost, if nothing more
    comes home, is stated in steps, seconds of work and micro-dollars, None where it is not known.
    """

    evidence: str
    handed_to: str | None = None
    step: int | None = None
    lost_steps: int | None = None
    lost_seconds: float | None = None
    lost_cost: int | None = None


class Returned(Event, frozen=True, kw_only=True, tag="returned"):
    """The machine counted as gone or lost and is listed again: it bills, and may hold files."""

    instance_id: str
    evidence: str


class GaveUp(Event, frozen=True, kw_only=True, tag="gave-up"):
    """The run cannot go on without a person; `reason` says why. Data stays held."""

    reason: str


class TakenOver(Event, frozen=True, kw_only=True, tag="taken-over"):
    """Makes a run that only collects what is on a machine which the run `of` goes on without, and ends it.

    The machine came back after it counted as lost, or (`stranded`) never left the listings but does not
    run any more. `proved` is the number of its files that were home then; `holds` are those that people
    had placed.
    """

    taker: str
    name: str
    of: str
    spec: str
    file: str
    base: str
    key: str
    label: str
    provider: str
    offer_id: str
    machine_id: str | None
    gpu: str
    gpu_count: int
    gpu_memory: int
    price: int
    disk_price: int
    transfer_price: int | None
    chosen_at: float
    instance_id: str
    host: str | None
    port: int | None
    user: str
    fingerprint: str | None
    boot_id: str | None
    workspace: str | None
    job_started_at: float
    evidence: str
    stranded: bool = False
    proved: int = 0
    holds: list[HoldPlaced] = []


RunEvent: TypeAlias = (
    Requested | OfferChosen | NoOffer | CreateSent | CreateRefused | CreateUnknown | Rented | Booted | Dud
    | BoxChecked | PrepareFailed | StartSent | JobStarted | FilesVerified | CheckpointHome | Restored | JobEnded
    | CollectStarted | CollectBlocked | CollectFailed | ReceiptWritten | EndRequested | EndCancelled | Waived
    | HoldPlaced | HoldReleased | StopRequested | StopSent | StopFailed | Paused | WakeRequested | Woken
    | DestroySent | DestroyAccepted | DestroyFailed | DudGone | Gone | Lost | Recovering | Returned | TakenOver
    | GaveUp
)  # fmt: skip
"""What changes a run (`lifecycle.evolve`)."""


# --- what happens to machines and accounts beside the runs ---------------------------------------


class MachineListed(Event, frozen=True, kw_only=True, tag="machine-listed"):
    """A complete listing shows the machine for the first time."""

    label: str
    instance_id: str


class MachineUnseen(Event, frozen=True, kw_only=True, tag="machine-unseen"):
    """The vendor said that it made this machine and no complete listing shows it: an alarm, and no more creates."""

    label: str
    evidence: str


class MachineReturned(Event, frozen=True, kw_only=True, tag="machine-returned"):
    """A machine that counted as gone, or as never made, is listed; nothing ever ran on it."""

    label: str
    instance_id: str


class StrayDestroySent(Event, frozen=True, kw_only=True, tag="stray-destroy-sent"):
    """The destroy of a returned machine is about to go out, under the permit described here."""

    label: str
    instance_id: str
    permit: str


class StrayDestroyAccepted(Event, frozen=True, kw_only=True, tag="stray-destroy-accepted"):
    """The vendor took that destroy."""

    label: str


class StrayDestroyFailed(Event, frozen=True, kw_only=True, tag="stray-destroy-failed"):
    """That destroy was refused or its answer unknown; it is tried again."""

    label: str
    reason: str


class StrayGone(Event, frozen=True, kw_only=True, tag="stray-gone"):
    """The returned machine is confirmed gone."""

    label: str
    evidence: str


class Buried(Event, frozen=True, kw_only=True, tag="buried"):
    """The last of the checks after its end found no trace of the machine: it is off the books."""

    label: str
    evidence: str


class AlarmResolved(Event, frozen=True, kw_only=True, tag="alarm-resolved"):
    """A person looked into the alarm about a machine and answers for it."""

    label: str
    by: str
    reason: str


class AccountSeen(Event, frozen=True, kw_only=True, tag="account-seen"):
    """From here on this is who we are to the provider: only that account's listings speak of our machines.

    `user` is the vendor's id, None while it does not say; `key_id` a fingerprint of the key.
    """

    provider: str
    user: str | None
    key_id: str | None = None


class LetGo(Event, frozen=True, kw_only=True, tag="let-go"):
    """Retention lets a verified checkpoint go from one place, because it stands verified in `stands`.

    Written before anything is removed (of a box: when it was). It changes no run, and may happen long after its end.
    """

    place: str
    """`vault`, `box` or a remote."""
    name: str
    step: int | None
    files: int
    bytes: int
    stands: list[str]


RegisterEvent: TypeAlias = (
    MachineListed | MachineUnseen | MachineReturned | StrayDestroySent | StrayDestroyAccepted | StrayDestroyFailed
    | StrayGone | Buried | AlarmResolved
)  # fmt: skip
"""What changes the register of machines only (`lifecycle.register`)."""

AnyEvent: TypeAlias = RunEvent | RegisterEvent | AccountSeen | LetGo
"""Every event, as a tagged union."""

ENCODER = msgspec.json.Encoder()
DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


E = TypeVar("E", bound=Event)


def storable(event: E) -> E:
    """`event` itself, or, when a text in it cannot be written down (lone surrogates from a file name), a copy
    with U+FFFD in their place: what was decided on is what a restart reads."""
    try:
        ENCODER.encode(event)
    except UnicodeEncodeError:
        return msgspec.convert(_mended(msgspec.to_builtins(event)), type(event))
    return event


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [_mended(v) for v in value]
    return {k: _mended(v) for k, v in value.items()} if isinstance(value, dict) else value


def kind_of(event: AnyEvent) -> str:
    """The event's name in the ledger."""
    tag = type(event).__struct_config__.tag
    return str(tag)
