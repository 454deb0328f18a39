"""Invented detail that stands still where the video does.

A realistic result is a faithful one and a residual, the detail that the student adds. The residual
of a static pixel is blended with those of the frames before; the faithful part is never touched, so
that what really changes is seen at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

TOLERANCE = 3.0
"""Gray levels, of 255. A pixel is static where the mean change of its neighborhood is no larger:
noise changes static pixels, too."""
_NEIGHBORHOOD = 7
"""Side of a pixel's neighborhood, pixels."""


def local_change(frame: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Average the absolute difference of two frames over each pixel's neighborhood.

    Args:
        frame: (h, w, 3), gray levels of 0 to 255.
        before: The same shape.

    Returns:
        (h, w), in gray levels.
    """
    change = np.abs(frame.astype(np.float32) - before).mean(axis=2)
    averaged = F.avg_pool2d(
        torch.from_numpy(change)[None],
        _NEIGHBORHOOD,
        stride=1,
        padding=_NEIGHBORHOOD // 2,
        count_include_pad=False,
    )
    return averaged[0].numpy()


class Steadier:
    """Blends the residuals of one video's frames, in their order.

    With ``keep`` a, source frames x_t, residuals r_t and the share s_t by which a pixel is static,
    the weight of the past is w_t = a s_t, and

        r'_t = w_t r'_{t-1} + (1 - w_t) r_t,    x'_t = w_t x'_{t-1} + (1 - w_t) x_t

    s_t is 1 where x_t and x'_{t-1} differ by no more than :data:`TOLERANCE` around the pixel, and
    falls to 0 at twice that. A slow drift leaves x' behind, and so is noticed.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._source: np.ndarray | None = None
        self._residuals: list[np.ndarray] = []

    def steady(
        self, source: np.ndarray, results: Sequence[np.ndarray], faithful: np.ndarray
    ) -> list[np.ndarray]:
        """Blend the results of the next frame.

        Args:
            source: The frame (h, w, 3), uint8.
            results: (scale h, scale w, 3), uint8.
            faithful: The result at tradeoff 1.

        Returns:
            The results to show, as ``results``.
        """
        current = source.astype(np.float32)
        residuals = [result.astype(np.float32) - faithful for result in results]
        if self._source is None:
            self._source, self._residuals = current, residuals
            return list(results)
        static = np.clip(2 - local_change(current, self._source) / TOLERANCE, 0, 1)
        weight = (self._keep * static)[..., None]
        self._source = _blend(self._source, current, weight)
        scale = faithful.shape[0] // source.shape[0]
        weight = weight.repeat(scale, 0).repeat(scale, 1)
        pairs = zip(self._residuals, residuals, strict=True)
        self._residuals = [_blend(before, residual, weight) for before, residual in pairs]
        return [_to_uint8(faithful + residual) for residual in self._residuals]


def _blend(before: np.ndarray, now: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Average two frames; ``weight`` is that of ``before``."""
    blended: np.ndarray = now + weight * (before - now)
    return blended


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
