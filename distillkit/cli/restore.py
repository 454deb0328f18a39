"""The command ``distillkit restore``, and a factory of such commands for other kinds of files."""

from __future__ import annotations

import inspect
import pkgutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillkit.cli.arguments import Device, parse_settings, parse_tradeoffs
from distillkit.cli.exit_codes import ExitCode
from distillkit.console import logger, progress_bar
from distillkit.errors import DistillkitError, SettingsError
from distillkit.inference.files import (
    IMAGE_FILES,
    Existing,
    FileJob,
    FileKind,
    Shard,
    Tradeoffs,
    find_unreadable_photos,
    plan_files,
    plan_maps,
    run_jobs,
)
from distillkit.tradeoff import FAITHFUL, REALISTIC

if TYPE_CHECKING:
    from distillkit.inference.restorer import Restorer


class Precision(StrEnum):
    """What networks compute in."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(frozen=True)
class RestoreChoice:
    """What the command line of a command that restores has chosen."""

    tradeoffs: Tradeoffs
    """Passed to the function that restores a file, which makes a result for each. A single one may
    be of any type that this function knows, such as keyframes or what makes a map of each image."""
    restorer_tradeoffs: Tradeoffs
    """The same as numbers or as a map, which every :class:`~distillkit.Restorer` knows. They are
    checked before a file is read; a single number is merged into the weights for all files."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the function that restores a file."""
    save_map: Path | None = None
    """The file or folder that tradeoff maps are written to; None writes none. Otherwise the
    function that restores a file is called with ``map_target``, the file of its map."""


TradeoffMap = Annotated[
    Path | None,
    typer.Option(
        metavar="MASK",
        help="Take the tradeoff of each pixel from a gray picture: black is 0, white is 1.",
    ),
]
"""The option ``--tradeoff-map``, for :func:`choose_tradeoffs`."""
FaithfulNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Restore most faithfully what plugins find, such as faces,text, and the rest at "
        "--tradeoff.",
    ),
]
"""The option ``--faithful``, for :func:`choose_faithful`."""

TradeoffText = Annotated[
    str | None,
    typer.Option(
        "--tradeoff",
        metavar="X",
        help="Choose from 0, most realistic (the default), to 1, most faithful, or several: "
        "0,0.5,1.",
    ),
]


def choose_tradeoffs(
    tradeoff: TradeoffText = None, tradeoff_map: TradeoffMap = None
) -> RestoreChoice:
    """Read ``--tradeoff``, one or several numbers, or ``--tradeoff-map``, an image file.

    Raises:
        DistillkitError: A number is not from 0 to 1, both options are given, or the map is not an
            image.
    """
    if tradeoff_map is None:
        tradeoffs: Tradeoffs = parse_tradeoffs(tradeoff)
    elif tradeoff is None:
        from distillkit.inference.image_types import read_picture

        tradeoffs = [read_picture(tradeoff_map)]
    else:
        raise DistillkitError("give either --tradeoff or --tradeoff-map")
    return RestoreChoice(tradeoffs, restorer_tradeoffs=tradeoffs)


def choose_faithful(
    names: str, tradeoff: str | None = None, tradeoff_map: Path | None = None
) -> RestoreChoice:
    """Read ``--faithful``: a tradeoff map of each image, faithful where plugins find something.

    Args:
        names: The value of ``--faithful``: masks of plugins, with commas between them.
        tradeoff: The value of ``--tradeoff``: that of the rest of an image.
        tradeoff_map: The value of ``--tradeoff-map``, which has to be left out.

    Raises:
        DistillkitError: No plugin has such a mask, or the options exclude each other.
    """
    if tradeoff_map is not None:
        raise DistillkitError("give either --faithful or --tradeoff-map")
    import numpy as np

    from distillkit.inference.faithful_map import FaithfulMap

    elsewhere, *more = parse_tradeoffs(tradeoff)
    if more:
        raise DistillkitError("--faithful takes one --tradeoff, that of the rest of an image")
    masks = [name.strip() for name in names.split(",") if name.strip()]
    make_map = FaithfulMap(masks, REALISTIC if elsewhere is None else elsewhere)
    # The maps of the images do not exist yet: this one checks that the student takes maps.
    example = np.array([[make_map.elsewhere, FAITHFUL]])
    return RestoreChoice([make_map], restorer_tradeoffs=[example])


