"""Files that a folder of strangers' images may hold, made the same at every call."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

COUNT = 300


def hostile_files() -> dict[str, bytes]:
    """Name -> content of 300 files. ``ok-*`` must restore, ``bad-*`` cannot; the others may be either."""
    files = {**_valid(), **_hopeless(), **_truncated()}
    damaged = _damaged()
    while len(files) < COUNT:
        name, content = next(damaged)
        files[name] = content
    return files


def _photo(height: int = 24, width: int = 32) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _valid() -> dict[str, bytes]:
    photo, gray = _photo(), _photo().convert("L")
    opacity = photo.copy()
    opacity.putalpha(gray)
    files = {
        f"ok-wrong-extension-{kind}.jpg": _encoded(photo, kind)
        for kind in ("PNG", "WEBP", "BMP", "TIFF")
    }
    files |= {
        f"ok-size-{w}x{h}.png": _encoded(photo.resize((w, h)), "PNG")
        for w, h in ((1, 1), (30000, 1), (1, 30000), (2, 3))
    }
    files |= {
        f"ok-mode-{mode}.png": _encoded(photo.convert(mode), "PNG")
        for mode in ("1", "L", "P", "LA", "RGBA")
    }
    files |= {
        f"ok-orientation-{n}.jpg": _encoded(photo, "JPEG", exif=_orientation(n))
        for n in (0, 3, 6, 8, 9, 65535)
    }
    return files | {
        "ok-animation.gif": _encoded(
            photo, "GIF", save_all=True, append_images=[gray, photo], duration=40
        ),
        "ok-cmyk.jpg": _encoded(photo.convert("CMYK"), "JPEG"),
        "ok-16-bit.png": _encoded(
            Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"
        ),
        "ok-16-bit.tif": _encoded(
            Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "TIFF"
        ),
        "ok-jpeg-called.png": _encoded(photo, "JPEG"),
        "ok-transparent-palette.png": _encoded(photo.convert("P"), "PNG", transparency=3),
        "ok-transparent.webp": _encoded(opacity, "WEBP"),
        "ok-rubbish-behind.png": _encoded(photo, "PNG") + b"\0" * 999,
        "ok-broken-exif.jpg": _encoded(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "ok-name with blanks, ümlauts and 漢字.png": _encoded(photo, "PNG"),
        "ok--dash.png": _encoded(photo, "PNG"),
    }


def _hopeless() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {f"bad-random-{i}.png": rng.bytes(1 + 37 * i) for i in range(20)}
    files |= {
        f"bad-empty{suffix}": b"" for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif")
    }
    heads = {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpg": b"\xff\xd8\xff\xe0",
        "gif": b"GIF89a",
        "bmp": b"BM",
        "tif": b"II*\0",
        "webp": b"RIFF",
    }
    files |= {f"bad-head-only.{suffix}": head for suffix, head in heads.items()}
    sizes = (2**31 - 1, 2**31 - 1), (100_000, 100_000), (2**30, 3), (0, 5), (8000, 8000)
    files |= {f"bad-header-{w}x{h}.png": _png(w, h) for w, h in sizes}
    return files | {
        "bad-header.gif": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
        "bad-header.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "bad-text-bomb.png": _png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000))),
        "bad-page.png": b"<!doctype html><title>404</title>",
        "bad-drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "bad-float.tif": _encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
        "bad-32-bit.tif": _encoded(Image.fromarray(np.full((4, 4), 2**30, np.int32)), "TIFF"),
        "bad-program.jpg": b"\x7fELF" + rng.bytes(400),
        "bad-pickle.png": b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.",
        "bad-postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }


def _truncated() -> dict[str, bytes]:
    whole = {
        kind: _encoded(_photo(), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
    }
    return {
        f"cut-{n:02d}-{kind}.png": content[: max(1, len(content) * n // 20)]
        for kind, content in whole.items()
        for n in range(20)
    }


def _damaged() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    for i in range(10_000):
        kind = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")[i % 6]
        content = bytearray(_encoded(_photo(), kind))
        for place in rng.integers(0, len(content) if i % 2 else min(64, len(content)), 1 + i % 5):
            content[place] = rng.integers(256)
        yield f"flip-{i:03d}-{kind}.jpg", bytes(content)


def _orientation(n: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = n
    return exif


def _png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header promises much more than its data hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
