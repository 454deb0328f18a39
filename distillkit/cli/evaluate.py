"""The commands ``distillkit evaluate`` and ``distillkit compare``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import (
    Alphas,
    Combine,
    Device,
    Methods,
    Overrides,
    Reference,
    load_recipe,
    parse_fractions,
    parse_methods,
    parse_pair,
    parse_settings,
    parse_trained,
)
from distillkit.errors import DistillkitError


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    method: Methods = None,
    combine: Combine = None,
    alphas: Alphas = None,
    reference: Reference = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Judge a run's student again on held-out images.

    The student is compared with its teachers, the recipe's baselines, and methods whose images are
    in folders (--method). Options change the run's recipe for this evaluation only.
    """
    method_folders = parse_methods(method)
    pair = parse_pair(combine)
    if not (run / "recipe.toml").is_file():
        raise DistillkitError(f"{run} - not a run's folder (no recipe.toml)")
    # The options are changes of the recipe, so that its checks apply to them as well.
    changes = list(overrides or ())
    if alphas is not None:
        changes.append(f"evaluation.alphas={parse_fractions('--alphas', alphas)}")
    if reference is not None:
        changes.append(f"evaluation.reference={json.dumps(reference)}")
    resolved = load_recipe(run / "recipe.toml", changes)
    from distillkit.runs.evaluate import evaluate_run
    from distillkit.runs.folder import lock_folder

    with lock_folder(run):
        report = evaluate_run(resolved, run, device, method_folders=method_folders, combine=pair)
    if report is not None:
        typer.echo(f"open {report}")


# Typer reads one option from each parameter.
def compare(  # noqa: PLR0913
    gt: Annotated[
        Path, typer.Option(metavar="DIR", help="Read the ground truth from this folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write the results into this folder.")],
    method: Methods,
    lq: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Show the inputs in this folder, and enlarge them bicubically."
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="NAME,...", help="Measure these metrics.")
    ] = "psnr-y,ssim-y,stlpips-alex",
    only: Annotated[
        str, typer.Option(metavar="PATTERN", help="Take only images that match this pattern.")
    ] = "*",
    combine: Combine = None,
    alphas: Alphas = None,
    reference: Reference = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METRIC.OPTION=VALUE",
            help="Set an option of a metric; VALUE is TOML. Repeatable.",
        ),
    ] = None,
    trained: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD:METRIC",
            help="Say that the method was trained against the metric. Without this option no "
            "metric has a role, because nobody knows how these images were made. Repeatable.",
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Compare any methods by folders of their images.

    No model is run. Images belong together that have the same path in their folders, apart from
    the suffix.
    """
    method_folders = parse_methods(method)
    pair = parse_pair(combine)
    metric_settings = parse_settings(settings)
    from distillkit.runs.compare import CompareOptions, compare_folders

    options = CompareOptions(
        lq=lq,
        metrics=[name.strip() for name in metrics.split(",")],
        metric_settings=metric_settings,
        pattern=only,
        combine=pair,
        reference=reference,
        trained=parse_trained(trained),
        device=device,
    )
    if alphas is not None:
        options = replace(options, alphas=parse_fractions("--alphas", alphas))
    typer.echo(f"open {compare_folders(gt, method_folders, out, options)}")
