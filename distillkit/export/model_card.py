"""The model card of an exported student: what it is, from whom, under which licenses, and what it measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import distillkit

_ON_THE_HUB = {
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "GPL-3.0",
    "openrail++",
}
"""Licenses that the Hub knows by (the lower case of) their name."""
_STRICTNESS = (
    (
        "permissive",
        ("apache", "mit", "bsd", "isc", "cc0", "cc-by-3", "cc-by-4", "cc-by-2", "unlicense"),
    ),
    ("open, with rules for use", ("openrail", "creativeml", "bigscience")),
    ("copyleft", ("gpl", "lgpl", "agpl", "mpl", "cc-by-sa")),
    ("non-commercial or with terms of its own", ("cc-by-nc", "licenseref")),
)
_UNLICENSED = "none known: all rights reserved"


def model_card(
    about: Mapping[str, Any], recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> str:
    """README.md with the front matter of the Hub.

    Args:
        about: the student's ``distillkit.json``. recipe: its recipe. rows: of the run's ``metrics.json``, if any.
    """
    strictest, what = strictest_licenses(about["licenses"].values())
    named = strictest[0] if len(strictest) == 1 and strictest[0] in _ON_THE_HUB else None
    license_lines = (
        [f"license: {named.lower()}"]
        if named
        else ["license: other", f'license_name: "{" and ".join(strictest)}"']
    )
    front = [
        "---",
        *license_lines,
        "pipeline_tag: image-to-image",
        "tags: [distillkit, image-restoration]",
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {about['recipe']}",
        _summary(about),
        _use(about),
        _licenses(about, recipe, strictest, what),
    ]
    return "\n\n".join([*parts, _training(recipe), _evaluation(rows)]) + "\n"


def strictest_licenses(licenses: Iterable[str]) -> tuple[list[str], str]:
    """Those of the strictest class, and what that class is. A license that is not recognized counts as the strictest.

    Of ``"A AND B"`` the stricter counts. This is a sorting by name, no legal advice.
    """
    by_class: dict[int, list[str]] = {}
    for license in sorted(set(licenses)):
        by_class.setdefault(
            max(
                _class_of(part) for part in license.replace("(", "").replace(")", "").split(" AND ")
            ),
            [],
        ).append(license)
    worst = max(by_class)
    return by_class[worst], _STRICTNESS[worst][0] if worst < len(_STRICTNESS) else _UNLICENSED


def _class_of(license: str) -> int:
    name = license.strip().lower()
    return next(
        (i for i, (_, heads) in enumerate(_STRICTNESS) if name.startswith(heads)), len(_STRICTNESS)
    )


def _summary(about: Mapping[str, Any]) -> str:
    text = f"An image restoration student (`{about['student']['use']}`), distilled by distillkit {distillkit.__version__}"
    if about.get("merged") is not None:
        return f"{text} and merged into plain weights at tradeoff {about['merged']:g} (0 most realistic ... 1 most faithful)."
    if about["stage2"] is None:
        return f"{text}. It was trained without stage 2 and has no knob."
    return f"{text}. Its knob `tradeoff` runs from 0 (most realistic) to 1 (most faithful); variant `{about['stage2']['variant']}`."


def _use(about: Mapping[str, Any]) -> str:
    knob = ", tradeoff=0.3" if about["stage2"] is not None and about.get("merged") is None else ""
    plugin = about["student"]["use"].partition("/")[0]
    return f"""## Use

With distillkit and its plugin `{plugin}` installed:

```python
from distillkit import Restorer

restored = Restorer.from_pretrained("this/folder")(image{knob})
```

or as a diffusers pipeline:

```python
from distillkit.export.diffusers_pipeline import DistilledRestorationPipeline

restored = DistilledRestorationPipeline.from_pretrained("this/folder")(image{knob}).images[0]
```

or by plain diffusers, which has to be told to trust `pipeline.py` (one import of distillkit):

```python
restored = DiffusionPipeline.from_pretrained("this/folder", trust_remote_code=True)(image{knob}).images[0]
```"""


def _licenses(
    about: Mapping[str, Any], recipe: Mapping[str, Any], strictest: Sequence[str], what: str
) -> str:
    lines = ["## Licenses", "", "| part | model | license |", "| --- | --- | --- |"]
    for part, license in about["licenses"].items():
        table = (
            recipe["student"]
            if part == "student"
            else recipe["teachers"][part.removeprefix("teachers.")]
        )
        lines.append(f"| {part} | `{table['use']}` | {license} |")
    lines += [
        "",
        f"The strictest is **{' and '.join(strictest)}** ({what}). A student learns from its teachers' weights: keep to it.",
    ]
    return "\n".join(lines)


def _training(recipe: Mapping[str, Any]) -> str:
    sources = ", ".join(f"`{_source(table)}`" for table in recipe["data"]["train"])
    stages = [f"stage 1: {recipe['stage1']['steps']} steps"]
    if recipe["stage2"]["steps"]:
        stages.append(f"stage 2: {recipe['stage2']['steps']} steps, {recipe['stage2']['variant']}")
    degradation = (
        f", degraded by `{recipe['degradation']['use']}`" if recipe.get("degradation") else ""
    )
    text = f"Data: {sources}{degradation}. {'; '.join(stages)}; batches of {recipe['data']['batch_size']}, seed {recipe['seed']}."
    return f"## Training\n\n{text} The whole recipe is in `student/recipe.toml`."


def _source(table: Mapping[str, Any]) -> str:
    """What a source is called, without the folders of the machine it was on."""
    name = table.get("hub") or table.get("use")
    return str(name) if name else PurePath(table.get("imagefolder") or table["parquet"]).name


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Student, teachers and bicubic; linear combinations are left to the run's report."""
    shown = [r for r in rows if not r["method"].startswith("linear:")]
    if not shown:
        return "## Evaluation\n\nThis student was not evaluated."
    metrics = list(dict.fromkeys(r["metric"] for r in shown))
    lines = [
        f"| method | tradeoff | {' | '.join(metrics)} |",
        f"| --- | --- |{' --- |' * len(metrics)}",
    ]
    for method, tradeoff in dict.fromkeys((r["method"], r["tradeoff"]) for r in shown):
        cells = {
            r["metric"]: _cell(r)
            for r in shown
            if (r["method"], r["tradeoff"]) == (method, tradeoff)
        }
        lines.append(
            f"| {method} | {'' if tradeoff is None else f'{tradeoff:g}'} | {' | '.join(cells.get(m, '') for m in metrics)} |"
        )
    protocols = dict.fromkeys((r["metric"], r["protocol"], r["n"], r["dataset"]) for r in shown)
    notes = [
        f"- {metric}: {protocol}; {n} images of `{dataset}`"
        for metric, protocol, n, dataset in protocols
    ]
    return "\n".join(["## Evaluation", "", "Mean ± standard error.", "", *lines, "", *notes])


def _cell(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "weights absent"
    return f"{row['mean']:.4f}" + ("" if row["sem"] is None else f" ± {row['sem']:.4f}")
