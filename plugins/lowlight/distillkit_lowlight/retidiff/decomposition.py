"""The decomposition network: an image into reflectance and illumination."""

from __future__ import annotations

from torch import Tensor, nn


class Decomposition(nn.Module):
    """Four convolutions to the maps of the retinex model ``image = R * L``: reflectance R (3 channels) and illumination L (1).

    Args:
        inputs, width: channels of the input and inside; 3 and 32 in both published networks, the one for dark images and the one
            for bright ones.
    """

    def __init__(self, inputs: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c in (inputs, width, width):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.decom = nn.Sequential(*layers, nn.Conv2d(width, 4, 3, padding=1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, inputs, H, W), [0, 1] -> the maps [R | L], (B, 4, H, W), not negative and without an upper bound."""
        return self.decom(image)


def recompose(maps: Tensor) -> Tensor:
    """``R * L``: maps (B, 4, H, W) -> image (B, 3, H, W)."""
    return maps[:, :3] * maps[:, 3:]
