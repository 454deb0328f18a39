"""Build the objects that a recipe's tables name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from distillkit.adapters import Adapter, add_adapter
from distillkit.data.degradation import Degradation
from distillkit.data.evaluation_pairs import PlannedPair, evaluation_pairs
from distillkit.data.sources import Columns, HubDataset, Source
from distillkit.diffusion.model import DiffusionModel, RestorationModel
from distillkit.errors import DistillkitError, PluginError, RecipeError, SettingsError, WeightsError
from distillkit.files.weights import WeightFile
from distillkit.objectives.adapter_scaling import (
    AdapterScaling,
    LineObjective,
    Objective,
    ReconstructionObjective,
    TeacherObjective,
)
from distillkit.objectives.controllability import Variant
from distillkit.objectives.ctsr import CtsrAlg2, CtsrEq8
from distillkit.objectives.line import LineLoss
from distillkit.objectives.oftsr import Oftsr
from distillkit.objectives.reconstruction import Distance, ReconstructionLoss
from distillkit.plugins.descriptors import MetricSpec, Spec
from distillkit.plugins.manager import Plugins, load_plugins
from distillkit.plugins.options import Options
from distillkit.recipe.errors import explain_all
from distillkit.recipe.key_paths import dotted
from distillkit.recipe.load import Component, ResolvedRecipe
from distillkit.recipe.schema import AdapterConfig, SourceConfig, Stage2Config

Device = torch.device | str


def build(component: Component, device: Device) -> Any:
    """Build a component; a module comes frozen, in evaluation mode and on ``device``.

    Raises:
        WeightsError: Its weights are not on this machine.
        PluginError: The plugin's ``build`` failed in a way of its own.
        DistillkitError: Whatever else the plugin raises.
    """
    try:
        _refuse_absent_weights(component.spec, component.config)
        built = component.build()
    except DistillkitError:
        raise
    except (Exception, SystemExit) as e:
        where = dotted(component.key) or component.full_name
        what = f"{component.full_name} could not be built: {type(e).__name__}: {e}"
        raise PluginError(f"{where} - {what}") from e
    if isinstance(built, nn.Module):
        built.requires_grad_(False).eval().to(device)
    return built


def build_distance(resolved: ResolvedRecipe, component: Component, device: Device) -> Distance:
    """Build a metric of the recipe, to be trained against.

    Raises:
        RecipeError: No gradient flows through it, or higher values are better.
        DistillkitError: As :func:`build`.
    """
    metric = build(component, device)
    if metric.higher_is_better:
        reason = "is higher where images are closer"
    elif not metric.differentiable:
        reason = "is not differentiable"
    else:
        return metric
    where = resolved.locate(component.key)
    raise RecipeError(f"{where} - {metric.name} {reason}: nothing can be trained against it")


def build_reconstruction_loss(resolved: ResolvedRecipe, device: Device) -> ReconstructionLoss:
    """Build eq. 1. Raises as :func:`build_distance`."""
    config = resolved.recipe.stage1.reconstruction
    metric = resolved.perceptual_metric
    return ReconstructionLoss(
        l2_weight=config.l2_weight,
        l1_weight=config.l1_weight,
        grid_weight=config.grid_weight,
        grid_period=config.grid_period,
        perceptual_weight=config.perceptual_weight,
        distance=None if metric is None else build_distance(resolved, metric, device),
        max_shift=config.perceptual_max_shift,
    )


def build_objective(
    resolved: ResolvedRecipe,
    student: RestorationModel,
    reconstruction: ReconstructionLoss,
    device: Device,
) -> Objective:
    """Build what adapter scaling learns in stage 2.

    Args:
        resolved: The recipe.
        student: With its stage-1 weights merged.
        reconstruction: Eq. 1, for the reconstruction target.
        device: The device of the perceptual distances.

    Raises:
        RecipeError: As :func:`build_distance`.
    """
    config = resolved.recipe.stage2
    if config.target == "teacher":
        return TeacherObjective()
    if config.target == "reconstruction":
        return ReconstructionObjective(student, reconstruction, config.l2_weight_ratio)
    line = config.line
    loss = LineLoss(
        mix_weight=line.mix_weight,
        ground_truth_weight=line.ground_truth_weight,
        faithful_weight=line.faithful_weight,
        mix_perceptual_weight=line.mix_perceptual_weight,
        perceptual_weight=line.perceptual_weight,
        faithful_perceptual_weight=line.faithful_perceptual_weight,
        grid_weight=line.grid_weight,
        grid_period=line.grid_period,
        l2_weight=line.l2_weight,
        l1_weight=line.l1_weight,
        distances=[build_distance(resolved, c, device) for c in resolved.line_metrics],
        max_shift=line.perceptual_max_shift,
    )
    return LineObjective(student, loss, line.realistic_end, line.faithful_end)


def build_adapter(network: nn.Module, config: AdapterConfig, seed: int) -> Adapter:
    """Put a zero adapter on a student's ``stage1_network`` or ``network``."""
    return add_adapter(
        network,
        config.kind,
        rank=config.rank,
        alpha=config.alpha,
        targets=config.targets,
        seed=seed,
    )


