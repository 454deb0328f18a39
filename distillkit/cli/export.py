"""The command ``distillkit export``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from distillkit.errors import DistillkitError

Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="PHOTO", help="a low-quality photo that the model card shows at several tradeoffs"
    ),
]


# Typer reads one option from each parameter.
def export(  # noqa: PLR0913
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="a new folder")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="one ONNX graph instead of a folder")
    ] = None,
    spandrel: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="checkpoints of tradeoff 0 and 1, for any upscaler"),
    ] = None,
    ncnn: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="ncnn networks of tradeoff 0 and 1, for Upscayl"),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="a page that restores in the browser, without a server"),
    ] = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            metavar="PACKAGE", help="for --web: its npm package, packed or not; default: npm's"
        ),
    ] = None,
    picture: Picture = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="plain weights with one fixed --tradeoff")
    ] = False,
    tradeoff: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="for --merge or --onnx: fix it; for --spandrel or --ncnn: one more"
        ),
    ] = None,
    plane: Annotated[
        bool,
        typer.Option(
            "--tradeoff-plane",
            help="for --onnx: one input of four planes, RGB and the tradeoff of each pixel",
        ),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="for --onnx: of the input; default: any size"),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="for --onnx, --spandrel and --ncnn: float16")
    ] = False,
) -> None:
    """Write a student for others to use.

    The folder is for distillkit, diffusers and peft, with a model card. It is loaded again and
    compared with the original. An ONNX graph takes the tradeoff as an input, unless --tradeoff
    fixes it. Checkpoints are plain networks for tools that read them by spandrel, or by ncnn. The
    page of --web is a folder to open in a browser, or to publish.
    """
    if [output, onnx, spandrel, ncnn, web].count(None) != 4:
        raise DistillkitError(
            "give one of -o, for a folder, --onnx, for a graph, --spandrel, for checkpoints, "
            "--ncnn, for networks, and --web, for a page"
        )
    _check_web_options(web, onnxruntime_web, tradeoff, half)
    if onnx is None and (plane or size is not None):
        raise DistillkitError("--tradeoff-plane and --size are for --onnx")
    if output is None and merge:
        raise DistillkitError("--merge is for folders; the others are merged by --tradeoff alone")
    if output is None and picture is not None:
        raise DistillkitError("--picture is for folders, whose model card shows it")
    if output is not None:
        _check_folder_options(merge, tradeoff, half)
        _export_folder(run, output, tradeoff, picture)
    elif onnx is not None:
        _export_onnx(run, onnx, tradeoff, plane, size, half)
    elif spandrel is not None:
        _export_checkpoints(run, spandrel, tradeoff, half)
    elif ncnn is not None:
        _export_ncnn(run, ncnn, tradeoff, half)
    elif web is not None:
        _export_web(run, web, onnxruntime_web)


def _check_folder_options(merge: bool, tradeoff: float | None, half: bool) -> None:
    if half:
        raise DistillkitError("--half is for --onnx, --spandrel and --ncnn")
    if merge != (tradeoff is not None):
        raise DistillkitError(
            "--merge and --tradeoff need each other: plain weights have one tradeoff"
        )


def _check_web_options(
    web: Path | None, package: Path | None, tradeoff: float | None, half: bool
) -> None:
    if web is None and package is not None:
        raise DistillkitError("--onnxruntime-web is for --web")
    if web is not None and (half or tradeoff is not None):
        raise DistillkitError("--web takes neither --half nor --tradeoff: its page has a slider")


def _export_onnx(
    run: str, file: Path, tradeoff: float | None, plane: bool, size: str | None, half: bool
) -> None:
    if plane and tradeoff is not None:
        raise DistillkitError("give either --tradeoff or --tradeoff-plane")
    # Imported here: torch would delay the help of every command.
    from distillkit.export.onnx import GraphForm, export_onnx

    form = GraphForm(tradeoff, plane, _parse_size(size), half)
    typer.echo(export_onnx(run, file, form))
    typer.echo(f"done: {file}")


def _export_checkpoints(run: str, folder: Path, tradeoff: float | None, half: bool) -> None:
    from distillkit.export.checkpoints import export_checkpoints

    tradeoffs = [] if tradeoff is None else [tradeoff]
    for file in export_checkpoints(run, folder, tradeoffs, half=half):
        typer.echo(f"done: {file}, read back and compared")


def _export_ncnn(run: str, folder: Path, tradeoff: float | None, half: bool) -> None:
    from distillkit.export.ncnn import export_ncnn

    tradeoffs = [] if tradeoff is None else [tradeoff]
    for line in export_ncnn(run, folder, tradeoffs, half=half):
        typer.echo(line)
    typer.echo(f"done: {folder}")


def _export_web(run: str, folder: Path, package: Path | None) -> None:
    from distillkit.export.web import export_web

    typer.echo(export_web(run, folder, package))
    typer.echo(f"done: {folder}")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Parse ``--size``, ``"256x192"``, to height and width."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if not sides:
        raise DistillkitError(f"--size {text} - expected WIDTHxHEIGHT in pixels, such as 256x192")
    return int(sides[2]), int(sides[1])


def _export_folder(run: str, folder: Path, merge_at: float | None, picture: Path | None) -> None:
    from distillkit.export import folder as engine

    for line in engine.export(run, folder, merge_at=merge_at, picture=picture):
        typer.echo(line)
    typer.echo(f"done: {folder}")
