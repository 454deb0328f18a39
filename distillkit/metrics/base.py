"""What a metric is.

Every metric states the protocol that its numbers carry. Images are (B, 3, H, W) in [-1, 1], and
nothing is cropped at the border.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from distillkit.errors import DataError


@runtime_checkable
class Metric(Protocol):
    """A judge of single images.

    Whether a student was trained against a metric is not the metric's own property: a report
    learns it from the recipe.
    """

    name: str
    protocol: str
    """Everything needed to compare numbers: color space, rounding, border, network."""
    higher_is_better: bool
    differentiable: bool
    """Gradient flows to ``restored``, so it can serve as a loss."""
    perceptual: bool
    """Judges appearance; False for distortion measures such as PSNR and SSIM."""

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Measure images.

        Args:
            restored: (B, 3, H, W) in [-1, 1].
            gt: The ground truth, (B, 3, H, W) or (1, 3, H, W) in [-1, 1]. A metric without
                reference does not look at it.

        Returns:
            One value per image, (B,).
        """
        ...


@dataclass
class FullReference:
    """A :class:`Metric` around a function ``(restored, gt) -> (B,)``."""

    name: str
    protocol: str
    function: Callable[[Any, Any], Tensor]
    """Compares two batches of images, or what ``features`` makes of them."""
    higher_is_better: bool
    differentiable: bool
    perceptual: bool
    smallest_side: int = 1
    """Pixels that a side of an image has to have."""
    features: Callable[[Tensor], Any] | None = None
    """Computes what the function compares. That of a ground truth serves all its candidates."""

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        return self.against(gt)(restored)

    def against(self, gt: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the metric with this ground truth, whose features are computed once."""
        compute = self.features or (lambda images: images)
        reference = functools.cache(lambda: compute(gt))

        def measure(restored: Tensor) -> Tensor:
            self._require_pairs(restored, gt)
            return self.function(compute(restored), reference())

        return measure

    def _require_pairs(self, restored: Tensor, gt: Tensor) -> None:
        in_color = restored.dim() == 4 and restored.shape[1] == 3
        same_size = gt.shape[1:] == restored.shape[1:]
        if not (in_color and same_size and len(gt) in (1, len(restored))):
            shapes = f"{tuple(restored.shape)} and {tuple(gt.shape)}"
            raise ValueError(f"{self.name}: expected two (B, 3, H, W), got {shapes}")
        require_sides(restored, self.smallest_side, self.name)


def require_sides(image: Tensor, smallest: int, metric: str) -> None:
    """Refuse an image that is too small for a metric.

    Args:
        image: (B, C, H, W).
        smallest: Pixels that a side has to have.
        metric: The metric's name.

    Raises:
        DataError: A side is shorter.
    """
    height, width = image.shape[-2:]
    if min(height, width) < smallest:
        raise DataError(
            f"an image of {width}x{height} px is too small for {metric}; "
            f"it takes {smallest} px a side or more"
        )


@dataclass
class NoReference:
    """A :class:`Metric` around a function ``restored -> (B,)`` that judges an image by itself."""

    name: str
    protocol: str
    function: Callable[[Tensor], Tensor]
    higher_is_better: bool
    differentiable: bool = False
    perceptual: bool = True

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        if restored.dim() != 4 or restored.shape[1] != 3:
            shape = tuple(restored.shape)
            raise ValueError(f"{self.name}: expected (B, 3, H, W), got {shape}")
        return self.function(restored)


@runtime_checkable
class SetMetric(Protocol):
    """A judge of all images of a method together.

    It gives one number, without a value for each image and so without a standard error.
    """

    name: str
    protocol: str
    higher_is_better: bool
    differentiable: bool
    """False: nothing is trained against a set."""
    perceptual: bool

    def features(self, images: Tensor) -> Tensor:
        """Compute what is kept of each image.

        Args:
            images: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, D).
        """
        ...

    def distance(self, restored: Tensor, gt: Tensor) -> float:
        """Compare two sets of features.

        Args:
            restored: Features of all restored images, (N, D).
            gt: Features of the ground truth, (N, D).
        """
        ...


def from_uint8(image: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]: the inverse of ``to_uint8``."""
    return image.float() / 127.5 - 1
