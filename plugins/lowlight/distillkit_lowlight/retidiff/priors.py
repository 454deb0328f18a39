"""Compact priors: vectors that tell the restoring transformer what a whole image is like, and the diffusion that guesses them.

Extractors pool an image (or its retinex maps) to a vector. Without the ground truth, a diffusion over the vector (Xia et al. 2023,
DiffIR) predicts in four steps what the extractor of stage 1 would have seen in image and ground truth together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit_lowlight.schedule import betas, tables


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a LeakyReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _pooling(inputs: int, width: int, outputs: int, blocks: list[ResBlock]) -> nn.Sequential:
    """Convolutions to ``outputs`` channels, averaged over the image."""
    return nn.Sequential(
        *(nn.Conv2d(inputs, width, 3, padding=1), nn.LeakyReLU(0.1)),
        *blocks,
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * width, outputs, 3, padding=1), nn.LeakyReLU(0.1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1)
    )


class ImageExtractor(nn.Module):
    """Images to vectors of ``4 n_feats`` numbers.

    Args:
        images: how many images of 3 channels are seen side by side: 1, or 2 for the extractor of stage 1.
    """

    def __init__(self, n_feats: int, n_encoder_res: int, images: int = 1) -> None:
        super().__init__()
        self.E = _pooling(
            48 * images, n_feats, 4 * n_feats, [ResBlock(n_feats) for _ in range(n_encoder_res)]
        )
        self.mlp = _mlp(4 * n_feats)

    def forward(self, *images: Tensor) -> Tensor:
        """One tensor (B, 3, H, W) in [0, 1] per image, sides multiples of 4 -> (B, 4 n_feats)."""
        return self.mlp(self.E(torch.cat([F.pixel_unshuffle(image, 4) for image in images], dim=1)))


class RetinexExtractor(nn.Module):
    """Retinex maps to vectors: ``3 n_feats`` numbers for the reflectance, then ``n_feats`` for the illumination.

    The two branches share their residual blocks, which the state dictionary therefore lists twice.
    """

    def __init__(self, n_feats: int, n_encoder_res: int, images: int = 1) -> None:
        super().__init__()
        shared = [ResBlock(n_feats) for _ in range(n_encoder_res)]
        self.E_R = _pooling(48 * images, n_feats, 3 * n_feats, shared)
        self.E_I = _pooling(16 * images, n_feats, n_feats, shared)
        self.mlp_R = _mlp(3 * n_feats)
        self.mlp_I = _mlp(n_feats)

    def forward(self, *maps: Tensor) -> Tensor:
        """One tensor of maps [R | L] (B, 4, H, W) per image, sides multiples of 4 -> (B, 4 n_feats)."""
        reflectance = torch.cat([F.pixel_unshuffle(m[:, :3], 4) for m in maps], dim=1)
        illumination = torch.cat([F.pixel_unshuffle(m[:, 3:], 4) for m in maps], dim=1)
        return torch.cat(
            [self.mlp_R(self.E_R(reflectance)), self.mlp_I(self.E_I(illumination))], dim=1
        )


class Layer(nn.Module):
    """Linear and LeakyReLU; no residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.resmlp(x)


class VectorDenoiser(nn.Module):
    """The clean vector of a noisy one, given the condition vector: (B, width) each."""

    def __init__(self, width: int, n_denoise_res: int, timesteps: int) -> None:
        super().__init__()
        self.max_period = 10 * timesteps
        layers = [Layer(width) for _ in range(n_denoise_res)]
        self.resmlp = nn.Sequential(nn.Linear(2 * width + 1, width), nn.LeakyReLU(0.1), *layers)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x, condition: (B, width); t: integer times (B,), which enter as ``t / max_period``."""
        return self.resmlp(torch.cat([condition, t.to(x)[:, None] / self.max_period, x], dim=1))


class VectorDiffusion:
    """The reverse chain over a prior vector: every step is the posterior mean, no noise is added, nothing is clamped.

    ``x_{t-1} = c1_t clean(x_t, t, c) + c2_t x_t`` (Ho et al. 2020, eq. 7). At the last step c1 = 1 and c2 = 0: the prior is the
    last clean prediction, and the only randomness is the start.
    """

    def __init__(
        self, timesteps: int = 4, linear_start: float = 0.1, linear_end: float = 0.99
    ) -> None:
        self.timesteps = timesteps
        self.tables = tables(betas("quad", timesteps, linear_start, linear_end))

    def diffuse(self, clean: Tensor, t: int, noise: Tensor) -> Tensor:
        """``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``; (B, width) each."""
        return (
            self._at("sqrt_alphas_cumprod", t) * clean
            + self._at("sqrt_one_minus_alphas_cumprod", t) * noise
        )

    def step(self, denoiser: VectorDenoiser, x: Tensor, t: int, condition: Tensor) -> Tensor:
        """``x_{t-1}`` of ``x_t``, (B, width)."""
        clean = denoiser(x, torch.full((len(x),), t, device=x.device), condition)
        return self._at("posterior_mean_coef1", t) * clean + self._at("posterior_mean_coef2", t) * x

    def descend(self, denoiser: VectorDenoiser, x: Tensor, condition: Tensor) -> list[Tensor]:
        """All steps from ``x`` at the last time: the vectors after each step, the prior last."""
        chain = []
        for t in reversed(range(self.timesteps)):
            x = self.step(denoiser, x, t, condition)
            chain.append(x)
        return chain

    def _at(self, name: str, t: int) -> float:
        return float(self.tables[name][t])
