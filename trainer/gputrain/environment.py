"""Settings from environment variables under the names of the launch scripts people already have.

Weaker than the command line, stronger than files and profiles. A variable that is empty is not set.
"""

from __future__ import annotations

from collections.abc import Mapping

from gputrain.config import Layer
from gputrain.errors import ConfigError

SETTINGS: Mapping[str, str] = {
    "INIT_CKPT": "train.init",
    "LOG_DIR": "watch.log_dir",
    "RUN_NAME": "watch.name",
    "TEE": "watch.tee",
    "DATA_GLOB": "data.path",
    "TOKENS_PER_STEP": "train.tokens_per_step",
    "BATCH_SIZE": "train.batch_size",
    "MAX_SEQ_LEN": "model.context",
    "MAX_STEPS": "train.steps",
    "MAX_TOKENS": "train.tokens",
    "NUM_EPOCHS": "train.epochs",
    "SEED": "train.seed",
    "LEARNING_RATE": "optim.lr",
    "WEIGHT_DECAY": "optim.weight_decay",
    "GRAD_CLIP": "optim.grad_clip",
    "GRADIENT_CHECKPOINTING": "system.recompute",
    "CKPT_EVERY_SECONDS": "checkpoint.every_seconds",
    "CKPT_EVERY_STEPS": "checkpoint.every_steps",
    "CKPT_MILESTONE_EVERY_SECONDS": "checkpoint.milestone_seconds",
    "CKPT_KEEP_LAST": "checkpoint.keep_last",
    "CKPT_KEEP_MILESTONES": "checkpoint.keep_milestones",
    "MHC_N": "model.mhc_streams",
    "MHC_SINKHORN_ITERS": "model.mhc_iterations",
    "WANDB_PROJECT": "watch.wandb_project",
    "WANDB_ENTITY": "watch.wandb_entity",
}
"""Variables that are a setting by another name."""

FIXED = ("EXPERIMENTAL_MHC", "MHC_MODE", "MHC_SINKHORN")

PREFIX = "GPUTRAIN_"
"""``GPUTRAIN_OPTIM__LR=1e-3`` sets ``optim.lr``: every setting has such a name."""

WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    """One layer per variable that is set, so that each value shows its origin.

    Raises ConfigError for a flag that is neither on nor off.
    """
    layers = []
    for name, value in environment.items():
        if not value.strip():
            continue
        if name in SETTINGS:
            layers.append(Layer(f"${name}", {SETTINGS[name]: value}))
        elif name in FIXED:
            layers += _fixed(name, value)
        elif name == "USE_COMPILE":
            layers.append(Layer("$USE_COMPILE", {"system.compile": "on" if _flag(name, value) else "off"}))
        elif name == "WANDB_MODE" and value in ("online", "offline", "disabled"):
            layers.append(Layer("$WANDB_MODE", {"watch.wandb": "off" if value == "disabled" else value}))
        elif name.startswith(PREFIX) and "__" in name:
            key = name.removeprefix(PREFIX).lower().replace("__", ".", 1)
            layers.append(Layer(f"${name}", {key: value}))
    return layers


def _fixed(name: str, value: str) -> list[Layer]:
    """Note 1's switches of hyper-connections, of which only the values of the paper are offered."""
    if name == "EXPERIMENTAL_MHC":
        return [Layer("$EXPERIMENTAL_MHC", {"model.residual": "mhc" if _flag(name, value) else "plain"})]
    if name == "MHC_MODE" and value != "mhc":
        raise ConfigError(
            f"$MHC_MODE can only be mhc, not {value!r}. For plain residuals unset EXPERIMENTAL_MHC."
        )
    if name == "MHC_SINKHORN" and not _flag(name, value):
        raise ConfigError(
            "$MHC_SINKHORN=0 would leave the mixing matrix unconstrained, which is what mHC exists to prevent. "
            "Unset it; $MHC_SINKHORN_ITERS sets the rounds."
        )
    return []


def _flag(name: str, value: str) -> bool:
    try:
        return WORDS[value.strip().lower()]
    except KeyError:
        raise ConfigError(f"${name} must be 1 or 0, not {value!r}.") from None


def run_directory(environment: Mapping[str, str]) -> str:
    """Where the run lives when --out is not given: CKPT_DIR, else nothing."""
    return environment.get("CKPT_DIR", "").strip()
