"""Tradeoffs that differ from pixel to pixel: in one pass, or interpolated between a few."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from toy_models import Enlarger, ToyModel

from distillkit import DistillkitError, ModelInput, Restorer
from distillkit.adapters import add_adapter
from distillkit.inference.student import Student
from distillkit.inference.tradeoff_map import NODES, read_map
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.objectives.oftsr import Oftsr

REACH = 4
"""Input pixels that an output pixel of the toys depends on, and one more."""


def make_student(kind):
    """Make a student with an effect of its tradeoff; ``kind`` is its model and its adapter."""
    name, adapter = kind
    model = {"enlarger": Enlarger, "denoiser": ToyModel}[name]()
    if adapter == "oftsr":
        variant = Oftsr(model.requires_grad_(False))
    else:
        variant = AdapterScaling(model, add_adapter(model.network, adapter, rank=2))
    generator = torch.Generator().manual_seed(1)
    for tensor in variant.tensors().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    model.requires_grad_(False).eval()
    return Student(model, variant)


EXACT = [("enlarger", "full"), ("enlarger", "lora")]
BY_NODES = [("denoiser", "lora"), ("denoiser", "full"), ("denoiser", "oftsr")]
each_kind = pytest.mark.parametrize("kind", EXACT + BY_NODES, ids="-".join)


@pytest.fixture
def photo():
    return np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)


@pytest.mark.parametrize("kind", EXACT + BY_NODES, ids="-".join)
def test_which_students_take_a_map_in_one_pass(kind):
    assert make_student(kind).variant.takes_map == (kind in EXACT)


@each_kind
def test_a_constant_map_is_the_number(photo, kind):
    restorer = Restorer(make_student(kind))
    by_map = restorer(photo, tradeoff=np.full((24, 32), 0.3))
    np.testing.assert_allclose(by_map, restorer(photo, tradeoff=0.3), atol=1e-6)


def test_merged_weights_take_no_map(photo):
    restorer = Restorer(make_student(("enlarger", "lora")))
    ramp = np.linspace(0, 1, photo[..., 0].size).reshape(photo.shape[:2])
    with restorer.merged_at(0.3), pytest.raises(DistillkitError, match="they take no map"):
        restorer(photo, tradeoff=ramp)


@pytest.mark.parametrize("kind", EXACT, ids="-".join)
def test_the_pass_itself_gives_the_number_for_a_constant_map(kind):
    variant = make_student(kind).variant
    lq = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    condition = variant.student.condition(ModelInput(lq))
    by_map = variant.generate(condition, torch.full((1, 1, 12, 10), 0.3))
    torch.testing.assert_close(by_map, variant.generate(condition, 0.3), atol=1e-6, rtol=0)
    assert variant.adapter.scale == 1.0


@each_kind
@pytest.mark.parametrize("tile", [None, 16])
def test_halves_are_the_two_restorations_away_from_the_seam(photo, kind, tile):
    restorer = Restorer(make_student(kind), tile=tile)
    halves = np.zeros((24, 32))
    halves[:, 16:] = 1
    restored = restorer(photo, tradeoff=halves)
    left, right = 2 * (16 - REACH), 2 * (16 + REACH)
    realistic, faithful = restorer(photo, tradeoff=[0.0, 1.0])
    np.testing.assert_allclose(restored[:, :left], realistic[:, :left], atol=1e-5)
    np.testing.assert_allclose(restored[:, right:], faithful[:, right:], atol=1e-5)
    assert np.abs(realistic - faithful).max() > 0.02


@pytest.mark.parametrize("kind", EXACT, ids="-".join)
def test_a_pixel_of_a_network_without_nonlinearity_between_is_at_its_own_tradeoff(kind):
    """With one layer alone the pass is the image blend of both ends, pixel by pixel."""
    student = make_student(kind)
    layer = student.model.network[0]
    variant = AdapterScaling(student.model, student.variant.adapter)
    tradeoffs = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with variant.adapter.at_map(tradeoffs):
        blended = layer(x)
    with variant.adapter.at_scale(0.0):
        low = layer(x)
    with variant.adapter.at_scale(1.0):
        high = layer(x)
    torch.testing.assert_close(blended, low + tradeoffs * (high - low))


def test_pixels_between_nodes_are_interpolated_linearly(photo):
    restorer = Restorer(make_student(("denoiser", "lora")))
    tradeoffs = np.full((24, 32), 0.3)
    tradeoffs[:2] = 0.9
    restored = restorer(photo, tradeoff=tradeoffs)
    below, above = restorer(photo, tradeoff=list(NODES[1:3]))
    expected = below + (0.3 - NODES[1]) / (NODES[2] - NODES[1]) * (above - below)
    np.testing.assert_allclose(restored[8:], expected[8:], atol=1e-5)


def test_a_mask_may_be_a_picture_and_have_another_size(photo):
    restorer = Restorer(make_student(EXACT[0]))
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    by_picture = restorer(photo, tradeoff=Image.fromarray(mask))
    by_array = restorer(photo, tradeoff=(mask[::2, ::2] / 255))
    by_tensor = restorer(photo, tradeoff=torch.from_numpy(mask[::2, ::2] / 255))
    np.testing.assert_array_equal(by_picture, by_array)
    np.testing.assert_array_equal(by_tensor, by_array)


def test_16_bit_masks_have_all_their_levels():
    levels = np.array([[0, 13107], [32768, 65535]], dtype=np.uint16)
    read = read_map(Image.fromarray(levels), 2, 2)
    np.testing.assert_allclose(read[0, 0], levels / 65535, rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_may_be_opaque_and_not_transparent(mode):
    opaque = Image.new("L", (2, 2), 102)
    opaque.putpixel((0, 0), 255)
    opaque = opaque.convert(mode)
    np.testing.assert_allclose(read_map(opaque, 2, 2)[0, 0], [[1, 0.4], [0.4, 0.4]], rtol=1e-6)
    opaque.putalpha(Image.new("L", (2, 2), 254))
    with pytest.raises(DistillkitError, match="a tradeoff map has no transparency; fill its"):
        read_map(opaque, 2, 2)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (np.zeros((24, 32, 3)), r"has the shape \(h, w\), not \(24, 32, 3\)"),
        (np.full((24, 32), 255), "from 0 to 1; this one, 255 to 255. Divide"),
        (np.full((24, 32), np.nan), "from 0 to 1"),
        (np.zeros((32, 24)), "24 x 32 pixels does not fit an image of 32 x 24"),
        ([np.zeros((24, 32)), 0.5], "cannot stand in a list"),
    ],
)
def test_what_is_no_map_is_refused(photo, bad, why):
    with pytest.raises(DistillkitError, match=why):
        Restorer(make_student(EXACT[0]))(photo, tradeoff=bad)


def test_a_student_with_a_fixed_tradeoff_has_no_map(photo):
    with pytest.raises(DistillkitError, match="fixed tradeoff, 0: it cannot restore by a map"):
        Restorer(Student(Enlarger(), None))(photo, tradeoff=np.zeros((24, 32)))


@pytest.fixture
def finished(toys, finished_run):
    return finished_run("data.eval=[]")


def test_the_command_takes_a_mask(distillkit, finished, photos, tmp_path):
    mask = Image.new("L", (48, 40), 0)
    mask.paste(255, (24, 0, 48, 40))
    mask.save(tmp_path / "mask.png")
    source = photos / "test/test0.png"

    def restore(name, *options):
        out = tmp_path / name
        outcome = distillkit("restore", source, "-o", out, "--run", finished, *options)
        assert outcome.code == 0, outcome.err
        return np.asarray(Image.open(out)).astype(int)

    by_mask = restore("map.png", "--tradeoff-map", tmp_path / "mask.png")
    realistic = restore("t0.png", "--tradeoff", "0")
    faithful = restore("t1.png", "--tradeoff", "1")
    reach = 2 * REACH
    assert np.abs(by_mask[:, : 48 - reach] - realistic[:, : 48 - reach]).max() <= 1
    assert np.abs(by_mask[:, 48 + reach :] - faithful[:, 48 + reach :]).max() <= 1


def test_the_command_refuses_both_forms_and_a_damaged_mask(distillkit, finished, photos, tmp_path):
    (tmp_path / "mask.png").write_text("no picture")
    command = ["restore", photos / "test/test0.png", "-o", tmp_path / "o.png", "--run", finished]
    both = distillkit(*command, "--tradeoff", "1", "--tradeoff-map", tmp_path / "mask.png")
    assert both.code
    assert "either --tradeoff or --tradeoff-map" in both.err
    damaged = distillkit(*command, "--tradeoff-map", tmp_path / "mask.png")
    assert damaged.code
    assert f"{tmp_path / 'mask.png'} - empty, or not an image of a known format" in damaged.err
    assert not (tmp_path / "o.png").exists()


def turned(picture):
    """Store a picture turned, with the orientation by which viewers turn it back."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return picture.transpose(Image.Transpose.ROTATE_90), {"exif": exif}


