"""The model card of an exported student: origin, licenses, measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import distillkit
from distillkit.evaluation.results import WEIGHTS_ABSENT, is_combination
from distillkit.export.card_metadata import (
    INPUT_PICTURE,
    MetricRow,
    StudentFacts,
    card_metadata,
    picture_at,
)
from distillkit.files.weights import WeightFile
from distillkit.recipe.schema import Stage1Config, Stage2Config
from distillkit.report.documents import fill_template
from distillkit.report.tables import Table, metric_table

LOCAL_FOLDER = "this/folder"
"""What a card calls the folder that it lies in; a push puts the repository's name there."""


class LicenseClass(NamedTuple):
    """Licenses that are equally strict."""

    description: str
    prefixes: tuple[str, ...]
    """What their names begin with, in lower case."""


LICENSE_CLASSES = (
    LicenseClass(
        "permissive",
        ("apache", "mit", "bsd", "isc", "cc0", "cc-by-3", "cc-by-4", "cc-by-2", "unlicense"),
    ),
    LicenseClass("open, with rules for use", ("openrail", "creativeml", "bigscience")),
    LicenseClass("copyleft", ("gpl", "lgpl", "agpl", "mpl", "cc-by-sa")),
    LicenseClass("non-commercial or with terms of its own", ("cc-by-nc", "licenseref")),
    LicenseClass("none known: all rights reserved", ("",)),
)
"""From the most permissive to the strictest, which every other name belongs to."""


def model_card(
    about: Mapping[str, Any],
    recipe: Mapping[str, Any],
    rows: Sequence[MetricRow],
    facts: StudentFacts,
) -> str:
    """Write ``README.md`` with the front matter that the Hub reads.

    Args:
        about: The student's ``distillkit.json``.
        recipe: The student's recipe.
        rows: The run's ``metrics.json``; empty if the student was not evaluated. Linear
            combinations are left to the run's report.
        facts: The facts of the student.
    """
    strictest, license_class = strictest_licenses(about["licenses"].values())
    variant = "adapter_scaling" if about["stage2"] is None else about["stage2"]["variant"]
    can_set_tradeoff = about["stage2"] is not None and "merged" not in about
    shown = [row for row in rows if not is_combination(row["method"])]
    return fill_template(
        "model_card.md.j2",
        metadata=card_metadata(about, recipe, shown, facts, strictest),
        about=about,
        recipe=recipe,
        is_taught=_is_taught(recipe),
        folder=LOCAL_FOLDER,
        facts=facts,
        version=distillkit.__version__,
        distribution=_distribution(about),
        plugins=about["plugins"],
        arguments="image, tradeoff=0.3" if can_set_tradeoff else "image",
        is_plain_network=variant == "adapter_scaling",
        can_set_tradeoff=can_set_tradeoff,
        picture_table=_picture_table(facts, can_set_tradeoff),
        weights=[_describe_weights(file) for file in facts.weights],
        licenses=_license_table(about["licenses"], recipe),
        strictest=" and ".join(strictest),
        license_class=license_class,
        sources=[_source_name(table) for table in recipe["data"]["train"]],
        measured=metric_table(shown, ["method", "tradeoff"], _mean_text) if shown else None,
        protocols=dict.fromkeys(
            (row["metric"], row["protocol"], row["n"], row["dataset"]) for row in shown
        ),
    )


def _is_taught(recipe: Mapping[str, Any]) -> bool:
    """Whether a student learned from teachers: those of weight 0 are only evaluated beside it."""
    stage1 = Stage1Config.model_validate(recipe["stage1"])
    stage2 = Stage2Config.model_validate(recipe["stage2"])
    names = set(stage2.needed_teachers) if stage2.steps else set()
    if stage1.steps > stage1.pretraining_steps:
        names |= {name for name, teacher in stage1.teachers.items() if teacher.weight > 0}
    return not names.isdisjoint(recipe.get("teachers", {}))


def _picture_table(facts: StudentFacts, can_set_tradeoff: bool) -> Table | None:
    """Put the input and what was restored of it side by side."""
    if not facts.pictures:
        return None
    heads = ["input"]
    cells = [f"![The input]({INPUT_PICTURE})"]
    for tradeoff in facts.pictures:
        head = f"tradeoff {tradeoff:g}" if can_set_tradeoff else "restored"
        heads.append(head)
        cells.append(f"![Restored, {head}]({picture_at(tradeoff)})")
    return Table(heads, [cells])


def _describe_weights(file: WeightFile) -> str:
    """Describe a weight file that a student needs, with its source and license."""
    if file.repo is not None:
        return f"`{file.filename}` of `{file.repo}` on the Hub (license {file.license})"
    assert file.path is not None
    # An absolute path would say where on its machine a run was made.
    name = file.path.name if file.path.is_absolute() else file.path.as_posix()
    source = file.url or file.source
    origin = f", from {source}" if source else ""
    return f"`{name}`{origin} (license {file.license})"


def _distribution(about: Mapping[str, Any]) -> str:
    """Return the distribution that brings the student's plugin."""
    plugin = about["student"]["use"].partition("/")[0]
    return about["plugins"][plugin]


def strictest_licenses(licenses: Iterable[str]) -> tuple[list[str], str]:
    """Pick the strictest licenses by their names; this is no legal advice.

    The stricter part of ``"A AND B"`` counts. A license that is not recognized is strictest.

    Returns:
        The licenses of the strictest class that there is, and the description of that class.
    """
    by_class: dict[int, list[str]] = {}
    for license in sorted(set(licenses)):
        by_class.setdefault(_license_class(license), []).append(license)
    strictest = max(by_class)
    return by_class[strictest], LICENSE_CLASSES[strictest].description


def _license_class(license: str) -> int:
    """Return the index of a license's class.

    Of ``"A AND B"``, the stricter part counts.
    """
    parts = license.replace("(", "").replace(")", "").split(" AND ")
    return max(map(_class_of_name, parts))


def _class_of_name(name: str) -> int:
    name = name.strip().lower()
    for index, kind in enumerate(LICENSE_CLASSES):
        if name.startswith(kind.prefixes):
            return index
    raise AssertionError("the last class takes every name")


def _license_table(licenses: Mapping[str, str], recipe: Mapping[str, Any]) -> Table:
    rows = []
    for key, license in licenses.items():
        table = recipe
        for part in key.split("."):
            table = table[part]
        rows.append([key, f"`{table['use']}`", license])
    return Table(["part", "model", "license"], rows)


def _source_name(table: Mapping[str, Any]) -> str:
    """Name a source of images without the folder it lies in."""
    name = table.get("hub") or table.get("use")
    if name:
        return str(name)
    return PurePath(table.get("imagefolder") or table["parquet"]).name


def _mean_text(row: MetricRow) -> str:
    if row["mean"] is None:
        # In place of its protocol, a metric without weights says how to get them.
        return row["protocol"] if row["protocol"].startswith(WEIGHTS_ABSENT) else "not measured"
    if row["sem"] is None:
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} ± {row['sem']:.4f}"
