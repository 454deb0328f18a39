"""The files of an evaluation, and the report of a run: one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from distillkit.evaluation.checks import claims
from distillkit.evaluation.gallery import Gallery, caption, in_order
from distillkit.evaluation.results import Results
from distillkit.files.atomic import write_file
from distillkit.report import tables
from distillkit.report.bubbles import bubbles_png, radar_png
from distillkit.report.comparison import image_png, strip_png
from distillkit.report.tradeoff import losses_png, tradeoff_png


def write_evaluation(
    results: Results, gallery: Gallery, out_dir: Path, trained: Collection[str]
) -> None:
    """Write ``metrics.json``, ``metrics.csv``, ``table.md``, ``tradeoff.png``, ``strip.png``, ``per_image.json`` into ``out_dir``.

    And ``radar.png`` and ``bubbles.png`` where there is enough to draw: three metrics, two methods whose time and size are known.

    Each file appears whole or not at all. ``per_image.json`` holds every value (:meth:`Results.from_json` reads it back), so that
    two runs on the same images can be compared in pairs.

    Args:
        gallery: with at least one photo.
        trained: names of the metrics that the student was trained against; all other perceptual metrics are labeled held out.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    write_file(out_dir / "per_image.json", results.to_json())
    write_file(
        out_dir / "metrics.json", json.dumps(results.rows(), indent=1, allow_nan=False) + "\n"
    )
    write_file(out_dir / "metrics.csv", tables.to_csv(results))
    write_file(out_dir / "table.md", tables.to_markdown(results, trained, claims(results, trained)))
    write_file(out_dir / "tradeoff.png", tradeoff_png(results, trained))
    write_file(out_dir / "strip.png", strip_png(gallery.photos, results.teachers))
    for name, content in (
        ("radar.png", radar_png(results, trained)),
        ("bubbles.png", bubbles_png(results)),
    ):
        if content is None:
            (out_dir / name).unlink(missing_ok=True)  # of an earlier evaluation
        else:
            write_file(out_dir / name, content)


def write_report(
    run_dir: Path,
    results: Results,
    gallery: Gallery,
    *,
    trained: Collection[str],
    recipe_toml: str,
    manifest: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
) -> Path:
    """Write ``report.html`` into ``run_dir`` and return its path.

    Args:
        recipe_toml: the resolved recipe; empty where there is none.
        manifest: environment and provenance; nested mappings are flattened to dotted keys.
        history: the lines of ``metrics.jsonl``: ``stage``, ``step`` and loss terms.
    """
    lines = list(history)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=run_dir.resolve().name,
        dataset=results.dataset,
        uncertainty=tables.uncertainty(results),
        headlines=_headlines(results, trained),
        claims=claims(results, trained),
        columns=tables.columns(results, trained),
        cost_columns=tables.cost_columns(results),
        rows=[
            (e, tables.costs(results, e), tables.cells(results, e)) for e in tables.ordered(results)
        ],
        meaning=f"{tables.MEANING} {tables.cost_note(results)}".strip(),
        reference=results.reference,
        device=results.device,
        differences=tables.difference_table(results),
        differences_note=tables.DIFFERENCES,
        gaps=tables.gap_table(results) if results.baselines() and results.sweep() else None,
        no_gap=tables.NO_GAP,
        absent=results.absent,
        protocols=results.metrics,
        tradeoff=[_data_uri(tradeoff_png(results, trained, dark=dark)) for dark in (False, True)],
        radar=[
            _data_uri(picture)
            for dark in (False, True)
            if (picture := radar_png(results, trained, dark=dark))
        ],
        bubbles=[
            _data_uri(picture)
            for dark in (False, True)
            if (picture := bubbles_png(results, dark=dark))
        ],
        losses=[_data_uri(png) for dark in (False, True) if (png := losses_png(lines, dark=dark))],
        strip=_data_uri(strip_png(gallery.photos, results.teachers)),
        viewer=_viewer(results, gallery),
        recipe=recipe_toml,
        manifest=dict(_flat(manifest)),
    )
    path = run_dir / "report.html"
    write_file(path, html)
    return path


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("distillkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _headlines(results: Results, trained: Collection[str]) -> list[tuple[str, str, str]]:
    """(figure, what it is, how sure) for the top of the page."""
    sweep = results.sweep()
    if len(sweep) < 2:
        return []
    ends, out = [sweep[0].label, sweep[-1].label], []
    for m in results.metrics:
        if m.name == results.fidelity or m in results.perceptual:
            low, high = (results.summary(end, m.name).mean for end in ends)
            digits = tables.decimals(results, m.name)
            role = (
                f", {next(c.role for c in tables.columns(results, trained) if c.metric == m.name)}"
                if m.perceptual
                else " (dB)"
            )
            change = tables.number(results.paired(ends[1], ends[0], m.name), digits, "+")
            out.append(
                (
                    f"{low:.{min(digits, 3)}f} → {high:.{min(digits, 3)}f}",
                    f"{m.name}{role}",
                    f"change over the knob {change}",
                )
            )
    passes = f"{sweep[0].nfe} of the student"
    if results.teachers is not None:
        passes += ", " + ", ".join(
            f"{results.entry(label).nfe} of {caption(label, results.teachers)}"
            for label in results.teachers
        )
    return [*out, (f"{sweep[0].nfe}", "network passes per image", passes)]


def _viewer(results: Results, gallery: Gallery) -> dict[str, Any]:
    """What the page's script needs: images by photo and entry, names to show, the student's tradeoffs."""
    labels = in_order(list(next(iter(gallery.photos.values()))), results.teachers)
    sweep = results.sweep()
    return {
        "photos": [
            {
                "name": name,
                "size": images["gt"].shape[:0:-1],
                "images": {k: _data_uri(image_png(v)) for k, v in images.items()},
            }
            for name, images in gallery.photos.items()
        ],
        "labels": [(label, caption(label, results.teachers)) for label in labels],
        "sweep": [{"label": e.label, "tradeoff": e.tradeoff} for e in sweep],
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
