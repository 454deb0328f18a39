"""Images of every kind are read as a viewer shows them; bad ones are refused by name."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.errors import DataError, DiskError
from distillkit.files.images import (
    decode_image,
    decode_with_alpha,
    limit_megapixels,
    picture_size,
    read_image,
    to_pil,
    to_uint8,
    write_image,
)

COLORS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
RGB = Image.fromarray(COLORS)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """Write a PNG with exactly this header, whatever the rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        length = struct.pack(">I", len(content))
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return length + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb_from_path_bytes_and_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    RGB.save(path)
    expected = torch.from_numpy(COLORS).permute(2, 0, 1) / 127.5 - 1
    for source in (path, str(path), path.read_bytes(), RGB):
        image = read_image(source)
        assert image.shape == (3, 12, 20)
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        torch.testing.assert_close(image, expected)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_and_bilevel_fill_the_range(mode: str) -> None:
    image = read_image(encoded(Image.linear_gradient("L").convert(mode)))
    assert image.shape == (3, 256, 256)
    assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_not_clipped(form: str) -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    image = read_image(encoded(Image.fromarray(ramp), form))
    torch.testing.assert_close(
        image[1], torch.from_numpy(ramp / 32767.5 - 1).float(), atol=1e-6, rtol=0
    )


