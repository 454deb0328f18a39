"""Frozen weights shared out over the processes of a run (FSDP): each keeps a part, and a block is whole while it is at work.

Only what no stage trains is sharded: adapters, and what is outside the models' blocks, every process keeps whole. So gradients are
averaged as they are without, and checkpoints, the moving average and the optimizer know nothing of it. What is called must be
called in all processes alike, because each of them contributes its part of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from distillkit.adapters.sharing import own_part, share_storage
from distillkit.errors import PluginError
from distillkit.training.blocks import blocks_of


def mesh_of(device: torch.device, processes: int) -> DeviceMesh | None:
    """All processes in a row; None for one alone, which has nobody to share with."""
    return init_device_mesh(device.type, (processes,)) if processes > 1 else None


def shard(models: Sequence[nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Leave each process its part of the frozen weights in the ``models``' blocks, and put all that is left on ``device``.

    The models may be elsewhere before, so that no device ever has to hold a whole one. Parts that are equal are in memory once.

    Raises:
        PluginError: weights of a kind that cannot be sharded.
    """
    roots = [_sharded(model, mesh) for model in models]
    for i, model in enumerate(models):
        model.to(device)
        share_storage(model, *models[:i])
    for root in roots:
        root()


def kept_bytes(models: Iterable[nn.Module]) -> tuple[int, int]:
    """Of all tensors of the models: how many bytes this process keeps, and how many there are. What is shared counts once."""
    kept: dict[int, int] = {}
    whole: dict[int, int] = {}
    with torch.no_grad():
        for tensor in (t for m in models for t in (*m.parameters(), *m.buffers())):
            part = own_part(tensor)
            kept[_address(part)], whole[_address(part)] = (
                part.nbytes,
                tensor.numel() * tensor.itemsize,
            )
    return sum(kept.values()), sum(whole.values())


class _Blocks(nn.Module):
    """The blocks of one model, called once so that they know of each other: they are gathered one after the other."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self) -> None:
        pass


def _sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    blocks = [
        b
        for b in blocks_of([model])
        if type(b).forward is not nn.Module.forward and not isinstance(b, FSDPModule)
    ]
    try:
        for block in blocks:
            whole = {p for p in block.parameters() if p.requires_grad or p.dim() == 0}
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        return fully_shard(_Blocks(blocks), mesh=mesh)  # type: ignore[return-value]
    except (ValueError, NotImplementedError, AssertionError) as e:
        raise PluginError(
            f'{type(model).__name__} cannot be sharded ({e}); set training.sharding = "none"'
        ) from e


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)
