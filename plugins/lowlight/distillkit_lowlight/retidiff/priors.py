"""Compact priors: vectors that describe a whole image to the restoring transformer.

Extractors pool an image (or its retinex maps) to a vector. Without the ground truth, a diffusion
over the vector (Xia et al. 2023, DiffIR) predicts in four steps what the extractor of stage 1 would
have seen in image and ground truth together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit_lowlight.schedule import make_betas, make_tables


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a LeakyReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3x3(channels, channels),
            nn.LeakyReLU(0.1),
            _conv3x3(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _make_blocks(channels: int, number: int) -> list[ResBlock]:
    return [ResBlock(channels) for _ in range(number)]


def _pooling_network(
    inputs: int,
    width: int,
    outputs: int,
    blocks: Sequence[ResBlock],
) -> nn.Sequential:
    """Make convolutions to ``outputs`` channels, averaged over the image."""
    return nn.Sequential(
        _conv3x3(inputs, width),
        nn.LeakyReLU(0.1),
        *blocks,
        _conv3x3(width, 2 * width),
        nn.LeakyReLU(0.1),
        _conv3x3(2 * width, 2 * width),
        nn.LeakyReLU(0.1),
        _conv3x3(2 * width, outputs),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width),
        nn.LeakyReLU(0.1),
        nn.Linear(width, width),
        nn.LeakyReLU(0.1),
    )


def _unshuffle(images: Sequence[Tensor]) -> Tensor:
    """Turn 4x4 pixels into channels and concatenate the images."""
    return torch.cat([F.pixel_unshuffle(image, 4) for image in images], dim=1)


class ImageExtractor(nn.Module):
    """Images to prior vectors.

    Args:
        n_feats: A vector has four times as many numbers.
        n_encoder_res: Number of residual blocks.
        images: How many images are seen together: 1, or 2 for the extractor of stage 1.
    """

    def __init__(self, n_feats: int, n_encoder_res: int, images: int = 1) -> None:
        super().__init__()
        blocks = _make_blocks(n_feats, n_encoder_res)
        self.E = _pooling_network(48 * images, n_feats, 4 * n_feats, blocks)
        self.mlp = _mlp(4 * n_feats)

    def forward(self, *images: Tensor) -> Tensor:
        """Extract prior vectors.

        Args:
            *images: Tensors of shape (B, 3, H, W), in [0, 1], sides multiples of 4.

        Returns:
            Vectors of shape (B, 4 n_feats).
        """
        return self.mlp(self.E(_unshuffle(images)))


class RetinexExtractor(nn.Module):
    """Retinex maps to prior vectors.

    A vector has ``3 n_feats`` numbers for the reflectance, then ``n_feats`` for the illumination.
    The two branches share their residual blocks, which the state dictionary therefore lists twice.

    Args:
        n_feats: A vector has four times as many numbers.
        n_encoder_res: Number of residual blocks.
        images: How many images' maps are seen together: 1, or 2 for the extractor of stage 1.
    """

    def __init__(self, n_feats: int, n_encoder_res: int, images: int = 1) -> None:
        super().__init__()
        shared_blocks = _make_blocks(n_feats, n_encoder_res)
        self.E_R = _pooling_network(48 * images, n_feats, 3 * n_feats, shared_blocks)
        self.E_I = _pooling_network(16 * images, n_feats, n_feats, shared_blocks)
        self.mlp_R = _mlp(3 * n_feats)
        self.mlp_I = _mlp(n_feats)

    def forward(self, *maps: Tensor) -> Tensor:
        """Extract prior vectors.

        Args:
            *maps: Maps [R | L] of shape (B, 4, H, W), sides multiples of 4.

        Returns:
            Vectors of shape (B, 4 n_feats).
        """
        reflectances = _unshuffle([image_maps[:, :3] for image_maps in maps])
        illuminations = _unshuffle([image_maps[:, 3:] for image_maps in maps])
        reflectance_prior = self.mlp_R(self.E_R(reflectances))
        illumination_prior = self.mlp_I(self.E_I(illuminations))
        return torch.cat([reflectance_prior, illumination_prior], dim=1)


class Layer(nn.Module):
    """Linear and LeakyReLU; no residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.resmlp(x)


class VectorDenoiser(nn.Module):
    """Predicts the clean vector of a noisy one, given a condition vector.

    Args:
        width: Length of each of these vectors.
        n_denoise_res: Number of layers after the first.
        timesteps: Timesteps of the diffusion.
    """

    def __init__(self, width: int, n_denoise_res: int, timesteps: int) -> None:
        super().__init__()
        self.max_period = 10 * timesteps
        layers = [Layer(width) for _ in range(n_denoise_res)]
        self.resmlp = nn.Sequential(
            nn.Linear(2 * width + 1, width),
            nn.LeakyReLU(0.1),
            *layers,
        )

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict the clean vector.

        Args:
            x: Noisy vectors, shape (B, width).
            t: Integer timesteps, shape (B,); they enter as ``t / max_period``.
            condition: Condition vectors, shape (B, width).

        Returns:
            Clean vectors, shape (B, width).
        """
        time = t.to(x)[:, None] / self.max_period
        return self.resmlp(torch.cat([condition, time, x], dim=1))


class VectorDiffusion:
    """The diffusion over a prior vector.

    Every reverse step is the posterior mean ``x_{t-1} = c1_t x_0(x_t, t, c) + c2_t x_t`` (Ho et al.
    2020, eq. 7); no noise is added and nothing is clamped. At the last step c1 = 1 and c2 = 0: the
    prior is the last prediction, and the only randomness is the start.

    Args:
        timesteps: Number of timesteps.
        linear_start: First beta; the schedule is linear in sqrt(beta).
        linear_end: Last beta.
    """

    def __init__(
        self,
        timesteps: int = 4,
        linear_start: float = 0.1,
        linear_end: float = 0.99,
    ) -> None:
        self.timesteps = timesteps
        self.tables = make_tables(make_betas("quad", timesteps, linear_start, linear_end))

    def add_noise(self, sample: Tensor, t: int, noise: Tensor) -> Tensor:
        """Compute ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``, (B, width) each."""
        signal = self._at("sqrt_alphas_cumprod", t)
        deviation = self._at("sqrt_one_minus_alphas_cumprod", t)
        return signal * sample + deviation * noise

    def step(
        self,
        denoiser: VectorDenoiser,
        x: Tensor,
        t: int,
        condition: Tensor,
    ) -> Tensor:
        """Take the reverse step from ``x_t`` to ``x_{t-1}``, (B, width) each."""
        timesteps = torch.full((len(x),), t, device=x.device)
        sample = denoiser(x, timesteps, condition)
        sample_factor = self._at("posterior_mean_coef1", t)
        x_factor = self._at("posterior_mean_coef2", t)
        return sample_factor * sample + x_factor * x

    def run_reverse_chain(
        self,
        denoiser: VectorDenoiser,
        x: Tensor,
        condition: Tensor,
    ) -> list[Tensor]:
        """Take all steps from ``x`` at the last timestep.

        Returns:
            The vector after each step, the prior last.
        """
        chain = []
        for t in reversed(range(self.timesteps)):
            x = self.step(denoiser, x, t, condition)
            chain.append(x)
        return chain

    def _at(self, table: str, t: int) -> float:
        return float(self.tables[table][t])
