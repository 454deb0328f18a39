"""The report of a run or a comparison, as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery, image_title, sort_for_display
from distillkit.evaluation.metric_roles import add_role, metric_role
from distillkit.evaluation.results import STUDENT, MeasuredMetric, Results
from distillkit.files.atomic import write_file
from distillkit.report.comparison import (
    MAX_LOSSLESS_PIXELS,
    data_uri,
    image_uri,
)
from distillkit.report.documents import evaluation_content, fill_template
from distillkit.report.losses import draw_losses
from distillkit.report.tables import (
    decimals,
    mean_values,
    number_cell,
    ordered_methods,
)


class EvaluatedSet(NamedTuple):
    """What was measured on an evaluation set, and images of it."""

    results: Results
    gallery: Gallery
    """With at least one photo."""
    folder: Path
    """Where :func:`~distillkit.report.files.write_evaluation` has written its figures."""


class Headline(NamedTuple):
    """A number at the top of the page."""

    value: str
    name: str
    detail: str


class Figure(NamedTuple):
    """A figure in the page."""

    uri: str
    """Data URI."""
    min_width: int
    """Pixels below which its text cannot be read."""


def write_report(
    out_dir: Path,
    evaluated: Sequence[EvaluatedSet],
    trained_against: Collection[str] = (),
    *,
    manifest: Mapping[str, Any],
    recipe_toml: str = "",
    history: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Write ``report.html`` into a folder.

    The folder's name becomes the page's title.

    Args:
        out_dir: The folder of the run or the comparison.
        evaluated: The evaluation sets, all with the same metrics.
        trained_against: Names of the metrics that the student was trained against.
        manifest: Environment and provenance; nested mappings are flattened to dotted keys.
        recipe_toml: The resolved recipe; empty where there is none.
        history: The lines of ``metrics.jsonl``: ``stage``, ``step`` and loss terms.

    Returns:
        The page's path.
    """
    html = fill_template(
        "report.html.j2",
        title=out_dir.resolve().name,
        sets=[_set_content(one, trained_against) for one in evaluated],
        losses=_embed(draw_losses(history)),
        recipe=recipe_toml,
        manifest=dict(_flatten(manifest)),
    )
    path = out_dir / "report.html"
    write_file(path, html)
    return path


def _set_content(evaluated: EvaluatedSet, trained_against: Collection[str]) -> dict[str, Any]:
    """Collect what the page shows of one evaluation set."""
    results, gallery, folder = evaluated
    checks = check_sweep(results, trained_against)
    viewer = _viewer(results, gallery)
    return {
        "headlines": _headlines(results, trained_against),
        "viewer": viewer,
        "per_image": _per_image(results),
        "has_sweep": len(results.sweep()) > 1,
        "lossy": _is_lossy(viewer),
        "tradeoff": _read_figure(folder / "tradeoff.png"),
        "radar": _read_figure(folder / "radar.png"),
        "bubbles": _read_figure(folder / "bubbles.png"),
        "comparison": _read_figure(folder / "comparison.png", smallest=1.0),
        **evaluation_content(results, trained_against, checks),
    }


def _headlines(results: Results, trained_against: Collection[str]) -> list[Headline]:
    """Sum up the student's metrics from tradeoff 0 to 1, and its NFE."""
    sweep = results.sweep()
    if len(sweep) < 2:
        return []
    headlines = []
    shown = [results.fidelity, *(metric.name for metric in results.perceptual)]
    for metric in results.metrics:
        ends = mean_values(results, [sweep[0], sweep[-1]], metric.name)
        if metric.name in shown and all(map(math.isfinite, ends)):
            headlines.append(_metric_headline(results, metric, trained_against))
    nfe = sweep[0].nfe
    if nfe is None:
        # Of images in folders it is not known.
        return headlines
    counts = [f"{nfe} of the student"]
    for label in results.teachers or ():
        teacher_nfe = results.method(label).nfe
        if teacher_nfe is not None:
            counts.append(f"{teacher_nfe} of {image_title(label, results.teachers)}")
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
        name=add_role(metric.name, role),
        detail=f"change from tradeoff 0 to 1: {change}",
    )


def _viewer(results: Results, gallery: Gallery) -> dict[str, Any]:
    """Collect the images, titles and tradeoffs that the page's script shows."""
    photos: list[dict[str, Any]] = []
    for name, picture in gallery.pictures.items():
        _, height, width = picture.whole["gt"].shape
        photo: dict[str, Any] = {
            "name": name,
            "size": [width, height],
            "reduction": picture.reduction,
            "images": {label: image_uri(image) for label, image in picture.whole.items()},
        }
        photos.append(photo)
    # All photos show the same methods.
    labels = []
    for label in sort_for_display(list(photos[0]["images"]), results.teachers):
        labels.append((label, image_title(label, results.teachers)))
    return {"photos": photos, "labels": labels, "curves": _curves(results)}


def _curves(results: Results) -> dict[str, list[dict[str, Any]]]:
    """List the methods that have several tradeoffs, the student first: they get a slider."""
    names = [STUDENT, *(method.name for method in results.methods)]
    curves = {}
    for name in dict.fromkeys(names):
        sweep = results.sweep(name)
        if len(sweep) > 1:
            curves[name] = [{"label": m.label, "tradeoff": m.tradeoff} for m in sweep]
    return curves


def _per_image(results: Results) -> dict[str, Any]:
    """Collect the values of every image that the page's script sorts; None where there is none."""
    methods = [method for method in ordered_methods(results) if not method.is_combination]
    metrics = []
    for metric in results.metrics:
        if metric.of_set:
            continue
        digits = decimals(results, metric.name)
        columns = []
        for method in methods:
            values = results.values[method.label, metric.name].tolist()
            columns.append([None if math.isnan(v) else round(v, digits + 1) for v in values])
        content = {
            "name": metric.name,
            "higher": metric.higher_is_better,
            "digits": digits,
            "columns": columns,
        }
        metrics.append(content)
    titles = [image_title(method.label, results.teachers) for method in methods]
    return {
        "items": results.items,
        "methods": titles,
        "metrics": metrics,
        "first": _first_perceptual(metrics, results),
    }


def _first_perceptual(metrics: Sequence[Mapping[str, Any]], results: Results) -> int | None:
    """Return the number of the metric that the table of images begins with."""
    perceptual = {metric.name for metric in results.perceptual}
    for number, metric in enumerate(metrics):
        if metric["name"] in perceptual:
            return number
    return None


def _is_lossy(viewer: Mapping[str, Any]) -> bool:
    """Whether some pictures of the page are stored as JPEG."""
    return any(math.prod(photo["size"]) > MAX_LOSSLESS_PIXELS for photo in viewer["photos"])


def _read_figure(file: Path, smallest: float = 0.45) -> Figure | None:
    """Read a figure of an evaluation; None where there was nothing to draw."""
    return _embed(file.read_bytes() if file.exists() else None, smallest)


def _embed(png: bytes | None, smallest: float = 0.45) -> Figure | None:
    """Put a figure into the page.

    Args:
        png: The file; None where there was nothing to draw.
        smallest: The share of its full width at which its text can still be read.
    """
    if png is None:
        return None
    # The header of a PNG file has its width here.
    width = int.from_bytes(png[16:20], "big")
    return Figure(data_uri(png), round(smallest * width))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
