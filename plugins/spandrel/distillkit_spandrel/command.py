"""The commands of this plugin. spandrel and torch are imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert_ncnn(
    param: Annotated[
        Path, typer.Argument(metavar="MODEL.param", help="The file that lists the layers.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write this checkpoint: x.safetensors."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL.bin",
            help="The file of the weights; by default the one beside MODEL.param.",
        ),
    ] = None,
) -> None:
    """Convert an ncnn network into a checkpoint.

    For ESRGAN, Compact and SPAN. The file appears only if it restores an image as the layers of the
    ncnn network do. It holds no license: look where you found the files.
    """
    from distillkit_spandrel.convert import convert_ncnn as convert

    if weights is None:
        weights = param.with_suffix(".bin")
    typer.echo(convert(param, weights, out))


def join_networks(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT...", help="Two or more, of one size.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write this checkpoint: x.safetensors."
        ),
    ],
) -> None:
    """Join networks into one that gives the mean of their images.

    For Compact and SPAN. The mean of the images of two trainings is closer to the truth than
    either, and the wider network may be trained on.
    """
    if len(checkpoints) < 2:
        raise typer.BadParameter("give two checkpoints or more", param_hint="CHECKPOINT...")
    from distillkit_spandrel.joining import join_networks as join

    typer.echo(join(checkpoints, out))
