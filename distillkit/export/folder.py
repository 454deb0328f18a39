"""Export a student for the Restorer, for diffusers and for peft.

It is compared with the original before it appears.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.console import progress_bar
from distillkit.errors import DistillkitError, first_line
from distillkit.evaluation.metric_rows import read_metric_rows
from distillkit.export.adapters import LoadStudent, write_adapters
from distillkit.export.card_metadata import StudentFacts
from distillkit.export.card_pictures import SHOWN_TRADEOFFS, copy_curves, write_strip
from distillkit.export.model_card import model_card
from distillkit.export.source import About, load_export_source
from distillkit.files.atomic import atomic_dir
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import (
    MERGED,
    Student,
    local_weights,
)
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import load_plugins
from distillkit.recipe import fields
from distillkit.recipe.build import read_settings

TOLERANCE = 1 / 510
"""Largest difference from the original that an export may have, in [0, 1]: half a gray level."""
TEST_SIDE = 64
"""Sides of the image that exports are compared on, pixels."""
BASE = "base"
"""Folder of the weight files that an exported student brings along."""
COMPARED_TRADEOFFS = [0.0, 0.5, 1.0]

Restore = Callable[[Tensor, Sequence[float]], list[Tensor]]
"""Loads an export in one of the possible ways, and restores an image at several tradeoffs."""


def export_folder(
    run: Path | str, out: Path, *, merge_at: float | None = None, picture: Path | None = None
) -> list[str]:
    """Write a student for others to use.

    The folder appears only when everything in it was loaded again and gave the original's images.
    It holds ``student/`` and ``model_index.json`` (what the Restorer and the pipeline load),
    ``pipeline.py`` (for diffusers), ``adapters/stage1`` and ``stage2`` (LoRA as peft and, for
    networks of diffusers, as diffusers saves it, where the stages trained LoRA), ``README.md`` (the
    model card) and ``pictures/`` (what the card shows).

    Args:
        run: A run's folder or an exported one.
        out: The folder to write.
        merge_at: Write plain weights at this tradeoff instead of adapters.
        picture: A low-quality photo that the card shows at several tradeoffs.

    Returns:
        What was compared, and how large the largest difference was.

    Raises:
        DistillkitError: No student in ``run``, ``out`` exists, a variant that cannot be merged, or
            an export that gives other images.
    """
    run, source, about, student = load_export_source(run, out)
    recipe = without_folders(_read_recipe(source / "recipe.toml"))
    if merge_at is not None:
        about["merged"] = merge_at
        _refuse_merging(student)
    tradeoffs = _choose_tradeoffs(student, merge_at, COMPARED_TRADEOFFS)
    facts = StudentFacts(student.model.scale, hasattr(student.model, "save_checkpoint"))
    image = _test_image()
    # Weights are compared, not what is done with their images.
    expected = Restorer(student, color_fix="none")(image, tradeoffs)
    with atomic_dir(out) as temporary:
        if picture is not None:
            shown = _choose_tradeoffs(student, merge_at, SHOWN_TRADEOFFS)
            write_strip(picture, student, shown, temporary)
            facts = replace(facts, pictures=shown)
        about = _write_student(temporary / "student", source, about, student, recipe)
        # Its memory is needed by those that are loaded for comparison.
        del student
        ways = _write_pipeline(temporary)
        adapters = _write_adapters(temporary, about)
        facts = replace(facts, is_adapter=bool(adapters))
        (temporary / "README.md").write_text(_write_card(run, about, recipe, facts, temporary))
        report = _compare(ways | adapters, image, tradeoffs, expected)
        _write_about(temporary / "student", without_own_paths(about))
    return report


def _choose_tradeoffs(
    student: Student, merge_at: float | None, wanted: Sequence[float]
) -> Sequence[float]:
    """Return the wanted tradeoffs that an export has."""
    if merge_at is not None:
        return [merge_at]
    if student.variant is None:
        return [student.fixed_tradeoff]
    return wanted


def _write_student(
    folder: Path, source: Path, about: About, student: Student, recipe: str
) -> dict[str, Any]:
    """Write the student's own folder; return its ``distillkit.json``."""
    if "merged" in about and student.variant is not None:
        _write_merged(student, about["merged"], folder)
    else:
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
    embedded = dict(embed_weights(about, source, folder))
    _write_about(folder, embedded)
    (folder / "recipe.toml").write_text(recipe)
    return embedded


