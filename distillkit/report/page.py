"""The report of a run or a comparison, as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery, image_title, sort_for_display
from distillkit.evaluation.results import MeasuredMetric, Results
from distillkit.files.atomic import write_file
from distillkit.report.bubbles import draw_bubbles
from distillkit.report.comparison import draw_comparison, encode_image
from distillkit.report.documents import evaluation_content, fill_template
from distillkit.report.losses import draw_losses
from distillkit.report.radar import draw_radar
from distillkit.report.tables import decimals, mean_values, metric_role, number_cell
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
    """Write ``report.html`` into a folder.

    The folder's name becomes the page's title.

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
    checks = check_sweep(results, trained_against)
    comparison = draw_comparison(gallery.photos, results.teachers)
    html = fill_template(
        "report.html.j2",
        title=out_dir.resolve().name,
        headlines=_headlines(results, trained_against),
        viewer=_viewer(results, gallery),
        tradeoff=_light_and_dark(partial(draw_tradeoff, results, trained_against)),
        radar=_light_and_dark(partial(draw_radar, results, trained_against)),
        bubbles=_light_and_dark(partial(draw_bubbles, results)),
        losses=_light_and_dark(partial(draw_losses, list(history))),
        comparison=_data_uri(comparison),
        recipe=recipe_toml,
        manifest=dict(_flatten(manifest)),
        **evaluation_content(results, trained_against, checks),
    )
    path = out_dir / "report.html"
    write_file(path, html)
    return path


def _headlines(results: Results, trained_against: Collection[str]) -> list[Headline]:
    """Sum up the student's metrics from tradeoff 0 to 1, and its NFE."""
    sweep = results.sweep()
    if len(sweep) < 2:
        return []
    headlines = []
    shown = [results.fidelity, *(metric.name for metric in results.perceptual)]
    for metric in results.metrics:
        if metric.name in shown:
            headlines.append(_metric_headline(results, metric, trained_against))
    nfe = sweep[0].nfe
    counts = [f"{nfe} of the student"]
    for label in results.teachers or ():
        teacher = image_title(label, results.teachers)
        counts.append(f"{results.method(label).nfe} of {teacher}")
    headline = Headline(
        value=f"{nfe}",
        name="network evaluations per image (NFE)",
        detail=", ".join(counts),
    )
    return [*headlines, headline]


def _metric_headline(
    results: Results,
    metric: MeasuredMetric,
    trained_against: Collection[str],
) -> Headline:
    realistic, *_, faithful = results.sweep()
    low, high = mean_values(results, [realistic, faithful], metric.name)
    difference = results.paired(faithful.label, realistic.label, metric.name)
    digits = decimals(results, metric.name)
    # A headline is large; the tables have all digits.
    shown = min(digits, 3)
    role = metric_role(metric, trained_against) if metric.perceptual else "dB"
    change = number_cell(difference, digits, "+").text
    return Headline(
        value=f"{low:.{shown}f} → {high:.{shown}f}",
        name=f"{metric.name} ({role})",
        detail=f"change from tradeoff 0 to 1: {change}",
    )


def _viewer(results: Results, gallery: Gallery) -> dict[str, Any]:
    """Collect the images, titles and tradeoffs that the page's script shows."""
    photos: list[dict[str, Any]] = []
    for name, images in gallery.photos.items():
        _, height, width = images["gt"].shape
        photo: dict[str, Any] = {
            "name": name,
            "size": [width, height],
            "images": {},
        }
        for label, image in images.items():
            photo["images"][label] = _data_uri(encode_image(image))
        photos.append(photo)
    # All photos show the same methods.
    labels = []
    for label in sort_for_display(list(photos[0]["images"]), results.teachers):
        labels.append((label, image_title(label, results.teachers)))
    sweep = []
    for method in results.sweep():
        sweep.append({"label": method.label, "tradeoff": method.tradeoff})
    return {"photos": photos, "labels": labels, "sweep": sweep}


def _light_and_dark(draw: Callable[..., bytes | None]) -> list[str]:
    """Draw a figure for both kinds of page.

    Returns:
        Two data URIs, or none where there is no figure.
    """
    figures = [draw(dark=False), draw(dark=True)]
    return [_data_uri(figure) for figure in figures if figure is not None]


def _data_uri(png: bytes) -> str:
    content = base64.b64encode(png).decode()
    return f"data:image/png;base64,{content}"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
