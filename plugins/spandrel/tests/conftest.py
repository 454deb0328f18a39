"""Fixtures of several test files.

distillkit comes before spandrel: it makes a torchvision for another torch importable.
"""

import numpy as np
import pytest
from PIL import Image
from toy_fixtures import distillkit

__all__ = ["distillkit"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC)
        photo.save(folder / f"{i}.png")
    return folder
