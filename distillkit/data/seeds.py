"""Randomness keyed by what it is for, so that no draw depends on what was drawn before it."""

from __future__ import annotations

import hashlib
import json

import torch


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator that depends on ``key`` alone, e.g. ``keyed_generator(seed, "stage1", step, part, "noise")``.

    Equal keys give equal streams in every process and session, different keys unrelated ones (of the 2^32 that torch has): a
    resumed run draws what an uninterrupted one would have drawn.

    Raises:
        TypeError: a part of the key is no plain string or integer (a NumPy integer, a tensor).
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
