"""The decomposition network: an image into reflectance and illumination."""

from __future__ import annotations

from torch import Tensor, nn


class Decomposition(nn.Module):
    """Four convolutions from an image to the maps of the retinex model.

    The model is ``image = R * L`` with the reflectance R (3 channels) and the illumination L (1
    channel). Both published networks, for dark and for bright images, have the default sizes.

    Args:
        inputs: Channels of the input.
        width: Channels inside.
    """

    def __init__(self, inputs: int = 3, width: int = 32) -> None:
        super().__init__()
        self.decom = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 4, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Decompose images.

        Args:
            image: Shape (B, inputs, H, W), in [0, 1].

        Returns:
            The maps [R | L], shape (B, 4, H, W), not negative and without an upper bound.
        """
        return self.decom(image)


def recompose(maps: Tensor) -> Tensor:
    """Multiply maps [R | L] (B, 4, H, W) to images (B, 3, H, W)."""
    reflectance = maps[:, :3]
    illumination = maps[:, 3:]
    return reflectance * illumination
