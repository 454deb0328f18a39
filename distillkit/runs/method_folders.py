"""Methods whose outputs are image files in folders, whoever made them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from distillkit.diffusion.model import ModelInput
from distillkit.errors import DataError, DistillkitError
from distillkit.evaluation.protocol import Method
from distillkit.files.images import decode_image, read_image
from distillkit.inference.files import IMAGE_FILES

Files = Mapping[str, Path]
"""Image files by their path inside a folder, without suffix."""
Sizes = dict[str, tuple[int, ...]]
"""Height and width of images, by the same names."""

RESERVED_NAMES = ("lq", "gt")
"""Labels of the input and the ground truth, beside those of methods."""
MAX_NAMES_SHOWN = 5
MAX_PROBLEMS_SHOWN = 20


def folder_methods(
    folders: Mapping[str, Path],
    sizes: Sizes,
    pattern: str = "*",
) -> list[Method]:
    """Make a method of each folder, whose outputs are the folder's files.

    Args:
        folders: the folders by ``name`` or ``name@tradeoff``.
        sizes: height and width of every image that each folder must hold.
        pattern: the names to read; all other files are ignored.

    Raises:
        DataError: all images that are missing, left over, unreadable or of another size.
        DistillkitError: a name that cannot be a method's.
    """
    methods = []
    problems: list[str] = []
    for label, folder in folders.items():
        # All problems of all folders are collected, to be mended at once.
        files = list_images(folder, pattern)
        problems += find_unpaired(label, folder, files, sizes)
        problems += _find_unusable(files, sizes)
        methods.append(_file_method(label, files))
    refuse_problems(problems)
    return methods


def list_images(folder: Path, pattern: str = "*") -> Files:
    """List the images in a folder and below it whose names match the pattern.

    Raises:
        DataError: no such folder, no image in it, or two images of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} - no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in IMAGE_FILES.readable or not path.is_file():
            continue
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


def measure_images(files: Files) -> tuple[Sizes, list[str]]:
    """Decode every image for its size.

    Returns:
        Height and width of the images that can be decoded, and a line for each that cannot.
    """
    sizes: Sizes = {}
    problems = []
    for name, path in files.items():
        try:
            sizes[name] = decode_image(path).shape[:2]
        except DataError as e:
            problems.append(str(e))
    return sizes, problems


def find_unpaired(
    label: str,
    folder: Path,
    files: Files,
    expected: Sizes,
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


def _find_unusable(files: Files, expected: Sizes) -> list[str]:
    """Find the images that are damaged or of another size than expected."""
    sizes, problems = measure_images(files)
    for name, size in sizes.items():
        # An image that is left over has been reported, and has no expected size.
        gt_size = expected.get(name, size)
        if size != gt_size:
            difference = f"{_size_text(size)} pixels, the ground truth {_size_text(gt_size)}"
            problems.append(f"{files[name]} - {difference}")
    return problems


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
