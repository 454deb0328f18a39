"""An adversarial term: a small discriminator of patches, with hinge losses.

``L_D = mean(max(0, 1 - D(x))) + mean(max(0, 1 + D(x_0)))`` and ``L_S = -mean(D(x_0))``, where x is
the ground truth and x_0 the student's image (Lim and Ye 2017). Every layer but the first and the
last has spectral norm (Miyato et al. 2018). D sees crops at random offsets: a network with strides
would otherwise learn one phase of the student's grid, and so would the student.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from distillkit.objectives.critic import Critic, CriticSample
from distillkit.objectives.reconstruction import Losses, shifted_crops


def make_patch_discriminator(channels: int) -> nn.Module:
    """Make a network from images (B, 3, H, W) to scores of patches of 26 pixels.

    Args:
        channels: The channels of the first layer; the others have two and four times as many.
    """
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * channels, 1, 1),
    )


class Adversarial(Critic):
    """The discriminator, and the term that it gives the student.

    Args:
        weight: The weight of the student's term.
        channels: The channels of the discriminator's first layer.
        learning_rate: The learning rate of the discriminator.
        max_shift: Crops are this many pixels smaller than the images, at random offsets.
        seed: The seed of its first weights.
    """

    def __init__(
        self, *, weight: float, channels: int, learning_rate: float, max_shift: int, seed: int
    ) -> None:
        super().__init__()
        self.weight = weight
        self.learning_rate = learning_rate
        self._max_shift = max_shift
        # The weights depend on the seed alone, and the global generator is as it was before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = make_patch_discriminator(channels)
        self.network.eval()

    def term(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Compute ``-mean(D(x_0))``, with gradient for the student's image alone.

        Args:
            image: (B, 3, H, W), nominally in [-1, 1].
            generator: A CPU generator for the random offset.
        """
        (crop, _) = shifted_crops(image, image, self._max_shift, generator)
        self.network.requires_grad_(False)
        score = self.network(crop)
        self.network.requires_grad_(True)
        return -score.mean()

    def losses(self, sample: CriticSample, generator: torch.Generator) -> Losses:
        real, fake = shifted_crops(sample.gt, sample.image, self._max_shift, generator)
        # Spectral norm estimates its norms anew in training mode only.
        self.network.train()
        real_loss = F.relu(1 - self.network(real)).mean()
        fake_loss = F.relu(1 + self.network(fake)).mean()
        self.network.eval()
        return {"real": sample.weight * real_loss, "fake": sample.weight * fake_loss}

    @torch.no_grad()
    def diagnose(self, sample: CriticSample) -> dict[str, Tensor]:
        """Measure how often D is right, and the detail of the student's images.

        ``accuracy`` near 1: D wins, and its gradient teaches little. ``detail``, the mean absolute
        Laplacian of the student's images over that of the truth, far from 1: texture collapses or
        explodes.
        """
        right = [self.network(sample.gt) > 0, self.network(sample.image) < 0]
        accuracy = torch.cat(right).float().mean()
        detail = _mean_laplacian(sample.image) / _mean_laplacian(sample.gt).clamp(min=1e-6)
        return {"accuracy": accuracy, "detail": detail}


def _mean_laplacian(image: Tensor) -> Tensor:
    center = image[..., 1:-1, 1:-1]
    rows = image[..., :-2, 1:-1] + image[..., 2:, 1:-1]
    columns = image[..., 1:-1, :-2] + image[..., 1:-1, 2:]
    return (4 * center - rows - columns).abs().mean()
