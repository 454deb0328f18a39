"""Randomness keyed by purpose, so that no draw depends on earlier ones."""

from __future__ import annotations

import hashlib
import json

import torch


def keyed_generator(*key: str | int) -> torch.Generator:
    """Make a CPU generator that depends on a key alone.

    For instance ``keyed_generator(seed, "stage1", step, micro_batch, "noise")``. Equal keys give
    equal streams in every process and session, different keys unrelated ones (of the 2^32 that
    torch has): a resumed run draws what an uninterrupted one would have drawn.

    Raises:
        TypeError: An entry of the key is no plain string or integer (a NumPy integer, a tensor).
    """
    # JSON keeps apart what str() would join: 1 and "1", ("a", "b") and ("ab",).
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    return torch.Generator().manual_seed(seed)
