"""Codecs: between images, (B, 3, H, W) in [-1, 1], and the latents a model works on."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class Codec(Protocol):
    """Encodes images to latents and decodes them; both carry gradient.

    The engine freezes its weights.
    """

    space: str
    """Name of the latent space: models with equal names exchange latents directly."""

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to latents (B, C, h, w)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W), nominally in [-1, 1], not clamped."""
        ...


class Identity:
    """Pixel-space models: the latent is the image."""

    space = "pixels"

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class PixelUnshuffle:
    """Moves each ``factor x factor`` block of pixels to channels; exactly invertible.

    Args:
        factor: Block side; H and W must be multiples of it.
        scale: Latents are multiplied by it, so that their spread is near 1.
    """

    def __init__(self, factor: int, scale: float = 1.0) -> None:
        self.factor = factor
        self.scale = scale
        self.space = f"unshuffle{factor}x{scale:g}"

    def encode(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, self.factor) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(latent / self.scale, self.factor)


class Autoencoder(nn.Module):
    """A trained autoencoder: a module with ``encode`` to latents and ``decode`` to images.

    Args:
        network: The autoencoder; its ``encode`` returns a tensor (take a posterior's mean in it).
        space: Name of its latent space.
        scale: Latents are multiplied by it (0.18215 for the usual KL f8).
    """

    def __init__(self, network: nn.Module, space: str, scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.space = space
        self.scale = scale

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode(image) * self.scale  # type: ignore[operator]

    def decode(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent / self.scale)  # type: ignore[operator]
