"""The runtime's pictures are the engine's, to one gray level."""

import io

import numpy as np
import pytest
from exported_toys import SIZE_MULTIPLE, TILE, picture
from PIL import Image, ImageChops
from test_pictures import P3

from distillkit.inference.color import fix_colors as fix_colors_by_engine
from distillkit.inference.tiling import plan_tiles as plan_tiles_by_engine
from distillkit.inference.tradeoff_map import read_map
from distillkit_runtime import RestoreError, Restorer
from distillkit_runtime.colors import fix_colors
from distillkit_runtime.tiles import plan_tiles
from distillkit_runtime.tradeoffs import fit_map


def assert_equal(restored, expected, levels=1):
    """Check that two pictures or arrays differ by so many gray levels at most."""
    assert type(restored) is type(expected)
    if isinstance(restored, Image.Image):
        assert restored.mode == expected.mode
        restored, expected = np.asarray(restored), np.asarray(expected)
    assert restored.shape == expected.shape
    assert restored.dtype == expected.dtype
    largest = np.iinfo(restored.dtype).max if restored.dtype.kind == "u" else 1
    difference = np.abs(restored.astype(float) - expected.astype(float)).max()
    assert difference <= levels * largest / 255


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def with_hidden_colors(mode):
    image = picture(37, 50, len(mode) - 1)
    mask = Image.fromarray(np.asarray(picture(37, 50, 1, seed=3)).clip(60, 160) // 1)
    image.putalpha(ImageChops.subtract(mask, Image.new("L", mask.size, 90)))
    assert image.mode == mode
    return image


def palette():
    image = picture(37, 50, 3).quantize(16)
    return encoded(image, format="PNG", transparency=3)


PICTURES = {
    "rgb": picture(37, 50, 3),
    "gray": picture(37, 50, 1),
    "deep gray": picture(37, 50, 1, np.uint16),
    "rgba": with_hidden_colors("RGBA"),
    "la": with_hidden_colors("LA"),
    "palette": palette(),
    "cmyk": encoded(picture(37, 50, 3).convert("CMYK"), format="TIFF"),
    "turned": encoded(
        picture(37, 50, 3),
        format="PNG",
        exif=bytes.fromhex("4d4d002a00000008000101120003000000010006000000000000"),
    ),
    "profile": encoded(picture(37, 50, 3), format="PNG", icc_profile=P3),
    "one pixel": picture(1, 1, 3),
    "a line": picture(2, 61, 3),
    "array": np.asarray(picture(37, 50, 3)),
    "plane": np.asarray(picture(37, 50, 1)),
    "deep array": np.asarray(picture(37, 50, 3)).astype(np.uint16) * 257,
    "floats": np.asarray(picture(37, 50, 3)) / 255,
    "rgba array": np.asarray(with_hidden_colors("RGBA")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind_are_those_of_the_engine(toys, name):
    restored = Restorer(toys.graphs["input"], TILE)(PICTURES[name], 0.4)
    assert_equal(restored, toys.enlarger(PICTURES[name], 0.4))
    if name == "turned":
        assert restored.size == (74, 100)


@pytest.mark.parametrize("tradeoff", [None, 0, 0.3, 1.0])
@pytest.mark.parametrize("student", ["denoiser", "enlarger"])
def test_tradeoffs_and_tiles_are_those_of_the_engine(toys, student, tradeoff):
    graph = toys.graphs["denoiser" if student == "denoiser" else "input"]
    engine = getattr(toys, student)
    image = PICTURES["rgb"]
    expected = engine(image, tradeoff)
    assert_equal(Restorer(graph, TILE)(image, tradeoff), expected)
    if tradeoff:
        with pytest.raises(AssertionError):
            assert_equal(expected, engine(image, 1 - tradeoff if tradeoff != 1 else 0))


def test_a_student_at_one_tradeoff_and_one_in_float16(toys):
    image = PICTURES["rgb"]
    expected = toys.enlarger(image, 0.3)
    fixed = Restorer(toys.graphs["fixed"], TILE)
    assert_equal(fixed(image), expected)
    assert_equal(fixed(image, 0.3), expected)
    with pytest.raises(RestoreError, match=r"fixed.onnx - has one tradeoff \(0.3\)"):
        fixed(image, 0.4)
    with pytest.raises(RestoreError, match="export the student without --tradeoff"):
        fixed(image, np.linspace(0, 1, 37 * 50).reshape(37, 50))
    # The export itself allows two levels.
    assert_equal(Restorer(toys.graphs["half"], TILE)(image, 0.3), expected, levels=2)


def maps():
    ramp = np.linspace(0, 1, 37 * 50, dtype=np.float32).reshape(37, 50)
    mask = np.zeros((37, 50))
    mask[:, 20:] = 1
    return {
        "ramp": ramp,
        "mask": mask,
        "smaller": np.linspace(0, 1, 12 * 16).reshape(12, 16),
        "larger": np.kron(mask, np.ones((3, 3)))[2:, 1:],
        "picture": Image.fromarray((mask * 200).astype(np.uint8)),
        "constant": np.full((37, 50), 0.25),
    }


@pytest.mark.parametrize("name", maps())
@pytest.mark.parametrize(("student", "graph"), [("enlarger", "plane"), ("denoiser", "denoiser")])
def test_maps_are_those_of_the_engine(toys, student, graph, name):
    image = PICTURES["rgb"]
    tradeoffs = maps()[name]
    expected = getattr(toys, student)(image, tradeoffs)
    assert_equal(Restorer(toys.graphs[graph], TILE)(image, tradeoffs), expected)


def test_a_graph_with_a_plane_takes_a_number(toys):
    image = PICTURES["rgb"]
    assert_equal(Restorer(toys.graphs["plane"], TILE)(image, 0.7), toys.enlarger(image, 0.7))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((9, 12), (36, 48)),
        ((27, 36), (36, 48)),
        ((36, 48), (36, 48)),
        ((90, 120), (36, 48)),
        ((50, 67), (36, 48)),
        ((99, 101), (100, 100)),
    ],
)
def test_maps_of_other_sizes_are_resized_as_by_the_engine(shape, size):
    values = np.random.default_rng(1).random(shape)
    expected = read_map(values, *size)[0, 0].numpy()
    np.testing.assert_allclose(fit_map(values, *size), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("tradeoff", "why"),
    [
        (1.1, "a tradeoff is a number from 0 to 1, not 1.1"),
        ("much", "a tradeoff is a number from 0 to 1, not much"),
        (float("nan"), "a tradeoff is a number from 0 to 1, not nan"),
        (np.full((37, 50), 255), "this one, 255 to 255. Divide the levels of an 8-bit mask by 255"),
        (np.full((37, 50), np.nan), "a tradeoff map holds numbers from 0 to 1"),
        (np.zeros((37, 50, 3)), r"a tradeoff map has the shape \(h, w\)"),
        (np.zeros((50, 37)), "does not fit a picture of 50 x 37: their proportions differ"),
    ],
)
def test_tradeoffs_that_are_none_are_refused(toys, tradeoff, why):
    with pytest.raises(RestoreError, match=why):
        Restorer(toys.graphs["input"])(PICTURES["rgb"], tradeoff)


@pytest.mark.parametrize("size", [(193, 193), (200, 4000), (1000, 777), (33, 21), (1, 1), (800, 5)])
@pytest.mark.parametrize("size_multiple", [1, 2, 8, 32])
@pytest.mark.parametrize("tile", [16, 100, 192])
def test_tiles_start_where_those_of_the_engine_start(size, size_multiple, tile):
    options = {"overlap": tile // 8, "size_multiple": size_multiple}
    expected = plan_tiles_by_engine(*size, tile=tile, **options)
    assert plan_tiles(*size, tile, size_multiple) == expected


def test_default_tiles_are_those_of_the_engine(toys):
    assert Restorer(toys.graphs["input"]).tile == 768 // 2
    assert Restorer(toys.graphs["input"]).student.size_multiple == SIZE_MULTIPLE
    with pytest.raises(RestoreError, match="a tile of 8 pixels; it has to have 16 or more"):
        Restorer(toys.graphs["input"], 8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("fix", ["none", "adain", "wavelet"])
def test_color_fixes_are_those_of_the_engine(dtype, channels, scale, fix):
    rng = np.random.default_rng(2)
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    lq = (rng.random((13, 17, channels)) * largest).astype(dtype)
    restored = (rng.random((13 * scale, 17 * scale, channels)) ** 2 * largest).astype(dtype)
    expected = restored.copy()
    fix_colors_by_engine(expected, lq, fix)
    fix_colors(restored, lq, fix)
    assert_equal(restored, expected, levels=1 if dtype == np.uint8 else 0.01)


def test_the_color_fix_of_the_student_is_applied(toys, tmp_path):
    import onnx

    graph = onnx.load(toys.graphs["input"])
    (entry,) = [entry for entry in graph.metadata_props if entry.key == "color_fix"]
    entry.value = "adain"
    onnx.save(graph, tmp_path / "fixed.onnx")
    image = PICTURES["rgb"]
    wanted = np.asarray(image, float).mean((0, 1))
    fixed = np.asarray(Restorer(tmp_path / "fixed.onnx")(image), float).mean((0, 1))
    plain = np.asarray(Restorer(toys.graphs["input"])(image), float).mean((0, 1))
    # Values are clamped after the fix.
    assert np.abs(fixed - wanted).max() < 3
    assert np.abs(plain - wanted).max() > 10


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (7, "expected a PIL image, an array or a file, got a int"),
        (b"no picture", "picture - empty, or not a picture of a known format"),
        (np.zeros((4, 4, 2), np.uint8), r"C being 1, 3 or 4.*got uint8 \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (np.full((4, 4), 255.0), r"values from 255 to 255; float pictures are in \[0, 1\]"),
        (np.full((4, 4), np.inf), "values from inf to inf"),
        (Image.new("F", (4, 4)), "32-bit pixels, whose white is unknown"),
    ],
)
def test_what_is_no_picture_is_refused(toys, image, why):
    with pytest.raises(RestoreError, match=why):
        Restorer(toys.graphs["input"])(image)
