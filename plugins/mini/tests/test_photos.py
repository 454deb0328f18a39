"""The packaged photographs: there, readable, and no scene in both splits."""

from __future__ import annotations

import importlib.util

import pytest
from PIL import Image

from distillkit import DistillkitError
from distillkit_mini.photos import PHOTOS, build_photos
from distillkit_mini.plugin import distillkit_datasets


@pytest.mark.parametrize(("split", "least"), [("train", 8), ("test", 5)])
def test_every_photograph_can_be_read(split: str, least: int) -> None:
    (spec,) = distillkit_datasets()
    rows = spec.create(spec.config(split=split))
    assert len(rows) >= least
    assert set(rows.column_names) == {"image", "name"}
    for row in rows:
        with Image.open(row["image"]["path"]) as image:
            assert min(image.size) >= 300, row["name"]


def test_the_splits_share_no_scene() -> None:
    train, test = (find_scenes(build_photos(split)["name"]) for split in ("train", "test"))
    assert not train & test
    assert len(train) == len(PHOTOS["train"])


def find_scenes(names: list[str]) -> set[str]:
    """The scenes of photographs, some of which are halves of a stereo pair."""
    return {name.removesuffix("_left").removesuffix("_right") for name in names}


def test_decodes_as_a_datasets_column() -> None:
    import datasets

    first = build_photos("test").cast_column("image", datasets.Image())[0]
    assert first["image"].size == (512, 512)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DistillkitError, match="pip install scikit-image"):
        build_photos("train")
