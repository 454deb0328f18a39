"""Image operations that degradations are made of.

Batched, on any device, with parameters for each image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Quantization tables of ITU-T T.81, K.1 (luminance) and K.2 (chrominance), as printed there: a row
# is a vertical frequency.
_LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMINANCE = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
]
# RGB -> YCbCr and back, JFIF (ITU-R BT.601, full range); chroma is centered on 0 here.
_TO_YCBCR = [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
]
_TO_RGB = [
    [1.0, 0.0, 1.402],
    [1.0, -0.344136, -0.714136],
    [1.0, 1.772, 0.0],
]
_MIN_FACTOR = 1e-3
"""Quality 100 would divide by zero; steps this small leave only rounding errors of floats."""


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with a kernel.

    Borders are reflected; the edge pixel is not repeated.

    Args:
        image: (B, C, H, W).
        kernel: (k, k), or (B, k, k) for one kernel for each image; k odd.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: k is even, there are not B kernels, or a side of the image is k // 2 or shorter.
    """
    batch, channels, height, width = image.shape
    size = kernel.shape[-1]
    margin = size // 2
    allowed_shapes = [(size, size), (batch, size, size)]
    if kernel.shape not in allowed_shapes or size % 2 == 0:
        raise ValueError(
            f"filter2d: the kernel is {tuple(kernel.shape)}, not (k, k) or ({batch}, k, k) with k "
            "odd"
        )
    if min(height, width) <= margin:
        raise ValueError(
            f"filter2d: an image of {height}x{width} is too small for a {size}x{size} kernel"
        )
    # Every channel of every image becomes a group of one convolution.
    groups = batch * channels
    kernels = kernel.to(image).expand(batch, size, size)
    weight = kernels.repeat_interleave(channels, 0).unsqueeze(1)
    padded = F.pad(image, [margin] * 4, mode="reflect")
    padded = padded.view(1, groups, height + size - 1, width + size - 1)
    return F.conv2d(padded, weight, groups=groups).view(batch, channels, height, width)


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Compress images as JPEG does, and decompress them. Carries no gradient.

    4:2:0 chroma, 8x8 DCT, quantization. The tables of ITU-T T.81 annex K are scaled by 50 / q below
    quality 50 and by 2 - q / 50 from there on, and not rounded, so that quality is continuous; at
    100 only the chroma subsampling is left. Right and bottom are filled with black to a multiple of
    16. The luminance table is transposed, as in DiffJPEG (Shin & Song 2017) and the degradation
    pipelines that restorers are trained with: results equal theirs, and come close to libjpeg's.

    Args:
        image: (B, 3, H, W) in [0, 1].
        quality: (B,) or a scalar, in [1, 100].

    Returns:
        (B, 3, H, W) in [0, 1], not rounded to 8 bits.

    Raises:
        ValueError: Not RGB, not one quality for each image, or a quality outside [1, 100].
    """
    batch, channels, height, width = image.shape
    if channels != 3 or quality.shape not in ((), (batch,)):
        raise ValueError(
            f"jpeg: images {tuple(image.shape)} with qualities {tuple(quality.shape)}, not "
            "(B, 3, H, W) with (B,)"
        )
    if not bool(((quality >= 1) & (quality <= 100)).all()):
        raise ValueError(f"jpeg: quality must be in [1, 100], not {quality.tolist()}")
    q = quality.to(image.device, torch.float32).expand(batch)
    factor = torch.where(q < 50, 50 / q, 2 - q / 50)
    factor = factor.clamp(min=_MIN_FACTOR)
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        margins = [0, -width % 16, 0, -height % 16]
        padded = F.pad(image.float() * 255, margins)
        ycbcr = _mix_channels(padded, _TO_YCBCR)
        luma = ycbcr[:, :1] - 128
        chroma = F.avg_pool2d(ycbcr[:, 1:], 2)
        luma = _quantize(luma, padded.new_tensor(_LUMINANCE).T, factor)
        chroma = _quantize(chroma, padded.new_tensor(_CHROMINANCE), factor)
        chroma = F.interpolate(chroma, scale_factor=2, mode="nearest")
        ycbcr = torch.cat([luma + 128, chroma], 1)
        rgb = _mix_channels(ycbcr, _TO_RGB)[..., :height, :width]
        return (rgb.clamp(0, 255) / 255).to(image)


def _mix_channels(image: Tensor, matrix: list[list[float]]) -> Tensor:
    weights = image.new_tensor(matrix)
    return torch.einsum("dc,bchw->bdhw", weights, image)


def _quantize(
    planes: Tensor,
    table: Tensor,
    factor: Tensor,
) -> Tensor:
    """Round the 8x8 DCT of planes to multiples of ``table * factor``.

    Args:
        planes: (B, C, H, W), values around 0.
        table: (8, 8).
        factor: (B,).
    """
    batch, channels, height, width = planes.shape
    dct = _dct_matrix().to(planes)
    steps = table * factor.view(-1, 1, 1)
    steps = steps.view(batch, 1, 1, 8, 1, 8)
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8)
    frequencies = torch.einsum("vy,bcmynx,ux->bcmvnu", dct, blocks, dct)
    rounded = torch.round(frequencies / steps) * steps
    blocks = torch.einsum("vy,bcmvnu,ux->bcmynx", dct, rounded, dct)
    return blocks.reshape(planes.shape)


def _dct_matrix() -> Tensor:
    """Compute the orthonormal 8-point DCT-II, (frequency, sample)."""
    frequency = torch.arange(8.0)[:, None]
    sample = torch.arange(8.0)
    angle = (2 * sample + 1) * frequency * math.pi / 16
    basis = torch.cos(angle) / 2
    basis[0] /= math.sqrt(2)
    return basis
