"""A distilled student: the plugin's model with what both stages changed, and the knob. Saved as one small folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.adapters import Adapter, FullAdapter, add_adapter
from distillkit.diffusion.model import DiffusionModel, OutputTeacher
from distillkit.errors import DistillkitError, PluginError
from distillkit.files.atomic import atomic_dir
from distillkit.files.weights import load_exactly, load_tensors, read_state_dict
from distillkit.objectives.controllability import AdapterScaling, CtsrAlg2, CtsrEq8, Oftsr, Variant
from distillkit.objectives.reconstruction import Distance
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Adapter as AdapterOptions
from distillkit.recipe.schema import Stage2

FORMAT = 1
MERGED = "network.safetensors"
"""The file of a student merged at one tradeoff: all weights of its network."""


@dataclass(frozen=True)
class Student:
    """A trained student, or with ``variant`` None anything else that restores and has no knob."""

    model: DiffusionModel | OutputTeacher
    variant: Variant | None
    fixed: float = 0.0
    """Without a knob: the one tradeoff there is, that at which a student was merged."""

    @property
    def nfe(self) -> int:
        """Network passes of one restoration."""
        return self.model.nfe + (self.variant.extra_nfe if self.variant else 0)

    def restore(
        self, lq: Tensor, tradeoff: float | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1].

        ``tradeoff`` 0 is most realistic (default), 1 most faithful.
        """
        return self.restore_each(lq, [tradeoff], generator)[0]

    def check(self, tradeoffs: Sequence[float | None]) -> None:
        """Refuse tradeoffs that something without a knob does not have.

        Raises:
            DistillkitError: saying which it has.
        """
        if self.variant is None and any(t not in (None, self.fixed) for t in tradeoffs):
            raise DistillkitError(f"this model has no knob: its one tradeoff is {self.fixed:g}")

    def ready(self, tradeoffs: Sequence[float | None]) -> AbstractContextManager[None]:
        """A ``with`` block for several restorations at these tradeoffs alone: a single one is then made ready once for all."""
        if self.variant is None or len(tradeoffs) != 1:
            return nullcontext()
        return self.variant.ready(tradeoffs[0] or 0.0)

    @torch.no_grad()
    def restore_each(
        self,
        lq: Tensor,
        tradeoffs: Sequence[float | None],
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """:meth:`restore` at several tradeoffs with the same draws.

        They share the condition, and for variants of two passes the first one. Each needs a pass and a decoding of its own.

        Raises:
            DistillkitError: a tradeoff other than 0 (None) of a student without a knob.
        """
        self.check(tradeoffs)
        if self.variant is None:
            return [self.model.restore(lq, generator)] * len(tradeoffs)
        student, variant, images = self.variant.student, self.variant, []
        condition = student.condition(lq)
        state = generator.get_state() if generator else None
        shared = (
            variant.generate(condition, 0.0, generator)
            if variant.extra_nfe and len(tradeoffs) > 1
            else None
        )
        for tradeoff in tradeoffs:
            if generator and state is not None:
                generator.set_state(state)
            with variant.ready(tradeoff or 0.0):
                latent = variant.generate(condition, tradeoff or 0.0, generator, shared)
            images.append(student.codec.decode(latent).clamp(-1, 1))
        return images


def stage1_adapter(model: DiffusionModel, options: AdapterOptions, seed: int) -> Adapter:
    """A zero adapter on the student's network, as the recipe describes it."""
    return add_adapter(
        model.network,
        options.kind,
        rank=options.rank,
        alpha=options.alpha,
        targets=options.targets,
        seed=seed,
    )


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
    if options.variant == "adapter_scaling":
        return AdapterScaling(
            model,
            adapter,
            options.target,
            weights=weights,
            ratio=options.l2_weight_ratio,
            faithful_every=options.faithful_every,
            perceptual=perceptual,
            shift=shift,
        )
    return {"ctsr_eq8": CtsrEq8, "ctsr_alg2": CtsrAlg2}[options.variant](model, adapter)


def save_student(
    folder: Path, resolved: ResolvedRecipe, changes: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write what :func:`load_student` reads; the folder appears whole or not at all.

    Files: ``distillkit.json`` (the student's table, the stages' options), ``stage1.safetensors``, ``stage2.safetensors`` (with a
    knob),
    ``recipe.toml`` for the record.

    Args:
        changes: what each stage trained, ``"stage1"`` and, unless it was left out, ``"stage2"``.

    Raises:
        DiskError: it could not be written.
    """
    recipe = resolved.recipe
    about = {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "student": dict(resolved.components["student"].table),
        "stage1": {"adapter": recipe.stage1.adapter.model_dump(mode="json")},
        "stage2": recipe.stage2.model_dump(mode="json") if "stage2" in changes else None,
        "licenses": {
            k: c.license
            for k, c in resolved.components.items()
            if k == "student" or k.startswith("teachers.")
        },
    }
    with atomic_dir(folder, replace=True) as temporary:
        (temporary / "distillkit.json").write_text(json.dumps(about, indent=2, default=str) + "\n")
        (temporary / "recipe.toml").write_text(resolved.to_toml())
        for stage, tensors in changes.items():
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
                temporary / f"{stage}.safetensors",
            )


def load_student(
    path: Path | str, device: torch.device | str = "cpu", *, stage1_only: bool = False
) -> Student:
    """The student of a run folder, of an exported folder, or of the ``student`` folder in them.

    Args:
        stage1_only: leave out what stage 2 trained, and with it the knob.

    Raises:
        DistillkitError: no student there, a newer format, a plugin that is not installed, or weights that do not fit.
    """
    folder = student_folder(path)
    about = read_about(folder)
    model = base_model(about)
    model.requires_grad_(False).eval().to(device)
    if about.get("merged") is not None:
        load_exactly(model.network, read_state_dict(folder / MERGED), folder / MERGED)
        return Student(model, None, about["merged"])
    adapter = stage1_adapter(model, AdapterOptions(**about["stage1"]["adapter"]), about["seed"])
    load_tensors(
        adapter.tensors(),
        read_state_dict(folder / "stage1.safetensors"),
        folder / "stage1.safetensors",
    )
    adapter.merge()
    variant = None
    if about["stage2"] is not None and not stage1_only:
        variant = make_variant(model, Stage2(**about["stage2"]), about["seed"])
        load_tensors(
            variant.tensors(),
            read_state_dict(folder / "stage2.safetensors"),
            folder / "stage2.safetensors",
        )
    return Student(model, variant)


def interpolated(
    first: Path | str, second: Path | str, device: torch.device | str = "cpu"
) -> Student:
    """A knob without stage 2: the weights ``theta_1 + t (theta_2 - theta_1)`` of two runs' stage-1 students.

    Raises:
        DistillkitError: one of them cannot be loaded, or their networks differ in shape.
    """
    model, other = (load_student(path, device, stage1_only=True).model for path in (first, second))
    assert isinstance(model, DiffusionModel) and isinstance(other, DiffusionModel)
    adapter = FullAdapter(model.network)
    adapter.interpolate_toward(other.network)
    return Student(model, AdapterScaling(model, adapter, "reconstruction"))


def base_model(about: Mapping[str, Any]) -> DiffusionModel:
    """What a student was before both stages: the plugin's model, from ``distillkit.json``."""
    options = dict(about["student"])
    full_name, spec = load_plugins().find("students", options.pop("use"))
    model = spec.create(spec.config(**options))
    if not isinstance(model, DiffusionModel):
        raise PluginError(f"{full_name} - builds a {type(model).__name__}, not a DiffusionModel")
    return model


def student_folder(path: Path | str) -> Path:
    """The folder of a student's own files in a run's or an exported folder; or ``path`` itself."""
    return Path(path) / "student" if (Path(path) / "student").is_dir() else Path(path)


def find_student(path: Path | str, **options: Any) -> Path:
    """``path`` where it is a folder, else the files of the Hub repository ``owner/name``.

    Args:
        options: of ``huggingface_hub.snapshot_download``.

    Raises:
        DistillkitError: neither.
    """
    if Path(path).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path), allow_patterns=["model_index.json", "student/*", "*.md"], **options
            )
        )
    except Exception as e:  # the Hub's client raises its own, its HTTP library's and the system's
        raise DistillkitError(
            f"{path} - no such folder, and not on the Hub: {str(e).strip().splitlines()[0]}"
        ) from e


def read_about(folder: Path) -> dict[str, Any]:
    """``distillkit.json`` of a student's folder, as :func:`save_student` wrote it."""
    try:
        about = json.loads((folder / "distillkit.json").read_text())
    except FileNotFoundError:
        raise DistillkitError(
            f"{folder} - no student here (no distillkit.json); give a finished run's folder"
        ) from None
    except (OSError, ValueError) as e:
        raise DistillkitError(f"{folder}/distillkit.json - not readable: {e}") from e
    if about.get("format") != FORMAT:
        raise DistillkitError(
            f"{folder} - student format {about.get('format')}, this version of distillkit reads {FORMAT}"
        )
    return about