def choose_for_images(
    tradeoff: TradeoffText = None,
    tradeoff_map: TradeoffMap = None,
    faithful: FaithfulNames = None,
    save_map: Annotated[
        Path | None,
        typer.Option(
            metavar="MAP",
            help="Write the map that --faithful makes to this file, for one input file, or into "
            "this folder; --tradeoff-map reads it.",
        ),
    ] = None,
) -> RestoreChoice:
    """Read the options of ``distillkit restore`` that set the tradeoff.

    Raises:
        DistillkitError: As :func:`choose_tradeoffs` and :func:`choose_faithful`.
    """
    if faithful is not None:
        choice = choose_faithful(faithful, tradeoff, tradeoff_map)
        return replace(choice, save_map=save_map)
    if save_map is not None:
        raise DistillkitError("--save-map writes what --faithful finds; give --faithful")
    return choose_tradeoffs(tradeoff, tradeoff_map)


Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="IN...", help='Files, folders or patterns ("photos/**/*.jpg").'),
]
Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Write this file, for one input file, or into this folder.",
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Restore with a run's folder, an exported folder, a plugin's trained student or a Hub "
        "repository; by default with the trained student of the plugins, where there is one.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Restore with a registered teacher or student instead: mini/faithful.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set an option of --model; VALUE is TOML. Repeatable.",
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=5,
        help="Restore a longer list at this many tradeoffs, and interpolate the rest.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Make only the results that are missing.")
]
ShardText = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Restore only share I of N of the files, as on one of N machines.",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=16,
        help="Restore in tiles of this side in input pixels; by default 768 of the result.",
    ),
]
ColorFix = Annotated[
    str | None,
    typer.Option(
        metavar="FIX",
        help="Give results the colors of their inputs by adain or wavelet, or not (none); by "
        "default as the student was evaluated.",
    ),
]
ComputeIn = Annotated[
    Precision,
    typer.Option(
        help="Compute in float32, or in bfloat16 on a CPU or GPU that does: faster, within a gray "
        "level on average."
    ),
]
Megapixels = Annotated[
    float | None,
    typer.Option(
        help="Read images of up to this many million pixels, by their headers; by default 179."
    ),
]
Seed = Annotated[int, typer.Option(help="Draw noise by this seed, in models that draw some.")]


def restore_command(
    kind: FileKind,
    restore_file: str,
    choose: Callable[..., RestoreChoice] = choose_tradeoffs,
) -> Callable[..., None]:
    """Make a command that restores files of one kind, for ``app.command(...)``.

    Args:
        kind: The kind of files that it restores.
        restore_file: ``"module:function"``, imported when the command runs. The function takes
            ``(restorer, source, targets, tradeoffs, *, seed)`` and the choice's options, and
            returns notes, as :func:`~distillkit.inference.files.restore_image`.
        choose: Turns options into a choice. Its parameters become options of the command, and it is
            called with their values before a file is looked for.
    """

    # Typer reads one option from each parameter.
    def command(  # noqa: PLR0913
        inputs: Inputs,
        output: Output,
        run: Run = None,
        model: Model = None,
        set_: Settings = None,
        nodes: Nodes = None,
        overwrite: Overwrite = False,
        skip_existing: SkipExisting = False,
        shard: ShardText = "1/1",
        tile: Tile = None,
        color_fix: ColorFix = None,
        precision: ComputeIn = Precision.fp32,
        megapixels: Megapixels = None,
        seed: Seed = 0,
        device: Device = None,
        **chosen: Any,
    ) -> None:
        # As Ctrl-C does: the block that writes a result then still removes what is incomplete.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run = _choose_run(run, model, set_)
        _limit_megapixels(megapixels, kind)
        choice = choose(**chosen)
        existing = _choose_existing(overwrite, skip_existing)
        if kind is IMAGE_FILES:
            _warn_of_unreadable_photos(inputs)
        all_jobs = plan_files(
            inputs, output, choice.tradeoffs, kind=kind, existing=existing, shard=Shard.parse(shard)
        )
        if not all_jobs:
            logger.info("nothing is left to restore")
            return
        maps = {}
        if choice.save_map is not None:
            maps = plan_maps(inputs, choice.save_map, all_jobs, existing)
        settings = parse_settings(set_)
        restore_one = pkgutil.resolve_name(restore_file)
        jobs, failures = _check_jobs(all_jobs, kind)
        options = {"tile": tile, "color_fix": color_fix, "interpolation_nodes": nodes}
        restorer = _load_restorer(run, model, settings, device, options)
        if precision == Precision.bf16:
            restorer.compute_in_bfloat16()

        def restore_job(job: FileJob) -> Iterable[str]:
            tradeoffs = [choice.tradeoffs[index] for index in job.indices]
            options = dict(choice.options)
            if maps:
                options["map_target"] = maps[job.source]
            return restore_one(restorer, job.source, job.targets, tradeoffs, seed=seed, **options)

        # This refuses a tradeoff before any image is read.
        with restorer.merged_at(choice.restorer_tradeoffs):
            failures += _restore_all(restore_job, jobs)
        _report(failures, len(all_jobs))

    return _with_options(command, choose)


