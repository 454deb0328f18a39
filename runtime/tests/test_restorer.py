"""The runtime's pictures are the engine's, to one gray level."""

import io
import subprocess
import sys

import numpy as np
import pytest
from exported_toys import SIZE_MULTIPLE, TILE, picture
from PIL import Image, ImageChops
from test_images import greedy_tiff
from test_pictures import P3

from distillkit.errors import DataError, DistillkitError
from distillkit.files.images import decode_with_alpha
from distillkit.inference.color import fix_colors as fix_colors_by_engine
from distillkit.inference.tiling import plan_tiles as plan_tiles_by_engine
from distillkit.inference.tradeoff_map import read_map
from distillkit_runtime import RestoreError, Restorer
from distillkit_runtime.colors import fix_colors
from distillkit_runtime.pictures import limit_megapixels, read_array
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
        (Image.new("LA", (50, 37)), "a tradeoff map has no transparency; fill its background"),
        (np.zeros((50, 37)), "does not fit an image of 50 x 37: their proportions differ"),
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
        (b"no picture", "image - empty, or not an image of a known format"),
        (np.zeros((4, 4, 2), np.uint8), r"C being 1, 3 or 4.*got uint8 \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "the image has no pixels: 4 x 0"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (np.full((4, 4), 255.0), r"values from 255 to 255; float images are in \[0, 1\]"),
        (np.full((4, 4), np.inf), "values that are not finite"),
        (Image.new("F", (4, 4)), "32-bit pixels, whose white is unknown"),
    ],
)
def test_what_is_no_picture_is_refused_as_by_the_engine(toys, image, why):
    with pytest.raises(RestoreError, match=why) as refused:
        Restorer(toys.graphs["input"])(image)
    with pytest.raises(DistillkitError) as expected:
        toys.enlarger(image)
    assert str(refused.value) == str(expected.value).replace("array, a tensor or", "array or")


BROKEN = {
    "empty.png": b"",
    "text.jpg": b"no picture at all",
    "truncated.png": encoded(picture(37, 50, 3), format="PNG")[:-200],
    "truncated.jpg": encoded(picture(37, 50, 3), format="JPEG")[:-200],
    "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "32 bits.tif": encoded(Image.new("I", (9, 9), 70_000), format="TIFF"),
    "greedy.tif": greedy_tiff(),
    "greedy.png": encoded(picture(9, 9, 3), format="PNG", exif=b"Exif\0\0" + greedy_tiff()),
}


@pytest.mark.parametrize("name", [*BROKEN, "missing.png", "folder"])
def test_broken_files_are_refused_with_the_words_of_the_engine(tmp_path, name):
    (tmp_path / "folder").mkdir()
    if name in BROKEN:
        (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(DataError) as expected:
        decode_with_alpha(tmp_path / name)
    with pytest.raises(RestoreError, match=name) as refused:
        read_array(tmp_path / name)
    assert str(refused.value) == str(expected.value)


def test_tags_that_share_their_bytes_are_refused_unread(tmp_path):
    """Here as in a process that has no engine, which would bound the tags as well."""
    (tmp_path / "greedy.tif").write_bytes(greedy_tiff())
    program = (
        "import sys, tracemalloc\n"
        "from distillkit_runtime import pictures, RestoreError\n"
        "tracemalloc.start()\n"
        "try:\n"
        "    pictures.has_opacity('greedy.tif')\n"
        "except RestoreError as e:\n"
        "    print(e)\n"
        "assert tracemalloc.get_traced_memory()[1] < 20e6\n"
        "assert 'distillkit' not in sys.modules"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("greedy.tif - its tags claim more bytes (1000000000)")


def test_the_header_bounds_the_pixels_that_are_decoded(monkeypatch):
    content = encoded(picture(37, 50, 3), format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    limit_megapixels(0.001)
    with pytest.raises(RestoreError, match=r"more than the 0.001 megapixels.*--megapixels N"):
        read_array(content)
    limit_megapixels(0.004)
    assert read_array(content).shape == (37, 50, 3)
    with pytest.raises(RestoreError, match="a limit of 0 megapixels"):
        limit_megapixels(0)
