"""Comparing methods by their images in folders: no model is run, and none needs to be here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.errors import DataError, DistillkitError
from distillkit.evaluation.checks import claims
from distillkit.evaluation.gallery import Gallery
from distillkit.evaluation.protocol import (
    ALPHAS,
    Method,
    available_metrics,
    bicubic_method,
    evaluate,
)
from distillkit.files.images import decode, read_image
from distillkit.inference.costs import device_name
from distillkit.inference.files import SUFFIXES
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import build_metric
from distillkit.report.page import write_evaluation, write_report
from distillkit.runs.manifest import Manifest

Files = Mapping[str, Path]
"""Image files by their path in a folder, without suffix."""
SHOWN = 5


def compare_folders(
    gt: Path,
    folders: Mapping[str, Path],
    out: Path,
    *,
    lq: Path | None = None,
    metrics: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    only: str = "*",
    combine: tuple[str, str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    reference: str | None = None,
    device: torch.device,
    say: Callable[[str], None],
) -> Path:
    """Measure the images in ``folders`` against those in ``gt`` and write an evaluation with its report into ``out``.

    Files belong together that have the same path in their folders, apart from the suffix.

    Args:
        folders: by the method's name, or ``name@tradeoff``: a folder for each tradeoff makes a curve.
        lq: inputs, shown beside the results; adds bicubic enlargement as a method where they are smaller by a whole number.
        metrics: names. settings: options by metric.
        only: a pattern of the names to take (``"Nikon_*"``), in all folders.
        combine, alphas, reference: as of :func:`~distillkit.evaluation.protocol.evaluate`.

    Returns:
        the report.

    Raises:
        DataError: listing all images that are missing, left over, unreadable or of another size than the ground truth.
        DistillkitError: ``out`` is a run's folder; a method or a metric that does not exist.
    """
    if (out / "recipe.toml").exists():
        advice = f"choose another one by --out, or add methods to the run: distillkit eval {out} --method ..."
        raise DistillkitError(f"{out} - is a run's folder; {advice}")
    truth = image_files(gt, only)
    _refuse([*_unreadable(truth)])
    methods = folder_methods(folders, {name: _shape(path) for name, path in truth.items()}, only)
    inputs = image_files(lq, only) if lq is not None else {}
    if lq is not None:
        _refuse([*_unpaired("--lq", lq, inputs, truth), *_unreadable(inputs)])
        if (scale := _scale(inputs, truth)) and "bicubic" not in folders:
            methods.append(bicubic_method(scale))
    if unknown := settings.keys() - set(metrics):
        raise DistillkitError(
            f"--set {min(unknown)}. - options of a metric that is not among --metrics {','.join(metrics)}"
        )
    plugins = load_plugins()
    names = {plugins.find("metrics", name)[1].name: name for name in metrics}
    measures, absent = available_metrics(
        {
            short: lambda name=name: build_metric(name, settings.get(name, {}), device)
            for short, name in names.items()
        }  # type: ignore[misc]
    )
    for name, reason in absent.items():
        say(f"not measured: {name}: {reason}")
    gallery = Gallery()
    results = evaluate(
        methods,
        _items(truth, inputs, device),
        measures,
        dataset=gt.resolve().name,
        combine=combine,
        alphas=alphas,
        reference=reference,
        device=device_name(device),
        absent=absent,
        observe=lambda name, images: gallery(
            name, images if inputs else {k: v for k, v in images.items() if k != "lq"}
        ),
    )
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(out / "manifest.json", device=str(device))
    write_evaluation(results, gallery, out, ())
    for claim in claims(results, ()):
        say(str(claim))
    report = write_report(
        out, results, gallery, trained=(), recipe_toml="", manifest=manifest.facts, history=()
    )
    manifest.close("finished")
    return report


def folder_methods(
    folders: Mapping[str, Path], shapes: Mapping[str, tuple[int, int]], only: str = "*"
) -> list[Method]:
    """A method for each folder, whose outputs are its files.

    Args:
        folders: by ``name`` or ``name@tradeoff``. shapes: height and width of every image that there has to be, by name.

    Raises:
        DataError: listing all that is missing, left over, unreadable or of another size. DistillkitError: a name that is no name.
    """
    methods: list[Method] = []
    problems: list[str] = []
    for label, (name, tradeoff) in {label: _parsed(label) for label in folders}.items():
        folder = folders[label]
        files = image_files(folder, only)
        problems += _unpaired(label, folder, files, shapes)
        problems += _unreadable(
            {name: path for name, path in files.items() if name in shapes}, shapes
        )

        def restore(item: str, lq: Tensor, generator: object, files: Files = files) -> Tensor:
            return read_image(files[item])[None].to(lq.device)

        methods.append(Method(name, tradeoff, None, restore))
    _refuse(problems)
    return methods


def _parsed(label: str) -> tuple[str, float | None]:
    found = re.fullmatch(r"([\w.+-]+)(?:@(\d*\.?\d+))?", label)
    if found is None or found[1] in ("lq", "gt") or float(found[2] or 0) > 1:
        raise DistillkitError(
            f"--method {label}=... - not a name, or a name and a tradeoff from 0 to 1 (ours, ours@0.5)"
        )
    return found[1], None if found[2] is None else float(found[2])


def image_files(folder: Path, only: str = "*") -> Files:
    """The images in a folder and those below it whose name matches the pattern.

    Raises:
        DataError: no such folder, no image in it, or two of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} - no such folder")
    found: dict[str, Path] = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
    ):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not fnmatch(name, only):
            continue
        if name in found:
            raise DataError(
                f"{found[name]} and {path} - have the same name apart from the suffix; keep one"
            )
        found[name] = path
    if not found:
        raise DataError(f"{folder} - holds no images" + ("" if only == "*" else f" called {only}"))
    return found


def _unpaired(
    label: str, folder: Path, files: Files, expected: Mapping[str, object]
) -> Iterator[str]:
    for what, names in (
        ("missing", expected.keys() - files.keys()),
        ("left over", files.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{label} ({folder}) - {what}: {', '.join(sorted(names)[:SHOWN])}{more}"


def _unreadable(files: Files, shapes: Mapping[str, tuple[int, int]] | None = None) -> Iterator[str]:
    """What is wrong with each image by itself: it cannot be decoded, or has another height and width than expected."""
    for name, path in files.items():
        try:
            height, width = decode(path).shape[:2]
        except DataError as e:
            yield str(e)
            continue
        if shapes is not None and (height, width) != shapes[name]:
            yield f"{path} - {width} x {height} pixels, the ground truth {shapes[name][1]} x {shapes[name][0]}"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        shown = [
            *problems[: 4 * SHOWN],
            *([f"and {len(problems) - 4 * SHOWN} more"] if len(problems) > 4 * SHOWN else []),
        ]
        raise DataError("\n  ".join(["these folders cannot be compared:", *shown]))


def _shape(path: Path) -> tuple[int, int]:
    height, width = decode(path).shape[:2]
    return height, width


def _scale(inputs: Files, truth: Files) -> int | None:
    """How much larger the ground truth is, if it is so by one whole number for all."""
    ratios = {
        large / small
        for name in truth
        for large, small in zip(_shape(truth[name]), _shape(inputs[name]), strict=True)
    }
    ratio = ratios.pop()
    return int(ratio) if not ratios and ratio >= 1 and ratio == int(ratio) else None


def _items(truth: Files, inputs: Files, device: torch.device) -> Iterator[EvaluationPair]:
    for name, path in truth.items():
        gt = read_image(path)[None].to(device)
        yield EvaluationPair(name, read_image(inputs[name])[None].to(device) if inputs else gt, gt)
