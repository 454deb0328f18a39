"""The formats that restored videos are written in. Imports nothing heavy."""

from __future__ import annotations

from typing import NamedTuple


class VideoFormat(NamedTuple):
    """A container and the codec of its pictures, by FFmpeg's names."""

    container: str
    codec: str


FORMATS = {
    ".mp4": VideoFormat("mp4", "libx264"),
    ".m4v": VideoFormat("mp4", "libx264"),
    ".mov": VideoFormat("mov", "libx264"),
    ".mkv": VideoFormat("matroska", "libx264"),
    ".webm": VideoFormat("webm", "libvpx-vp9"),
}
"""By the suffix of the file."""

CODEC_OPTIONS = {
    "libx264": {"crf": "16"},
    "libvpx-vp9": {"crf": "20", "b:v": "0", "cpu-used": "4", "row-mt": "1"},
}
