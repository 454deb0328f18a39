"""A latent space that is not the other models' own: the frequencies of small blocks of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillkit import PixelUnshuffle


class BlockDct(PixelUnshuffle):
    """The orthonormal two-dimensional DCT-II of every ``factor x factor`` block, each color by itself.

    It rotates the ``factor^2`` channels that :class:`PixelUnshuffle` makes of a color: white noise stays white, distances stay.
    """

    def __init__(self, factor: int, scale: float = 1.0) -> None:
        super().__init__(factor, scale)
        self.space = f"dct{factor}x{scale:g}"
        sample, frequency = torch.arange(factor), torch.arange(factor)[:, None]
        dct = torch.cos((2 * sample + 1) * frequency * math.pi / (2 * factor)) * math.sqrt(
            2 / factor
        )
        dct[0] /= math.sqrt(2)
        self._rotation = torch.kron(dct, dct)

    def rotate(self, pixels: Tensor) -> Tensor:
        """Latents of :class:`PixelUnshuffle` -> latents of this space, (B, 3 factor^2, h, w)."""
        return self._turn(pixels, self._rotation)

    def unrotate(self, latent: Tensor) -> Tensor:
        """The inverse of :meth:`rotate`."""
        return self._turn(latent, self._rotation.T)

    def encode(self, image: Tensor) -> Tensor:
        return self.rotate(super().encode(image))

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(self.unrotate(latent))

    def _turn(self, latent: Tensor, rotation: Tensor) -> Tensor:
        colors = latent.unflatten(1, (3, self.factor**2))
        return torch.einsum("kp,bcphw->bckhw", rotation.to(latent), colors).flatten(1, 2)
