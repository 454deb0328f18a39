"""Store equal weights of several frozen models once, also where FSDP shards them.

A teacher that the student started from, a shared autoencoder or text encoder: whatever is equal
bit for bit is stored once. Each model keeps modules of its own, so that nothing has to be switched
between their passes: no adapter is ever on a teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def share_storage(module: nn.Module, *owners: nn.Module) -> int:
    """Store the frozen tensors of ``module`` that equal one of ``owners`` bit for bit only once.

    Trainable tensors, and those of other devices or types, stay apart. Of sharded weights, this
    process's shards are compared. Afterwards no model's weights may be written in place; replacing
    them, as :meth:`distillkit.adapters.Adapter.merge` does, leaves the other models as they are.

    Returns:
        Bytes that are no longer stored twice.
    """
    # By fingerprint, so that only tensors that are nearly always equal are compared in full.
    owned: dict[object, list[Tensor]] = defaultdict(list)
    for owner in owners:
        for tensor in _frozen_tensors(owner):
            shard = local_shard(tensor)
            owned[_fingerprint(shard)].append(shard)
    saved = 0
    for tensor in _frozen_tensors(module):
        shard = local_shard(tensor)
        equal = _find_equal(shard, owned[_fingerprint(shard)])
        if equal is None or equal.data_ptr() == shard.data_ptr():
            continue
        if _is_shard(tensor):
            # what FSDP looks at when weights were replaced
            tensor._local_tensor = equal.data  # type: ignore[attr-defined]
        else:
            tensor.data = equal.data
        saved += shard.nbytes
    return saved


def is_sharded(module: nn.Module) -> bool:
    """Whether this process keeps only shards of some of the weights."""
    return any(_is_shard(p) for p in module.parameters())


def shard_like(tensor: Any, full: Tensor) -> Tensor:
    """Shard ``full``, which every process has, like ``tensor``; unsharded if ``tensor`` is."""
    if not _is_shard(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None)


def local_shard(tensor: Any) -> Tensor:
    """Return what this process keeps of a tensor; all of one that is not sharded."""
    if _is_shard(tensor):
        return tensor.to_local()
    return tensor


def _is_shard(tensor: Any) -> bool:
    """Whether a tensor is a ``DTensor``, whose module takes most of a second to import."""
    return hasattr(tensor, "to_local")


def _frozen_tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.requires_grad and tensor.numel():
            yield tensor


def _find_equal(tensor: Tensor, candidates: list[Tensor]) -> Tensor | None:
    for candidate in candidates:
        if torch.equal(candidate, tensor):
            return candidate
    return None


def _fingerprint(tensor: Tensor) -> object:
    """Return something equal for equal tensors, and nearly always different for others."""
    beginning = tuple(tensor.flatten()[:8].tolist())
    return tensor.shape, tensor.dtype, tensor.device, beginning
