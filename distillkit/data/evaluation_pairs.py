"""Fixed pairs to evaluate on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from torch import Tensor

from distillkit.data.crops import CropBox, central_grid, check_sizes, cut_pair
from distillkit.data.degradation import Degradation
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import BadImageError, Sizes, Source, check_bad_fraction
from distillkit.errors import DataError


class EvaluationPair(NamedTuple):
    """A low-quality image and its clean one."""

    name: str
    lq: Tensor
    """(1, 3, h, w) in [-1, 1]."""
    gt: Tensor
    """(1, 3, H, W) in [-1, 1]."""
    caption: str | None = None


@dataclass(frozen=True)
class PlannedPair:
    """A pair that is read when it is needed: held-out images may be larger than the memory."""

    name: str
    source: Source
    index: int
    """Index of the image in its source."""
    box: CropBox
    scale: int
    degradation: Degradation | None
    key: tuple[str | int, ...]
    """Key of the degradation's random draws."""

    def read(self) -> EvaluationPair:
        """Decode the pair, and degrade it where the source has no low-quality image.

        Raises:
            BadImageError: The image cannot be read, though its header can.
        """
        example = self.source.read(self.index)
        gt, lq = cut_pair(example, self.box, self.scale)
        assert gt is not None, "checked when it was planned"
        if lq is None:
            assert self.degradation is not None, "checked when it was planned"
            lq = self.degradation(gt[None], keyed_generator(*self.key))[0]
        return EvaluationPair(self.name, lq[None], gt[None], example.caption)


def evaluation_pairs(
    source: Source,
    degradation: Degradation | None,
    *,
    crop: int | None,
    scale: int,
    seed: int,
    crops_per_image: int = 1,
    max_bad_fraction: float = 0.0,
    on_bad: Callable[[str, str], None] | None = None,
) -> list[PlannedPair]:
    """Plan the pairs to evaluate on, in the order of the source; only headers are read.

    A paired source gives its own low-quality images. For any other source ``degradation`` makes
    them, with draws that depend on ``seed`` and the name of the pair alone.

    Args:
        source: The images.
        degradation: For a source that is not paired.
        crop: Side of the crops of the clean image, pixels, a multiple of ``scale``; None: full
            images, trimmed at the right and the bottom to a multiple of ``scale``.
        scale: Size of the clean image divided by that of the low-quality one.
        seed: The seed of the degradation's draws.
        crops_per_image: Crops of one image do not overlap and lie on an even grid, the most
            central first; a small image gives fewer. They are called ``photo#0``, ``photo#1`` ...;
            a full image is called ``photo``.
        max_bad_fraction: Share of the images that may be left out because they are unusable.
        on_bad: Called with the id of each unusable image and the reason.

    Raises:
        DataError: More bad images than allowed, a crop that is not a multiple of the scale, or no
            degradation or ground truth where one is needed.
    """
    _check_evaluable(source, degradation, crop, scale)
    pairs: list[PlannedPair] = []
    bad: dict[str, str] = {}
    photos: set[str] = set()
    for index in range(len(source)):
        try:
            sizes = source.read_sizes(index)
            check_sizes(sizes, crop or scale, scale)
        except BadImageError as error:
            bad[error.id] = error.reason
            continue
        photo = _name_photo(source, index, photos)
        for name, box in _name_boxes(photo, sizes, crop, crops_per_image, scale):
            key = (seed, "evaluation", name, "degradation")
            pairs.append(PlannedPair(name, source, index, box, scale, degradation, key))
    check_bad_fraction(source, bad, max_bad_fraction)
    if on_bad is not None:
        for id, reason in bad.items():
            on_bad(id, reason)
    return pairs


def _check_evaluable(
    source: Source, degradation: Degradation | None, crop: int | None, scale: int
) -> None:
    """Raise DataError where no pair can be made of a source."""
    if crop is not None and crop % scale:
        raise DataError(
            f"an evaluation crop of {crop} pixels is not a multiple of the scale {scale}"
        )
    if not source.has_ground_truth:
        raise DataError(
            f"{source.name} - has no ground truth to evaluate against; use it for training only"
        )
    if degradation is None and not source.paired:
        raise DataError(
            f"{source.name} - has no low-quality images of its own, and no degradation is given to "
            "make them"
        )


def _name_photo(
    source: Source,
    index: int,
    photos: set[str],
) -> str:
    """Name an image by its file, and add the name to ``photos``.

    Where the name is taken, it gets the number of the image.
    """
    photo = str(PurePath(source.label(index)).with_suffix(""))
    if photo in photos:
        photo = f"{photo}@{index}"
    photos.add(photo)
    return photo


def _name_boxes(
    photo: str,
    sizes: Sizes,
    crop: int | None,
    count: int,
    scale: int,
) -> list[tuple[str, CropBox]]:
    """Choose the crops of one image, each with its name."""
    assert sizes.gt is not None, "checked when it was planned"
    height, width = (side // scale for side in sizes.gt)
    if crop is None:
        return [(photo, CropBox(0, 0, height, width))]
    side = crop // scale
    corners = central_grid(height, width, side)[:count]
    return [
        (f"{photo}#{number}", CropBox(top, left, side, side))
        for number, (top, left) in enumerate(corners)
    ]
