"""A distilled student as a diffusers pipeline: saved, loaded and called like any other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import nn

from distillkit.errors import DistillkitError
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import load_student

LOADER = '''"""For plain diffusers: DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)."""

from distillkit.inference.pipeline import DistilledRestorationPipeline  # noqa: F401
'''
"""What ``pipeline.py`` of an exported folder holds."""


class DistilledStudent(ModelMixin):
    """The component of the pipeline: a student and the folder that it was loaded from."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.student = folder, load_student(folder)
        self.model = self.student.model
        parts = vars(self.student.variant).values() if self.student.variant else ()
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))  # move along with the pipeline

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """The student saved in ``folder``; diffusers' loading options do not apply to it."""
        return cls(Path(folder))

    def save_pretrained(self, folder: str | Path) -> None:  # type: ignore[override]
        """Copy the student's files to ``folder``.

        Raises:
            DistillkitError: they are no longer where the student was loaded from.
        """
        if not self.folder.is_dir():
            raise DistillkitError(f"{self.folder} - gone: the student cannot be saved from there again")
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


class DistilledRestorationPipeline(DiffusionPipeline):
    """Gives the same images as :class:`~distillkit.Restorer`.

    >>> pipeline = DistilledRestorationPipeline.from_pretrained("exported")
    >>> restored = pipeline(Image.open("photo.png"), tradeoff=0.3).images[0]
    """

    def __init__(self, student: DistilledStudent) -> None:
        super().__init__()
        self.register_modules(student=student)

    def __call__(
        self, image: Any, tradeoff: float | Sequence[float] | None = None, *, seed: int = 0, **options: Any
    ) -> ImagePipelineOutput:
        """Restore ``image``; the arguments are those of :class:`~distillkit.Restorer` and of its call."""
        restored = Restorer(self.student.student, self.device, **options)(image, tradeoff, seed=seed)
        return ImagePipelineOutput(images=restored if isinstance(restored, list) else [restored])
