"""Shard the frozen weights of a run over its processes.

With ``training.sharding = "full"`` (FSDP) each process keeps a shard of the frozen weights, and a
block's weights are gathered while it computes. Only what no stage trains is sharded: adapters, and
what is outside the models' blocks, every process keeps in full. So gradients are averaged as
without sharding, and checkpoints, the moving average and the optimizer are the same. Sharded models
must be called in all processes alike, because each contributes its shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from distillkit.adapters.shared_storage import local_shard, share_storage
from distillkit.errors import PluginError
from distillkit.training.blocks import blocks_of


def create_mesh(device: torch.device, processes: int) -> DeviceMesh | None:
    """Create the mesh over which weights are sharded: all processes; None for a single one."""
    if processes == 1:
        return None
    return init_device_mesh(device.type, (processes,))


def shard_models(models: Sequence[nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Shard the frozen weights in the models' blocks, and put the rest on ``device``.

    Equal shards are stored once.

    Args:
        models: They may be on another device before, so that no device has to hold a full one.
        mesh: The processes that share the weights.
        device: This process's device.

    Raises:
        PluginError: Weights of a kind that cannot be sharded.
    """
    roots = [_shard_blocks(model, mesh) for model in models]
    for i, model in enumerate(models):
        model.to(device)
        share_storage(model, *models[:i])
    for root in roots:
        root()


def count_weight_bytes(models: Iterable[nn.Module]) -> tuple[int, int]:
    """Count the bytes of the models' tensors; shared storage counts once.

    Returns:
        The bytes that this process keeps, and those of the full tensors.
    """
    kept: dict[int, int] = {}
    full: dict[int, int] = {}
    with torch.no_grad():
        for model in models:
            for tensor in (*model.parameters(), *model.buffers()):
                own = local_shard(tensor)
                address = own.untyped_storage().data_ptr() or id(own)
                kept[address] = own.nbytes
                full[address] = tensor.numel() * tensor.itemsize
    return sum(kept.values()), sum(full.values())


class _Blocks(nn.Module):
    """The blocks of one model under a common root, so that they are gathered one after another.

    It must be called once before them.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self) -> None:
        pass


def _shard_blocks(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model's blocks and return their root."""
    blocks = [block for block in blocks_of([model]) if _can_be_sharded(block)]
    try:
        for block in blocks:
            # scalars have nothing to shard
            kept = {p for p in block.parameters() if p.requires_grad or p.dim() == 0}
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        return fully_shard(_Blocks(blocks), mesh=mesh)  # type: ignore[return-value]
    except (ValueError, NotImplementedError, AssertionError) as e:
        raise PluginError(
            f'{type(model).__name__} cannot be sharded ({e}); set training.sharding = "none"'
        ) from e


def _can_be_sharded(block: nn.Module) -> bool:
    """Whether a block has a forward to gather weights in, and is not sharded for another model."""
    has_forward = type(block).forward is not nn.Module.forward
    return has_forward and not isinstance(block, FSDPModule)
