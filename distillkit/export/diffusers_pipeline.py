"""A distilled student as a diffusers pipeline like any other."""

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

PIPELINE_CODE = '''\
"""For plain diffusers: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from distillkit import DistilledRestorationPipeline  # noqa: F401
'''
"""The file ``pipeline.py`` of an exported folder."""
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""The options of diffusers' downloads that those of the Hub's client have, too."""


class DistilledStudent(ModelMixin):
    """The pipeline's component: a student and the folder it came from."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.student = load_student(folder)
        # Modules that are attributes move along when the pipeline is moved.
        self.model = self.student.model
        variant = vars(self.student.variant) if self.student.variant else {}
        modules = [value for value in variant.values() if isinstance(value, nn.Module)]
        self.variant_modules = nn.ModuleList(modules)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """Load the student saved in ``folder``.

        diffusers' loading options do not apply to it.
        """
        return cls(Path(folder))

    def save_pretrained(self, folder: str | Path) -> None:  # type: ignore[override]
        """Copy the student's files to ``folder``.

        Raises:
            DistillkitError: They are no longer where the student was loaded from.
        """
        if not self.folder.is_dir():
            raise DistillkitError(
                f"{self.folder} - gone: the student cannot be saved from there again"
            )
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


class DistilledRestorationPipeline(DiffusionPipeline):
    """A pipeline that gives the same images as :class:`~distillkit.Restorer`.

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

        diffusers takes a class that is not its own from such a file only, and runs it only for
        those who trust the folder. The file imports this class and holds nothing else.
        """
        super().save_config(save_directory, push_to_hub=push_to_hub, **options)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        index["_class_name"] = ["pipeline", type(self).__name__]
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
        (folder / "pipeline.py").write_text(PIPELINE_CODE)

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        """Load ``model_index.json``, but with this class.

        So the folder's code is not needed, and need not be trusted.
        """
        loaded = super().load_config(*args, **options)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        return loaded

    @classmethod
    def download(cls, pretrained_model_name: str, **options: Any) -> str:  # type: ignore[override]
        """Fetch a Hub repository's files as :class:`~distillkit.Restorer` does.

        diffusers knows no such files, and would leave them out.
        """
        known = {key: options[key] for key in DOWNLOAD_OPTIONS if options.get(key) is not None}
        return str(find_student(pretrained_model_name, **known))

    def __call__(
        self,
        image: Any,
        tradeoff: float | Sequence[float] | None = None,
        *,
        seed: int = 0,
        caption: str | None = None,
        **options: Any,
    ) -> ImagePipelineOutput:
        """Restore ``image``.

        Args:
            image: As in a call of :class:`~distillkit.Restorer`.
            tradeoff: 0 is most realistic, 1 most faithful; or several of them.
            seed: The seed of the model's draws.
            caption: A text about the image, for a student that takes texts.
            options: The options of :class:`~distillkit.Restorer`.
        """
        restorer = Restorer(self.student.student, self.device, **options)
        restored = restorer(image, tradeoff, seed=seed, caption=caption)
        if not isinstance(restored, list):
            restored = [restored]
        return ImagePipelineOutput(images=restored)
