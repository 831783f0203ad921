"""Read a run spec. Every problem is found in one pass and names file, key, found and expected."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpuwatch.clean import clean
from gpuwatch.spec import model, sizing, values
from gpuwatch.spec.units import parse_duration, parse_price, parse_size

T = TypeVar("T")
D = TypeVar("D")

ON_LOSS = ("resume", "restart", "never")
ACTIONS = ("collect-and-destroy", "stop", "notify")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,1000}")
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One thing wrong: `key` is dotted, `found` is what stands there, `expected` what should."""

    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = self.key or "the file"
        return f"{where}: found {self.found}, expected {self.expected}"


class SpecError(Exception):
    """A spec that cannot be used. `problems` lists all that is wrong."""

    def __init__(self, file: str, problems: list[SpecProblem]) -> None:
        self.file = file
        self.problems = problems
        super().__init__(f"{file}: " + "; ".join(str(p) for p in problems))


class _Table:
    """One TOML table being read: takes keys, remembers problems, complains about what is left over."""

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[SpecProblem]) -> None:
        self._values = dict(values)
        self._path = path
        self._problems = problems
        self._known: list[str] = []

    def problem(self, key: str, found: object, expected: str) -> None:
        """Note that `key` of this table is wrong."""
        self._problems.append(SpecProblem(self._dotted(key), values.show(found), expected))

    def take(self, key: str, read: Callable[[object], T], default: D) -> T | D:
        """The value of `key` through `read` (which raises ValueError(expected)), or `default` when absent."""
        self._known.append(key)
        if key not in self._values:
            return default
        value = self._values.pop(key)
        try:
            return read(value)
        except ValueError as error:
            self.problem(key, value, str(error))
            return default

    def has(self, key: str) -> bool:
        """Whether `key` stands in the table and was not taken yet."""
        return key in self._values

    def table(self, key: str) -> _Table | None:
        """The sub-table `key`, None when absent or no table."""
        value = self.take(key, values.mapping, None)
        return None if value is None else _Table(value, self._dotted(key), self._problems)

    def finish(self) -> None:
        """Every key that nobody took is an error that names the nearest known one."""
        for key, value in self._values.items():
            near = difflib.get_close_matches(key, self._known, n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(self._known)}"
            self._problems.append(
                SpecProblem(
                    self._dotted(key), f"an unknown key (= {values.show(value)})", f"only known keys{hint}"
                )
            )

    def _dotted(self, key: str) -> str:
        key = clean(key, 80)
        return f"{self._path}.{key}" if self._path else key


