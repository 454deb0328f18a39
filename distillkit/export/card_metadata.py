"""The front matter of a model card: what the Hub lists and filters models by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distillkit.evaluation.results import STUDENT
from distillkit.files.weights import WeightFile
from distillkit.report.tables import tradeoff_text

MetricRow = Mapping[str, Any]
"""One row of ``metrics.json``."""
TASK = "image-to-image"
INPUT_PICTURE = "pictures/input.png"
HUB_LICENSES = {
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "GPL-3.0",
    "openrail++",
    "unknown",
}
"""Licenses that the Hub knows by the lower case of their name."""


@dataclass(frozen=True)
class StudentFacts:
    """What a card says of a student beside its tables and its measurements.

    Args:
        scale: Size of a restored image divided by that of its input.
        has_checkpoints: Whether the model writes checkpoints of its own.
        is_adapter: Whether all that was trained is LoRA on weights that somebody else published.
        weights: The files that it builds on.
        pictures: Tradeoffs at which a picture was restored for the card.
        curves: Figures of its measurements, by evaluation set.
    """

    scale: int = 1
    has_checkpoints: bool = False
    is_adapter: bool = False
    weights: Sequence[WeightFile] = ()
    pictures: Sequence[float] = ()
    curves: Mapping[str, str] = field(default_factory=dict)


def card_metadata(
    about: Mapping[str, Any],
    recipe: Mapping[str, Any],
    rows: Sequence[MetricRow],
    facts: StudentFacts,
    licenses: Sequence[str],
) -> str:
    """Write the front matter, without the lines around it.

    Args:
        about: The student's ``distillkit.json``.
        recipe: The student's recipe.
        rows: The rows of ``metrics.json``.
        facts: The facts of the student.
        licenses: The strictest ones of all its parts.
    """
    data = ModelCardData(
        **license_metadata(licenses),
        library_name="distillkit",
        pipeline_tag=TASK,
        tags=["distillkit", "image-restoration", *about["plugins"]],
        **_base_models(facts),
        datasets=_hub_datasets(recipe) or None,
        **_measurements(about["recipe"], recipe, rows),
        widget=_widget(facts.pictures) or None,
    )
    order = ["license", "license_name", "library_name", "pipeline_tag", "tags"]
    return str(data.to_yaml(original_order=order))


def license_metadata(licenses: Sequence[str]) -> dict[str, Any]:
    """Name licenses as the Hub does, which knows a single one of its list, or else a name."""
    if len(licenses) == 1 and licenses[0] in HUB_LICENSES:
        return {"license": licenses[0].lower()}
    name = re.sub(r"[^a-z0-9.-]+", "-", " and ".join(licenses).lower()).strip("-")
    return {"license": "other", "license_name": name}


def picture_at(tradeoff: float) -> str:
    """Name the picture that was restored at a tradeoff."""
    return f"pictures/tradeoff-{tradeoff:g}.png"


def _base_models(facts: StudentFacts) -> dict[str, Any]:
    """Name the models of the Hub that a student builds on, and how."""
    bases = _unique(file.repo for file in facts.weights if file.repo)
    if not bases:
        return {}
    relation = "adapter" if facts.is_adapter else "finetune"
    return {"base_model": bases, "base_model_relation": relation}


def _hub_datasets(recipe: Mapping[str, Any]) -> list[str]:
    """Name the data sets of the Hub that a student was trained on."""
    return _unique(table["hub"] for table in recipe["data"]["train"] if "hub" in table)


def _measurements(
    name: str, recipe: Mapping[str, Any], rows: Sequence[MetricRow]
) -> dict[str, Any]:
    """Write what was measured of the student: its metrics, and the Hub's ``model-index``."""
    measured = [row for row in rows if row["method"] == STUDENT and row["mean"] is not None]
    if not measured:
        return {}
    return {
        "model_name": name,
        "metrics": _unique(row["metric"] for row in measured),
        "eval_results": [_evaluation_result(row, recipe) for row in measured],
    }


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _widget(tradeoffs: Sequence[float]) -> list[dict[str, Any]]:
    """List the examples that the Hub's page shows."""
    examples = []
    for tradeoff in tradeoffs:
        example = {
            "src": INPUT_PICTURE,
            "example_title": f"tradeoff {tradeoff:g}",
            "output": {"url": picture_at(tradeoff)},
        }
        examples.append(example)
    return examples


def _evaluation_result(row: MetricRow, recipe: Mapping[str, Any]) -> EvalResult:
    """Write a measurement of the student as an entry of the Hub's ``model-index``."""
    arguments = {
        "tradeoff": row["tradeoff"],
        "protocol": row["protocol"],
        "images": row["n"],
        "standard_error": row["sem"],
    }
    name = row["metric"]
    if row["tradeoff"] is not None:
        name = f"{name}, tradeoff {tradeoff_text(row['tradeoff'])}"
    return EvalResult(
        task_type=TASK,
        **_dataset_of(row["dataset"], recipe),
        dataset_name=row["dataset"],
        metric_type=row["metric"],
        metric_name=name,
        metric_value=row["mean"],
        metric_args={key: value for key, value in arguments.items() if value is not None},
    )


def _dataset_of(name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Find an evaluation set on the Hub, where it consists of a single data set of it.

    Args:
        name: The name of the set.
        recipe: The student's.
    """
    sources = []
    for table in recipe["data"].get("eval", []):
        if table.get("name", recipe["name"]) == name:
            sources.append(table)
    if len(sources) != 1 or "hub" not in sources[0]:
        return {"dataset_type": name}
    (source,) = sources
    return {
        "dataset_type": source["hub"],
        "dataset_config": source.get("config"),
        "dataset_split": source.get("split"),
        "dataset_revision": source.get("revision"),
    }
