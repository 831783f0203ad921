"""Optional watchers of a run: TensorBoard and Weights & Biases. A watcher that fails is dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gputrain.config import Config
from gputrain.errors import ConfigError

UNPLOTTED = ("step", "time")


class Watcher(Protocol):
    """Something that draws curves."""

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, by names such as ``train/loss``."""

    def close(self) -> None:
        """Flush and end."""


class TensorBoard:
    """Event files in ``RUN/tensorboard``; after a resume, later points of the old process are hidden."""

    def __init__(self, path: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("watch.tensorboard needs the package: pip install tensorboard.") from None
        self._writer = SummaryWriter(str(path), purge_step=step + 1)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run with the id of ours, so that every process continues the same one."""

    def __init__(self, config: Config, path: Path, run_id: str, name: str) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("watch.wandb needs the package: pip install wandb.") from None
        # Which project, entity and key: settings here, else wandb's own variables.
        self._run = wandb.init(
            project=config.watch.wandb_project or None,
            entity=config.watch.wandb_entity or None,
            dir=str(path),
            id=run_id,
            name=name,
            resume="allow",
            mode="offline" if config.watch.wandb == "offline" else "online",
            config=config.flat(),
            settings=wandb.Settings(console="off", silent=True),
        )
        # Steps are repeated after a restart; wandb's own counter would refuse them.
        self._run.define_metric("*", step_metric="step")

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


def open_watchers(
    config: Config, path: Path, run_id: str, name: str, step: int, complain: Callable[[str, str], None]
) -> list[Watcher]:
    """The watchers that the configuration asks for.

    Raises ConfigError when a package is missing; a service that cannot be reached is reported to
    `complain(watcher, error)` and left out.
    """
    watchers: list[Watcher] = []
    if config.watch.tensorboard:
        watchers.append(TensorBoard(path / "tensorboard", step))
    if config.watch.wandb != "off":
        try:
            watchers.append(WandB(config, path, run_id, name))
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - a service that fails in any way must not stop training
            complain("wandb", str(error))
    return watchers


def curves(prefix: str, record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics record under names with a prefix."""
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k not in UNPLOTTED}
    return {f"{prefix}/{key}": float(value) for key, value in numbers.items()}
