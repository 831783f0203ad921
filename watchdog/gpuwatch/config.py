"""The user's settings: `config.toml`, every key optional, unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from gpuwatch.clean import clean
from gpuwatch.paths import Paths
from gpuwatch.spec.units import parse_duration, parse_price, parse_size

_SCRUB_LEAST = 10**6
_RATE_LEAST = 10**4
_LOG_LEAST = 10**5


class ConfigError(Exception):
    """The settings file cannot be used; the message names file and key."""


class VastSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.vast]`. `url` points at another server (the simulator); `paced` keeps Vast's rate limits.

    `timeout` is the time limit of one HTTP attempt.
    """

    enabled: bool = True
    url: str | None = None
    paced: bool = True
    timeout: str = "20s"


class OwnHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.ssh.host.NAME]`."""

    address: str
    port: int = 22
    user: str | None = None
    key: str | None = None
    jump: str | None = None
    known_hosts: str | None = None


class RunpodSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.runpod]`, as for Vast. Without `enabled` it is watched when there is a key for it.

    `spot` is experimental: spot pods through RunPod's GraphQL, which is to be retired.
    """

    enabled: bool | None = None
    url: str | None = None
    paced: bool = True
    timeout: str = "30s"
    spot: bool = False


class SshSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.ssh]`: own machines. `hosts` are names of `config`, by default `~/.ssh/config`.

    `host` describes machines right here: `[providers.ssh.host.NAME]` with `address` and, if need be, `port`,
    `user`, `key` (a file) and `jump` (another host's name).
    """

    hosts: list[str] = []
    config: str | None = None
    host: dict[str, OwnHost] = {}
    timeout: str = "20s"


class Providers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers]`."""

    vast: VastSettings = VastSettings()
    runpod: RunpodSettings = RunpodSettings()
    ssh: SshSettings = SshSettings()


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watch]`: how often to look, as durations ("10s")."""

    accounts: str = "15s"
    booting: str = "3s"
    telemetry: str = "2s"
    lost_create: str = "3m"
    """How long a label is looked for after a create without answer before its absence counts."""
    reconcile: str = "10m"
    """How often an account is compared with the ledger while no run needs it; while one does, at each listing."""


class Scrub(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[scrub]`: old files of the vault are read again, so that bit rot is found while other copies exist.

    `every` is how old a file's last proof may become, `per_day` how many bytes are read in 24 hours.
    """

    enabled: bool = True
    every: str = "30d"
    per_day: str = "50GB"


class Ceilings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[budget]`: ceilings over all runs. `per_day` in US dollars, from midnight to midnight UTC."""

    per_day: float | None = None


class Notify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[notify]`. `urls` are apprise's; those with tokens belong into GPUWATCH_NOTIFY_URLS, not into a file.

    `heartbeat` is a URL that is asked every so often: its silence is an alarm elsewhere.
    """

    urls: tuple[str, ...] = ()
    heartbeat: str | None = None
    every: str = "5m"


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[transfer]`: `rate` caps all files that come and go, of all runs together, in bytes per second ("20MB")."""

    rate: str | None = None


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: `port` serves Prometheus text on 127.0.0.1, at /metrics."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: the daemon's own log, where it writes a file: how large one may become, and how many older ones stay."""

    size: str = "10MB"
    keep: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    vault: str | None = None
    watch: Watch = Watch()
    providers: Providers = Providers()
    scrub: Scrub = Scrub()
    budget: Ceilings = Ceilings()
    notify: Notify = Notify()
    transfer: Transfer = Transfer()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @property
    def log_bytes(self) -> int:
        """Bytes that one file of the daemon's own log may have."""
        return parse_size(self.log.size)

    @property
    def transfer_rate(self) -> int | None:
        """Bytes per second that all transfers together may take, None when there is no cap."""
        return None if self.transfer.rate is None else parse_size(self.transfer.rate)

    @property
    def day_ceiling(self) -> int | None:
        """Micro-dollars that all runs together may cost from midnight to midnight UTC."""
        return None if self.budget.per_day is None else parse_price(self.budget.per_day)

    @property
    def account_interval(self) -> float:
        """Seconds between two listings of an account."""
        return parse_duration(self.watch.accounts)

    @property
    def reconcile_interval(self) -> float:
        """Seconds between two listings of an account that no run needs."""
        return parse_duration(self.watch.reconcile)

    @property
    def boot_interval(self) -> float:
        """Seconds between two looks at a machine that boots."""
        return parse_duration(self.watch.booting)

    @property
    def telemetry_interval(self) -> float:
        """Seconds between two reports of a box."""
        return parse_duration(self.watch.telemetry)

    @property
    def scrub_age(self) -> float:
        """Seconds after which a proved file of the vault is read again."""
        return parse_duration(self.scrub.every)

    @property
    def scrub_bytes(self) -> int:
        """Bytes of the vault that are read again in 24 hours."""
        return parse_size(self.scrub.per_day)


def load(path: Path) -> Config:
    """The settings at `path`, the defaults when there is no file. Raises ConfigError."""
    try:
        data = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, endless numbers
        raise ConfigError(f"{path} is no valid TOML: {clean(str(error))}") from error
    try:
        config = msgspec.convert(data, Config)
        for value in (
            *msgspec.structs.astuple(config.watch),
            config.providers.vast.timeout,
            config.providers.runpod.timeout,
            config.providers.ssh.timeout,
            config.scrub.every,
            config.notify.every,
        ):
            parse_duration(value)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: an interval must be {error}") from error
    if config.notify.heartbeat is not None and not config.notify.heartbeat.startswith(
        ("https://", "http://")
    ):
        raise ConfigError(f"{path}: notify.heartbeat must be a URL that begins with https:// or http://")
    try:
        _ = config.day_ceiling
    except ValueError as error:
        raise ConfigError(f"{path}: budget.per_day must be {error}") from error
    try:
        if config.transfer_rate is not None and config.transfer_rate < _RATE_LEAST:
            raise ConfigError(
                f"{path}: transfer.rate must be at least 10 kB (per second); leave it out for no cap"
            )
    except ValueError as error:
        raise ConfigError(f"{path}: transfer.rate must be {error}") from error
    try:
        if config.scrub_bytes < _SCRUB_LEAST:
            raise ConfigError(
                f"{path}: scrub.per_day must be at least 1 MB; `enabled = false` ends scrubbing"
            )
    except ValueError as error:
        raise ConfigError(f"{path}: scrub.per_day must be {error}") from error
    try:
        if config.log_bytes < _LOG_LEAST:
            raise ConfigError(f"{path}: log.size must be at least 100 kB")
    except ValueError as error:
        raise ConfigError(f"{path}: log.size must be {error}") from error
    return config


def vault_folder(paths: Paths, config: Config) -> Path:
    """Where the vault is: the settings' choice, else the user's data folder."""
    return Path(config.vault).expanduser().absolute() if config.vault else paths.vault
