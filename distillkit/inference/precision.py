"""Restore in bfloat16, on hardware that computes in it."""

from __future__ import annotations

import torch

from distillkit.errors import DistillkitError


def require_bfloat16(device: torch.device) -> None:
    """Refuse a device that would only imitate bfloat16, which takes longer than float32.

    Raises:
        DistillkitError: The device is one of these.
    """
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # CPUs with AMX have it, too.
        is_native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    if not is_native:
        raise DistillkitError(
            f"precision bf16 - {device} does not compute in bfloat16: it takes a CPU with "
            "AVX512_BF16 or AMX, or an NVIDIA GPU of the Ampere generation or later; leave the "
            "precision at fp32"
        )
