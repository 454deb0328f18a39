"""Training crops from a collection of photographs held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from distillkit import DistillkitError

SUFFIXES = {".jpg", ".jpeg", ".png"}


def find_photos(places: Iterable[Path]) -> list[Path]:
    """Every photograph in the given files and folders, folders searched recursively, in a fixed order.

    Raises:
        DistillkitError: a place does not exist, or there is no photograph in any.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DistillkitError(f"{place} - no such file or folder")
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        found += [p for p in inside if p.suffix.lower() in SUFFIXES]
    if not found:
        raise DistillkitError(
            f"no photographs ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, places))}"
        )
    return found


def read_photo(path: Path) -> Tensor:
    """A photograph as uint8, (3, H, W)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


class Crops:
    """Random square crops. Of several candidates the one with the most detail is taken: plain sky teaches little.

    Args:
        paths: photographs; those smaller than a crop are left out. size: side of the crops, pixels.
        candidates: crops drawn for each that is kept.
        large: photographs of at least this shorter side, in pixels, are also used at half their size, where they have more detail a
            pixel, unless a crop does not fit then.
    """

    def __init__(
        self, paths: Iterable[Path], size: int, candidates: int = 2, large: int = 480
    ) -> None:
        self.size, self.candidates, self.large = size, candidates, large
        self.versions = [v for v in (list(self._versions(read_photo(p))) for p in paths) if v]
        if not self.versions:
            raise DistillkitError(f"every photograph is smaller than a crop of {size} px")

    def __len__(self) -> int:
        return len(self.versions)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """(B, 3, size, size) in [-1, 1], mirrored and turned at random."""
        return torch.stack([self._one(generator) for _ in range(batch)])

    def _versions(self, photo: Tensor) -> Iterator[Tensor]:
        if min(photo.shape[1:]) >= self.size:
            yield photo
        if min(photo.shape[1:]) >= max(self.large, 2 * self.size):
            yield F.avg_pool2d(photo[None].float(), 2)[0].round().to(torch.uint8)

    def _one(self, generator: torch.Generator) -> Tensor:
        versions = self.versions[_below(len(self.versions), generator)]
        photo = versions[_below(len(versions), generator)]
        crop = max((self._cut(photo, generator) for _ in range(self.candidates)), key=_detail)
        if _below(2, generator):
            crop = crop.flip(2)
        return torch.rot90(crop, _below(4, generator), (1, 2)) / 127.5 - 1

    def _cut(self, photo: Tensor, generator: torch.Generator) -> Tensor:
        top, left = (_below(side - self.size + 1, generator) for side in photo.shape[1:])
        return photo[:, top : top + self.size, left : left + self.size].float()


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


def _detail(crop: Tensor) -> float:
    """Mean absolute difference of neighboring pixels."""
    return float(crop.diff(dim=1).abs().mean() + crop.diff(dim=2).abs().mean())
