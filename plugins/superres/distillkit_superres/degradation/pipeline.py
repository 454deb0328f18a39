"""The second-order Real-ESRGAN degradation (Wang et al. 2021, Sec. 3), and bicubic reduction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillkit import DistillkitError, filter2d, jpeg
from distillkit_superres.degradation.draws import Blur, Draws, Round, draw
from distillkit_superres.degradation.kernels import fit_kernel
from distillkit_superres.degradation.operations import add_noise, resize, sharpen
from distillkit_superres.degradation.options import BicubicOptions, RealESRGANOptions


class RealESRGAN:
    """Blur, resize, noise and JPEG, twice, with a sinc filter at the end.

    Every image has draws of its own, from seeds of its own: what happens to one does not depend on
    the others of the batch. (The published ResShift configuration shares resize factors, modes, the
    order of the last steps and gray noise over a batch.) The parameters are drawn on the CPU and
    are the same on every device; the noise is drawn on the device of ``gt``.
    """

    def __init__(self, options: RealESRGANOptions) -> None:
        self.options = options
        self.scale = options.scale

    @torch.no_grad()
    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Degrade images.

        Args:
            gt: Clean images, shape (B, 3, H, W), in [-1, 1].
            generator: Source of the images' seeds, on the CPU.

        Returns:
            Degraded images, shape (B, 3, H / scale, W / scale), in [-1, 1], rounded to 8 bits.

        Raises:
            DistillkitError: H or W is not a multiple of ``scale``, or so small that the first
                resize could leave no pixel of it.
        """
        size = reduced_size(gt, self.scale)
        self._check_size(gt)
        seeds = torch.randint(2**62, (len(gt), 2), generator=generator).tolist()
        images = _to_unit(gt)
        if self.options.sharpen:
            images = sharpen(images)
        degraded = []
        for image, (seed, noise_seed) in zip(images.split(1), seeds, strict=True):
            draws = draw(self.options, Generator().manual_seed(seed))
            noise_generator = Generator(image.device).manual_seed(noise_seed)
            degraded.append(degrade(image, draws, size, noise_generator))
        return _from_unit(torch.cat(degraded))

    def _check_size(self, gt: Tensor) -> None:
        height, width = gt.shape[2:]
        smallest, _ = self.options.first.resize_range
        if min(height, width) * smallest < 1:
            raise DistillkitError(
                f"a clean image of {height}x{width} is too small to be resized by {smallest}; "
                "use larger crops"
            )


def degrade(
    image: Tensor,
    draws: Draws,
    size: tuple[int, int],
    generator: Generator,
) -> Tensor:
    """Degrade one image by given parameters.

    The first resize is relative to the image, the second to ``size``.

    Args:
        image: Shape (1, 3, H, W), in [0, 1].
        draws: The parameters.
        size: Height and width of the result.
        generator: Source of the noise, on the device of ``image``.

    Returns:
        Shape (1, 3, *size); bicubic and sinc may leave [0, 1].
    """
    image = _blur_resize_noise(image, draws.first, draws.first.factor, generator)
    image = jpeg(image, torch.tensor([draws.first_quality]))
    if draws.second is not None:
        target = _scale_size(size, draws.second.factor)
        image = _blur_resize_noise(image, draws.second, target, generator)
    # JPEG takes [0, 1], which bicubic resizing and the sinc filter may leave.
    quality = torch.tensor([draws.second_quality])
    if not draws.jpeg_last:
        image = jpeg(image.clamp(0, 1), quality)
    image = _blur(resize(image, size, draws.final_mode), draws.final_sinc)
    if draws.jpeg_last:
        image = jpeg(image.clamp(0, 1), quality)
    return image


def _scale_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    height, width = size
    return (
        max(1, int(height * factor)),
        max(1, int(width * factor)),
    )


def _blur_resize_noise(
    image: Tensor,
    draws: Round,
    target: tuple[int, int] | float,
    generator: Generator,
) -> Tensor:
    blurred = _blur(image, draws.blur)
    resized = resize(blurred, target, draws.mode)
    return add_noise(resized, draws.noise, generator)


def _blur(image: Tensor, blur: Blur | None) -> Tensor:
    if blur is None:
        return image
    kernel = fit_kernel(blur.kernel(), side=min(image.shape[2:]))
    return filter2d(image, kernel)


class Bicubic:
    """Antialiased bicubic reduction (a = -0.5, as in MATLAB and PIL) and nothing else."""

    def __init__(self, options: BicubicOptions) -> None:
        self.scale = options.scale

    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Reduce images.

        Args:
            gt: Clean images, shape (B, 3, H, W), in [-1, 1].
            generator: Not used: nothing is drawn.

        Returns:
            Shape (B, 3, H / scale, W / scale), in [-1, 1], rounded to 8 bits.

        Raises:
            DistillkitError: H or W is not a multiple of ``scale``.
        """
        reduced = F.interpolate(
            _to_unit(gt),
            reduced_size(gt, self.scale),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
        return _from_unit(reduced)


def reduced_size(gt: Tensor, scale: int) -> tuple[int, int]:
    """Divide the sides of images (B, 3, H, W) by a scale.

    Raises:
        DistillkitError: H or W is not a multiple of ``scale``.
    """
    height, width = gt.shape[2:]
    if height % scale or width % scale:
        raise DistillkitError(
            f"a clean image of {height}x{width} cannot be reduced {scale}x; "
            f"crop its sides to multiples of {scale}"
        )
    return height // scale, width // scale


def _to_unit(image: Tensor) -> Tensor:
    return image.float() * 0.5 + 0.5


def _from_unit(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 127.5 - 1
