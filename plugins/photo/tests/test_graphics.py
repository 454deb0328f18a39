"""The drawn graphics: pairs that fit, the same for the same seed, with hard edges in them."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from distillkit_photo.graphics import draw_graphic, graphics, shrink
from distillkit_photo.options import GraphicsOptions


@pytest.fixture(scope="module")
def drawn():
    return graphics(GraphicsOptions(count=6, size=64))


def opened(cell):
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_small_versions_are_a_quarter(drawn):
    for row in drawn:
        assert opened(row["image"]).shape == (64, 64, 3)
        assert opened(row["lq"]).shape == (16, 16, 3)


def test_the_seed_decides_what_is_drawn(drawn):
    again = graphics(GraphicsOptions(count=6, size=64))
    other = graphics(GraphicsOptions(count=6, size=64, seed=1))
    assert [row["image"] for row in again] == [row["image"] for row in drawn]
    assert [row["image"] for row in other] != [row["image"] for row in drawn]


def test_edges_are_hard_and_colors_saturated():
    rng = random.Random(0)
    images = np.stack([np.asarray(draw_graphic(rng, 96)) for _ in range(12)]).astype(int)
    assert np.abs(np.diff(images, axis=2)).max() == 255
    assert np.isin(images, [0, 255]).mean() > 0.1


def test_some_small_versions_are_aliased():
    stripes = Image.fromarray(np.tile(np.uint8([[[255] * 3, [0] * 3]]), (64, 32, 1)))
    rng = random.Random(0)
    contrasts = [int(np.ptp(np.asarray(shrink(rng, stripes)))) for _ in range(24)]
    means = [float(np.asarray(shrink(rng, stripes)).mean()) for _ in range(24)]
    assert max(contrasts) < 255
    assert min(means) == 0 or max(means) == 255
