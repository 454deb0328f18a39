"""What the values of a comparison depend on, as a key for each image."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillkit.environment import PACKAGES, versions
from distillkit.files.download import sha256_of
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import GROUP

METRIC_PACKAGES = ("lpips", "stlpips-pytorch", "torch-fidelity", "pyiqa")


def describe_metric(spec: Spec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a metric by its options and its weight files.

    Large weights are told apart by size and time: their hash would take longer than an image.
    """
    files = []
    for file in spec.config(**settings).weight_files():
        path = file.find()
        if path is not None:
            status = path.stat()
            files.append([str(path), status.st_size, status.st_mtime_ns])
    return {"name": spec.full_name, "settings": settings, "weights": files}


def describe_versions() -> dict[str, str]:
    """List the versions of all code that values may come from, the plugins' included."""
    found = versions((*PACKAGES, *METRIC_PACKAGES))
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.dist is not None:
            found[point.dist.name] = point.dist.version
    return found


class ImageKeys:
    """Returns the key of each image: equal where all that its values depend on is equal.

    Args:
        folders: The files by label and then by image.
        facts: What holds for all images: metrics, versions, combinations.
    """

    def __init__(self, folders: Mapping[str, Mapping[str, Path]], facts: Mapping[str, Any]) -> None:
        self._folders = folders
        self._facts = facts
        self._keys: dict[str, str] = {}

    def __call__(self, image: str) -> str:
        """Hash the image's files and the facts, once."""
        if image not in self._keys:
            hashes = {label: sha256_of(files[image]) for label, files in self._folders.items()}
            content = {"image": image, "files": hashes, **self._facts}
            text = json.dumps(content, sort_keys=True, default=str)
            self._keys[image] = hashlib.sha256(text.encode()).hexdigest()
        return self._keys[image]
