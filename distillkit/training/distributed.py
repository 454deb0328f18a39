"""The processes of a run: that there are as many as were asked for, and what they say when one of them fails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list

from distillkit.errors import DistillkitError, PluginError
from distillkit.recipe.schema import Training

SIZES = (
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
"""Where launchers say how many processes they start."""

INSTEAD = "torchrun --nproc_per_node N -m distillkit run RECIPE"

WRAPPERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed takes over a whole model and its optimizer; it cannot train adapters on a frozen base",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM trains its own language models only",
    "ACCELERATE_USE_FSDP": "Accelerate's FSDP would wrap the student together with everything that a step is made of; "
    'training.sharding = "full" shards its frozen weights',
}
"""What Accelerate can be configured to do, and why it is not done here."""

Value = TypeVar("Value")


def start(options: Training, out: Path) -> Accelerator:
    """Join the run's other processes, if it was started as one of several.

    Raises:
        DistillkitError: more processes were asked for than there are, or Accelerate is configured to wrap models in a way that
            cannot train adapters.
    """
    for name, reason in WRAPPERS.items():
        if os.environ.get(name, "").lower() in ("true", "1"):
            raise DistillkitError(
                f"{name}={os.environ[name]} - {reason}; start the processes with: {INSTEAD}"
            )
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else Accelerate does not join processes without a GPU
        mixed_precision=options.mixed_precision,
        log_with=list(options.log_with) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )
    _check_size(accelerator.num_processes)
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", options.mixed_precision):
        warnings.warn(
            f"accelerate's mixed_precision {asked} is not used: training.mixed_precision is {options.mixed_precision}",
            stacklevel=2,
        )
    return accelerator


def _check_size(found: int) -> None:
    for name in SIZES:
        if int(os.environ.get(name) or 1) > found:
            raise DistillkitError(
                f"{name}={os.environ[name]} asks for {os.environ[name]} processes, but this is one of {found}: each would make the "
                f"whole run by itself; start them with: {INSTEAD} (or unset {name})"
            )
    if (
        found == 1
        and "WORLD_SIZE" not in os.environ
        and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    ):
        raise DistillkitError(
            "accelerate launch was asked for several processes but started one: it does so without GPUs, whatever --num_processes "
            f"says; start them with: {INSTEAD}, or accelerate launch --multi_gpu --num_processes N -m distillkit run RECIPE (which "
            "needs no GPU). If one process is what you want, say --num_processes 1 and unset MASTER_ADDR"
        )


def agreed(value: Value) -> Value:
    """The main process's ``value``, in every process. All of them call it."""
    box = [value]
    broadcast_object_list(box)
    return box[0]


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """End the processes' work together when the block is left. If inside it another process goes away, say that instead of how
    the network noticed.

    Raises:
        DistillkitError: in place of what the communication library raised. PluginError: a model that cannot be sharded, in place of
            what torch said when it met a part of a weight instead of the whole.
    """
    try:
        yield
        accelerator.end_training()
    except BaseException as e:
        for tracker in accelerator.trackers:
            with suppress(OSError):  # on a full disk
                tracker.finish()  # no more: to take leave of a process that is gone can take forever
        if accelerator.num_processes > 1 and (
            isinstance(e, torch.distributed.DistError) or "gloo" in str(e)
        ):
            raise DistillkitError(
                "another process of this run has ended; its own message says why"
            ) from e
        if "torch.Tensor and DTensor" in str(e):
            raise PluginError(
                "a model uses the weights of one of its blocks elsewhere than in that block's forward, where they are not "
                'gathered: it cannot be sharded; set training.sharding = "none"'
            ) from e
        raise
