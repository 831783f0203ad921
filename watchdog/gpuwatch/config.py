"""The user's settings: `config.toml`, every key optional, unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from gpuwatch.clean import clean
from gpuwatch.spec.units import parse_duration


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


class Providers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers]`."""

    vast: VastSettings = VastSettings()


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watch]`: how often to look, as durations ("10s")."""

    accounts: str = "15s"
    booting: str = "3s"
    telemetry: str = "2s"
    lost_create: str = "3m"
    """How long a label is looked for after a create without answer before its absence counts."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    vault: str | None = None
    watch: Watch = Watch()
    providers: Providers = Providers()

    @property
    def account_interval(self) -> float:
        """Seconds between two listings of an account."""
        return parse_duration(self.watch.accounts)

    @property
    def boot_interval(self) -> float:
        """Seconds between two looks at a machine that boots."""
        return parse_duration(self.watch.booting)

    @property
    def telemetry_interval(self) -> float:
        """Seconds between two reports of a box."""
        return parse_duration(self.watch.telemetry)


def load(path: Path) -> Config:
    """The settings at `path`, the defaults when there is no file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
        for value in (*msgspec.structs.astuple(config.watch), config.providers.vast.timeout):
            parse_duration(value)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {clean(str(error))}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: an interval must be {error}") from error
    return config
