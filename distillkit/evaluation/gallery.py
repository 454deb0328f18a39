"""Images kept from an evaluation, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from distillkit.evaluation.results import COMBINATION, ROLES, STUDENT
from distillkit.evaluation.statistics import photo_of

Images = dict[str, Tensor]
"""Method label -> uint8 image (3, H, W).

Also ``gt`` and, where there is an input, ``lq`` (3, h, w).
"""
TITLES = {"lq": "input", "gt": "ground truth"}


@dataclass
class Gallery:
    """The first crop of each of the first ``limit`` photos.

    Pass it to ``evaluate(..., observe=gallery)``.
    """

    limit: int = 4
    side: int = 256
    """Larger images are cropped to the central square of this many ground-truth pixels."""
    photos: dict[str, Images] = field(default_factory=dict)

    def __call__(self, item: str, images: Images) -> None:
        """Keep the images of an item, unless its photo is there already or the gallery is full."""
        photo = photo_of(item)
        if photo in self.photos or len(self.photos) >= self.limit:
            return
        shown = {
            label: image for label, image in images.items() if not label.startswith(COMBINATION)
        }
        self.photos[photo] = crop_center(shown, self.side)


def crop_center(images: Images, side: int) -> Images:
    """Crop the same central region of every image, on whole pixels of ``lq``.

    Args:
        images: images of one item.
        side: the largest side of the region, in ground-truth pixels.
    """
    gt = images["gt"]
    # Positions are chosen in the smallest image, so that every larger one is cut on whole pixels.
    smallest = images.get("lq", gt)
    input_height, input_width = smallest.shape[-2:]
    scale = max(1, gt.shape[-1] // input_width)
    height = min(side // scale, input_height)
    width = min(side // scale, input_width)
    top = (input_height - height) // 2
    left = (input_width - width) // 2

    cropped = {}
    for label, image in images.items():
        factor = 1 if label == "lq" else scale
        rows = slice(factor * top, factor * (top + height))
        columns = slice(factor * left, factor * (left + width))
        cropped[label] = image[..., rows, columns].cpu()
    return cropped


def image_title(label: str, teachers: tuple[str, str] | None) -> str:
    """Compose the title above the image of a method: ``fidelity teacher``, ``student 0.5``."""
    if teachers is not None and label in teachers and label in ROLES:
        return f"{label} teacher"
    name, _, tradeoff = label.partition("@")
    title = TITLES.get(name, name)
    return f"{title} {tradeoff}" if tradeoff else title


def sort_for_display(labels: Sequence[str], teachers: tuple[str, str] | None) -> list[str]:
    """Sort labels: input, baselines, teachers, methods by tradeoff, student, ground truth."""
    inputs = [label for label in labels if label == "lq"]
    fixed = [label for label in labels if label not in ("lq", "gt") and "@" not in label]
    adjustable = [label for label in labels if "@" in label]

    def teachers_last(label: str) -> tuple[bool, str]:
        return label in (teachers or ()), label

    def student_last(label: str) -> tuple[bool, str, float]:
        name, _, tradeoff = label.rpartition("@")
        return name == STUDENT, name, float(tradeoff)

    return [
        *inputs,
        *sorted(fixed, key=teachers_last),
        *sorted(adjustable, key=student_last),
        "gt",
    ]