def test_16_bit_rgb_is_read_at_8_bits() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (6, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    assert np.array_equal(decode_image(raw_png(5, 6, 16, 2, rows)), values >> 8)


def test_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (3, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    pixels = decode_image(encoded(image, transparency=bytes([255, 0])))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white_or_returned(mode: str) -> None:
    image = RGB.convert(mode)
    opacity = np.arange(240, dtype=np.uint8).reshape(12, 20)
    image.putalpha(Image.fromarray(opacity))
    colors = np.asarray(image.convert("RGB"))
    a = opacity[..., None] / 255
    np.testing.assert_allclose(decode_image(encoded(image)), a * colors + (1 - a) * 255, atol=0.51)
    straight = decode_with_alpha(encoded(image))
    assert np.array_equal(straight.colors, colors)
    assert np.array_equal(straight.alpha, opacity)
    assert decode_with_alpha(RGB).alpha is None


def test_a_transparent_color_of_an_rgb_png_is_laid_on_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert decode_image(encoded(image, transparency=(1, 2, 3))).tolist() == [
        [[255, 255, 255], [9, 9, 9]]
    ]


def test_exif_orientation_is_applied() -> None:
    wide = Image.new("RGB", (32, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    pixels = decode_image(encoded(wide, "JPEG", exif=exif, quality=95, subsampling=0))
    assert pixels.shape == (32, 16, 3)
    assert pixels[4, 8, 0] > 200
    assert pixels[28, 8, 2] > 200


def test_cmyk_jpeg_shows_its_colors() -> None:
    image = Image.new("RGB", (16, 16), (200, 60, 20)).convert("CMYK")
    pixels = decode_image(encoded(image, "JPEG", quality=95))
    np.testing.assert_allclose(pixels[8, 8], [200, 60, 20], atol=4)


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(animation)[3, 3].tolist() == [255, 0, 0]


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_a.jpg"
    path.write_bytes(encoded(RGB))
    assert np.array_equal(decode_image(path), COLORS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no picture at all", "not an image"),
        (encoded(RGB.resize((200, 200)), "JPEG")[:3000], "truncated"),
        (encoded(RGB)[:200], "truncated"),
        (encoded(RGB, "WEBP")[:60], "decode"),
        (raw_png(100_000, 100_000, 8, 2, b""), "more than the 178.957 megapixels"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit"),
        (encoded(Image.new("I", (4, 4)), "TIFF"), "32-bit"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"holiday\.jpg - .*{reason}"):
        read_image(path)
    with pytest.raises(DataError, match=f"row 7 - .*{reason}"):
        read_image(content, "row 7")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png - No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="directory"):
        read_image(tmp_path)


def test_to_uint8_rounds_and_clamps() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 127.5 - 1), levels)
    between = torch.tensor([-3.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 3.0])
    assert to_uint8(between).tolist() == [0, 0, 1, 255]
    assert np.array_equal(to_uint8(read_image(RGB)).permute(1, 2, 0), COLORS)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_arrays_become_pil_images_of_their_mode(mode: str) -> None:
    image = Image.fromarray(np.zeros((3, 2), np.uint16)) if mode == "I;16" else RGB.convert(mode)
    array = np.asarray(image).reshape(image.height, image.width, -1)
    wrapped = to_pil(array)
    assert wrapped.mode == mode
    assert np.array_equal(np.asarray(wrapped), np.asarray(image))


@pytest.mark.parametrize(
    "suffix", [".png", ".PNG", ".webp", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg"]
)
def test_written_files_read_back(tmp_path: Path, suffix: str) -> None:
    smooth = np.asarray(RGB.resize((3, 2)).resize((40, 32), Image.Resampling.BICUBIC))
    path = tmp_path / f"out{suffix}"
    write_image(read_image(Image.fromarray(smooth)), path)
    tolerance = 12 if suffix in (".jpg", ".jpeg") else 0
    np.testing.assert_allclose(decode_image(path).astype(int), smooth.astype(int), atol=tolerance)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_written(tmp_path: Path, suffix: str) -> None:
    alpha = torch.linspace(0.2, 1, 240).view(1, 12, 20)
    write_image(read_image(RGB), tmp_path / f"a{suffix}", alpha)
    back = decode_with_alpha(tmp_path / f"a{suffix}").alpha
    assert back is not None
    np.testing.assert_allclose(back / 255, alpha[0], atol=0.51 / 255)


def test_what_cannot_be_written_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(RGB)
    with pytest.raises(DataError, match=r"\.xyz; use one of \.png"):
        write_image(image, tmp_path / "a.xyz")
    with pytest.raises(DataError, match="no transparency"):
        write_image(image, tmp_path / "a.jpg", torch.ones(1, 12, 20))
    with pytest.raises(DataError, match="not finite"):
        write_image(image * float("nan"), tmp_path / "a.png")
    with pytest.raises(DiskError, match="cannot be written: No such file"):
        write_image(image, tmp_path / "missing" / "a.png")

    def full_disk(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(DiskError, match="cannot be written: Not a directory"):
        write_image(image, tmp_path / "a.png" / "b.png")
    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(DiskError, match=r"a\.png - cannot be written: No space left"):
        write_image(image, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def with_shared_bytes(content: bytes, tags: int, length: int, order: str = "<") -> bytes:
    """Append a directory whose tags all point at the start of a TIFF structure."""
    big = content[2] == 43
    count_format, entry_format, next_format = ("Q", "HHQQ", "Q") if big else ("H", "HHLL", "L")
    directory = struct.pack(order + count_format, tags)
    for tag in range(tags):
        directory += struct.pack(order + entry_format, 40_000 + tag, 7, length, 0)
    directory += struct.pack(order + next_format, 0)
    padding = bytes(max(0, length - len(content)))
    return content + padding + directory


def greedy_tiff(order: str = "<", big: bool = False) -> bytes:
    """Make a TIFF of 1 MB whose tags claim 1 GB."""
    mark = b"II" if order == "<" else b"MM"
    offset = 1_000_000
    if big:
        header = mark + struct.pack(order + "HHHQ", 43, 8, 0, offset)
    else:
        header = mark + struct.pack(order + "HL", 42, offset)
    return with_shared_bytes(header, 1000, offset, order)


def peak_while_refusing(content: bytes, read: object = picture_size) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"image - its tags claim more bytes \(1000000000\)"):
            read(content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Pillow knows no big-endian BigTIFF.
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tags_that_share_their_bytes_are_refused_unread(order: str, big: bool) -> None:
    assert peak_while_refusing(greedy_tiff(order, big)) < 20e6


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_exif_whose_tags_share_their_bytes_is_refused_unread(form: str) -> None:
    content = encoded(RGB, form)
    exif = b"Exif\0\0" + greedy_tiff()
    if form != "AVIF":
        content = encoded(RGB, form, exif=exif)
    else:
        # Pillow parses what it is to write.
        plain = Image.Exif()
        plain[0x9286] = bytes(len(exif))
        content = encoded(RGB, form, exif=plain.tobytes())
        start = content.index(plain.tobytes()[6:40])
        content = content[:start] + exif[6:] + content[start + len(exif) - 6 :]
    assert peak_while_refusing(content, decode_image) < 40e6


def test_exif_in_several_segments_of_a_jpeg_is_refused_unread() -> None:
    exif = greedy_tiff()
    segments = b""
    for start in range(0, len(exif), 60_000):
        piece = b"Exif\0\0" + exif[start : start + 60_000]
        segments += b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece
    plain = encoded(RGB, "JPEG")
    assert peak_while_refusing(plain[:2] + segments + plain[2:]) < 20e6


def test_tags_that_reach_beyond_the_end_are_read_as_before() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x9286] = b"comment of some length"
    content = exif.tobytes()
    # The last tag claims 16 MB more: a camera's damaged note, not an attack.
    damaged = content.replace(struct.pack("<L", 22), struct.pack("<L", 1 << 24))
    assert damaged != content
    assert decode_image(encoded(RGB, "PNG", exif=damaged)).shape == (20, 12, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_header_bounds_the_pixels_that_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    limit_megapixels(0.0002)
    with pytest.raises(DataError, match=r"more than the 0 megapixels .* --megapixels N"):
        picture_size(encoded(RGB))
    limit_megapixels(0.00025)
    assert picture_size(encoded(RGB)) == (20, 12)
    with pytest.raises(DataError, match="more than 0"):
        limit_megapixels(0)
