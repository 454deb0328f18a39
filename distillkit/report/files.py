"""The files of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery
from distillkit.evaluation.metric_rows import METRICS_FILE, find_metrics_files
from distillkit.evaluation.results import Results
from distillkit.files.atomic import write_file
from distillkit.report.bubbles import draw_bubbles
from distillkit.report.comparison import draw_comparison
from distillkit.report.documents import csv_text, evaluation_markdown
from distillkit.report.radar import draw_radar
from distillkit.report.tradeoff import draw_tradeoff

EVALUATION_FILES = (
    "per_image.json",
    METRICS_FILE,
    "metrics.csv",
    "table.md",
    "tradeoff.png",
    "comparison.png",
    "radar.png",
    "bubbles.png",
)
"""What :func:`write_evaluation` may write."""


def write_evaluation(
    results: Results,
    gallery: Gallery,
    out_dir: Path,
    trained_against: Collection[str] = (),
) -> None:
    """Write the tables and figures of an evaluation into a folder.

    ``metrics.json``, ``metrics.csv`` and ``table.md`` hold the means, ``per_image.json`` every
    value (:meth:`Results.from_json` reads it back), so that two runs on the same images can be
    compared in pairs. The figures are ``comparison.png`` and, where there is enough to draw,
    ``tradeoff.png`` (two methods and a perceptual metric), ``radar.png`` (three metrics) and
    ``bubbles.png`` (two methods whose time and size are known). Each file appears whole or not at
    all.

    Args:
        results: What was measured.
        gallery: Images to show, with at least one photo.
        out_dir: The folder, created if necessary.
        trained_against: Names of the metrics that the student was trained against; all other
            perceptual metrics are labeled held out, unless this is a :class:`ReportedTraining`.
    """
    rows = results.rows()
    checks = check_sweep(results, trained_against)
    contents: tuple[str | bytes | None, ...] = (
        results.to_json(),
        json.dumps(rows, indent=1, allow_nan=False) + "\n",
        csv_text(rows),
        evaluation_markdown(results, trained_against, checks),
        draw_tradeoff(results, trained_against),
        draw_comparison(gallery.pictures, results.teachers),
        draw_radar(results, trained_against),
        draw_bubbles(results),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in zip(EVALUATION_FILES, contents, strict=True):
        if content is not None:
            write_file(out_dir / name, content)
        else:
            # An earlier evaluation may have had enough to draw.
            (out_dir / name).unlink(missing_ok=True)


def remove_other_sets(folder: Path, sets: Collection[str]) -> None:
    """Remove what earlier evaluations wrote of other evaluation sets.

    Args:
        folder: With the files of the only set, or with a folder for each set.
        sets: Names of the sets that were evaluated now.
    """
    kept = {folder}
    if len(sets) > 1:
        kept = {folder / name for name in sets}
    for file in find_metrics_files(folder):
        if file.parent in kept:
            continue
        for name in EVALUATION_FILES:
            (file.parent / name).unlink(missing_ok=True)
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