def _write_card(run: Path, about: About, recipe: str, facts: StudentFacts, folder: Path) -> str:
    """Write the model card of an export, and the figures that it shows."""
    files = read_settings(*_split_table(about)).weight_files()
    absent = []
    for file in files:
        if file.path is None or not (folder / "student" / file.path).is_file():
            absent.append(file)
    facts = replace(facts, weights=absent, curves=copy_curves(run, about["recipe"], folder))
    return model_card(about, tomllib.loads(recipe), read_metric_rows(run), facts)


def _split_table(about: About) -> tuple[Spec, dict[str, Any]]:
    """Split a student's table into its descriptor and its options."""
    options = dict(about["student"])
    spec = load_plugins().find("students", options.pop("use"))
    return spec, options


def without_folders(recipe: str) -> str:
    """Cut the absolute paths in a recipe's text down to their last part.

    The folders say where on its machine a run was made.
    """
    return re.sub(r'"(?:/|[A-Za-z]:[/\\])[^"\n]*?([^"/\\\n]*)[/\\]*"', r'"\1"', recipe)


def embed_weights(about: About, source: Path, folder: Path) -> About:
    """Copy the weight files that a student's table names into its exported folder.

    Files that come with the plugin, or that can be downloaded, are found without a copy.

    Args:
        about: The student's ``distillkit.json``.
        source: The folder that it was read from.
        folder: The exported student's folder.

    Returns:
        ``distillkit.json`` with paths relative to the folder.
    """
    student = dict(about["student"])
    settings = read_settings(*_split_table(about))
    for key, path in local_weights(settings, source).items():
        file = getattr(settings, key)
        if key not in student or file.url is not None:
            continue
        inside = Path(BASE) / key / path.name
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / inside)
        changed = file.model_copy(update={"path": inside})
        student[key] = changed.model_dump(mode="json", exclude_defaults=True)
    return {**about, "student": student}


def without_own_paths(about: About) -> dict[str, Any]:
    """Remove the student's paths that end as its plugin's defaults do, and folders of its data.

    They say where on its machine a run was made. Whoever loads the export has such files in the
    plugin's default place, below the working folder.

    Args:
        about: The student's ``distillkit.json``.
    """
    student = dict(about["student"])
    spec, _ = _split_table(about)
    for key, default in fields.relative_defaults(spec.config).items():
        if key in student and Path(student[key]).match(str(default)):
            del student[key]
    data = json.loads(without_folders(json.dumps(about.get("data", []))))
    return {**about, "student": student, "data": data}


def _read_recipe(file: Path) -> str:
    """Read the recipe that a student was saved with."""
    try:
        text = file.read_text()
        tomllib.loads(text)
    except (OSError, ValueError) as e:
        raise DistillkitError(
            f"{file} - missing or damaged ({first_line(e)}); the model card is made of it"
        ) from e
    return text


def _refuse_merging(student: Student) -> None:
    if student.variant is None:
        raise DistillkitError(
            "this student has a fixed tradeoff: its export holds plain adapters already; "
            "leave --merge out"
        )
    if not isinstance(student.variant, AdapterScaling):
        name = type(student.variant).__name__
        raise DistillkitError(
            'only variant "adapter_scaling" can be merged, whose tradeoff is a scale of weights; '
            f"{name} evaluates the network twice"
        )


