"""Compare methods by their images in folders, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distillkit.console import logger, with_progress
from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.errors import DataError, DistillkitError, Interrupted, did_you_mean
from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery, Images
from distillkit.evaluation.measurement_file import MeasurementFile
from distillkit.evaluation.metric_roles import ReportedTraining
from distillkit.evaluation.protocol import (
    ALPHAS,
    EvaluationSettings,
    Method,
    available_metrics,
    bicubic_method,
    evaluate,
    method_rows,
)
from distillkit.evaluation.results import LINEAR, AbsentMetric, Results
from distillkit.files.images import read_image
from distillkit.inference.costs import describe_device
from distillkit.metrics.base import Metric, SetMetric
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import build_metric, pick_device
from distillkit.report.files import write_evaluation
from distillkit.report.notes import failure_notes
from distillkit.report.page import EvaluatedSet, write_report
from distillkit.runs.comparison_folder import MEASUREMENTS, check_comparison_folder
from distillkit.runs.comparison_keys import ImageKeys, describe_metric, describe_versions
from distillkit.runs.manifest import Manifest, timestamp
from distillkit.runs.method_folders import (
    Files,
    Layouts,
    find_unpaired,
    folder_methods,
    inspect_images,
    list_images,
    read_folders,
    refuse_problems,
)


@dataclass(frozen=True)
class CompareOptions:
    """The metrics of a comparison of folders, and its references."""

    lq: Path | None = None
    """Folder of the inputs, to show beside the results.

    Where the ground truth is larger by one whole number, bicubic enlargement becomes a method too.
    """
    metrics: Sequence[str] = ("psnr-y", "ssim-y", "stlpips-alex")
    """Names of registered metrics."""
    metric_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of metrics, by the metric's name."""
    pattern: str = "*"
    """The names to read in all folders, such as ``"Nikon_*"``."""
    combine: tuple[str, str] | None = None
    """Two methods to combine linearly."""
    alphas: Sequence[float] = ALPHAS
    """Weights of the first of them."""
    reference: str | None = None
    """The method that all others are compared with in pairs; default: the first one."""
    trained: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Metrics that a method was trained against, by the method's name."""
    device: torch.device | str | None = None
    """Where metrics are computed; default: a GPU where there is one."""


def compare_folders(
    gt: Path,
    method_folders: Mapping[str, Path],
    out: Path,
    options: CompareOptions,
) -> Path:
    """Measure methods' images, write an evaluation and its report.

    The values of each image are kept as they come, and are not measured again by the same command.

    Images belong together that have the same path in their folders, apart from the suffix.

    Args:
        gt: Folder of the ground truth.
        method_folders: Folders by the method's name, or by ``name@tradeoff``: a folder for each
            tradeoff makes a curve.
        out: Folder to write into.
        options: What to measure, and how to compare it.

    Returns:
        The report.

    Raises:
        DataError: All images that are missing, left over, unreadable or of another size than the
            ground truth.
        DistillkitError: ``out`` holds something else or belongs to the inputs, a method or a
            metric does not exist, or all images are too small for a metric.
        Interrupted: The same command continues.
    """
    started = timestamp()
    inputs = {"gt": gt, **method_folders}
    if options.lq is not None:
        inputs["lq"] = options.lq
    check_comparison_folder(out, inputs)
    comparison = _prepare(gt, method_folders, options)
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        out / "manifest.json",
        started=started,
        device=str(comparison.metrics.device),
        plugins=comparison.metrics.plugins,
        comparison={name: str(folder.resolve()) for name, folder in inputs.items()},
    )
    with _recorded(manifest):
        gallery = Gallery()
        results = _evaluate(comparison, _open_store(out, comparison), gallery)
        report = _write_results(results, gallery, comparison.training, out, manifest)
    return report


class _Folders(NamedTuple):
    """What is compared."""

    methods: list[Method]
    files: dict[str, Files]
    """By label: ``gt``, ``lq`` where there are inputs, and the methods'."""
    layouts: Layouts
    """Layouts of the ground truth."""