def read_spec(text: str, *, file: str, base: Path | None = None) -> model.RunSpec:
    """Parse and check a spec. `base` is the folder of the file; when given, uploads must exist there.

    Raises SpecError with every problem found.
    """
    problems: list[SpecProblem] = []
    if len(text) > MAX_BYTES:
        raise SpecError(file, [SpecProblem("", f"{len(text)} bytes", f"a spec below {MAX_BYTES} bytes")])
    try:
        root = _Table(tomllib.loads(text), "", problems)
    except ValueError as error:  # TOMLDecodeError, and what int() says about thousands of digits
        raise SpecError(
            file, [SpecProblem("", f"a TOML error: {clean(str(error))}", "valid TOML")]
        ) from error
    except RecursionError as error:
        raise SpecError(
            file, [SpecProblem("", "brackets nested without end", "a spec as the guide shows it")]
        ) from error

    name = root.take("name", values.matching(_NAME, "1 to 48 of a-z 0-9 . _ - (it names folders)"), "")
    if not name and not problems:
        root.problem("name", "nothing", 'a name for the run, e.g. name = "miras-s"')
    providers = root.take("provider", values.providers, ("vast",))
    image = root.take(
        "image",
        values.matching(_IMAGE, "a container image such as pytorch/pytorch:2.8.0-…"),
        model.DEFAULT_IMAGE,
    )
    disk = root.take("disk", values.disk, 20_000_000_000)
    train = _train(root.table("train"))
    job = _job(root.table("job"))
    checkpoints = _checkpoints(root.table("checkpoints"))
    artifacts, none = _artifacts(root, problems)
    gpu = _gpu(root.table("gpu"))
    upload = _upload(root.table("upload"), base)
    setup = _setup(root.table("setup"))
    mirror = _mirror(root.table("mirror"))
    _prunable(checkpoints, mirror, problems)
    idle = _idle(root.table("idle"))
    deadman = _deadman(root.table("deadman"))
    budget = _budget(root.table("budget"))
    recover = _recover(root.table("recover"))
    data = _data(root.table("data"))
    boot = _boot(root.table("boot"))
    root.finish()

    if job is not None and train is not None:
        root.problem("train", "both [job] and [train]", "one of them: [train] makes its own command")
    if job is None and train is None and not any(p.key.startswith(("job", "train")) for p in problems):
        root.problem(
            "job", "neither [job] nor [train]", 'what to run: [job] command = "…" or [train] profile = "…"'
        )
    if train is not None and job is None:
        job, checkpoints, artifacts = expand_train(train, checkpoints, artifacts)
    if (
        not none
        and not artifacts
        and checkpoints is None
        and not any(p.key.startswith(("artifacts", "checkpoints")) for p in problems)
    ):
        root.problem(
            "artifacts",
            "nothing that the run promises",
            'at least one [[artifacts]] path or [checkpoints] path; or artifacts = "none" when its files may be lost',
        )
    needed = sizing.sizing(
        train=train, checkpoints=checkpoints, artifacts=artifacts, upload=upload, data=data if disk is None or data is not None else 0,
        uploaded=sizing.uploaded(base, upload) if disk is None else 0,
        hours=None if budget.max_time is None else budget.max_time / 3600,
    )  # fmt: skip
    told: tuple[str, ...] = ()
    if isinstance(needed, sizing.Sizing):
        told = sizing.words(needed) if disk is None else sizing.doubt(needed, disk)
        disk = needed.total if disk is None else disk
    elif disk is None and not problems:
        problems += [SpecProblem(m.key, 'nothing, beside disk = "auto"', m.expected) for m in needed]
    if problems or job is None or disk is None:
        raise SpecError(file, problems)
    return model.RunSpec(
        name=name, providers=providers, image=image, disk=disk, disk_words=told, gpu=gpu, upload=upload, setup=setup, job=job,
        train=train, checkpoints=checkpoints, artifacts=artifacts, no_artifacts=none, mirror=mirror, idle=idle, deadman=deadman,
        budget=budget, recover=recover, boot=boot,
    )  # fmt: skip


TRAIN_OUT = "out"

# The trainer resumes exactly, so a process that was killed is simply started again, a few times. Its own
# verdicts (done, bad data, diverged, bad settings) are final. SIGTERM goes to the whole group: the shell
# waits for the trainer's last checkpoint. The shipped copy comes before any gputrain of the image.
_AGAIN = """\
export PYTHONPATH="$GPUWATCH_TRAINER${PYTHONPATH:+:$PYTHONPATH}"
stop=; trap 'stop=1' TERM INT
for again in 1 2 3 4 5; do
  @TRAIN@ & trainer=$!
  while wait $trainer; code=$?; kill -0 $trainer 2>/dev/null; do :; done
  case "$stop:$code" in 1:*|:0|:65|:70|:78) exit $code;; esac
  echo "gpuwatch: the trainer ended with $code; resuming from its newest checkpoint ($again)"
  sleep 1
done
exit $code"""


def expand_train(
    train: model.Train, checkpoints: model.Checkpoints | None, artifacts: tuple[model.Artifact, ...]
) -> tuple[model.Job, model.Checkpoints | None, tuple[model.Artifact, ...]]:
    """The job, checkpoints and artifacts that `[train]` stands for (the run contract of design §5).

    Commands of one's own write where they say; what they promise is said in the spec.
    """
    import shlex

    if train.commands:
        # A trap that does nothing: the shell between lets the command that runs save and end.
        lines = [shlex.join(["python3", "-m", "gputrain", *shlex.split(c)]) for c in train.commands]
        command = _AGAIN.replace("@TRAIN@", f"( trap : TERM INT; {' && '.join(lines)} )")
        job = model.Job(command=command, env=train.env, secrets=train.secrets)
        return job, checkpoints, artifacts
    words = ["python3", "-m", "gputrain", "train", "--profile", train.profile, "--out", TRAIN_OUT]
    if train.data is not None:
        words += ["--data", train.data]
    if train.steps is not None:
        words += ["--steps", str(train.steps)]
    for option in train.options:
        words += ["--set", option]
    command = _AGAIN.replace("@TRAIN@", shlex.join(words))
    promised = tuple(
        model.Artifact(path=f"{TRAIN_OUT}/{name}", required=required)
        for name, required in (
            ("metrics.jsonl", True), ("events.jsonl", True), ("run.json", False), ("config.toml", False),
            ("status.json", False), ("DONE.json", False), ("FAILED.json", False), ("log.txt", False),
        )
    )  # fmt: skip
    return (
        model.Job(command=command, env=train.env, secrets=train.secrets),
        checkpoints or model.Checkpoints(path=f"{TRAIN_OUT}/ckpt"),
        (*promised, *artifacts),
    )


