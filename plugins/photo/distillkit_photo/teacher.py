"""photo4x as a teacher of smaller students."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit import ModelInput, Restorer
from distillkit_photo.options import TeacherOptions


class Photo4x(nn.Module):
    """photo4x at one tradeoff: an output teacher of one pass, in float32 and without gradient.

    Args:
        tradeoff: 0 is most realistic, 1 most faithful.
    """

    def __init__(self, tradeoff: float) -> None:
        super().__init__()
        self.student = Restorer.from_pretrained("photo/photo4x", "cpu").student
        self.tradeoff = tradeoff
        # Registered, so that its weights move to a device with the teacher.
        self.model = self.student.model
        self.nfe = self.student.nfe
        self.scale = self.model.scale
        self.size_multiple = self.model.size_multiple

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore images (B, 3, h, w) to (B, 3, 4h, 4w), both in [-1, 1]."""
        with torch.autocast(inputs.lq.device.type, enabled=False):
            return self.student.restore(inputs, self.tradeoff, generator)


def build(options: TeacherOptions) -> Photo4x:
    """Build the teacher that a recipe names."""
    return Photo4x(options.tradeoff)
