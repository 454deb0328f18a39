"""The luma of RGB images by ITU-R BT.601, in its two ranges."""

from __future__ import annotations

from torch import Tensor


def full_range_luma(image: Tensor) -> Tensor:
    """Compute ``0.299 R + 0.587 G + 0.114 B``, in the range that the image has.

    Args:
        image: (B, 3, H, W), floating point.

    Returns:
        (B, 1, H, W) of the same type.
    """
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def studio_range_luma(image: Tensor) -> Tensor:
    """Compute the Y of YCbCr as video stores it: black is 16, white is 235; not rounded.

    Args:
        image: (B, 3, H, W) of values from 0 to 255, floating point.

    Returns:
        (B, 1, H, W) of the same type.
    """
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True) / 255 + 16
