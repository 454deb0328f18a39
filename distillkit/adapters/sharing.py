"""One base, many roles: frozen models made of the same weights keep them in memory once.

A teacher that is what the student started from, a shared autoencoder or text encoder: whatever is equal bit for bit is stored once.
Each model keeps modules of its own, so that nothing has to be switched between their passes: no adapter is ever on a teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def share_storage(module: nn.Module, *owners: nn.Module) -> int:
    """Let every frozen tensor of ``module`` that equals one of ``owners`` bit for bit lie in the same memory.

    Trainable tensors, and those of other devices or types, stay apart. Of weights that are sharded over several processes, this
    process's parts are compared. Afterwards neither model's weights may be written in place;
    replacing them, as :meth:`distillkit.adapters.adapters.Adapter.merge` does, leaves the other model as it is.

    Returns:
        bytes that are no longer stored twice.
    """
    known: dict[object, list[Tensor]] = defaultdict(list)
    for owner in owners:
        for part in map(own_part, _frozen(owner)):
            known[_fingerprint(part)].append(part)
    saved = 0
    for tensor in _frozen(module):
        part = own_part(tensor)
        twin = next((t for t in known.get(_fingerprint(part), ()) if torch.equal(t, part)), None)
        if twin is not None and twin.data_ptr() != part.data_ptr():
            if isinstance(tensor, DTensor):
                tensor._local_tensor = twin.data  # what FSDP looks at when weights were replaced
            else:
                tensor.data = twin.data
            saved += part.nbytes
    return saved


def is_sharded(module: nn.Module) -> bool:
    """Whether this process keeps only parts of some of the weights."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def laid_out_like(tensor: Tensor, whole: Tensor) -> Tensor:
    """``whole``, known to every process, sharded as ``tensor`` is; itself where that is not sharded."""
    if not isinstance(tensor, DTensor):
        return whole
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)


def own_part(tensor: Tensor) -> Tensor:
    """What this process keeps of a tensor; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _frozen(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.requires_grad and tensor.numel():
            yield tensor


def _fingerprint(tensor: Tensor) -> object:
    """Equal for equal tensors, and nearly always different for others."""
    return tensor.shape, tensor.dtype, tensor.device, tuple(tensor.flatten()[:8].tolist())