class _Metrics(NamedTuple):
    """What is measured."""

    built: list[Metric | SetMetric]
    absent: dict[str, AbsentMetric]
    """Why others could not be built, by name."""
    described: list[dict[str, Any]]
    """Options and weights, for the record."""
    device: torch.device
    plugins: dict[str, str]
    """The plugins behind them, each with its distribution."""


class _Comparison(NamedTuple):
    """Everything that is checked before the work begins."""

    folders: _Folders
    metrics: _Metrics
    settings: EvaluationSettings
    training: ReportedTraining


def _prepare(
    gt: Path,
    method_folders: Mapping[str, Path],
    options: CompareOptions,
) -> _Comparison:
    """Read and build what is compared; refuse now what would fail later."""
    _check_settings(options)
    device = pick_device(options.device)
    metrics = _build_metrics(options, device)
    folders = _read_inputs(gt, method_folders, options)
    settings = EvaluationSettings(
        dataset=gt.resolve().name,
        combine={} if options.combine is None else {LINEAR: options.combine},
        alphas=options.alphas,
        reference=options.reference or folders.methods[0].label,
        device=describe_device(device),
        absent=metrics.absent,
    )
    _check_trained(options, folders.methods)
    method_rows(folders.methods, settings)
    _refuse_too_small(metrics, folders.layouts)
    return _Comparison(folders, metrics, settings, _reported_training(options))


def _open_store(out: Path, comparison: _Comparison) -> MeasurementFile:
    """Open the file of values, in which a line counts only for the same inputs and code."""
    folders, metrics, settings, _ = comparison
    facts = {
        "methods": [method.label for method in folders.methods],
        "combine": settings.combine,
        "alphas": settings.alphas,
        "metrics": metrics.described,
        "device": metrics.device.type,
        "versions": describe_versions(),
    }
    return MeasurementFile(out / MEASUREMENTS, ImageKeys(folders.files, facts))


def _reported_training(options: CompareOptions) -> ReportedTraining:
    """Collect the methods that were trained against each metric."""
    methods_by_metric: dict[str, list[str]] = {}
    plugins = load_plugins()
    for method, metrics in options.trained.items():
        for metric in metrics:
            name = plugins.find("metrics", metric).name
            methods_by_metric.setdefault(name, []).append(method)
    joined = {metric: ", ".join(methods) for metric, methods in methods_by_metric.items()}
    return ReportedTraining(joined)


def _check_trained(options: CompareOptions, methods: Sequence[Method]) -> None:
    names = {method.name for method in methods}
    for method, metrics in options.trained.items():
        if method not in names:
            there = f"{', '.join(sorted(names))}{did_you_mean(method, names)}"
            raise DistillkitError(f"--trained {method} - no such method; there are {there}")
        for metric in metrics:
            if metric not in options.metrics:
                measured = ",".join(options.metrics)
                problem = f"a metric that is not among --metrics {measured}"
                raise DistillkitError(f"--trained {method}:{metric} - {problem}")


def _check_settings(options: CompareOptions) -> None:
    for name in options.metric_settings:
        if name not in options.metrics:
            measured = ",".join(options.metrics)
            problem = f"options of a metric that is not among --metrics {measured}"
            raise DistillkitError(f"--set {name}. - {problem}")


def _read_inputs(
    gt: Path,
    method_folders: Mapping[str, Path],
    options: CompareOptions,
) -> _Folders:
    """List and check all files."""
    gt_files = list_images(gt, options.pattern)
    logger.info(f"reading the ground truth: {len(gt_files)} images")
    layouts, problems = inspect_images(gt_files)
    refuse_problems(problems)
    method_files = read_folders(method_folders, layouts, options.pattern)
    files = {"gt": gt_files, **method_files}
    methods = folder_methods(method_files)
    if options.lq is not None:
        files["lq"], scale = _find_inputs(options.lq, options.pattern, layouts)
        if scale is not None and "bicubic" not in method_folders:
            methods.append(bicubic_method(scale))
    return _Folders(methods, files, layouts)


def _find_inputs(
    folder: Path,
    pattern: str,
    gt_layouts: Layouts,
) -> tuple[Files, int | None]:
    """List the inputs; return them, and the scale of the ground truth if it is a whole number."""
    files = list_images(folder, pattern)
    layouts, damaged = inspect_images(files)
    refuse_problems([*find_unpaired("--lq", folder, files, gt_layouts), *damaged])
    return files, _common_scale(layouts, gt_layouts)


