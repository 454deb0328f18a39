"""The bridge between two models' latent spaces, through pixels where the spaces differ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distillkit.diffusion.model import Condition, DiffusionModel


@dataclass(frozen=True)
class Bridge:
    """Takes a student's latents to a teacher's space and back. Equal space names: nothing happens. Gradient flows both ways."""

    student: DiffusionModel
    teacher: DiffusionModel
    condition: Condition
    """The teacher's, of the same inputs."""

    @property
    def identity(self) -> bool:
        """Whether both models work in the same latent space."""
        return self.student.space == self.teacher.space

    def to_teacher(self, latent: Tensor, image: Tensor | None) -> Tensor:
        """The student's output in the teacher's space; ``image`` (B, 3, H, W) is ``latent`` already decoded."""
        if self.identity:
            return latent
        assert image is not None, "in another latent space the teacher sees the student's image"
        return self.teacher.encode(image, self.condition)

    def to_student(self, latent: Tensor) -> Tensor:
        """A teacher's latent in the student's space."""
        return (
            latent
            if self.identity
            else self.student.codec.encode(self.teacher.decode(latent, self.condition))
        )
