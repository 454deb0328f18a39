"""Giving a restored image the colors of its input, which generative restorers shift. Images are (B, C, H, W) in [0, 1].

Neither result is clamped. Both formulas are those of StableSR (Wang et al. 2024), which OSEDiff uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

ColorFix = Literal["adain", "wavelet"]


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """``image`` with the mean and standard deviation, channel by channel, of ``reference`` (adaptive instance normalization).

    Standard deviations are ``sqrt(unbiased variance + 1e-5)``. The two images may differ in size.
    """
    mean, std = _statistics(image)
    wanted_mean, wanted_std = _statistics(reference)
    return (image - mean) / std * wanted_std + wanted_mean


def wavelet(image: Tensor, reference: Tensor, levels: int = 5) -> Tensor:
    """The fine detail of ``image`` on the coarse colors of ``reference``, both of one size.

    "A trous" wavelet split: level i blurs with [1, 2, 1] x [1, 2, 1] / 16 at dilation 2^i, edges repeated; what all ``levels``
    blurs leave is the coarse part, the rest is detail.
    """
    return image - _coarse(image, levels) + _coarse(reference, levels)


FIXES: dict[ColorFix, Callable[[Tensor, Tensor], Tensor]] = {"adain": adain, "wavelet": wavelet}


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.mean((2, 3), keepdim=True), (image.var((2, 3), keepdim=True) + 1e-5).sqrt()


def _coarse(image: Tensor, levels: int) -> Tensor:
    channels = image.shape[1]
    row = image.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    for dilation in (2**i for i in range(levels)):
        image = F.conv2d(
            F.pad(image, [dilation] * 4, mode="replicate"),
            kernel,
            dilation=dilation,
            groups=channels,
        )
    return image
