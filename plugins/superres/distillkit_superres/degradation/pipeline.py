"""The second-order Real-ESRGAN degradation (Wang et al. 2021, Sec. 3), and plain bicubic reduction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillkit import DistillkitError, filter2d, jpeg
from distillkit_superres.degradation.draws import Draws, Gaussian, Round, Sinc, draw
from distillkit_superres.degradation.kernels import fitted
from distillkit_superres.degradation.operations import add_noise, resize, sharpened
from distillkit_superres.degradation.options import BicubicConfig, RealESRGANConfig


class RealESRGAN:
    """Blur, resize, noise and JPEG, twice, with a sinc filter at the end: ``(gt, generator) -> lq``.

    Every image has draws of its own, from seeds of its own: what happens to one does not depend on the others of the batch. (The
    published ResShift configuration shares resize factors, modes, the order of the last steps and gray noise over a batch.) The
    parameters are drawn on the CPU and are the same on every device; the noise is drawn on the device of ``gt``.
    """

    def __init__(self, config: RealESRGANConfig) -> None:
        self.config, self.scale = config, config.scale

    @torch.no_grad()
    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Clean (B, 3, H, W) in [-1, 1] -> degraded (B, 3, H / scale, W / scale) in [-1, 1], rounded to 8 bits.

        Raises:
            DistillkitError: H or W is not a multiple of ``scale``, or so small that the first resize could leave no pixel of it.
        """
        size = reduced_size(gt, self.scale)
        smallest = self.config.first.resize_range[0]
        if min(gt.shape[2:]) * smallest < 1:
            raise DistillkitError(
                f"a clean image of {gt.shape[2]}x{gt.shape[3]} is too small to be resized by {smallest}; use larger crops"
            )
        seeds = torch.randint(2**62, (len(gt), 2), generator=generator).tolist()
        images = _to_unit(gt)
        if self.config.sharpen:
            images = sharpened(images)
        return _from_unit(
            torch.cat(
                [
                    self._one(image, size, *pair)
                    for image, pair in zip(images.split(1), seeds, strict=True)
                ]
            )
        )

    def _one(self, image: Tensor, size: tuple[int, int], seed: int, noise_seed: int) -> Tensor:
        draws = draw(self.config, Generator().manual_seed(seed))
        return degrade(image, draws, size, Generator(image.device).manual_seed(noise_seed))


def degrade(image: Tensor, draws: Draws, size: tuple[int, int], generator: Generator) -> Tensor:
    """One image (1, 3, H, W) in [0, 1] -> (1, 3, *size), degraded as ``draws`` say; bicubic and sinc may leave [0, 1].

    The first resize is relative to the image, the second to ``size``. ``generator`` draws the noise, on the device of ``image``.
    """
    image = _blur_resize_noise(image, draws.first, draws.first.factor, generator)
    image = jpeg(image, torch.tensor([draws.first_quality]))
    if draws.second is not None:
        height, width = (max(1, int(side * draws.second.factor)) for side in size)
        image = _blur_resize_noise(image, draws.second, (height, width), generator)
    quality = torch.tensor([draws.second_quality])
    if not draws.jpeg_last:
        image = jpeg(image.clamp(0, 1), quality)
    image = _blurred(resize(image, size, draws.final_mode), draws.final_sinc)
    return jpeg(image.clamp(0, 1), quality) if draws.jpeg_last else image


def _blur_resize_noise(
    image: Tensor, draws: Round, to: tuple[int, int] | float, generator: Generator
) -> Tensor:
    return add_noise(resize(_blurred(image, draws.blur), to, draws.mode), draws.noise, generator)


def _blurred(image: Tensor, blur: Gaussian | Sinc | None) -> Tensor:
    return image if blur is None else filter2d(image, fitted(blur.kernel(), min(image.shape[2:])))


class Bicubic:
    """Antialiased bicubic reduction (a = -0.5, the one of MATLAB and PIL) and nothing else; draws nothing."""

    def __init__(self, config: BicubicConfig) -> None:
        self.scale = config.scale

    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Clean (B, 3, H, W) in [-1, 1] -> reduced (B, 3, H / scale, W / scale) in [-1, 1], rounded to 8 bits.

        Raises:
            DistillkitError: H or W is not a multiple of ``scale``.
        """
        size = reduced_size(gt, self.scale)
        return _from_unit(
            F.interpolate(_to_unit(gt), size, mode="bicubic", antialias=True, align_corners=False)
        )


def reduced_size(gt: Tensor, scale: int) -> tuple[int, int]:
    """(H / scale, W / scale) of images (B, 3, H, W)."""
    height, width = gt.shape[2:]
    if height % scale or width % scale:
        raise DistillkitError(
            f"a clean image of {height}x{width} cannot be reduced {scale}x; crop its sides to multiples of {scale}"
        )
    return height // scale, width // scale


def _to_unit(image: Tensor) -> Tensor:
    return image.float() * 0.5 + 0.5


def _from_unit(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 127.5 - 1
