"""A latent space of its own: the frequencies of small blocks of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillkit import PixelUnshuffle


class BlockDct(PixelUnshuffle):
    """The orthonormal DCT-II of every ``factor x factor`` block, each color by itself.

    It rotates the ``factor^2`` channels into which :class:`PixelUnshuffle` turns a color: white
    noise stays white, distances stay.
    """

    def __init__(self, factor: int, scale: float = 1.0) -> None:
        super().__init__(factor, scale)
        self.space = f"dct{factor}x{scale:g}"
        dct = _dct_matrix(factor)
        self._rotation = torch.kron(dct, dct)

    def rotate(self, pixels: Tensor) -> Tensor:
        """Rotate latents of :class:`PixelUnshuffle` into this space, (B, 3 factor^2, h, w)."""
        return self._apply(self._rotation, pixels)

    def unrotate(self, latent: Tensor) -> Tensor:
        """Invert :meth:`rotate`."""
        return self._apply(self._rotation.T, latent)

    def encode(self, image: Tensor) -> Tensor:
        return self.rotate(super().encode(image))

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(self.unrotate(latent))

    def _apply(self, rotation: Tensor, latent: Tensor) -> Tensor:
        colors = latent.unflatten(1, (3, self.factor**2))
        rotated = torch.einsum("kp,bcphw->bckhw", rotation.to(latent), colors)
        return rotated.flatten(1, 2)


def _dct_matrix(n: int) -> Tensor:
    """Compute the matrix (n, n) of the orthonormal DCT-II: one frequency per row."""
    sample = torch.arange(n)
    frequency = torch.arange(n)[:, None]
    angles = (2 * sample + 1) * frequency * math.pi / (2 * n)
    dct = torch.cos(angles) * math.sqrt(2 / n)
    dct[0] /= math.sqrt(2)
    return dct
