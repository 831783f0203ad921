"""The processes that train together, as torchrun starts them; one process is a world of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gputrain.config import Config
from gputrain.errors import ConfigError, ExitCode, TrainerError

T = TypeVar("T")


class RankLostError(TrainerError):
    """Another process of the run is gone or does not answer. Start again to go on."""

    exit_code = ExitCode.RANK_LOST


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def leader(self) -> bool:
        """Whether this process keeps the records and makes the decisions."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes: the one exchange of a step."""
        if self.size == 1:
            return list(values)
        packed = torch.tensor(values, dtype=torch.float64, device=self.device)
        with translate_loss():
            dist.all_reduce(packed)
        return [float(value) for value in packed.tolist()]

    def share(self, compute: Callable[[], T]) -> T:
        """The leader's result on every process; its TrainerError is raised on every process."""
        if self.size == 1:
            return compute()
        answer: list[Any] = [None, None]
        if self.leader:
            try:
                answer[0] = compute()
            except TrainerError as error:
                answer[1] = error
        with translate_loss():
            dist.broadcast_object_list(answer, src=0, device=self.device)
        if answer[1] is not None:
            raise answer[1]
        result: T = answer[0]
        return result

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of the others with the leader's."""
        if self.size > 1:
            with translate_loss(), torch.no_grad():
                for tensor in tensors:
                    # Counters of optimisers live on the CPU, where NCCL cannot reach them.
                    moved = tensor.detach().to(self.device)
                    dist.broadcast(moved, src=0)
                    tensor.copy_(moved)

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            with translate_loss():
                dist.barrier()

    def accumulating(self, runner: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: under DDP only the last of a step exchanges gradients.

        Under FSDP every one does, because whole gradients would not fit.
        """
        if isinstance(runner, nn.parallel.DistributedDataParallel) and not last:
            return runner.no_sync()
        return nullcontext()

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


class translate_loss:  # noqa: N801 - reads as a statement: with translate_loss()
    """Turn the errors of a broken collective into one that says what happened."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Translate."""
        if isinstance(error, RuntimeError) and is_loss(error):
            raise RankLostError(
                "Another process of this run died or stopped answering; all processes exit. "
                "Start again to go on from the newest checkpoint."
            ) from error


def is_loss(error: BaseException) -> bool:
    """Whether an error of torch.distributed means that a peer is gone."""
    words = ("Connection", "connection", "gloo", "NCCL", "timed out", "Timed out", "Broken pipe", "store")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def choose_device(config: Config, local_rank: int) -> torch.device:
    """The device to train on. Raises ConfigError when CUDA is asked for and absent."""
    name = config.system.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("system.device is cuda, but torch sees no CUDA device.")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"Process {local_rank} has no GPU: there are {torch.cuda.device_count()}. Start fewer processes."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def join_world(config: Config) -> World:
    """Join the other processes if torchrun started several, else be alone.

    Raises ConfigError or RankLostError.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else 0
    device = choose_device(config, local_rank)
    if size == 1:
        return World(0, 1, 0, device)
    timeout = timedelta(seconds=config.system.timeout_seconds)
    with translate_loss():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    return World(dist.get_rank(), size, local_rank, device)