# --- sections ------------------------------------------------------------------------------------


def _gpu(table: _Table | None) -> model.Gpu:
    if table is None:
        return model.Gpu()
    gpu = model.Gpu(
        names=table.take("name", values.gpu_names, ()),
        count=table.take("count", values.whole(1, 64), 1),
        max_price=table.take("max_price", parse_price, None),
        spot=table.take("spot", values.boolean, False),
        min_reliability=table.take("min_reliability", values.fraction, None),
        verified_only=not table.take("unverified", values.boolean, False),
        transfer=table.take("transfer", parse_size, 1_000_000_000),
    )
    table.finish()
    return gpu


def _upload(table: _Table | None, base: Path | None) -> model.Upload:
    if table is None:
        return model.Upload()
    paths = table.take("paths", values.paths, ())
    for path in paths if base is not None else ():
        if base is not None and not _exists(base / path):
            table.problem("paths", path, f"a file or folder that exists in {base}")
    table.finish()
    return model.Upload(paths=paths)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the file system allows
        return False


def _setup(table: _Table | None) -> model.Setup | None:
    if table is None:
        return None
    command = table.take("command", values.command, "")
    timeout = table.take("timeout", parse_duration, 1800.0)
    table.finish()
    return model.Setup(command=command, timeout=timeout) if command else None


def _job(table: _Table | None) -> model.Job | None:
    if table is None:
        return None
    if not table.has("command"):
        table.problem("command", "nothing", 'a shell command, e.g. command = "python train.py"')
    command = table.take("command", values.command, "")
    no_env: dict[str, str] = {}
    env = table.take("env", values.environment, no_env)
    secrets = table.take("secrets", values.names, ())
    table.finish()
    return model.Job(command=command, env=env, secrets=secrets)


def _train(table: _Table | None) -> model.Train | None:
    if table is None:
        return None
    if not table.has("profile") and not table.has("command"):
        table.problem("profile", "nothing", 'a gputrain profile, e.g. profile = "150m"')
    if table.has("command"):
        for key in ("profile", "data", "steps", "set"):
            if table.has(key):
                table.problem(key, "beside train.command", "one of them: the command says it all")
    no_env: dict[str, str] = {}
    train = model.Train(
        profile=table.take("profile", values.word, ""),
        data=table.take("data", values.relative, None),
        steps=table.take("steps", values.whole(1, 10**9), None),
        options=table.take("set", values.settings, ()),
        commands=table.take("command", values.command_lines, ()),
        env=table.take("env", values.environment, no_env),
        secrets=table.take("secrets", values.names, ()),
    )
    table.finish()
    return train


def _checkpoints(table: _Table | None) -> model.Checkpoints | None:
    if table is None:
        return None
    if not table.has("path"):
        table.problem("path", "nothing", "the folder where checkpoints appear, relative to the work folder")
    path = table.take("path", values.folder, None)
    keep_last = table.take("keep_last", values.whole(1, 10_000), 12)
    checkpoints = model.Checkpoints(
        path=path or "",
        keep_last=keep_last,
        keep_milestones=table.take("keep_milestones", values.whole(0, 10_000), 24),
        keep_days=table.take("keep_days", values.whole(0, 10_000), 7),
        keep_best=table.take("keep_best", values.whole(0, 10_000), 1),
        metric=table.take("metric", values.word, None),
        highest=table.take("best", values.one_of("lowest", "highest"), "lowest") == "highest",
        keep_on_box=table.take("keep_on_box", values.whole(2, 10_000), 2),
        prune=table.take("prune", values.strings, ()),
        size=table.take("size", parse_size, None),
    )
    table.finish()
    return None if path is None else checkpoints


