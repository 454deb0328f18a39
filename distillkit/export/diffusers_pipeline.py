"""A distilled student as a diffusers pipeline: saved, loaded and called like any other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import nn

from distillkit.errors import DistillkitError
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import find_student, load_student

_CODE = '''"""For plain diffusers: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from distillkit.export.diffusers_pipeline import DistilledRestorationPipeline  # noqa: F401
'''


class DistilledStudent(ModelMixin):
    """The component of the pipeline: a student and the folder that it was loaded from."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.student = folder, load_student(folder)
        self.model = self.student.model
        parts = vars(self.student.variant).values() if self.student.variant else ()
        self.parts = nn.ModuleList(
            part for part in parts if isinstance(part, nn.Module)
        )  # move along with the pipeline

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
            raise DistillkitError(
                f"{self.folder} - gone: the student cannot be saved from there again"
            )
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


class DistilledRestorationPipeline(DiffusionPipeline):
    """Gives the same images as :class:`~distillkit.Restorer`.

    >>> pipeline = DistilledRestorationPipeline.from_pretrained("exported")
    >>> restored = pipeline(Image.open("photo.png"), tradeoff=0.3).images[0]
    """

    def __init__(self, student: DistilledStudent) -> None:
        super().__init__()
        self.register_modules(student=student)

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write ``model_index.json`` and the ``pipeline.py`` that it names.

        Diffusers takes a class that is not its own from such a file only, and runs it only for those who trust the folder. The file
        imports this module.
        """
        super().save_config(save_directory, push_to_hub=push_to_hub, **options)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text()) | {
            "_class_name": ["pipeline", type(self).__name__]
        }
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
        (folder / "pipeline.py").write_text(_CODE)

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        """As of diffusers, but naming this class, so that no code of the folder is needed."""
        loaded = super().load_config(*args, **options)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        return loaded

    @classmethod
    def download(cls, pretrained_model_name: str, **options: Any) -> str:  # type: ignore[override]
        """The folder of a Hub repository's files, as :class:`~distillkit.Restorer` fetches them: diffusers knows no such files."""
        known = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        return str(
            find_student(
                pretrained_model_name,
                **{k: options[k] for k in known if options.get(k) is not None},
            )
        )

    def __call__(
        self,
        image: Any,
        tradeoff: float | Sequence[float] | None = None,
        *,
        seed: int = 0,
        **options: Any,
    ) -> ImagePipelineOutput:
        """Restore ``image``; the arguments are those of :class:`~distillkit.Restorer` and of its call."""
        restored = Restorer(self.student.student, self.device, **options)(
            image, tradeoff, seed=seed
        )
        return ImagePipelineOutput(images=restored if isinstance(restored, list) else [restored])
