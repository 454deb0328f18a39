"""Compare methods by their images in folders, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.errors import DistillkitError
from distillkit.evaluation.checks import check_sweep
from distillkit.evaluation.gallery import Gallery, Images
from distillkit.evaluation.protocol import (
    ALPHAS,
    EvaluationSettings,
    available_metrics,
    bicubic_method,
    evaluate,
)
from distillkit.evaluation.results import Results
from distillkit.files.images import read_image
from distillkit.inference.costs import describe_device
from distillkit.metrics.base import Metric, SetMetric
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import build_metric, pick_device
from distillkit.report.files import write_evaluation
from distillkit.report.page import write_report
from distillkit.runs.console import print_status
from distillkit.runs.manifest import Manifest
from distillkit.runs.method_folders import (
    Files,
    Sizes,
    find_unpaired,
    folder_methods,
    list_images,
    measure_images,
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
    device: torch.device | str | None = None
    """Where metrics are computed; default: a GPU where there is one."""


def compare_folders(
    gt: Path,
    method_folders: Mapping[str, Path],
    out: Path,
    options: CompareOptions,
) -> Path:
    """Measure methods' images, write an evaluation and its report.

    Images belong together that have the same path in their folders, apart from the suffix.

    Args:
        gt: folder of the ground truth.
        method_folders: folders by the method's name, or by ``name@tradeoff``: a folder for each
            tradeoff makes a curve.
        out: folder to write into.
        options: what to measure, and how to compare it.

    Returns:
        The report.

    Raises:
        DataError: all images that are missing, left over, unreadable or of another size than the
            ground truth.
        DistillkitError: ``out`` is a run's folder, or a method or a metric does not exist.
    """
    _check_arguments(out, options)
    gt_files = list_images(gt, options.pattern)
    sizes, problems = measure_images(gt_files)
    refuse_problems(problems)
    methods = folder_methods(method_folders, sizes, options.pattern)
    lq_files: Files = {}
    if options.lq is not None:
        lq_files, scale = _find_inputs(options.lq, options.pattern, sizes)
        if scale is not None and "bicubic" not in method_folders:
            methods.append(bicubic_method(scale))
    device = pick_device(options.device)
    metrics, absent = _build_metrics(options, device)
    gallery = Gallery()

    def observe(name: str, images: Images) -> None:
        if not lq_files:
            # The ground truth stood in for the input, and is shown already.
            images = {label: image for label, image in images.items() if label != "lq"}
        gallery(name, images)

    settings = EvaluationSettings(
        dataset=gt.resolve().name,
        combine=options.combine,
        alphas=options.alphas,
        reference=options.reference or methods[0].label,
        device=describe_device(device),
        absent=absent,
    )
    items = _read_items(gt_files, lq_files, device)
    results = evaluate(methods, items, metrics, settings, observe=observe)
    return _write_comparison(results, gallery, out, device)


def _check_arguments(out: Path, options: CompareOptions) -> None:
    # The evaluation of a run would be lost.
    if (out / "recipe.toml").exists():
        advice = f"add methods to the run: distillkit evaluate {out} --method ..."
        raise DistillkitError(
            f"{out} - is a run's folder; choose another one by --out, or {advice}"
        )
    for name in options.metric_settings:
        if name not in options.metrics:
            measured = ",".join(options.metrics)
            problem = f"options of a metric that is not among --metrics {measured}"
            raise DistillkitError(f"--set {name}. - {problem}")


def _find_inputs(
    folder: Path,
    pattern: str,
    gt_sizes: Sizes,
) -> tuple[Files, int | None]:
    """List the inputs, and tell how much larger the ground truth is."""
    files = list_images(folder, pattern)
    sizes, damaged = measure_images(files)
    refuse_problems([*find_unpaired("--lq", folder, files, gt_sizes), *damaged])
    return files, _common_scale(sizes, gt_sizes)


def _common_scale(lq_sizes: Sizes, gt_sizes: Sizes) -> int | None:
    """Divide the sides: the same whole number for all images, or None."""
    ratios = set()
    for name, gt_size in gt_sizes.items():
        for gt_side, lq_side in zip(gt_size, lq_sizes[name], strict=True):
            ratios.add(gt_side / lq_side)
    ratio = ratios.pop()
    if ratios or ratio < 1 or ratio != int(ratio):
        return None
    return int(ratio)


def _build_metrics(
    options: CompareOptions, device: torch.device
) -> tuple[list[Metric | SetMetric], dict[str, str]]:
    """Build the metrics whose weights are here, print why others are not."""
    plugins = load_plugins()
    builders = {}
    for name in options.metrics:
        spec = plugins.find("metrics", name)
        settings = options.metric_settings.get(name, {})
        builders[spec.name] = partial(build_metric, name, settings, device)
    metrics, absent = available_metrics(builders)
    for name, reason in absent.items():
        print_status(f"not measured: {name}: {reason}")
    return metrics, absent


def _read_items(
    gt_files: Files,
    lq_files: Files,
    device: torch.device,
) -> Iterator[EvaluationPair]:
    """Read the pairs; without inputs the ground truth stands in for them."""
    for name, path in gt_files.items():
        gt = read_image(path)[None].to(device)
        lq = gt
        if lq_files:
            lq = read_image(lq_files[name])[None].to(device)
        yield EvaluationPair(name, lq, gt)


def _write_comparison(
    results: Results,
    gallery: Gallery,
    out: Path,
    device: torch.device,
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(out / "manifest.json", device=str(device))
    write_evaluation(results, gallery, out)
    for check in check_sweep(results, ()):
        print_status(str(check))
    report = write_report(out, results, gallery, manifest=manifest.facts)
    manifest.close("finished")
    return report
