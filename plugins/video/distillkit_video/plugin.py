"""The command ``distillkit restore-video``. PyAV and torch are imported only when it runs."""

from __future__ import annotations

import typer

from distillkit import IMAGE_FILES, VIDEO_SUFFIXES, FileKind, hookimpl, restore_command
from distillkit_video.formats import FORMATS

VIDEO_FILES = FileKind(
    name="video",
    readable=VIDEO_SUFFIXES,
    writable=frozenset(FORMATS),
    default=".mp4",
    refused=dict.fromkeys(IMAGE_FILES.readable, "is an image; `distillkit restore` restores it"),
)


@hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    app.command(
        "restore-video",
        help="Restore videos with a student or another model.",
    )(restore_command(VIDEO_FILES, "distillkit_video.video:restore_video"))
