"""The command ``distillkit export``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit.errors import DistillkitError

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or a plugin's trained student.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Write a folder, which must be new."),
]
Onnx = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write one ONNX graph instead of a folder.")
]
Spandrel = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write checkpoints of tradeoff 0 and 1, for any upscaler."),
]
Ncnn = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write ncnn networks of tradeoff 0 and 1, for Upscayl."),
]
Web = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Write a page that restores in the browser, without a server."
    ),
]
OnnxruntimeWeb = Annotated[
    Path | None,
    typer.Option(
        metavar="PACKAGE",
        help="Use this npm package for --web, packed or not; by default npm fetches it.",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="PHOTO",
        help="Show this low-quality photo at several tradeoffs in the model card, or offer it as "
        "an example in the page of --web.",
    ),
]
Merge = Annotated[
    bool, typer.Option("--merge", help="Write plain weights with one fixed --tradeoff.")
]
Tradeoff = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Fix the tradeoff of --merge or --onnx; write one more for --spandrel or --ncnn.",
    ),
]
Plane = Annotated[
    bool,
    typer.Option(
        "--tradeoff-plane",
        help="Give the graph one input of four planes: RGB and the tradeoff of each pixel.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WIDTHxHEIGHT",
        help="Fix the size of the graph's input; by default any size fits.",
    ),
]
Half = Annotated[
    bool, typer.Option("--half", help="Store float16, with --onnx, --spandrel or --ncnn.")
]

FORMS_OF_OPTION = {
    # What is no folder is merged by --tradeoff alone.
    "--merge": ("-o",),
    # The page of --web has a slider instead.
    "--tradeoff": ("-o", "--onnx", "--spandrel", "--ncnn"),
    "--tradeoff-plane": ("--onnx",),
    "--size": ("--onnx",),
    "--half": ("--onnx", "--spandrel", "--ncnn"),
    "--onnxruntime-web": ("--web",),
    # It is for the model card, or for the page.
    "--picture": ("-o", "--web"),
}
"""Which forms of an export take an option; each form is named by its own option."""


# Typer reads one option from each parameter.
def export(  # noqa: PLR0913
    run: Run,
    output: Output = None,
    onnx: Onnx = None,
    spandrel: Spandrel = None,
    ncnn: Ncnn = None,
    web: Web = None,
    onnxruntime_web: OnnxruntimeWeb = None,
    picture: Picture = None,
    merge: Merge = False,
    tradeoff: Tradeoff = None,
    plane: Plane = False,
    size: Size = None,
    half: Half = False,
) -> None:
    """Write a student for others to use.

    The folder is for distillkit, diffusers and peft, with a model card. It is loaded again and
    compared with the original. An ONNX graph takes the tradeoff as an input, unless --tradeoff
    fixes it. Checkpoints are plain networks for tools that read them by spandrel, or by ncnn. The
    page of --web is a folder to open in a browser, or to publish.
    """
    options = {
        "--merge": merge,
        "--tradeoff": tradeoff,
        "--tradeoff-plane": plane,
        "--size": size,
        "--half": half,
        "--onnxruntime-web": onnxruntime_web,
        "--picture": picture,
    }
    forms = {"-o": output, "--onnx": onnx, "--spandrel": spandrel, "--ncnn": ncnn, "--web": web}
    _check_options(_choose_form(forms), options)
    if output is not None:
        _export_folder(run, output, merge, tradeoff, picture)
    elif onnx is not None:
        _export_onnx(run, onnx, tradeoff, plane, size, half)
    elif spandrel is not None:
        _export_checkpoints(run, spandrel, tradeoff, half)
    elif ncnn is not None:
        _export_ncnn(run, ncnn, tradeoff, half)
    elif web is not None:
        _export_web(run, web, onnxruntime_web, picture)


def _choose_form(paths: Mapping[str, Path | None]) -> str:
    """Return the option of the only form that is asked for."""
    chosen = [option for option, path in paths.items() if path is not None]
    if len(chosen) != 1:
        raise DistillkitError(
            "give one of -o, for a folder, --onnx, for a graph, --spandrel, for checkpoints, "
            "--ncnn, for networks, and --web, for a page"
        )
    return chosen[0]


def _check_options(form: str, options: Mapping[str, Any]) -> None:
    """Refuse options that belong to other forms.

    Args:
        form: The option of the form that is asked for.
        options: The values of the others; False or None where they are not given.
    """
    for option, forms in FORMS_OF_OPTION.items():
        value = options[option]
        is_given = value is not None and value is not False
        if is_given and form not in forms:
            *others, last = forms
            listed = f"{', '.join(others)} and {last}" if others else last
            raise DistillkitError(f"{option} is for {listed}, not for {form}")


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


def _export_web(run: str, folder: Path, package: Path | None, picture: Path | None) -> None:
    from distillkit.export.web import export_web

    typer.echo(export_web(run, folder, package, picture))
    typer.echo(f"done: {folder}")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Parse ``--size``, ``"256x192"``, to height and width."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if not sides:
        raise DistillkitError(f"--size {text} - expected WIDTHxHEIGHT in pixels, such as 256x192")
    return int(sides[2]), int(sides[1])


def _export_folder(
    run: str, folder: Path, merge: bool, tradeoff: float | None, picture: Path | None
) -> None:
    if merge != (tradeoff is not None):
        raise DistillkitError(
            "give --merge and --tradeoff together: plain weights have one tradeoff"
        )
    from distillkit.export.folder import export_folder

    for line in export_folder(run, folder, merge_at=tradeoff, picture=picture):
        typer.echo(line)
    typer.echo(f"done: {folder}")
