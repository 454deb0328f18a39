"""The processes of a run: start Accelerate, broadcast values, explain errors of other processes."""

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
from distillkit.recipe.schema import TrainingConfig

SIZE_VARIABLES = (
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
"""Environment variables in which launchers say how many processes they start."""

LAUNCH = "torchrun --nproc_per_node N -m distillkit run RECIPE"

UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed takes over a whole model and its optimizer; it cannot "
    "train adapters on a frozen base",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM trains its own language models only",
    "ACCELERATE_USE_FSDP": "Accelerate's FSDP would wrap the student together with everything "
    'else in a step; training.sharding = "full" shards its frozen weights',
}
"""Settings of Accelerate that are refused, and why."""

Value = TypeVar("Value")


def create_accelerator(options: TrainingConfig, out: Path) -> Accelerator:
    """Join the run's other processes, if it was started as one of several.

    Args:
        options: The recipe's ``[training]`` table.
        out: The run's folder, for trackers.

    Raises:
        DistillkitError: The launcher announces more processes than have joined, or Accelerate is
            configured to wrap models in a way that cannot train adapters.
    """
    for name, reason in UNSUPPORTED.items():
        if os.environ.get(name, "").lower() in ("true", "1"):
            raise DistillkitError(
                f"{name}={os.environ[name]} - {reason}; start the processes with: {LAUNCH}"
            )
    accelerator = Accelerator(
        # or else Accelerate joins no processes on a machine without GPUs
        cpu=not torch.accelerator.is_available(),
        # The training loop sets the precision: Accelerate has one for all runs of a process.
        mixed_precision="no",
        log_with=list(options.log_with) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )
    _check_sizes(accelerator.num_processes)
    requested = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested not in ("no", options.mixed_precision):
        warnings.warn(
            f"accelerate's mixed_precision {requested} is not used: "
            f"training.mixed_precision is {options.mixed_precision}",
            stacklevel=2,
        )
    return accelerator


def _check_sizes(size: int) -> None:
    """Check that ``size`` is the number of processes that the launcher announces."""
    for name in SIZE_VARIABLES:
        expected = os.environ.get(name) or "1"
        if int(expected) > size:
            raise DistillkitError(
                f"{name}={expected} asks for {expected} processes, but this is one of {size}: "
                "each would make the whole run by itself; start them with: "
                f"{LAUNCH} (or unset {name})"
            )
    # what accelerate launch sets when it was asked for several processes
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if size == 1 and launched and "WORLD_SIZE" not in os.environ:
        raise DistillkitError(
            "accelerate launch was asked for several processes but started one: it does so "
            f"without GPUs, whatever --num_processes says; start them with: {LAUNCH}, or "
            "accelerate launch --multi_gpu --num_processes N -m distillkit run RECIPE (which "
            "needs no GPU). If one process is what you want, say --num_processes 1 and unset "
            "MASTER_ADDR"
        )


def broadcast(value: Value) -> Value:
    """Return the main process's ``value`` in every process; all of them must call it."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


@contextmanager
def distributed_errors(accelerator: Accelerator) -> Iterator[None]:
    """End the processes' training together, and explain errors that come from another process.

    Raises:
        DistillkitError: Another process has ended, in place of what the communication library
            raised when it noticed.
        PluginError: A model cannot be sharded, in place of what torch raised when it met a shard
            instead of a full weight.
    """
    try:
        yield
        accelerator.end_training()
    except BaseException as e:
        # Not end_training, which waits for the others: for one that is gone it may wait forever.
        for tracker in accelerator.trackers:
            with suppress(OSError):  # on a full disk
                tracker.finish()
        lost = isinstance(e, torch.distributed.DistError) or "gloo" in str(e)
        if lost and accelerator.num_processes > 1:
            raise DistillkitError(
                "another process of this run has ended; its own message says why"
            ) from e
        if "torch.Tensor and DTensor" in str(e):
            raise PluginError(
                "a model uses the weights of one of its blocks elsewhere than in that block's "
                "forward, where they are not gathered: it cannot be sharded; "
                'set training.sharding = "none"'
            ) from e
        raise