def _prunable(
    checkpoints: model.Checkpoints | None, mirror: model.Mirror, problems: list[SpecProblem]
) -> None:
    """Retention needs another place: the only verified copy never goes."""
    for place in checkpoints.prune if checkpoints is not None else ():
        if place not in ("vault", "box", *mirror.remotes):
            expected = '"vault", "box" or one of mirror.remotes'
        elif place == "vault" and not mirror.remotes:
            expected = (
                "a remote in [mirror] beside it: the vault holds the only verified copies, which never go"
            )
        else:
            continue
        problems.append(SpecProblem("checkpoints.prune", values.show(place), expected))


def _data(table: _Table | None) -> int | None:
    """Bytes of what lies on the box beside uploads and checkpoints, None when the spec does not say."""
    if table is None:
        return None
    size = table.take("size", parse_size, None)
    table.finish()
    return size


def _artifacts(root: _Table, problems: list[SpecProblem]) -> tuple[tuple[model.Artifact, ...], bool]:
    value = root.take("artifacts", values.artifact_list, ())
    if value is None:
        return (), True
    found: list[model.Artifact] = []
    for index, entry in enumerate(value):
        table = _Table(entry, f"artifacts[{index}]", problems)
        if not table.has("path"):
            table.problem("path", "nothing", 'a path or glob, e.g. path = "models/final/*.gguf"')
        path = table.take("path", values.relative, None)
        artifact = model.Artifact(
            path=path or "",
            min_size=table.take("min_size", parse_size, 0),
            required=table.take("required", values.boolean, True),
            count=table.take("count", values.whole(1, 10**6), None),
        )
        table.finish()
        if path is not None:
            found.append(artifact)
    return tuple(found), False


def _mirror(table: _Table | None) -> model.Mirror:
    if table is None:
        return model.Mirror()
    mirror = model.Mirror(
        remotes=table.take("remotes", values.remotes, ()),
        require=table.take("require", values.strings, ("vault",)),
        bandwidth=table.take("bandwidth", values.rate, None),
        read_back=table.take("read_back", values.boolean, True),
    )
    table.finish()
    for name in mirror.require:
        if name != "vault" and name not in mirror.remotes:
            table.problem("require", name, '"vault" or one of the remotes')
    return mirror


def _idle(table: _Table | None) -> model.Idle:
    if table is None:
        return model.Idle()
    timed = table.has("after")
    idle = model.Idle(
        after=table.take("after", values.window, None),
        action=table.take("action", values.one_of(*ACTIONS), "collect-and-destroy"),
        destroy_after=table.take("destroy_after", parse_duration, None),
        ssh_quiet=table.take("ssh_quiet", values.window, 3600.0),
    )
    if idle.destroy_after is not None and not timed:
        table.problem("destroy_after", "a second timer", 'also the first one, e.g. after = "15m"')
    if idle.destroy_after is not None and idle.action == "notify":
        table.problem(
            "destroy_after",
            "a second timer",
            'action = "stop" or "collect-and-destroy" with it; "notify" never acts',
        )
    table.finish()
    return idle


def _deadman(table: _Table | None) -> model.Deadman:
    if table is None:
        return model.Deadman()
    if not table.has("after"):
        table.problem("after", "nothing", 'how long to wait for gpuwatch, e.g. after = "1h"')
    deadman = model.Deadman(after=table.take("after", values.window, None))
    table.finish()
    return deadman


def _budget(table: _Table | None) -> model.Budget:
    if table is None:
        return model.Budget()
    hours = table.take("max_hours", values.positive, None)
    budget = model.Budget(
        max_cost=table.take("max_cost", parse_price, None), max_time=None if hours is None else hours * 3600
    )
    table.finish()
    return budget


def _recover(table: _Table | None) -> model.Recover:
    if table is None:
        return model.Recover()
    recover = model.Recover(
        attempts=table.take("attempts", values.whole(1, 100), 3),
        on_loss=table.take("on_loss", values.one_of(*ON_LOSS), "resume"),
        wait=table.take("wait", parse_duration, 6 * 3600.0),
        patience=table.take("patience", values.window, 900.0),
    )
    table.finish()
    return recover


def _boot(table: _Table | None) -> model.Boot:
    if table is None:
        return model.Boot()
    boot = model.Boot(timeout=table.take("timeout", parse_duration, 1200.0))
    table.finish()
    return boot
