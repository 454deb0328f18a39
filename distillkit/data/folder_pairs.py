"""Pairs that lie in two folders, one of clean images and one of low-quality ones."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import datasets

from distillkit.errors import DataError
from distillkit.files.listing import find_files

NAMED = 3
"""So many images without a partner an error names."""


def load_folder_pairs(gt: Path, lq: Path) -> datasets.Dataset:
    """List the pairs of two folders, as columns ``image`` and ``lq`` of paths.

    Partners have the same path below their folder and the same name, but for the suffix, and for an
    ending that all names of a folder share: ``0001.png`` and ``0001x4.png``, ``001_HR.png`` and
    ``001_LR4.png``.

    Raises:
        DataError: No such folder, no images in it, or an image without a partner.
    """
    clean = _images_by_name(gt, "imagefolder")
    low = _images_by_name(lq, "lq_folder")
    if clean.keys() != low.keys():
        clean_start = _without_shared_ending(clean)
        low_start = _without_shared_ending(low)
        if clean_start.keys() == low_start.keys():
            clean, low = clean_start, low_start
    _check_partners(clean, low, lq)
    _check_partners(low, clean, gt)
    return datasets.Dataset.from_dict(
        {
            "image": [str(path) for path in clean.values()],
            "lq": [str(low[name]) for name in clean],
        }
    )


def _images_by_name(folder: Path, key: str) -> dict[str, Path]:
    """List the images of a folder by their path below it, without the suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder} - no such folder; {key} is a folder of images")
    images: dict[str, Path] = {}
    for path in find_files(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise DataError(
                f"{path} - has the name of {images[name].name}, and pairs go by names; remove one "
                "of the two"
            )
        images[name] = path
    if not images:
        raise DataError(f"{folder} - no images in this folder")
    return images


def _without_shared_ending(images: dict[str, Path]) -> dict[str, Path]:
    """Take from every name the ending that all of them have."""
    # By characters: these are names, not folders.
    ending = os.path.commonprefix([name[::-1] for name in images])[::-1]  # noqa: RUF071
    return {name.removesuffix(ending): path for name, path in images.items()}


def _check_partners(images: dict[str, Path], others: dict[str, Path], folder: Path) -> None:
    """Refuse images that have no partner in the other folder."""
    alone = [path for name, path in images.items() if name not in others]
    if not alone:
        return
    named = ", ".join(str(path) for path in islice(alone, NAMED))
    more = ", ..." if len(alone) > NAMED else ""
    raise DataError(
        f"{folder} - has no partner for {len(alone)} of {len(images)} images: {named}{more}; "
        "partners have the same name in both folders, but for an ending that all of a folder share "
        "(x4, _LR4); other pairs are named in a metadata.jsonl, for lq_column"
    )
