"""A photograph as a camera would have taken it in far too little light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit import jpeg

Range = tuple[float, float]


@dataclass(frozen=True)
class Dark:
    """Under-exposure, color cast, sensor noise and JPEG, each image with draws of its own, uniform in the ranges given.

    For an image x in [0, 1], with the letters of the arguments:

    1. ``s = exposure * cast_c * x ^ gamma``: the tone curve undone (gamma near 2.2 gives linear light, more a harder contrast), a
       short exposure, and gains of the color channels c that no white balance has mended;
    2. ``s + sqrt(shot * s + read ^ 2) n``, clipped to [0, 1]: photons are counted, so their variance grows with the signal, and
       reading the sensor adds the same everywhere (Foi et al. 2008);
    3. 8 bits, JPEG at a quality, 8 bits.

    Args:
        gamma: exponents. exposure: factors, at most 1. cast: factors per channel. shot, read: see above, on the scale [0, 1].
        jpeg: qualities, 1 to 100.
    """

    gamma: Range = (2.0, 3.5)
    exposure: Range = (0.3, 0.9)
    cast: Range = (0.85, 1.15)
    shot: Range = (0.0, 0.002)
    read: Range = (0.001, 0.006)
    jpeg: Range = (75.0, 97.0)
    scale = 1

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Photographs (B, 3, H, W) in [-1, 1] -> dark ones in [-1, 1], rounded to 8 bits. ``generator`` lives on the CPU."""

        def draw(bounds: Range, *shape: int) -> Tensor:
            return (
                bounds[0]
                + (bounds[1] - bounds[0]) * torch.rand(len(gt), *shape, generator=generator)
            ).to(gt)

        gamma, exposure, cast = (
            draw(self.gamma, 1, 1, 1),
            draw(self.exposure, 1, 1, 1),
            draw(self.cast, 3, 1, 1),
        )
        shot, read, quality = draw(self.shot, 1, 1, 1), draw(self.read, 1, 1, 1), draw(self.jpeg)
        signal = exposure * cast * ((gt + 1) / 2).clamp(0, 1) ** gamma
        noise = torch.randn(gt.shape, generator=generator).to(gt)
        seen = (signal + (shot * signal + read**2).sqrt() * noise).clamp(0, 1)
        return _to_8_bits(jpeg(_to_8_bits(seen), quality)) * 2 - 1


def _to_8_bits(image: Tensor) -> Tensor:
    return (image * 255).round() / 255
