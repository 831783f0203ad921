"""From a configuration to a model that can be trained on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gputrain import fp8
from gputrain.config import Config
from gputrain.errors import ConfigError
from gputrain.model import GPT
from gputrain.optim import build_optimisers, drop_gradients, initialise_state, named_state
from gputrain.slices import Slice, slices_of
from gputrain.world import World


@dataclass(frozen=True)
class Built:
    """A model, what runs it, and its optimisers."""

    model: nn.Module
    runner: nn.Module
    """Call this in training: the model itself, or what computes its loss, or DDP around either."""
    optimisers: list[torch.optim.Optimizer]
    parameters: dict[str, Tensor]
    state: dict[str, Tensor]
    """The optimisers' tensors by name."""
    dtype: torch.dtype
    compiled: bool
    sharded: bool
    kind: str = "model"
    """Name of the file of parameters in a checkpoint."""

    def tensors(self) -> dict[str, dict[str, Slice]]:
        """What a checkpoint holds: tensors by kind (model or adapter, optim) and name."""
        return {self.kind: slices_of(self.parameters), "optim": slices_of(self.state)}


def choose_dtype(config: Config, device: torch.device) -> torch.dtype:
    """The dtype of activations: bfloat16 where the hardware multiplies it natively."""
    if config.system.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.system.dtype]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return torch.bfloat16 if native else torch.float32


def wants_compile(config: Config, device: torch.device) -> bool:
    """Whether to use torch.compile."""
    return config.system.compile == "on" or (config.system.compile == "auto" and device.type == "cuda")


def build(config: Config, world: World, *, initialise: bool = True) -> Built:
    """Model and optimisers on the device of this process.

    Initialised from the seed, unless a checkpoint will overwrite every parameter anyway.

    Raises ConfigError for combinations that do not work.
    """
    sharded = world.size > 1 and config.system.parallel == "fsdp"
    if sharded and config.optim.name == "muon":
        raise ConfigError(
            "optim.name = muon needs whole matrices, which system.parallel = fsdp cuts. "
            "Use ddp, or optim.name = adamw."
        )
    dtype = choose_dtype(config, world.device)
    with torch.device("meta"):
        model = GPT(config.model, dtype, recompute=config.system.recompute)
    model.to_empty(device="cpu")
    model.initialise(config.train.seed if initialise else None)
    model = model.to(world.device)
    if config.system.fp8:
        fp8.convert(model, world.device, config.train.batch_size * config.model.context)
    compiled = wants_compile(config, world.device)
    if sharded:
        _shard(model, dtype, world, compiled=compiled)
    elif compiled:
        model.compile(dynamic=False)
    optimisers = build_optimisers(model, config.optim)
    initialise_state(optimisers)
    runner: nn.Module = model
    if world.size > 1 and not sharded:
        devices = [world.device.index] if world.device.type == "cuda" else None
        runner = nn.parallel.DistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        shape = (config.train.batch_size, config.model.context)
        tokens = torch.zeros(shape, dtype=torch.int64, device=world.device)
        settle_buckets(runner, optimisers, (tokens, tokens))
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    state = named_state(model, optimisers)
    return Built(model, runner, optimisers, parameters, state, dtype, compiled, sharded)


def _shard(model: GPT, dtype: torch.dtype, world: World, *, compiled: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    # Weights travel in the dtype of activations, gradients are summed in float32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in model.blocks:
        if compiled:
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def settle_buckets(
    runner: nn.Module, optimisers: list[torch.optim.Optimizer], batch: tuple[Tensor, ...]
) -> None:
    """Let DDP lay out its buckets before the first step.

    It does so anew after its first backward pass, which changes the order of sums among three and
    more processes: without this, a resumed run would round differently in its first step.
    """
    for _ in range(2):
        runner(*batch).backward()
        drop_gradients(optimisers)
