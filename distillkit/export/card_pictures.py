"""The pictures of a model card: a photo at several tradeoffs, and the measured curves."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from distillkit.evaluation.metric_rows import find_metrics_files
from distillkit.export.card_metadata import INPUT_PICTURE, picture_at
from distillkit.files.images import write_picture
from distillkit.inference.image_types import read_picture
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import Student

SHOWN_TRADEOFFS = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST_SIDE = 512
"""Of a restored picture, pixels: the card shows the middle of a larger photo."""
CURVE = "tradeoff.png"
"""The figure of an evaluation that the card shows: it holds no photo of anybody's."""


def write_strip(photo: Path, student: Student, tradeoffs: Sequence[float], folder: Path) -> None:
    """Restore the middle of a photo at several tradeoffs.

    Args:
        photo: A low-quality one.
        student: What to restore with.
        tradeoffs: The tradeoffs of the pictures.
        folder: The folder of the card.

    Raises:
        DataError: The photo cannot be read.
        DistillkitError: It cannot be restored.
    """
    restorer = Restorer(student)
    picture = _cut_middle(read_picture(photo), LARGEST_SIDE // restorer.scale)
    (folder / INPUT_PICTURE).parent.mkdir()
    write_picture(picture, folder / INPUT_PICTURE)
    for tradeoff, restored in zip(tradeoffs, restorer(picture, tradeoffs), strict=True):
        write_picture(restored, folder / picture_at(tradeoff))


def copy_curves(run: Path, only_set: str, folder: Path) -> dict[str, str]:
    """Copy the figures of a run's evaluation.

    Args:
        run: The run's folder; an exported one has no evaluation.
        only_set: Name of the evaluation set where there is one only.
        folder: The folder of the card.

    Returns:
        Their files, by evaluation set.
    """
    evaluation = run / "evaluation"
    curves = {}
    for file in find_metrics_files(evaluation):
        figure = file.with_name(CURVE)
        if not figure.is_file():
            continue
        name = only_set if file.parent == evaluation else file.parent.name
        curves[name] = f"pictures/measured-{name}.png"
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(figure, folder / curves[name])
    return curves


def _cut_middle(picture: Image.Image, side: int) -> Image.Image:
    """Cut a square out of the middle of a picture that is larger."""
    width = min(picture.width, side)
    height = min(picture.height, side)
    left = (picture.width - width) // 2
    top = (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