def _write_merged(student: Student, tradeoff: float, folder: Path) -> None:
    assert isinstance(student.variant, AdapterScaling)
    student.variant.adapter.set_scale(tradeoff)
    student.variant.adapter.merge()
    network = student.variant.student.stage1_network
    weights = {}
    for name, tensor in network.state_dict().items():
        # safetensors refuses tensors that share memory: each gets its own.
        weights[name] = tensor.detach().cpu().clone().contiguous()
    folder.mkdir()
    save_file(weights, folder / MERGED)


def _write_about(folder: Path, about: About) -> None:
    text = json.dumps(about, indent=2) + "\n"
    (folder / "distillkit.json").write_text(text)


def _write_pipeline(folder: Path) -> dict[str, Restore]:
    """Write what diffusers needs around the student's folder.

    Returns:
        The ways to load the export whole, by name.
    """
    from distillkit.export.diffusers_pipeline import DistilledRestorationPipeline, DistilledStudent

    student = DistilledStudent(folder / "student")
    DistilledRestorationPipeline(student).save_config(folder)
    return {
        "Restorer": partial(_restore_by_restorer, folder),
        "diffusers pipeline": partial(_restore_by_pipeline, folder),
    }


def _write_adapters(folder: Path, about: About) -> dict[str, Restore]:
    """Write the stages' LoRA.

    Returns:
        The ways to make the student of it, by name; none if it does not suffice.
    """
    if "merged" in about:
        return {}
    adapters = write_adapters(folder / "student", folder / "adapters", about)
    return {name: partial(_restore_by_adapters, load) for name, load in adapters.items()}


def _restore_by_restorer(folder: Path, image: Tensor, tradeoffs: Sequence[float]) -> list[Tensor]:
    restorer = Restorer.from_pretrained(folder, "cpu", color_fix="none")
    return [restorer(image, tradeoff) for tradeoff in tradeoffs]


def _restore_by_pipeline(folder: Path, image: Tensor, tradeoffs: Sequence[float]) -> list[Tensor]:
    from distillkit.export.diffusers_pipeline import DistilledRestorationPipeline

    with _no_bars_of_diffusers():
        pipeline: Any = DistilledRestorationPipeline.from_pretrained(folder)
    restored = []
    for tradeoff in tradeoffs:
        restored += pipeline(image, tradeoff, color_fix="none").images
    return restored


@contextmanager
def _no_bars_of_diffusers() -> Iterator[None]:
    """Show no bars of diffusers: it shows them where there is no terminal, too."""
    from diffusers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _restore_by_adapters(
    load: LoadStudent, image: Tensor, tradeoffs: Sequence[float]
) -> list[Tensor]:
    return [Restorer(load(tradeoff))(image) for tradeoff in tradeoffs]


def _test_image() -> Tensor:
    """Draw colors, edges and noise, (3, TEST_SIDE, TEST_SIDE) in [0, 1]."""
    side = torch.linspace(0, 1, TEST_SIDE)
    y, x = torch.meshgrid(side, side, indexing="ij")
    checkers = ((8 * x).floor() + (8 * y).floor()) % 2
    image = torch.stack([x, y, checkers])
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(image.shape, generator=generator)
    return (0.8 * image + 0.2 * noise).clamp(0, 1)


def _compare(
    ways: dict[str, Restore], image: Tensor, tradeoffs: Sequence[float], expected: list[Tensor]
) -> list[str]:
    """Load an export in every way, and compare its images with the original's.

    Returns:
        A line for each way, with the largest difference.

    Raises:
        DistillkitError: The images of one differ visibly.
    """
    report = []
    at = ", ".join(map("{:g}".format, tradeoffs))
    for name, restore in progress_bar(ways.items(), unit="way", desc="comparing"):
        restored = restore(image, tradeoffs)
        differences = torch.stack(restored) - torch.stack(expected)
        largest = differences.abs().max().item()
        # A comparison with nan is false, so nan is refused as well.
        if not largest <= TOLERANCE:
            raise DistillkitError(
                f"not exported: loaded as {name}, the student gives images that differ by "
                f"{largest:.2g} of white"
            )
        report.append(
            f"{name}: largest difference from the original {largest:.1g} of white, at tradeoff {at}"
        )
    return report
