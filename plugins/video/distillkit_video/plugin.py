"""The commands ``restore-video`` and ``flicker``. PyAV and torch are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit import (
    IMAGE_FILES,
    VIDEO_SUFFIXES,
    AsJson,
    DistillkitError,
    FaithfulNames,
    FileKind,
    RestoreChoice,
    TradeoffMap,
    choose_faithful,
    choose_tradeoffs,
    hookimpl,
    print_json,
    restore_command,
)
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
    )(restore_command(VIDEO_FILES, "distillkit_video.video:restore_video", choose))
    app.command("flicker")(flicker)


def choose(
    tradeoff: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="Choose from 0, most realistic (the default), to 1, most faithful; or several: "
            "0,0.5,1; or keyframes, with lines between them: 0:0.2,10s:0.8.",
        ),
    ] = None,
    tradeoff_map: TradeoffMap = None,
    faithful: FaithfulNames = None,
    steady: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            metavar="X",
            help="Keep this share of the invented detail of the frame before where the video "
            "stands still, as 0.8; needs a student with a tradeoff and twice the time.",
        ),
    ] = 0.0,
) -> RestoreChoice:
    """Read the options of ``distillkit restore-video`` that set the tradeoff and the steadiness.

    Raises:
        DistillkitError: A value is malformed, or the options exclude each other.
    """
    from distillkit_video.keyframes import FAITHFUL, Keyframes

    keyframes = None
    if tradeoff is not None and ":" in tradeoff:
        keyframes = Keyframes.parse(tradeoff)
    if faithful is not None:
        if keyframes is not None:
            raise DistillkitError("--faithful takes one --tradeoff, and no keyframes")
        choice = choose_faithful(faithful, tradeoff, tradeoff_map)
    elif keyframes is not None and tradeoff_map is None:
        choice = RestoreChoice([keyframes], restorer_tradeoffs=keyframes.tradeoffs)
    else:
        choice = choose_tradeoffs(tradeoff, tradeoff_map)
    if not steady:
        return choice
    # Each frame is also restored at tradeoff 1, which a student with a fixed tradeoff lacks. A map
    # cannot stand in a list of tradeoffs; a student that takes one has tradeoff 1 as well.
    restorer_tradeoffs = choice.restorer_tradeoffs
    if faithful is None and tradeoff_map is None:
        restorer_tradeoffs = [*restorer_tradeoffs, FAITHFUL]
    return RestoreChoice(choice.tradeoffs, restorer_tradeoffs, {"steady": steady})


def flicker(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The video that was restored.")],
    results: Annotated[
        list[Path], typer.Argument(metavar="RESTORED...", help="What was made of it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Measure how restored videos flicker where they stand still.

    It is the mean absolute difference, in gray levels, of consecutive frames, over the pixels that
    stand still in the source.
    """
    from distillkit_video.flicker import measure_flicker

    measured = measure_flicker(source, results)
    if as_json:
        print_json({"static": measured.static, "flicker": measured.levels})
        return
    typer.echo(f"{measured.static:.1%} of the pixels stand still; gray levels that they change by:")
    for video, level in measured.levels.items():
        shown = "-" if level is None else f"{level:.2f}"
        typer.echo(f"{shown:>7}  {video}")
