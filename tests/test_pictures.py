"""Pictures as people have them: edges, profiles, depths, odd files, interruptions."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw
from toy_models import ToyModel

from distillkit import Restorer
from distillkit.cli import main as cli
from distillkit.data.opening import open_source
from distillkit.errors import DataError, DiskError, DistillkitError
from distillkit.files.images import count_frames, decode_image, decode_with_alpha, write_picture
from distillkit.files.listing import IMAGE_SUFFIXES, find_files
from distillkit.files.text import read_text
from distillkit.inference.files import IMAGE_FILES, plan_files
from distillkit.inference.opacity import fill_hidden_colors
from distillkit.inference.student import Student
from distillkit.recipe.load import load_recipe
from distillkit.runs.method_folders import list_images

MODEL = ("--model", "toy/faithful")


@pytest.fixture
def restore(monkeypatch, capfd, toys, tmp_path):
    """``restore(...)`` -> exit code and standard error of ``distillkit restore``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        command = ["distillkit", "restore", *map(str, arguments), *MODEL]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capfd.readouterr().err

    return call


def save_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def save_animation(path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue", "white")]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Transparent edges


def disc(hidden, color=(255, 255, 255)):
    """Draw a disc whose transparent surroundings hold another color."""
    shape = Image.new("L", (33, 27), 0)
    ImageDraw.Draw(shape).ellipse((6, 4, 25, 22), fill=255)
    picture = Image.composite(
        Image.new("RGB", shape.size, color), Image.new("RGB", shape.size, hidden), shape
    )
    picture.putalpha(shape)
    return picture


@pytest.mark.parametrize("as_input", [lambda p: p, np.asarray, lambda p: np.asarray(p) / 255])
def test_hidden_colors_do_not_reach_what_is_seen(as_input):
    restorer = Restorer(Student(ToyModel(), None))
    results = [
        np.asarray(restorer(as_input(disc(hidden))), float)
        for hidden in ((0, 0, 0), (255, 255, 255), (0, 255, 0))
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_hidden_pixels_take_the_nearest_colors_and_seen_ones_keep_theirs():
    colors = np.zeros((5, 9, 3), np.uint8)
    opacity = np.zeros((5, 9, 1), np.uint8)
    colors[:, 0] = (200, 10, 10)
    colors[:, 8] = (10, 10, 200)
    opacity[:, 0], opacity[:, 8] = 255, 1
    filled = fill_hidden_colors(colors, opacity)
    assert filled.dtype == np.uint8
    assert (filled[:, :2] == (200, 10, 10)).all()
    assert (filled[:, 8] == (10, 10, 200)).all()
    assert fill_hidden_colors(colors, np.full_like(opacity, 255)) is colors
    assert not fill_hidden_colors(colors + 9, np.zeros_like(opacity)).any()


def test_palettes_with_transparent_entries_have_no_fringe(tmp_path):
    palette = disc((0, 0, 0)).convert("RGB").quantize(4)
    black = int(np.asarray(palette)[0, 0])
    palette.save(tmp_path / "a.png", transparency=black)
    pixels = decode_with_alpha(tmp_path / "a.png")
    filled = fill_hidden_colors(pixels.colors, pixels.alpha[..., None])
    assert filled.min() == 255


# Color profiles


def profile(primaries, gamma):
    """Write a matrix profile: primaries as XYZ columns at D50, and one gamma."""

    def number(value):
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    white = (0.9642, 1.0, 0.8249)
    tags = {b"wtpt": xyz(white), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        tags[name] = xyz(column)
    return assemble(tags, b"RGB ")


def assemble(tags, space):
    table = len(tags).to_bytes(4, "big")
    data = b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        place = (start + len(data)).to_bytes(4, "big")
        table += name + place + len(content).to_bytes(4, "big")
        data += content
    header = bytearray(128)
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"mntr" + space + b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    header[0:4] = (start + len(data)).to_bytes(4, "big")
    return bytes(header) + table + data


P3 = profile([(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)], 2.2)
PROPHOTO = profile([(0.7977, 0.2880, 0), (0.1352, 0.7119, 0), (0.0313, 0.0001, 0.8249)], 1.8)


@pytest.mark.parametrize(
    ("embedded", "red", "green"),
    [(P3, (219, 37, 34), (0, 174, 79)), (PROPHOTO, (255, 0, 60), (0, 200, 91))],
)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_colors_are_converted_from_the_embedded_profile(tmp_path, embedded, red, green, suffix):
    pixels = np.full((16, 32, 3), (200, 60, 50), np.uint8)
    pixels[:, 16:] = (60, 170, 90)
    path = tmp_path / f"a{suffix}"
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}
    Image.fromarray(pixels).save(path, icc_profile=embedded, **options.get(suffix, {}))
    shown = decode_image(path)
    np.testing.assert_allclose(shown[8, 4], red, atol=4)
    np.testing.assert_allclose(shown[8, 28], green, atol=4)
    opaque = Image.fromarray(pixels)
    opaque.putalpha(128)
    opaque.save(tmp_path / "b.png", icc_profile=embedded)
    with_alpha = decode_with_alpha(tmp_path / "b.png")
    np.testing.assert_allclose(with_alpha.colors[8, 4], red, atol=4)
    assert (with_alpha.alpha == 128).all()


def test_gray_with_a_profile_stays_gray(tmp_path):
    linear = assemble(
        {
            b"wtpt": b"XYZ \0\0\0\0" + b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d",
            b"kTRC": b"curv\0\0\0\0\0\0\0\0",
        },
        b"GRAY",
    )
    Image.new("L", (8, 8), 128).save(tmp_path / "a.png", icc_profile=linear)
    pixels = decode_with_alpha(tmp_path / "a.png")
    assert pixels.gray
    # Half the light is 188 of 255 in sRGB.
    np.testing.assert_allclose(pixels.colors[4, 4], 188, atol=1)


def test_profiles_of_srgb_and_useless_ones_change_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (srgb, b"no profile", P3[:100]):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=content)
        assert np.array_equal(decode_image(tmp_path / "a.png"), pixels)
    gray = Image.fromarray(pixels[..., 0])
    gray.save(tmp_path / "b.png", icc_profile=P3)
    assert np.array_equal(decode_image(tmp_path / "b.png")[..., 0], pixels[..., 0])


# Sample depths


@pytest.mark.parametrize("suffix", sorted(IMAGE_FILES.writable))
def test_16_bit_gray_is_written_to_every_format(restore, tmp_path, suffix):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert restore("a.png", "-o", "deep.png")[0] == 0
    assert restore("a.png", "-o", f"b{suffix}")[0] == 0
    deep = np.asarray(Image.open(tmp_path / "deep.png")).astype(float)
    with Image.open(tmp_path / f"b{suffix}") as written:
        result = np.asarray(written).astype(float)
    if result.ndim == 3:
        result = result[..., 0]
    if result.max() > 255:
        result = result / 257
    assert np.abs(result - deep / 257).mean() < 1
    assert 100 < result.mean() < 155


# What an image is


def as_bytes(picture, suffix):
    file = io.BytesIO()
    picture.save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


def test_every_command_finds_the_same_images(restore, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    photo = Image.new("RGB", (8, 6), (200, 60, 20))
    suffixes = sorted(IMAGE_SUFFIXES & set(Image.registered_extensions()) - {".pbm", ".pgm"})
    for suffix in suffixes:
        (folder / f"of{suffix[1:]}{suffix.upper()}").write_bytes(as_bytes(photo, suffix))
    (folder / "._ofpng.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "notes.txt").write_text("no image")
    expected = sorted(f"of{suffix[1:]}" for suffix in suffixes)
    code, message = restore("in", "-o", "out")
    assert (code, message) == (0, "")
    assert names(tmp_path / "out") == [f"{name}.png" for name in expected]
    assert sorted(list_images(folder)) == expected
    source = open_source(imagefolder=folder)
    assert len(source) == len(expected)
    assert all(source.read(k).gt.shape == (6, 8, 3) for k in range(len(source)))
    assert restore("in/*.png", "in/*.PNG", "-o", "by_pattern")[0] in (0, 2)


def test_links_to_folders_are_followed_once(tmp_path):
    save_photo(tmp_path / "elsewhere/b.png")
    save_photo(tmp_path / "in/a.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    found = find_files(tmp_path / "in")
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["in/a.png", "in/linked/b.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    import os

    save_photo(tmp_path / "in/a.png")
    (tmp_path / "in/secret").mkdir()
    scan = os.scandir

    # The tests may run as root, whom permissions do not stop.
    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="secret - cannot be read: Permission denied"):
        plan_files([tmp_path / "in"], tmp_path / "out")


# Names and outputs


@pytest.mark.parametrize("suffix", ["avif", "gif", "heic", "jp2", "tga", "avi", "pdf", "mkv"])
def test_suffixes_that_are_not_written_are_refused(restore, tmp_path, suffix):
    save_photo(tmp_path / "a.jpg")
    code, message = restore("a.jpg", "-o", f"out.{suffix}")
    assert code == 2
    assert f"out.{suffix} - cannot write .{suffix}; use one of .bmp, .jfif" in message
    assert names(tmp_path) == ["a.jpg"]


def test_folders_may_have_a_dot_in_their_names(restore, tmp_path):
    save_photo(tmp_path / "a.jpg")
    (tmp_path / "out.gif").mkdir()
    assert restore("a.jpg", "-o", "v1.2")[0] == 0
    assert restore("a.jpg", "-o", "out.gif")[0] == 0
    assert names(tmp_path / "v1.2") == names(tmp_path / "out.gif") == ["a.png"]


def test_odd_names_are_restored(restore, tmp_path):
    odd = ["a[1].png", "b*.png", "c?.png", "ümlaut 漢字.png", "-dash.png", "d\n.png", "e.f.g.png"]
    for name in odd:
        save_photo(tmp_path / "in [2020]" / name)
    assert restore("in [2020]", "-o", "out")[0] == 0
    assert names(tmp_path / "out") == sorted(odd)
    assert restore("in [2020]/a[1].png", "-o", "one.png")[0] == 0


def test_names_that_are_too_long_are_refused(tmp_path):
    save_photo(tmp_path / "in/a.png")
    (tmp_path / "in/a.png").rename(tmp_path / "in" / ("x" * 240 + ".jpg"))
    with pytest.raises(DistillkitError, match="the name is too long"):
        plan_files([tmp_path / "in"], tmp_path / "out")


def test_inputs_that_share_a_result_are_both_named(tmp_path):
    inputs = [save_photo(tmp_path / "in" / name) for name in ("a.jpg", "a.png")]
    with pytest.raises(DataError, match=rf"of {inputs[0]} and {inputs[1]}; restore"):
        plan_files([tmp_path / "in"], tmp_path / "out")


def test_opacity_that_a_format_lacks_is_refused_before_the_model_is_loaded(restore, tmp_path):
    disc((0, 0, 0)).save(tmp_path / "a.png")
    code, message = restore("a.png", "-o", "b.jpg", "--set", "no_such_option=1")
    assert code == 2
    assert "b.jpg - .jpg has no transparency; use .png" in message
    assert names(tmp_path) == ["a.png"]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    save_photo(tmp_path / "a.png")

    def refuse(folder):
        raise DiskError(folder, "Read-only file system")

    monkeypatch.setattr("distillkit.inference.files.check_writable", refuse)
    with pytest.raises(DiskError, match="out - cannot be written: Read-only"):
        plan_files([tmp_path / "a.png"], tmp_path / "out")


# Interruptions


def test_finished_results_are_skipped(restore, tmp_path):
    for k in range(4):
        save_photo(tmp_path / f"in/{k}.png", k)
    assert restore("in/[01].png", "-o", "out")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, message = restore("in", "-o", "out")
    assert code == 2
    assert "and 1 more - exist" in message
    assert "--skip-existing" in message
    assert restore("in", "-o", "out", "--skip-existing") == (0, "")
    assert names(tmp_path / "out") == [f"{k}.png" for k in range(4)]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    code, message = restore("in", "-o", "out", "--skip-existing")
    assert code == 0
    assert "nothing is left to restore" in message
    assert restore("in", "-o", "out", "--skip-existing", "--overwrite")[0] == 2


def test_only_the_missing_tradeoffs_are_made(tmp_path):
    save_photo(tmp_path / "in/a.png")
    save_photo(tmp_path / "out/a_t0.5.png")
    jobs = plan_files([tmp_path / "in"], tmp_path / "out", (0.0, 0.5, 1.0), existing="skip")
    assert [job.indices for job in jobs] == [(0, 2)]
    assert [target.name for target in jobs[0].targets] == ["a_t0.png", "a_t1.png"]


# Animations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_frames_that_are_not_restored_are_counted(restore, tmp_path, suffix):
    save_animation(tmp_path / f"in/a{suffix}")
    for source in (f"in/a{suffix}", "in"):
        code, message = restore(source, "-o", "out", "--overwrite")
        assert code == 0
        assert f"in/a{suffix} - 4 frames; the first is restored" in message
    assert count_frames(save_photo(tmp_path / "still.png")) == 1


def test_photos_that_no_folder_gives_are_counted(restore, tmp_path):
    for name in ("in/a.png", "in/deep/b.png"):
        save_photo(tmp_path / name)
    for name in ("in/deep/c.HEIC", "in/d.nef", "in/._e.heic", "in/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    code, message = restore("in", "-o", "out")
    assert code == 0
    assert "warning: left out: 2 in formats that are not read" in message
    assert "such as in/d.nef; convert them" in message
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.*")) == ["a.png", "b.png"]


def test_an_animation_cannot_become_a_video(restore, tmp_path):
    save_animation(tmp_path / "a.gif")
    code, message = restore("a.gif", "-o", "out.mkv")
    assert code == 2
    assert "out.mkv - cannot write .mkv" in message


# Text encodings


RECIPE_LINE = 'name = "größe"\n'


def test_texts_are_utf_8_with_or_without_a_mark_and_with_any_line_ends(tmp_path):
    path = tmp_path / "a.toml"
    for content in (
        RECIPE_LINE.encode(),
        RECIPE_LINE.encode("utf-8-sig"),
        RECIPE_LINE.replace("\n", "\r\n").encode("utf-8-sig"),
    ):
        path.write_bytes(content)
        assert read_text(path) == RECIPE_LINE


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "cp1252"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = tmp_path / "a.toml"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + RECIPE_LINE.encode(encoding))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_text(path)


def test_a_recipe_with_a_byte_order_mark_is_read(recipe):
    expected = load_recipe(recipe).document.values
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())
    assert load_recipe(recipe).document.values == expected


def test_pictures_with_16_bits_are_rounded_not_clipped(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    write_picture(deep, tmp_path / "a.bmp")
    assert np.asarray(Image.open(tmp_path / "a.bmp")).flat[0] == 128
