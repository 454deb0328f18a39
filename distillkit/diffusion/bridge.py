"""The bridge between two models' latent spaces, through pixels where the spaces differ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distillkit.diffusion.model import Condition, DiffusionModel, RestorationModel


@dataclass(frozen=True)
class Bridge:
    """Carries a student's latents to a teacher's space and back, with gradient.

    Between models of one space nothing happens.
    """

    student: RestorationModel
    teacher: DiffusionModel
    condition: Condition
    """The teacher's condition for the same inputs."""

    @property
    def identity(self) -> bool:
        """Whether both models work in the same latent space."""
        return self.student.space == self.teacher.space

    def to_teacher(self, latent: Tensor, image: Tensor | None) -> Tensor:
        """Bring the student's output to the teacher's space.

        Args:
            latent: The latent of the student, (B, C, h, w).
            image: ``latent`` decoded, (B, 3, H, W); read only where the spaces differ.
        """
        if self.identity:
            return latent
        assert image is not None, "in another latent space the teacher sees the student's image"
        return self.teacher.encode(image, self.condition)

    def to_student(self, latent: Tensor) -> Tensor:
        """Bring a teacher's latent to the student's space."""
        if self.identity:
            return latent
        image = self.teacher.decode(latent, self.condition)
        return self.student.codec.encode(image)
