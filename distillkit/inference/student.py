"""A distilled student: the plugin's model, what both stages changed, and its tradeoff.

It is saved as one small folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from distillkit.adapters import FullAdapter
from distillkit.diffusion.model import ModelInput, OutputTeacher, RestorationModel
from distillkit.errors import DistillkitError, PluginError, did_you_mean, first_line
from distillkit.files.atomic import atomic_dir
from distillkit.files.weights import WeightFile, load_exactly, load_tensors, read_state_dict
from distillkit.inference.tradeoff_map import blend_nodes
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.objectives.controllability import Variant
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.files import file_of
from distillkit.plugins.manager import load_plugins
from distillkit.plugins.options import Options
from distillkit.plugins.trained import find_trained, list_trained
from distillkit.recipe.build import build_adapter, build_variant, read_settings
from distillkit.recipe.errors import explain_all
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import (
    AdapterConfig,
    ColorFix,
    Fraction,
    Seed,
    Stage2Config,
    UseConfig,
)
from distillkit.tradeoff import FAITHFUL, REALISTIC, check_tradeoff

FORMAT = 2
"""Of :data:`ABOUT`; a student of another format is refused."""
ABOUT = "distillkit.json"
"""The file that describes a student, in its folder."""
MERGED = "network.safetensors"
"""The file of a student merged at one tradeoff: all weights of its ``stage1_network``."""


class _Stage1(BaseModel):
    adapter: AdapterConfig


class _About(BaseModel):
    """The keys of ``distillkit.json`` that its readers rely on."""

    recipe: str
    seed: Seed
    student: UseConfig
    stage1: _Stage1
    stage2: Stage2Config | None
    licenses: dict[str, str]
    color_fix: ColorFix = "none"
    merged: Fraction | None = None


@dataclass(frozen=True)
class Student:
    """A trained student, or any other model that restores."""

    model: RestorationModel | OutputTeacher
    variant: Variant | None
    """What sets the tradeoff; None: the tradeoff is fixed."""
    fixed_tradeoff: float = REALISTIC
    """Without a variant, the tradeoff at which the student was merged."""
    color_fix: ColorFix = "none"
    """What it was evaluated with, and a restorer's default. :meth:`restore` applies none."""

    @property
    def nfe(self) -> int:
        """Network evaluations of one restoration."""
        extra = 0 if self.variant is None else self.variant.extra_nfe
        return self.model.nfe + extra

    def resolve(self, tradeoff: float | None) -> float:
        """Check a tradeoff; None stands for the most realistic one that the student has.

        Raises:
            DistillkitError: Not a number from 0 to 1, or one that a student with a fixed tradeoff
                does not have.
        """
        if tradeoff is None:
            return self.fixed_tradeoff
        checked = check_tradeoff(tradeoff)
        if self.variant is None and checked != self.fixed_tradeoff:
            raise DistillkitError(
                f"this model has a fixed tradeoff, {self.fixed_tradeoff:g}: it cannot restore at "
                f"{checked:g}"
            )
        return checked

    def merged_at(self, tradeoffs: Sequence[float]) -> AbstractContextManager[None]:
        """Prepare several restorations at the same tradeoffs, inside a context.

        A single tradeoff is merged into the weights once for all of them.
        """
        if self.variant is None or len(tradeoffs) != 1:
            return nullcontext()
        return self.variant.merged_at(tradeoffs[0])

    def restore(
        self,
        inputs: ModelInput,
        tradeoff: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Restore images.

        Args:
            inputs: Images (B, 3, h, w) in [-1, 1].
            tradeoff: 0 is most realistic (default), 1 most faithful.
            generator: A CPU generator for the student's draws.

        Returns:
            (B, 3, scale h, scale w) in [-1, 1].

        Raises:
            DistillkitError: As :meth:`resolve`.
        """
        (restored,) = self.restore_each(inputs, [self.resolve(tradeoff)], generator)
        return restored

    @torch.no_grad()
    def restore_each(
        self,
        inputs: ModelInput,
        tradeoffs: Sequence[float],
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Restore images at several resolved tradeoffs with the same draws.

        They share the condition, and for variants of two passes the first pass. Each needs a pass
        and a decoding of its own.
        """
        if self.variant is None:
            return [self.model.restore(inputs, generator)] * len(tradeoffs)
        student = self.variant.student
        condition = student.condition(inputs)
        state = generator.get_state() if generator else None
        z_0 = None
        if self.variant.extra_nfe and len(tradeoffs) > 1:
            z_0 = self.variant.generate(condition, REALISTIC, generator)
        images = []
        for tradeoff in tradeoffs:
            if generator is not None and state is not None:
                generator.set_state(state)
            with self.variant.merged_at(tradeoff):
                latent = self.variant.generate(condition, tradeoff, generator, z_0)
            images.append(student.codec.decode(latent).clamp(-1, 1))
        return images

    @torch.no_grad()
    def restore_by_map(
        self,
        inputs: ModelInput,
        tradeoff_map: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Restore images with a tradeoff for each pixel.

        Args:
            inputs: Images (B, 3, h, w) in [-1, 1].
            tradeoff_map: (B, 1, h, w) in [0, 1].
            generator: A CPU generator for the student's draws.

        Returns:
            (B, 3, scale h, scale w) in [-1, 1]: in one pass where the variant takes a map, else
            interpolated between a few tradeoffs.
        """
        assert self.variant is not None, "a fixed tradeoff has no map"
        if not self.variant.takes_map:

            def restore(tradeoffs: Sequence[float]) -> list[Tensor]:
                return self.restore_each(inputs, tradeoffs, generator)

            return blend_nodes(restore, tradeoff_map, self.model.scale)
        student = self.variant.student
        condition = student.condition(inputs)
        latent = self.variant.generate(condition, tradeoff_map, generator)
        return student.codec.decode(latent).clamp(-1, 1)


def save_student(
    folder: Path,
    resolved: ResolvedRecipe,
    trained: Mapping[str, Mapping[str, Tensor]],
    data: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write what :func:`load_student` reads; the folder appears complete or not at all.

    Files: ``distillkit.json`` (the student's table, the stages' options), ``stage1.safetensors``,
    ``stage2.safetensors`` (where the tradeoff can be set), ``recipe.toml`` for the record.

    Args:
        folder: The folder of the student.
        resolved: The recipe.
        trained: What each stage trained, ``"stage1"`` and, unless it was left out, ``"stage2"``.
        data: Descriptions of the training images, for the record.

    Raises:
        DiskError: It could not be written.
    """
    with atomic_dir(folder, replace=True) as temporary:
        about = _describe(resolved, has_stage2="stage2" in trained)
        about["data"] = list(data)
        text = json.dumps(about, indent=2, default=str) + "\n"
        (temporary / ABOUT).write_text(text)
        (temporary / "recipe.toml").write_text(resolved.to_toml())
        for stage, tensors in trained.items():
            on_cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(on_cpu, temporary / f"{stage}.safetensors")


def _describe(resolved: ResolvedRecipe, has_stage2: bool) -> dict[str, Any]:
    """Describe a student as ``distillkit.json`` does."""
    recipe = resolved.recipe
    licenses = {f"teachers.{name}": c.license for name, c in resolved.teachers.items()}
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "student": dict(resolved.student.table),
        "stage1": {"adapter": recipe.stage1.adapter.model_dump(mode="json")},
        "stage2": recipe.stage2.model_dump(mode="json") if has_stage2 else None,
        "color_fix": recipe.evaluation.color_fix,
        "plugins": resolved.plugins,
        "licenses": {"student": resolved.student.license, **licenses},
    }


def load_student(
    path: Path | str, device: torch.device | str = "cpu", *, stage1_only: bool = False
) -> Student:
    """Load the student of a run folder, of an exported folder, or of the ``student`` folder in it.

    Args:
        path: The folder.
        device: The device to load it to.
        stage1_only: Do not load the weights of stage 2: the tradeoff is then fixed at 0.

    Raises:
        DistillkitError: No student there, a newer format, a plugin that is not installed, or
            weights that do not fit.
    """
    folder = student_folder(path)
    about = read_about(folder)
    model = build_base_model(about, folder)
    model.requires_grad_(False).eval().to(device)
    color_fix = about.get("color_fix", "none")
    if about.get("merged") is not None:
        load_exactly(model.stage1_network, read_state_dict(folder / MERGED), folder / MERGED)
        return Student(model, None, about["merged"], color_fix)
    config = AdapterConfig(**about["stage1"]["adapter"])
    adapter = build_adapter(model.stage1_network, config, about["seed"])
    _load_trained(adapter.tensors(), folder / "stage1.safetensors")
    adapter.merge()
    if about["stage2"] is None or stage1_only:
        return Student(model, None, color_fix=color_fix)
    variant = build_variant(model, Stage2Config(**about["stage2"]), about["seed"])
    _load_trained(variant.tensors(), folder / "stage2.safetensors")
    return Student(model, variant, color_fix=color_fix)


def _load_trained(tensors: Mapping[str, Tensor], file: Path) -> None:
    load_tensors(tensors, read_state_dict(file), file)


def interpolate_students(
    first: Path | str, second: Path | str, device: torch.device | str = "cpu"
) -> Student:
    """Make a tradeoff by interpolating the weights of two students.

    ``theta_1 + t (theta_2 - theta_1)``, with theta_1 the first at tradeoff 0 and theta_2 the second
    at tradeoff 1; where stage 2 left it no weights of its own, at tradeoff 0.

    Raises:
        DistillkitError: One of them cannot be loaded, trained a decoder of its own, or their
            networks differ in shape.
    """
    model = load_student(first, device, stage1_only=True).model
    other = _load_faithful_end(second, device)
    assert isinstance(model, RestorationModel)
    assert isinstance(other, RestorationModel)
    for path, end in ((first, model), (second, other)):
        if end.stage1_network is not end.network:
            raise DistillkitError(
                f"{path} - trained a decoder of its own, which a tradeoff does not change: its "
                "weights are not interpolated with another student's"
            )
    adapter = FullAdapter(model.network)
    adapter.interpolate_toward(other.network)
    return Student(model, AdapterScaling(model, adapter))


def _load_faithful_end(
    path: Path | str, device: torch.device | str
) -> RestorationModel | OutputTeacher:
    student = load_student(path, device)
    if isinstance(student.variant, AdapterScaling):
        student.variant.adapter.set_scale(FAITHFUL)
        student.variant.adapter.merge()
        return student.model
    return load_student(path, device, stage1_only=True).model


def interpolate_adapter(student: Student) -> Student | None:
    """Interpolate the weights of a student without and with its stage-2 adapter.

    Returns:
        A student of one pass whose tradeoff is the adapter's scale. None where that is the student
        itself (adapter scaling with any adapter: each is linear in its scale), and where stage 2
        trained a network of its own, which restores nothing alone.
    """
    variant = student.variant
    if variant is None or variant.adapter is None or isinstance(variant, AdapterScaling):
        return None
    return Student(student.model, AdapterScaling(variant.student, variant.adapter))


def build_base_model(about: Mapping[str, Any], folder: Path) -> RestorationModel:
    """Build the plugin's model that a student was trained from, without what was trained.

    Args:
        about: ``distillkit.json``.
        folder: The folder of the student, in which relative paths of weight files are looked for
            first.

    Raises:
        PluginError: The plugin is not installed, does not take the student's options, or builds
            something else.
    """
    options = dict(about["student"])
    spec = _find_spec(options.pop("use"), about.get("plugins", {}))
    settings = read_settings(spec, options)
    found = {}
    for key, path in local_weights(settings, folder).items():
        found[key] = getattr(settings, key).model_copy(update={"path": path})
    model = spec.create(settings.model_copy(update=found))
    if not isinstance(model, RestorationModel):
        raise PluginError(
            f"{spec.full_name} - builds a {type(model).__name__}, not a RestorationModel"
        )
    return model


def local_weights(settings: Options, folder: Path) -> dict[str, Path]:
    """List the weight files that a student's options name by their paths.

    Args:
        settings: The options.
        folder: The folder of the student; a relative path is looked for in it first.

    Returns:
        Where each file is, or should be, by the option's key.
    """
    files = {}
    for key, value in settings:
        if isinstance(value, WeightFile) and value.path is not None:
            inside = folder / value.path
            files[key] = inside if inside.is_file() else value.path
    return files


def _find_spec(use: str, made_with: Mapping[str, str]) -> Spec:
    """Find a student's descriptor; where its plugin is absent, say what to install.

    Args:
        use: The full name.
        made_with: The distributions of the run's plugins, by the plugin's name.
    """
    plugins = load_plugins()
    owner = use.partition("/")[0]
    absent = owner not in {plugin.name for plugin in plugins}
    if absent and owner in made_with and owner not in plugins.switched_off:
        distribution = made_with[owner]
        file = file_of(distribution)
        # No `pip install`: on a package index, anybody may have taken that name.
        remedy = f"give --plugin {file}" if file else "install it from where its author offers it"
        raise PluginError(
            f'this student needs the plugin "{owner}", which is not installed; it was trained '
            f"with {distribution}: {remedy}"
        )
    return plugins.find("students", use)


def student_folder(path: Path | str) -> Path:
    """Return the folder of a student's files: ``student`` in ``path``, or ``path`` itself."""
    below = Path(path) / "student"
    return below if below.is_dir() else Path(path)


def find_student(path: Path | str, **options: Any) -> Path:
    """Find a student's folder: one on disk, one that a plugin ships, or a repository of the Hub.

    Args:
        path: A folder, ``plugin/name`` of a trained student, or ``owner/name`` of a repository,
            which is downloaded.
        options: The options of ``huggingface_hub.snapshot_download``.

    Raises:
        DistillkitError: None of them.
    """
    if Path(path).exists():
        return Path(path)
    plugins = load_plugins()
    trained = find_trained(str(path), plugins)
    if trained is not None:
        return trained.path
    reason = plugins.explain_unavailable(str(path).partition("/")[0])
    if reason:
        raise PluginError(f"{path} - {reason}")
    names = [student.name for student in list_trained(plugins)]
    remedy = did_you_mean(str(path), names)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise DistillkitError(
            f"{path} - no such folder; give a run's folder, an exported one, plugin/name of a "
            f"trained student, or owner/name of a Hub repository{remedy}"
        )
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", "student/*", "*.md"]
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns, **options))
    except Exception as e:  # the Hub's client raises its own, its HTTP library's and the system's
        raise DistillkitError(
            f"{path} - no such folder, no plugin's trained student, and not on the Hub: "
            f"{first_line(e)}{remedy}"
        ) from e


def read_about(folder: Path) -> dict[str, Any]:
    """Read ``distillkit.json`` of a student's folder, as :func:`save_student` wrote it.

    Raises:
        DistillkitError: It is missing, damaged, or of another format.
    """
    file = folder / ABOUT
    try:
        about = json.loads(file.read_text())
    except FileNotFoundError:
        raise DistillkitError(
            f"{folder} - no student here (no distillkit.json); give a finished run's folder"
        ) from None
    except (OSError, ValueError, RecursionError) as e:
        raise DistillkitError(f"{file} - not readable: {first_line(e)}") from e
    if not isinstance(about, dict):
        raise DistillkitError(f"{file} - damaged: it holds no table; write the student again")
    if about.get("format") != FORMAT:
        raise DistillkitError(
            f"{folder} - has student format {about.get('format')}, and this version of distillkit "
            f"reads {FORMAT}; install the version that wrote it, or train the student again"
        )
    try:
        _About.model_validate(about)
    except ValidationError as e:
        raise DistillkitError(
            f"{file} - damaged, or of another version of distillkit: {explain_all(e)}"
        ) from None
    return about
