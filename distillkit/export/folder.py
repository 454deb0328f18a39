"""Exporting a student: one folder for the Restorer, for diffusers and for peft, compared with the original before it appears."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.errors import DistillkitError
from distillkit.export.adapters import AtTradeoff, write_adapters
from distillkit.export.model_card import model_card
from distillkit.files.atomic import atomic_dir
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import (
    MERGED,
    Student,
    find_student,
    load_student,
    read_about,
    student_folder,
)
from distillkit.objectives.controllability import AdapterScaling
from distillkit.plugins.manager import load_plugins
from distillkit.recipe import fields

TOLERANCE = 1 / 510
"""Largest difference from the original that a loaded export may have, in [0, 1]: half a gray level."""
SIDE = 64
"""Of the generated image that exports are compared on, pixels."""


def export(run: Path | str, out: Path, *, merge_at: float | None = None) -> list[str]:
    """Write ``out``, which appears only when everything in it was loaded again and gave the images of the original.

    Files: ``student/`` and ``model_index.json`` (what the Restorer and the pipeline load), ``pipeline.py`` (for diffusers),
    ``adapters/stage1`` and ``stage2`` (LoRA as peft and, for networks of diffusers, as diffusers saves it, where the stages trained
    LoRA), ``README.md`` (the model card).

    Args:
        run: a run's folder or an exported one. merge_at: write plain weights at this tradeoff instead of adapters and a knob.

    Returns:
        what was compared, and how large the largest difference was.

    Raises:
        DistillkitError: no student in ``run``, ``out`` exists, a variant whose knob cannot be merged, or an export that gives other
            images.
    """
    if out.exists():
        raise DistillkitError(f"{out} - exists; name a new folder")
    run = find_student(run)
    source = student_folder(run)
    student = load_student(source)
    about, tradeoffs = read_about(source), [0.0, 0.5, 1.0] if student.variant else [student.fixed]
    if merge_at is not None:
        _refuse_merging(student)
        tradeoffs = [merge_at]
    image = _image()
    wanted = Restorer(student)(image, tradeoffs)
    with atomic_dir(out) as temporary:
        folder = temporary / "student"
        folder.mkdir()
        if merge_at is None:
            for file in source.iterdir():
                shutil.copyfile(file, folder / file.name)
        else:
            about["merged"] = merge_at
            _write_merged(student, merge_at, folder)
        (folder / "distillkit.json").write_text(json.dumps(about, indent=2) + "\n")
        recipe = without_folders((source / "recipe.toml").read_text())
        (folder / "recipe.toml").write_text(recipe)
        del student
        loaders = _write_wrappers(temporary, about)
        (temporary / "README.md").write_text(
            model_card(about, tomllib.loads(recipe), _metrics(run))
        )
        said = [_compared(name, load, image, tradeoffs, wanted) for name, load in loaders.items()]
        about["student"] = without_default_paths(about["student"])
        (folder / "distillkit.json").write_text(json.dumps(about, indent=2) + "\n")
    return said


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hub repository ``owner/name``, made if need be; its address.

    Raises:
        DistillkitError: the folder is no export, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    if not (folder / "model_index.json").is_file():
        raise DistillkitError(f"{folder} - not an exported folder (no model_index.json)")
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Add a student distilled by distillkit",
        )
    except Exception as e:  # the Hub's client raises its own, its HTTP library's and the system's
        raise DistillkitError(
            f"{repository} - not uploaded: {str(e).strip().splitlines()[0]}"
        ) from e
    return str(url)


def without_folders(recipe: str) -> str:
    """A recipe's text with its absolute paths cut down to their last part: they say where on its machine a run was made."""
    return re.sub(r'"(?:/|[A-Za-z]:[/\\])[^"\n]*?([^"/\\\n]*)[/\\]*"', r'"\1"', recipe)


def without_default_paths(student: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the paths from a student's options that end as the plugin's defaults do.

    They say where on its machine a run was made. Whoever loads the export has such files in the
    plugin's default place, below the working folder.
    """
    _, spec = load_plugins().find("students", student["use"])
    defaults = fields.relative_defaults(spec.config)
    return {
        key: value
        for key, value in student.items()
        if key not in defaults or not Path(value).match(str(defaults[key]))
    }


def _refuse_merging(student: Student) -> None:
    if student.variant is None:
        raise DistillkitError(
            "this student has no knob: its export holds plain adapters already; leave --merge out"
        )
    if not isinstance(student.variant, AdapterScaling):
        name = type(student.variant).__name__
        raise DistillkitError(
            f'only the knob of variant "adapter_scaling" is a scale of weights; {name} takes two passes and cannot be merged'
        )


def _write_merged(student: Student, tradeoff: float, folder: Path) -> None:
    assert isinstance(student.variant, AdapterScaling)
    student.variant.adapter.set_scale(tradeoff)
    student.variant.adapter.merge()
    weights = student.variant.student.network.state_dict()
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()},
        folder / MERGED,
    )


Load = Callable[[], Callable[[Tensor, float], Tensor]]
"""Loads the export in one of the ways there are, and gives ``(image, tradeoff) -> restored``."""


def _write_wrappers(folder: Path, about: Mapping[str, Any]) -> dict[str, Load]:
    """What diffusers and peft need around the student's folder, and every way to load the export."""
    from distillkit.export.diffusers_pipeline import DistilledRestorationPipeline, DistilledStudent

    DistilledRestorationPipeline(DistilledStudent(folder / "student")).save_config(folder)

    def pipeline() -> Callable[[Tensor, float], Tensor]:
        loaded: Any = DistilledRestorationPipeline.from_pretrained(folder)
        return lambda image, t: loaded(image, t).images[0]

    loaders: dict[str, Load] = {
        "Restorer": lambda: Restorer.from_pretrained(folder, "cpu"),
        "diffusers pipeline": pipeline,
    }
    if about.get("merged") is None:
        for name, at in write_adapters(folder / "student", folder / "adapters", about).items():
            loaders[name] = _restored_at(at)
    return loaders


def _restored_at(at: AtTradeoff) -> Load:
    return lambda: lambda image, t: Restorer(at(t))(image)


def _image() -> Tensor:
    """Colors, edges and noise, (3, SIDE, SIDE) in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    image = torch.stack([x, y, ((8 * x).floor() + (8 * y).floor()) % 2])
    return (
        0.8 * image + 0.2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1)


def _compared(
    name: str, load: Load, image: Tensor, tradeoffs: list[float], wanted: list[Tensor]
) -> str:
    restore = load()
    off = max(
        float((restore(image, t) - one).abs().max())
        for t, one in zip(tradeoffs, wanted, strict=True)
    )
    if not off <= TOLERANCE:
        raise DistillkitError(
            f"not exported: loaded as {name}, the student gives images that differ by {off:.2g} of white"
        )
    return f"{name}: largest difference from the original {off:.1g} of white, at tradeoff {', '.join(f'{t:g}' for t in tradeoffs)}"


def _metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "evaluation" / "metrics.json"
    return json.loads(file.read_text()) if file.is_file() else []