def _common_scale(lq_layouts: Layouts, gt_layouts: Layouts) -> int | None:
    """Divide the sides: the same whole number for all images, or None."""
    ratios = set()
    for name, gt in gt_layouts.items():
        for gt_side, lq_side in zip(gt.size, lq_layouts[name].size, strict=True):
            ratios.add(gt_side / lq_side)
    ratio = ratios.pop()
    if ratios or ratio < 1 or ratio != int(ratio):
        return None
    return int(ratio)


def _build_metrics(options: CompareOptions, device: torch.device) -> _Metrics:
    """Build the metrics whose weights are here, print why others are not."""
    plugins = load_plugins()
    builders = {}
    described = []
    for name in options.metrics:
        spec = plugins.find("metrics", name)
        settings = options.metric_settings.get(name, {})
        builders[spec.name] = partial(build_metric, name, settings, device)
        described.append((spec, settings))
    metrics, absent = available_metrics(builders)
    for name, metric in absent.items():
        logger.warning(f"not measured: {name}: {metric.reason}")
    # Only now are the settings known to be good.
    descriptions = [describe_metric(*pair) for pair in described]
    plugins_used = {spec.plugin: spec.distribution for spec, _ in described}
    return _Metrics(metrics, absent, descriptions, device, plugins_used)


def _refuse_too_small(metrics: _Metrics, layouts: Layouts) -> None:
    """Refuse a comparison whose images are all too small for a metric.

    Where some are large enough, the others cost their cells.
    """
    # Noise of the same size: what a metric says of it depends on nothing but the size.
    name = max(layouts, key=lambda name: min(layouts[name].size))
    noise = torch.rand(1, 3, *layouts[name].size, generator=torch.Generator().manual_seed(0))
    image = (2 * noise - 1).to(metrics.device)
    problems = []
    for metric in metrics.built:
        try:
            if isinstance(metric, SetMetric):
                metric.features(image)
            else:
                metric(image, image)
        except DataError as error:
            problems.append(f"{name} - {error}")
        # Anything else is the metric's own failure, and costs its cells.
        except Exception:
            continue
    if problems:
        raise DataError("\n  ".join(problems))


@contextmanager
def _recorded(manifest: Manifest) -> Iterator[None]:
    """Write into the manifest how the comparison ended."""
    try:
        yield
    except KeyboardInterrupt:
        manifest.close("interrupted")
        raise Interrupted("interrupted; the same command continues") from None
    except BaseException:
        manifest.close("failed")
        raise


def _evaluate(comparison: _Comparison, store: MeasurementFile, gallery: Gallery) -> Results:
    folders, metrics, settings, _ = comparison

    def observe(name: str, images: Images) -> None:
        if "lq" not in folders.files:
            # The ground truth stood in for the input, and is shown already.
            images = {label: image for label, image in images.items() if label != "lq"}
        gallery(name, images)

    pairs = _read_pairs(folders.files, metrics.device)
    items = with_progress(pairs, len(folders.layouts), "measuring")
    return evaluate(folders.methods, items, metrics.built, settings, observe=observe, store=store)


def _read_pairs(files: Mapping[str, Files], device: torch.device) -> Iterator[EvaluationPair]:
    """Read the pairs; without inputs the ground truth stands in for them."""
    for name, path in files["gt"].items():
        gt = read_image(path)[None].to(device)
        lq = gt
        if "lq" in files:
            lq = read_image(files["lq"][name])[None].to(device)
        yield EvaluationPair(name, lq, gt)


def _write_results(
    results: Results,
    gallery: Gallery,
    training: ReportedTraining,
    out: Path,
    manifest: Manifest,
) -> Path:
    write_evaluation(results, gallery, out, training)
    for note in failure_notes(results):
        logger.warning(f"not measured: {note}")
    for check in check_sweep(results, training):
        logger.info(str(check))
    manifest.close("finished")
    evaluated = EvaluatedSet(results, gallery, out)
    return write_report(out, [evaluated], training, manifest=manifest.facts)