def build_variant(
    model: RestorationModel,
    config: Stage2Config,
    seed: int,
    objective: Objective | None = None,
) -> Variant:
    """Build a recipe's stage-2 variant.

    Args:
        model: The student with its stage-1 weights merged.
        config: Stage 2's table of the recipe.
        seed: The seed of the recipe.
        objective: What adapter scaling learns; None: nothing, for restoring only.
    """
    if config.variant != "adapter_scaling":
        return _build_denoiser_variant(model, config, seed)
    return AdapterScaling(
        model,
        build_adapter(model.network, config.adapter, seed + 1),
        objective,
        faithful_every=config.faithful_every,
        faithful_steps=config.faithful_steps,
    )


def _build_denoiser_variant(model: RestorationModel, config: Stage2Config, seed: int) -> Variant:
    """Build a variant that needs the student's denoiser."""
    if not isinstance(model, DiffusionModel):
        raise PluginError(
            f"{type(model).__name__} has no denoiser, which stage2.variant = "
            f'"{config.variant}" needs; use "adapter_scaling"'
        )
    if config.variant == "oftsr":
        return Oftsr(model)
    # Another seed than that of stage 1's adapter, which has the recipe's itself.
    adapter = build_adapter(model.network, config.adapter, seed + 1)
    if config.variant == "ctsr_eq8":
        return CtsrEq8(model, adapter)
    return CtsrAlg2(model, adapter)


def build_named_model(name: str, settings: Mapping[str, Any], device: Device) -> Any:
    """Build a registered teacher, or else student, with its own options.

    It comes frozen, in evaluation mode and on ``device``.

    Raises:
        PluginError: No such model, settings it does not take, or its ``build`` failed.
        WeightsError: Its weights are not on this machine.
    """
    spec = _find_model(load_plugins(), name)
    return _build_with_settings(spec, settings, device)


def build_metric(name: str, settings: Mapping[str, Any], device: Device) -> Any:
    """Build a registered metric with its own options. Raises as :func:`build_named_model`."""
    spec = load_plugins().find("metrics", name)
    return _build_with_settings(spec, settings, device)


def read_settings(spec: Spec, settings: Mapping[str, Any]) -> Options:
    """Make a component's options of plain values.

    Raises:
        SettingsError: A key is missing or unknown, or has a wrong value.
    """
    try:
        return spec.config(**settings)
    except ValidationError as e:
        problems = explain_all(e, spec.config.model_fields)
        raise SettingsError(
            f"{spec.full_name} cannot be built with these settings: {problems}"
        ) from None


def _build_with_settings(spec: Spec, settings: Mapping[str, Any], device: Device) -> Any:
    config = read_settings(spec, settings)
    return build(Component((), spec, config, {}), device)


def _refuse_absent_weights(spec: Spec, config: Options) -> None:
    missing = [file for file in config.weight_files() if file.find() is None]
    if not missing:
        return
    names = ", ".join(f"{file.name} (license {file.license})" for file in missing)
    problem = f"{spec.full_name} needs weights that are not on this machine: {names}"
    if isinstance(spec, MetricSpec) and any(file.fetchable for file in missing):
        raise WeightsError(problem, f"distillkit fetch --metric {spec.name}")
    by_hand = [_place_by_hand(spec, config, file) for file in missing if not file.fetchable]
    raise WeightsError(problem, ", ".join(by_hand))


def _place_by_hand(spec: Spec, config: Options, file: WeightFile) -> str:
    """Explain where a file that cannot be fetched belongs, and which option names another one."""
    text = f"put it at {file.name}"
    for option, value in config:
        if value in (file, file.path):
            text += f" ({spec.name}.{option})"
    if file.source:
        text += f" from {file.source}"
    return text


def _find_model(plugins: Plugins, name: str) -> Spec:
    try:
        return plugins.find("teachers", name)
    except PluginError:
        if any(spec.is_named(name) for spec in plugins.specs("students")):
            return plugins.find("students", name)
        raise


