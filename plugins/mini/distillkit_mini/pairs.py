"""Training pairs: crops of photographs, and what the degradation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from PIL import Image
from torch import Tensor

from distillkit import BatchSettings, Degradation, TrainingBatches, open_source
from distillkit_mini.training_setups import TrainingSetup

BATCH = 8


def open_photos(folders: Sequence[Path], setup: TrainingSetup, seed: int) -> TrainingBatches:
    """Open folders of photographs as batches of crops.

    Large photographs are also used at half their size, where they have more detail per pixel.
    Photographs smaller than a crop are left out.

    Args:
        folders: Searched recursively.
        setup: Says how large crops are, and from which size on photographs are large.
        seed: Seed of the crops.

    Raises:
        DistillkitError: A folder does not exist, has no photographs, or a file cannot be read.
    """
    tables = [open_source(imagefolder=folder).dataset for folder in folders]
    photos = open_source(dataset=datasets.concatenate_datasets(tables), name="photographs")
    halves: list[Image.Image] = []
    for index in range(len(photos)):
        pixels = photos.read(index).gt
        assert pixels is not None
        photo = Image.fromarray(pixels)
        if min(photo.size) >= max(setup.large, 2 * setup.crop):
            halves.append(photo.reduce(2))
    sources = [photos]
    if halves:
        features = datasets.Features({"image": datasets.Image()})
        table = datasets.Dataset.from_dict({"image": halves}, features=features)
        sources.append(open_source(dataset=table, name="photographs at half their size"))
    settings = BatchSettings(
        crop_size=setup.crop,
        batch_size=BATCH,
        scale=setup.task.scale,
        seed=seed,
        max_bad_fraction=1.0,
    )
    # Every photograph, and every half, is drawn equally often.
    return TrainingBatches(sources, [len(source) for source in sources], settings)


class TrainingPairs:
    """Batches (lq, gt) in [-1, 1], and the generator of all other draws.

    Args:
        batches: Crops of photographs.
        degradation: Makes the inputs.
        seed: Seed of the generator.
    """

    def __init__(self, batches: TrainingBatches, degradation: Degradation, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._batches = batches
        self._degradation = degradation
        self._step = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw the next batch."""
        gt = self._batches.batch("train", self._step).gt
        assert gt is not None
        self._step += 1
        return self._degradation(gt, self.generator), gt
