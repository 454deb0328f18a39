"""A distilled student: the plugin's model with what both stages changed, and the knob. Saved as one small folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.diffusion.adapters import Adapter, add_adapter
from distillkit.diffusion.model import DiffusionModel
from distillkit.errors import DistillkitError, PluginError
from distillkit.hooks.manager import load_plugins
from distillkit.objectives.controllability import CtsrAlg2, CtsrEq8, Gate, Oftsr, Variant
from distillkit.objectives.reconstruction import Distance
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Adapter as AdapterOptions
from distillkit.recipe.schema import Stage2
from distillkit.weights import load_tensors, read_state_dict

FORMAT = 1


@dataclass(frozen=True)
class Student:
    """A trained student. ``variant`` is None where stage 2 was left out: then there is no knob."""

    model: DiffusionModel
    variant: Variant | None

    @property
    def passes(self) -> int:
        """Network passes of one restoration."""
        return self.model.passes + (self.variant.extra_passes if self.variant else 0)

    @torch.no_grad()
    def restore(self, lq: Tensor, tradeoff: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1]; ``tradeoff`` 0 is most realistic, 1 most faithful."""
        condition = self.model.condition(lq)
        if self.variant is None:
            if tradeoff != 0:
                raise DistillkitError("this student was trained without stage 2 and has no knob: tradeoff must be 0")
            latent = self.model.generate(condition, generator)
        else:
            latent = self.variant.generate(condition, tradeoff, generator)
        return self.model.codec.decode(latent).clamp(-1, 1)


def stage1_adapter(model: DiffusionModel, options: AdapterOptions, seed: int) -> Adapter:
    """A zero adapter on the student's network, as the recipe describes it."""
    return add_adapter(model.network, options.kind, rank=options.rank, alpha=options.alpha, targets=options.targets, seed=seed)


def make_variant(
    model: DiffusionModel,
    options: Stage2,
    seed: int,
    *,
    weights: Mapping[str, float] | None = None,
    perceptual: Distance | None = None,
    shift: int = 0,
) -> Variant:
    """The recipe's stage-2 variant on ``model``; the keyword arguments matter for training only."""
    if options.variant == "oftsr":
        return Oftsr(model)
    adapter = stage1_adapter(model, options.adapter, seed + 1)
    if options.variant == "gate":
        return Gate(
            model,
            adapter,
            options.target,
            weights=weights,
            ratio=options.geo_ratio,
            endpoint_every=options.endpoint_every,
            perceptual=perceptual,
            shift=shift,
        )
    return {"ctsr_eq8": CtsrEq8, "ctsr_alg2": CtsrAlg2}[options.variant](model, adapter)


def save_student(folder: Path, resolved: ResolvedRecipe, changes: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write what :func:`load_student` reads; the folder appears whole or not at all.

    Files: ``distillkit.json`` (the student's table, the stages' options), ``stage1.safetensors``, ``stage2.safetensors`` (with a
    knob),
    ``recipe.toml`` for the record.

    Args:
        changes: what each stage trained, ``"stage1"`` and, unless it was left out, ``"stage2"``.
    """
    recipe = resolved.recipe
    about = {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "student": dict(resolved.components["student"].table),
        "stage1": {"adapter": recipe.stage1.adapter.model_dump(mode="json")},
        "stage2": recipe.stage2.model_dump(mode="json") if "stage2" in changes else None,
        "licenses": {k: c.spec.license for k, c in resolved.components.items() if k == "student" or k.startswith("teachers.")},
    }
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / "distillkit.json").write_text(json.dumps(about, indent=2, default=str) + "\n")
    (temporary / "recipe.toml").write_text(resolved.to_toml())
    for stage, tensors in changes.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / f"{stage}.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_student(path: Path | str, device: torch.device | str = "cpu") -> Student:
    """The student of a run folder, or of its ``student`` folder.

    Raises:
        DistillkitError: no student there, a newer format, a plugin that is not installed, or weights that do not fit.
    """
    folder = Path(path) / "student" if (Path(path) / "student").is_dir() else Path(path)
    about = _read_about(folder)
    options = dict(about["student"])
    full_name, spec = load_plugins().find("students", options.pop("use"))
    model = spec.build(spec.config(**options))
    if not isinstance(model, DiffusionModel):
        raise PluginError(f"{full_name} - builds a {type(model).__name__}, not a DiffusionModel")
    model.requires_grad_(False).eval().to(device)
    adapter = stage1_adapter(model, AdapterOptions(**about["stage1"]["adapter"]), about["seed"])
    load_tensors(adapter.tensors(), read_state_dict(folder / "stage1.safetensors"), folder / "stage1.safetensors")
    adapter.merge()
    variant = None
    if about["stage2"] is not None:
        variant = make_variant(model, Stage2(**about["stage2"]), about["seed"])
        load_tensors(variant.tensors(), read_state_dict(folder / "stage2.safetensors"), folder / "stage2.safetensors")
    return Student(model, variant)


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "distillkit.json").read_text())
    except FileNotFoundError:
        raise DistillkitError(f"{folder} - no student here (no distillkit.json); give a finished run's folder") from None
    except (OSError, ValueError) as e:
        raise DistillkitError(f"{folder}/distillkit.json - not readable: {e}") from e
    if about.get("format") != FORMAT:
        raise DistillkitError(f"{folder} - student format {about.get('format')}, this version of distillkit reads {FORMAT}")
    return about