def _with_options(command: Callable[..., None], choose: Callable[..., Any]) -> Callable[..., None]:
    """Replace ``**chosen`` in the signature that Typer reads by the parameters of ``choose``.

    Parameters without a default come first.
    """
    own = inspect.signature(command, eval_str=True)
    added = inspect.signature(choose, eval_str=True)
    parameters = [*added.parameters.values(), *own.parameters.values()]
    parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    parameters.sort(key=lambda p: p.default is not p.empty)
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _warn_of_unreadable_photos(inputs: list[Path]) -> None:
    photos = find_unreadable_photos(inputs)
    if photos:
        logger.warning(
            "left out: %d in formats that are not read (HEIC, JPEG XL, camera RAW), such as %s; "
            "convert them to PNG or TIFF first",
            len(photos),
            photos[0],
        )


def _limit_megapixels(megapixels: float | None, kind: FileKind) -> None:
    if megapixels is None:
        return
    if kind is not IMAGE_FILES:
        raise DistillkitError(f"--megapixels bounds images; a {kind.name} is read frame by frame")
    from distillkit.files.images import limit_megapixels

    limit_megapixels(megapixels)


def _load_restorer(
    run: str | None,
    model: str | None,
    settings: dict[str, Any],
    device: str | None,
    options: dict[str, Any],
) -> Restorer:
    from distillkit.inference.restorer import Restorer

    if model is not None:
        try:
            return Restorer.from_model(model, settings, device, progress=True, **options)
        except SettingsError as e:
            raise SettingsError(
                f"{e}; set them by --set KEY=VALUE, a text in quotes: --set 'weights=\"x.pth\"'"
            ) from e
    assert run is not None
    return Restorer.from_pretrained(run, device, progress=True, **options)


def _choose_run(run: str | None, model: str | None, settings: list[str] | None) -> str | None:
    """Return what --run names, by default the plugins' trained student; None with --model."""
    if model is not None and run is None:
        return None
    if model is not None or settings:
        raise DistillkitError("give either --run, or --model and its options by --set")
    if run is None:
        run = choose_trained("--run")
    return run


def choose_trained(option: str) -> str:
    """Return the first trained student of the only plugin that has some, and log its name.

    Args:
        option: The option that chooses another student, for messages: ``"--run"``.

    Raises:
        DistillkitError: No plugin has one, or several have.
    """
    from distillkit.plugins.manager import load_plugins
    from distillkit.plugins.trained import list_trained, trained_of

    plugins = load_plugins()
    firsts = [students[0].name for plugin in plugins if (students := trained_of(plugin))]
    if not firsts:
        raise DistillkitError(f"give {option}: no installed plugin has a trained student")
    if len(firsts) > 1:
        names = [student.name for student in list_trained(plugins)]
        raise DistillkitError(f"say which student by {option}: {', '.join(names)}")
    logger.info(f"restoring with {firsts[0]}; another student: {option}")
    return firsts[0]


def _choose_existing(overwrite: bool, skip_existing: bool) -> Existing:
    if overwrite and skip_existing:
        raise DistillkitError("give either --overwrite or --skip-existing")
    if overwrite:
        return "replace"
    return "skip" if skip_existing else "refuse"


def _check_jobs(jobs: list[FileJob], kind: FileKind) -> tuple[list[FileJob], list[str]]:
    """Check the headers of all files before the model is loaded.

    Returns:
        The jobs that can be done, and a line for each that cannot.

    Raises:
        DistillkitError: None can be done.
    """
    if kind.check is None:
        return jobs, []
    check = pkgutil.resolve_name(kind.check)
    remaining = []

    def check_job(job: FileJob) -> None:
        check(job.source, job.targets)
        remaining.append(job)

    failures = run_jobs(check_job, progress_bar(jobs, unit="file", desc="checking"))
    if not remaining:
        raise DistillkitError("\n".join(failures))
    return remaining, failures


def _restore_all(restore_job: Callable[[FileJob], Iterable[str]], jobs: list[FileJob]) -> list[str]:
    """Do the jobs with a progress bar, and log the notes of each as warnings.

    Returns:
        A line for each file that was not restored.
    """

    def restore(job: FileJob) -> None:
        started = time.monotonic()
        notes = restore_job(job)
        logger.debug(f"{job.source} restored in {time.monotonic() - started:.2f} s")
        for note in notes:
            logger.warning(note)

    if len(jobs) == 1:
        return run_jobs(restore, jobs)
    return run_jobs(restore, progress_bar(jobs, unit="file"))


def _report(failures: list[str], count: int) -> None:
    """Print the failures, and exit with ``PARTLY_DONE`` where there are any.

    Args:
        failures: A line for each file that was not restored.
        count: The number of all files.

    Raises:
        DistillkitError: Not one was restored.
        typer.Exit: Some were not restored.
    """
    if len(failures) == count:
        raise DistillkitError("\n".join(failures))
    for failure in failures:
        typer.echo(f"not restored: {failure}", err=True)
    if failures:
        raise typer.Exit(ExitCode.PARTLY_DONE)