def pick_device(name: Device | None) -> torch.device:
    """Return the device of that name; without one, a GPU where there is one.

    Raises:
        DistillkitError: No such device on this machine.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise DistillkitError(f"device {name} cannot be used: {str(e).splitlines()[0]}") from e
    return device


def open_sources(resolved: ResolvedRecipe, split: Literal["train", "eval"]) -> list[Source]:
    """Open the sources of ``data.train`` or ``data.eval``, in the recipe's order.

    Raises:
        DataError: One cannot be reached or read, is empty, or lacks a column.
    """
    tables: list[SourceConfig] = getattr(resolved.recipe.data, split)
    sources = []
    for i, table in enumerate(tables):
        if split == "eval":
            # Held-out images are the same ones in whatever order.
            table = table.model_copy(update={"shuffle_buffer": 0})
        component = resolved.dataset(split, i)
        dataset = None if component is None else build(component, "cpu")
        sources.append(open_configured_source(table, dataset))
    return sources


def open_configured_source(table: SourceConfig, dataset: Any = None) -> Source:
    """Open one source as its table says.

    Args:
        table: One table of the recipe.
        dataset: Built by the plugin that the table names, if it names one.

    Raises:
        DataError: It cannot be reached or read, is empty, or lacks a column.
    """
    # Restoring opens no source, and the library that reads them takes a second to import.
    from distillkit.data.opening import open_source

    stream_buffer = None
    if table.streaming:
        stream_buffer = table.shuffle_buffer
    columns = Columns(table.image_column, table.lq_column, table.caption_column)
    if not table.ground_truth:
        lq = table.lq_column or table.image_column
        columns = columns._replace(image=None, lq=lq)
    source = open_source(
        hub=hub_dataset(table),
        imagefolder=table.imagefolder,
        lq_folder=table.lq_folder,
        parquet=table.parquet,
        dataset=dataset,
        name=table.use,
        columns=columns,
        stream_buffer=stream_buffer,
    )
    return replace(source, zoom_out=table.zoom_out)


def hub_dataset(table: SourceConfig) -> HubDataset | None:
    """Return what a source's table names on the Hub, if it does."""
    if table.hub is None:
        return None
    return HubDataset(table.hub, table.revision, table.config, table.split)


def open_evaluation_sources(resolved: ResolvedRecipe) -> dict[str, list[Source]]:
    """Open the sources of the recipe's evaluation sets, by the set's name.

    Sources of one name form a set; those without a name form the one that is called as the recipe.
    """
    sources_of_set: dict[str, list[Source]] = {}
    sources = open_sources(resolved, "eval")
    for table, source in zip(resolved.recipe.data.eval, sources, strict=True):
        name = table.name or resolved.recipe.name
        sources_of_set.setdefault(name, []).append(source)
    return sources_of_set


def open_evaluation_sets(
    resolved: ResolvedRecipe, degradation: Degradation | None, scale: int
) -> dict[str, list[PlannedPair]]:
    """Plan the pairs of the recipe's evaluation sets: the same ones at every call and process."""
    sets = {}
    for name, sources in open_evaluation_sources(resolved).items():
        sets[name] = plan_pairs(resolved, sources, degradation, scale)
    return sets


def plan_pairs(
    resolved: ResolvedRecipe,
    sources: Sequence[Source],
    degradation: Degradation | None,
    scale: int,
    *,
    max_bad_fraction: float = 0.0,
    on_bad: Callable[[str, str], None] | None = None,
) -> list[PlannedPair]:
    """Plan the pairs of sources, cut as the recipe's ``[evaluation]`` says.

    Args:
        resolved: The recipe.
        sources: Images; where there are several, pairs are named with their source.
        degradation: For those that are not paired.
        scale: Size of the clean image divided by that of the low-quality one.
        max_bad_fraction: Share of a source's images that may be left out because they are unusable.
        on_bad: Called with the id of each of them and the reason.

    Raises:
        DataError: As :func:`evaluation_pairs`.
    """
    config = resolved.recipe.evaluation
    pairs = []
    for source in sources:
        source_pairs = evaluation_pairs(
            source,
            degradation,
            crop=config.crop_size,
            crops_per_image=config.crops_per_image,
            scale=scale,
            seed=resolved.recipe.seed,
            max_bad_fraction=max_bad_fraction,
            on_bad=on_bad,
        )
        # Names must be unique over the sources of a set.
        prefix = f"{source.name}:" if len(sources) > 1 else ""
        pairs += [replace(pair, name=prefix + pair.name) for pair in source_pairs]
    return pairs
