"""Files that a folder of strangers' images may hold, the same at every call."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

COUNT = 300
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
Files = dict[str, bytes]


def hostile_files() -> Files:
    """Make 300 files, by name.

    ``ok-*`` must restore, ``bad-*`` cannot; the others may do either.
    """
    files = _odd_files() | _odd_sizes_and_modes() | _hopeless_files() | _cut_files()
    damaged = _damaged_files()
    while len(files) < COUNT:
        name, content = next(damaged)
        files[name] = content
    return files


def _photo(height: int = 24, width: int = 32) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _odd_sizes_and_modes() -> Files:
    photo = _photo()
    files: Files = {}
    for kind in ("PNG", "WEBP", "BMP", "TIFF"):
        files[f"ok-wrong-extension-{kind}.jpg"] = _encode(photo, kind)
    for width, height in ((1, 1), (30000, 1), (1, 30000), (2, 3)):
        resized = photo.resize((width, height))
        files[f"ok-size-{width}x{height}.png"] = _encode(resized, "PNG")
    for mode in ("1", "L", "P", "LA", "RGBA"):
        files[f"ok-mode-{mode}.png"] = _encode(photo.convert(mode), "PNG")
    for number in (0, 3, 6, 8, 9, 65535):
        turned = _encode(photo, "JPEG", exif=_orientation(number))
        files[f"ok-orientation-{number}.jpg"] = turned
    return files


def _odd_files() -> Files:
    photo = _photo()
    gray = photo.convert("L")
    frames = [gray, photo]
    transparent = photo.copy()
    transparent.putalpha(gray)
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    broken_exif = b"Exif\0\0II*\0\xff\xff\xff\xff"
    return {
        "ok-animation.gif": _encode(photo, "GIF", save_all=True, append_images=frames, duration=40),
        "ok-cmyk.jpg": _encode(photo.convert("CMYK"), "JPEG"),
        "ok-16-bit.png": _encode(deep, "PNG"),
        "ok-16-bit.tif": _encode(deep, "TIFF"),
        "ok-jpeg-called.png": _encode(photo, "JPEG"),
        "ok-transparent-palette.png": _encode(photo.convert("P"), "PNG", transparency=3),
        "ok-transparent.webp": _encode(transparent, "WEBP"),
        "ok-rubbish-behind.png": _encode(photo, "PNG") + b"\0" * 999,
        "ok-broken-exif.jpg": _encode(photo, "JPEG", exif=broken_exif),
        "ok-name with blanks, ümlauts and 漢字.png": _encode(photo, "PNG"),
        "ok--dash.png": _encode(photo, "PNG"),
    }


def _hopeless_files() -> Files:
    rng = np.random.default_rng(1)
    files = {f"bad-random-{i}.png": rng.bytes(1 + 37 * i) for i in range(20)}
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"):
        files[f"bad-empty{suffix}"] = b""
    heads = {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpg": b"\xff\xd8\xff\xe0",
        "gif": b"GIF89a",
        "bmp": b"BM",
        "tif": b"II*\0",
        "webp": b"RIFF",
    }
    for suffix, head in heads.items():
        files[f"bad-head-only.{suffix}"] = head
    huge = 2**31 - 1
    for width, height in ((huge, huge), (100_000, 100_000), (2**30, 3), (0, 5), (8000, 8000)):
        files[f"bad-header-{width}x{height}.png"] = _png(width, height)
    bomb = (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000))
    not_a_number = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    deep = Image.fromarray(np.full((4, 4), 2**30, np.int32))
    return files | {
        "bad-header.gif": _gif_header(),
        "bad-header.bmp": _bmp_header(),
        "bad-text-bomb.png": _png(4, 4, bomb),
        "bad-page.png": b"<!doctype html><title>404</title>",
        "bad-drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "bad-float.tif": _encode(not_a_number, "TIFF"),
        "bad-32-bit.tif": _encode(deep, "TIFF"),
        "bad-program.jpg": b"\x7fELF" + rng.bytes(400),
        "bad-pickle.png": b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.",
        "bad-postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }


def _cut_files() -> Files:
    files: Files = {}
    for kind in FORMATS:
        content = _encode(_photo(), kind)
        for n in range(20):
            length = max(1, len(content) * n // 20)
            files[f"cut-{n:02d}-{kind}.png"] = content[:length]
    return files


def _damaged_files() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    for i in range(10_000):
        kind = FORMATS[i % 6]
        content = bytearray(_encode(_photo(), kind))
        # Every second one is damaged in its header only.
        end = min(64, len(content))
        if i % 2:
            end = len(content)
        for place in rng.integers(0, end, 1 + i % 5):
            content[place] = rng.integers(256)
        yield f"flip-{i:03d}-{kind}.jpg", bytes(content)


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def _gif_header() -> bytes:
    """A GIF whose header promises an image of 65535 x 65535."""
    screen = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    frame = struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    return b"GIF89a" + screen + b"," + frame


def _bmp_header() -> bytes:
    """A BMP whose header promises an image of 2^30 x 2^30."""
    file = struct.pack("<IHHI", 54, 0, 0, 54)
    image = struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + file + image


def _png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header promises much more than its data hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + checksum
    return content
