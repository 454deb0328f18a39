"""Count what the student and each teacher take to restore one image, side by side."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from distillkit import DistillkitError, ModelInput, PreparedStage
from distillkit_bench.train import make_flop_counter


@dataclass(frozen=True)
class ModelCost:
    """A model of a recipe."""

    parameters: int
    """Those that restoring needs: without an adapter, which is merged then."""
    bytes: int
    """Size of its parameters and buffers; what it shares with another model counts for both."""
    flops: int | None
    """To restore one image to the size of a training crop.

    Counted by shapes alone. None where the model restores nothing, or computes in a way that needs
    values.
    """


def count_models(prepared: PreparedStage, crop_size: int) -> dict[str, ModelCost]:
    """Count the student and the teachers of a stage.

    Args:
        prepared: The stage.
        crop_size: Side of the restored image in pixels.

    Returns:
        By name; teachers that are no modules are left out.
    """
    models = prepared.models
    trained = {id(tensor) for tensor in prepared.stage.module.tensors().values()}
    adapter = prepared.stage.adapter
    # At scale 0 the network is as it was without the adapter: no layer of it is counted.
    plain = nullcontext() if adapter is None else adapter.merged_at(0.0)
    costs = {}
    with plain:
        for name, model in {"student": models.student, **models.teachers}.items():
            if isinstance(model, nn.Module):
                costs[name] = _count_model(model, crop_size, trained)
    return costs


def _count_model(model: Any, crop_size: int, trained: set[int]) -> ModelCost:
    parameters = [p for p in model.parameters() if id(p) not in trained]
    tensors = [*parameters, *model.buffers()]
    return ModelCost(
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(tensor.nbytes for tensor in tensors),
        flops=_count_flops(model, crop_size),
    )


@torch.no_grad()
def _count_flops(model: Any, crop_size: int) -> int | None:
    side = crop_size // model.scale
    # Tensors in this mode have shapes, and no values are computed.
    with FakeTensorMode(allow_non_fake_inputs=True), make_flop_counter() as counter:
        lq = torch.empty(1, 3, side, side, device=_device_of(model))
        try:
            model.restore(ModelInput(lq), torch.Generator().manual_seed(0))
        except (DistillkitError, RuntimeError):
            return None
    return counter.get_total_flops()


def _device_of(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")
