"""Line distillation: a student on the line between two teachers, in one pass.

Ours, not the paper's. ``r = T_r(x_LQ)`` and ``f = T_f(x_LQ)`` are the images of the two teachers,
``x`` is the ground truth and ``x_t`` the student's image at tradeoff t. The linear combination

``m_t = t f + (1 - t) r``

has less error than its share of each teacher's: ``MSE(m_t) = t MSE(f) + (1 - t) MSE(r) - t (1 - t)
|f - r|^2``. A student inherits the last term only if its optimum is ``m_t``, as that of a
regression in image space is and that of a difference of scores is not. So

``L(t) = w_m P(x_t, m_t) + (w_x + t w_g) P(x_t, x)
        + (1 - t) w_p d(x_t, m_t) + ((1 - t) w_d + t w_e) d(x_t, x) + w_h h(x_t)``,

beside ``(1 - t) w_a`` times an adversarial term (:mod:`~distillkit.objectives.adversarial`), with
the pixel loss ``P(a, b) = w_l2 |a - b|^2 + w_l1 |a - b|``, a perceptual distance d and the grid h
of the student's image (:mod:`~distillkit.objectives.grid`). With
``w_m`` alone the optimum is the line itself; ``w_g`` moves the faithful end toward the student's
own E[x | x_LQ], and a little ``w_e`` keeps that mean from being blurred; ``w_x`` in the place of
``w_m`` is the control without teachers. Where an image has no ground truth, the terms with x are
left out, and the adversarial one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.objectives.grid import grid_loss
from distillkit.objectives.reconstruction import Distance, Losses, shifted_crops


@dataclass(frozen=True)
class LineLoss:
    """The loss above. Norms are means over elements; a term of weight 0 is left out."""

    mix_weight: float = 1.0
    """w_m."""
    ground_truth_weight: float = 0.0
    """w_x."""
    faithful_weight: float = 1.0
    """w_g."""
    mix_perceptual_weight: float = 0.0
    """w_p."""
    perceptual_weight: float = 0.0
    """w_d."""
    faithful_perceptual_weight: float = 0.0
    """w_e."""
    grid_weight: float = 0.0
    """w_h."""
    grid_period: int = 4
    """Period of the grid, in pixels."""
    l2_weight: float = 10.0
    l1_weight: float = 1.0
    distances: Sequence[Distance] = ()
    """d is their mean."""
    max_shift: int = 0
    """Largest random shift, in pixels, of the crop that d sees."""

    def __call__(
        self,
        x_t: Tensor,
        tradeoff: float,
        m_t: Tensor | None,
        x_gt: Tensor | None,
        generator: torch.Generator,
    ) -> Losses:
        """Return the weighted terms: ``mix``, ``truth``, ``grid``, and the two perceptual ones.

        Args:
            x_t: The student's image, (B, 3, H, W) in [-1, 1].
            tradeoff: t, in [0, 1].
            m_t: The combination of the teachers' images, (B, 3, H, W), without gradient. None
                leaves its terms out.
            x_gt: The ground truth, (B, 3, H, W). None leaves its terms out.
            generator: A CPU generator for the random shift.
        """
        losses: Losses = {}
        realism = 1 - tradeoff
        if m_t is not None and self.mix_weight > 0:
            losses["mix"] = self.mix_weight * self._pixel_loss(x_t, m_t)
        if x_gt is not None and self.ground_truth_weight + self.faithful_weight > 0:
            weight = self.ground_truth_weight + tradeoff * self.faithful_weight
            losses["truth"] = weight * self._pixel_loss(x_t, x_gt)
        if m_t is not None and self.mix_perceptual_weight > 0:
            distance = self._distance(x_t, m_t, generator)
            losses["mix_perceptual"] = realism * self.mix_perceptual_weight * distance
        if x_gt is not None and self.perceptual_weight + self.faithful_perceptual_weight > 0:
            weight = realism * self.perceptual_weight + tradeoff * self.faithful_perceptual_weight
            losses["perceptual"] = weight * self._distance(x_t, x_gt, generator)
        if self.grid_weight > 0:
            losses["grid"] = self.grid_weight * grid_loss(x_t, self.grid_period)
        return losses

    @property
    def uses_mix(self) -> bool:
        """Whether a term uses the combination m_t, and so the teachers' images."""
        return self.mix_weight + self.mix_perceptual_weight > 0

    def _pixel_loss(self, a: Tensor, b: Tensor) -> Tensor:
        error = a - b
        return self.l2_weight * error.square().mean() + self.l1_weight * error.abs().mean()

    def _distance(self, a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        shifted = shifted_crops(a, b, self.max_shift, generator)
        distances = [distance(*shifted).mean() for distance in self.distances]
        return torch.stack(distances).mean()
