"""Methods whose outputs are image files in folders, whoever made them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distillkit.console import logger, progress_bar
from distillkit.diffusion.model import ModelInput
from distillkit.errors import DataError, DistillkitError
from distillkit.evaluation.protocol import Method
from distillkit.files.images import Pixels, decode_with_alpha, read_image
from distillkit.files.listing import find_files

Files = Mapping[str, Path]
"""Image files by their path inside a folder, without suffix."""


class Layout(NamedTuple):
    """What images of one name have to have in common."""

    size: tuple[int, ...]
    """Height and width."""
    is_gray: bool
    """All channels are equal."""
    is_transparent: bool = False
    """Something shines through; it is laid on white."""


Layouts = dict[str, Layout]
"""Layouts of images, by the same names."""

RESERVED_NAMES = ("lq", "gt")
"""Labels of the input and the ground truth, beside those of methods."""
MAX_NAMES_SHOWN = 5
MAX_PROBLEMS_SHOWN = 20


def read_folders(
    folders: Mapping[str, Path],
    expected: Layouts,
    pattern: str = "*",
) -> dict[str, Files]:
    """List the files of each method's folder, and check that they can be compared.

    Images that lost their colors or their transparency are warned of.

    Args:
        folders: The folders by ``name`` or ``name@tradeoff``.
        expected: Layout of every image that each folder must hold.
        pattern: The names to read; all other files are ignored.

    Returns:
        The files by the same labels.

    Raises:
        DataError: All images that are missing, left over, unreadable or of another size.
        DistillkitError: A name that cannot be a method's.
    """
    files_by_label = {}
    problems: list[str] = []
    warnings: list[str] = []
    for label, folder in folders.items():
        _parse_label(label)
        # All problems of all folders are collected, to be mended at once.
        files = list_images(folder, pattern)
        logger.info(f"reading {label}: {len(files)} images")
        layouts, damaged = inspect_images(files)
        problems += find_unpaired(label, folder, files, expected)
        problems += damaged
        problems += _find_other_sizes(files, layouts, expected)
        warnings += _find_other_kinds(label, layouts, expected)
        files_by_label[label] = files
    refuse_problems(problems)
    for warning in warnings:
        logger.warning(warning)
    return files_by_label


def folder_methods(files_by_label: Mapping[str, Files]) -> list[Method]:
    """Make a method of each folder, whose outputs are the folder's files."""
    return [_file_method(label, files) for label, files in files_by_label.items()]


def list_images(folder: Path, pattern: str = "*") -> Files:
    """List the images in a folder and below it whose names match the pattern.

    Raises:
        DataError: No such folder, no image in it, or two images of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} - no such folder")
    files: dict[str, Path] = {}
    for path in find_files(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not fnmatch(name, pattern):
            continue
        if name in files:
            problem = "have the same name apart from the suffix; keep one"
            raise DataError(f"{files[name]} and {path} - {problem}")
        files[name] = path
    if not files:
        named = "" if pattern == "*" else f" called {pattern}"
        raise DataError(f"{folder} - holds no images{named}")
    return files


def inspect_images(files: Files) -> tuple[Layouts, list[str]]:
    """Decode every image for its layout.

    Returns:
        The layouts of the images that can be decoded, and a line for each that cannot.
    """
    layouts: Layouts = {}
    problems = []
    for name, path in progress_bar(files.items(), unit="image", desc="reading"):
        try:
            layouts[name] = _layout(decode_with_alpha(path))
        except DataError as e:
            problems.append(str(e))
    return layouts, problems


def _layout(pixels: Pixels) -> Layout:
    colors = pixels.colors
    is_gray = pixels.gray or bool((colors == colors[..., :1]).all())
    is_transparent = pixels.alpha is not None and bool((pixels.alpha < 255).any())
    return Layout(colors.shape[:2], is_gray, is_transparent)


def find_unpaired(
    label: str,
    folder: Path,
    files: Files,
    expected: Layouts,
) -> Iterator[str]:
    """Tell which expected images a folder lacks, and which others it has."""
    differences = {
        "missing": expected.keys() - files.keys(),
        "left over": files.keys() - expected.keys(),
    }
    for difference, names in differences.items():
        if names:
            shown = ", ".join(_shorten(sorted(names), MAX_NAMES_SHOWN))
            yield f"{label} ({folder}) - {difference}: {shown}"


def refuse_problems(problems: Sequence[str]) -> None:
    """Raise a DataError that lists the problems, if there are any."""
    if problems:
        lines = ["these folders cannot be compared:"]
        lines += _shorten(problems, MAX_PROBLEMS_SHOWN)
        raise DataError("\n  ".join(lines))


def _find_other_sizes(files: Files, layouts: Layouts, expected: Layouts) -> Iterator[str]:
    """Find the images of another size than expected."""
    for name, layout in layouts.items():
        # An image that is left over has been reported, and has no expected size.
        gt_size = expected.get(name, layout).size
        if layout.size != gt_size:
            difference = f"{_size_text(layout.size)} pixels, the ground truth {_size_text(gt_size)}"
            yield f"{files[name]} - {difference}"


def _find_other_kinds(label: str, layouts: Layouts, expected: Layouts) -> Iterator[str]:
    """Find the images that differ from the ground truth in having colors or transparency."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, layout in layouts.items():
        for difference in _differences(layout, expected.get(name, layout)):
            found[difference].append(name)
    for difference, names in found.items():
        shown = ", ".join(_shorten(names, MAX_NAMES_SHOWN))
        yield f"{label}: {len(names)} of {len(layouts)} images are {difference}: {shown}"


def _differences(layout: Layout, gt: Layout) -> Iterator[str]:
    if layout.is_gray and not gt.is_gray:
        yield "gray, the ground truth has colors"
    if gt.is_gray and not layout.is_gray:
        yield "in colors, the ground truth is gray"
    if layout.is_transparent and not gt.is_transparent:
        yield "transparent (laid on white), the ground truth is opaque"
    if gt.is_transparent and not layout.is_transparent:
        yield "opaque, the ground truth is transparent (laid on white)"


def _size_text(size: tuple[int, ...]) -> str:
    height, width = size
    return f"{width} x {height}"


def _shorten(lines: Sequence[str], limit: int) -> list[str]:
    shown = list(lines[:limit])
    hidden = len(lines) - limit
    if hidden > 0:
        shown.append(f"and {hidden} more")
    return shown


def _file_method(label: str, files: Files) -> Method:
    def restore(item: str, inputs: ModelInput, generator: torch.Generator) -> Tensor:
        image = read_image(files[item])
        return image[None].to(inputs.lq.device)

    name, tradeoff = _parse_label(label)
    return Method(name, tradeoff, None, restore)


def _parse_label(label: str) -> tuple[str, float | None]:
    """Split ``"ours@0.5"`` into a name and a tradeoff, if there is one."""
    match = re.fullmatch(r"([\w.+-]+)(?:@(\d*\.?\d+))?", label)
    name, tradeoff = match.groups() if match else ("", None)
    if not name or name in RESERVED_NAMES or float(tradeoff or 0) > 1:
        expected = "a name, or a name and a tradeoff from 0 to 1 (ours, ours@0.5)"
        raise DistillkitError(f"--method {label}=... - not a name; expected {expected}")
    if tradeoff is None:
        return name, None
    return name, float(tradeoff)
