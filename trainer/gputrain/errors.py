"""Exit codes and the errors that carry them."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the process tells whoever started it. Any other code is a crash: retry with backoff."""

    DONE = 0
    DATA = 65
    """The data cannot be used. Retrying does not help."""
    DIVERGED = 70
    """The loss is not a number even after going back. Do not retry blindly."""
    RANK_LOST = 69
    """Another process of the run is gone. Run again to go on."""
    STORAGE = 74
    """The finished result cannot be written. Make room and run the same command again."""
    PREEMPTED = 75
    """Asked to stop; everything is saved. Run the same command again to go on."""
    CONFIG = 78
    """The configuration or the command line is wrong. Retrying does not help."""


class TrainerError(Exception):
    """An expected failure: its text says what happened, why, and what to do next."""

    exit_code = ExitCode.CONFIG


class ConfigError(TrainerError):
    """A setting, a command line or the state of the run directory does not allow to train."""


class DataError(TrainerError):
    """The training data is missing, damaged, empty or does not fit the model."""

    exit_code = ExitCode.DATA


class CheckpointError(TrainerError):
    """A checkpoint that was asked for by name is absent, damaged or of another run."""


class DivergedError(TrainerError):
    """The loss stayed non-finite after all rollbacks."""

    exit_code = ExitCode.DIVERGED


class StorageError(TrainerError):
    """The disk does not take the final checkpoint."""

    exit_code = ExitCode.STORAGE
