"""Images kept from an evaluation, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.evaluation.results import ROLES, STUDENT, is_combination
from distillkit.evaluation.statistics import photo_of

Images = dict[str, Tensor]
"""Method label -> uint8 image (3, H, W).

Also ``gt`` and, where there is an input, ``lq`` (3, h, w).
"""
TITLES = {"lq": "input", "gt": "ground truth"}
DETAIL_SIDE = 96
"""Side of a detail, ground-truth pixels."""
MAX_PIXELS = 3 * 2**20
"""Larger images are kept at a half, a third ... of their size: a page holds dozens of them."""


@dataclass(frozen=True)
class Picture:
    """One photo as every method restored it."""

    difference: float
    """How much the methods differ: their standard deviation, mean over the pixels."""
    whole: Images
    """The full images; an ``lq`` keeps its own size."""
    reduction: int
    """``whole`` has this fraction of the ground truth's sides; 1 where nothing was reduced."""
    detail: Images
    """The same region of all images, where the methods differ most."""


@dataclass
class Gallery:
    """The photos on which the methods differ most, one item of each.

    Pass it to ``evaluate(..., observe=gallery)``.
    """

    limit: int = 4
    _pictures: dict[str, Picture] = field(default_factory=dict)

    @property
    def pictures(self) -> dict[str, Picture]:
        """The pictures by item, the one with the largest difference first."""
        return dict(sorted(self._pictures.items(), key=lambda entry: -entry[1].difference))

    def __call__(self, item: str, images: Images) -> None:
        """Keep the images of an item, if the methods differ more on it than on those kept."""
        shown = {label: image for label, image in images.items() if not is_combination(label)}
        differences = difference_map(shown)
        difference = float(differences.mean())
        replaced = self._picture_to_replace(item)
        if replaced is not None:
            if difference <= self._pictures[replaced].difference:
                return
            del self._pictures[replaced]
        whole, reduction = _reduce(shown)
        detail = crop_detail(shown, differences)
        self._pictures[item] = Picture(difference, whole, reduction, detail)

    def _picture_to_replace(self, item: str) -> str | None:
        """Return the kept item that this one would replace: one of its photo, or the last.

        None where there is room.
        """
        for kept in self._pictures:
            if photo_of(kept) == photo_of(item):
                return kept
        if len(self._pictures) < self.limit:
            return None
        return list(self.pictures)[-1]


def difference_map(images: Images) -> Tensor:
    """Compute how much the methods differ at each pixel.

    Args:
        images: Images of one item. A single method is compared with the ground truth.

    Returns:
        Their standard deviation, mean over the channels, (H, W).
    """
    outputs = [image for label, image in images.items() if label not in ("lq", "gt")]
    if len(outputs) < 2:
        outputs.append(images["gt"])
    # Summed up one by one: a stack of many large images would fill the memory.
    total = torch.zeros(outputs[0].shape)
    squares = torch.zeros(outputs[0].shape)
    for output in outputs:
        values = output.cpu().float()
        total += values
        squares += values.square()
    mean = total / len(outputs)
    variance = squares / len(outputs) - mean.square()
    return variance.clamp(min=0).sqrt().mean(0)


def crop_detail(images: Images, differences: Tensor, side: int = DETAIL_SIDE) -> Images:
    """Crop every image to the region with the largest differences, on whole pixels of ``lq``.

    Args:
        images: Images of one item.
        differences: (H, W), of :func:`difference_map`.
        side: The largest side of the region, in ground-truth pixels.
    """
    gt = images["gt"]
    # Positions are chosen in the smallest image, so that every larger one is cut on whole pixels.
    smallest = images.get("lq", gt)
    input_height, input_width = smallest.shape[-2:]
    scale = max(1, gt.shape[-1] // input_width)
    coarse = F.avg_pool2d(differences[None], scale)[0, :input_height, :input_width]
    height = min(max(1, side // scale), coarse.shape[0])
    width = min(max(1, side // scale), coarse.shape[1])
    top, left = _largest_sum(coarse, height, width)

    cropped = {}
    for label, image in images.items():
        factor = 1 if label == "lq" else scale
        rows = slice(factor * top, factor * (top + height))
        columns = slice(factor * left, factor * (left + width))
        cropped[label] = image[..., rows, columns].cpu()
    return cropped


def _largest_sum(values: Tensor, height: int, width: int) -> tuple[int, int]:
    """Find the top left corner of the box with the largest sum."""
    # Sums from the corner of the image make the sum of any box four numbers.
    sums = F.pad(values.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    lower = sums[height:, width:] - sums[height:, :-width]
    upper = sums[:-height, width:] - sums[:-height, :-width]
    boxes = lower - upper
    top, left = divmod(int(boxes.argmax()), boxes.shape[1])
    return top, left


def _reduce(images: Images) -> tuple[Images, int]:
    """Reduce images that are too large for a page by a whole number."""
    height, width = images["gt"].shape[-2:]
    factor = 1
    while height * width > MAX_PIXELS * factor**2:
        factor += 1
    reduced = {}
    for label, image in images.items():
        shown = image.cpu()
        if factor > 1 and label != "lq":
            shown = F.avg_pool2d(shown.float(), factor).round().to(torch.uint8)
        reduced[label] = shown
    return reduced, factor


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
