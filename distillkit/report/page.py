"""The report of a run or a comparison: one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from distillkit.evaluation.checks import claims
from distillkit.evaluation.gallery import Gallery, caption, in_order
from distillkit.evaluation.results import Measure, Results
from distillkit.files.atomic import write_file
from distillkit.report import tables
from distillkit.report.bubbles import draw_bubbles
from distillkit.report.comparison import draw_comparison, encode_image
from distillkit.report.losses import draw_losses
from distillkit.report.radar import draw_radar
from distillkit.report.tradeoff import draw_tradeoff


class Headline(NamedTuple):
    """A number at the top of the page."""

    value: str
    name: str
    detail: str


def write_report(
    out_dir: Path,
    results: Results,
    gallery: Gallery,
    trained_against: Collection[str] = (),
    *,
    manifest: Mapping[str, Any],
    recipe_toml: str = "",
    history: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Write ``report.html`` into a folder, whose name becomes the page's title.

    Args:
        out_dir: the folder of the run or the comparison.
        results: what was measured.
        gallery: images to show, with at least one photo.
        trained_against: names of the metrics that the student was trained against.
        manifest: environment and provenance; nested mappings are flattened to dotted keys.
        recipe_toml: the resolved recipe; empty where there is none.
        history: the lines of ``metrics.jsonl``: ``stage``, ``step`` and loss terms.

    Returns:
        The page's path.
    """
    html = (
        _template_environment()
        .get_template("report.html.j2")
        .render(
            title=out_dir.resolve().name,
            headlines=_headlines(results, trained_against),
            viewer=_viewer(results, gallery),
            checks=claims(results, trained_against),
            **_number_tables(results, trained_against),
            **_figures(results, gallery, trained_against, list(history)),
            metrics=results.metrics,
            absent=results.absent,
            recipe=recipe_toml,
            manifest=dict(_flatten(manifest)),
        )
    )
    path = out_dir / "report.html"
    write_file(path, html)
    return path


def _template_environment() -> Environment:
    return Environment(
        loader=PackageLoader("distillkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _headlines(results: Results, trained_against: Collection[str]) -> list[Headline]:
    """Sum the student up: each metric from tradeoff 0 to 1, and the network evaluations."""
    if len(results.sweep()) < 2:
        return []
    headlines = []
    for metric in results.metrics:
        if metric.name == results.fidelity or metric in results.perceptual:
            headlines.append(_metric_headline(results, metric, trained_against))
    headlines.append(_nfe_headline(results))
    return headlines


def _metric_headline(
    results: Results, metric: Measure, trained_against: Collection[str]
) -> Headline:
    realistic, *_, faithful = results.sweep()
    digits = tables.decimals(results, metric.name)
    low = results.summary(realistic.label, metric.name).mean
    high = results.summary(faithful.label, metric.name).mean
    change = results.paired(faithful.label, realistic.label, metric.name)
    unit = " (dB)"
    if metric.perceptual:
        unit = f", {tables.metric_role(metric, trained_against)}"
    return Headline(
        value=f"{low:.{min(digits, 3)}f} → {high:.{min(digits, 3)}f}",
        name=f"{metric.name}{unit}",
        detail=f"change from tradeoff 0 to 1: {tables.format_mean(change, digits, '+')}",
    )


def _nfe_headline(results: Results) -> Headline:
    nfe = results.sweep()[0].nfe
    counts = [f"{nfe} of the student"]
    for label in results.teachers or ():
        counts.append(f"{results.entry(label).nfe} of {caption(label, results.teachers)}")
    return Headline(f"{nfe}", "network evaluations per image (NFE)", ", ".join(counts))


def _viewer(results: Results, gallery: Gallery) -> dict[str, Any]:
    """Collect what the page's script shows: images, their captions, the student's tradeoffs."""
    photos = []
    labels: list[str] = []
    for name, images in gallery.photos.items():
        labels = in_order(list(images), results.teachers)
        height, width = images["gt"].shape[1:]
        uris = {label: _data_uri(encode_image(image)) for label, image in images.items()}
        photos.append({"name": name, "size": [width, height], "images": uris})
    sweep = results.sweep()
    return {
        "photos": photos,
        "labels": [(label, caption(label, results.teachers)) for label in labels],
        "sweep": [{"label": entry.label, "tradeoff": entry.tradeoff} for entry in sweep],
    }


def _number_tables(results: Results, trained_against: Collection[str]) -> dict[str, Any]:
    """Collect the tables of the page, and the notes below them."""
    rows = []
    for entry in tables.ordered_entries(results):
        costs = tables.cost_cells(results, entry)
        rows.append((entry, costs, tables.metric_cells(results, entry)))
    return {
        "dataset": results.dataset,
        "device": results.device,
        "reference": results.reference,
        "cost_columns": tables.cost_columns(results),
        "metric_columns": tables.metric_columns(results, trained_against),
        "rows": rows,
        "differences": tables.difference_table(results),
        "gaps": tables.gap_table(results),
        "uncertainty": tables.uncertainty_note(results),
        "number_note": f"{tables.INTERVAL_NOTE} {tables.cost_note(results)}".strip(),
        "difference_note": tables.DIFFERENCE_NOTE,
        "gap_note": tables.GAP_NOTE,
    }


def _figures(
    results: Results,
    gallery: Gallery,
    trained_against: Collection[str],
    history: list[Mapping[str, Any]],
) -> dict[str, Any]:
    """Draw the figures of the page: one comparison, all others for a light and a dark page."""
    return {
        "tradeoff": _light_and_dark(partial(draw_tradeoff, results, trained_against)),
        "radar": _light_and_dark(partial(draw_radar, results, trained_against)),
        "bubbles": _light_and_dark(partial(draw_bubbles, results)),
        "losses": _light_and_dark(partial(draw_losses, history)),
        "comparison": _data_uri(draw_comparison(gallery.photos, results.teachers)),
    }


def _light_and_dark(draw: Callable[..., bytes | None]) -> list[str]:
    """Draw a figure for both kinds of page; the list is empty where there is no figure."""
    figures = [draw(dark=False), draw(dark=True)]
    return [_data_uri(figure) for figure in figures if figure is not None]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