def sixteen_bits(picture):
    return Image.fromarray(np.asarray(picture).astype(np.uint16) * 257), {}


def in_color(picture):
    return picture.convert("RGB"), {}


@pytest.mark.parametrize("stored", [turned, sixteen_bits, in_color])
def test_masks_are_read_as_the_images_are(distillkit, finished, photos, tmp_path, stored):
    mask = Image.new("L", (48, 40), 0)
    mask.paste(255, (24, 0, 48, 20))
    mask.save(tmp_path / "plain.png")
    picture, options = stored(mask)
    picture.save(tmp_path / "stored.png", **options)
    results = []
    for name in ("plain.png", "stored.png"):
        out = tmp_path / f"restored-{name}"
        command = ["restore", photos / "test/test0.png", "-o", out, "--run", finished]
        outcome = distillkit(*command, "--tradeoff-map", tmp_path / name)
        assert outcome.code == 0, outcome.err
        results.append(out.read_bytes())
    assert results[0] == results[1]


def test_a_mask_that_claims_too_many_pixels_is_refused(
    distillkit, finished, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("1", (2000, 2000)).save(tmp_path / "mask.png")
    command = ["restore", photos / "test/test0.png", "-o", tmp_path / "o.png", "--run", finished]
    large = distillkit(*command, "--tradeoff-map", tmp_path / "mask.png", "--megapixels", "1")
    assert large.code
    assert f"{tmp_path / 'mask.png'} - its header claims more than the 1 megapixels" in large.err


def test_a_picture_that_is_a_map_is_turned_as_a_viewer_turns_it(tmp_path):
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    picture, options = turned(upright)
    picture.save(tmp_path / "turned.png", **options)
    with Image.open(tmp_path / "turned.png") as opened:
        torch.testing.assert_close(read_map(opened, 4, 6), read_map(upright, 4, 6))
