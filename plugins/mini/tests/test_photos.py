"""The photographs: there, readable, of known origin, and no scene in both splits."""

from __future__ import annotations

import importlib.util

import pytest
from PIL import Image

from distillkit import DistillkitError
from distillkit_mini.photos import SHIPPED, build_photos
from distillkit_mini.plugin import distillkit_datasets

OURS = {path.relative_to(SHIPPED).as_posix(): path for path in SHIPPED.rglob("*.*")}
"""All files in the folder of our photographs, by their names in it."""
ORIGIN = OURS.pop("ORIGIN.md").read_text("utf-8")


@pytest.mark.parametrize(("split", "count"), [("train", 39), ("test", 27)])
def test_every_photograph_can_be_read(split: str, count: int) -> None:
    (spec,) = distillkit_datasets()
    rows = spec.create(spec.config(split=split))
    assert len(rows) == count
    assert f"{count} " in spec.summary
    assert set(rows.column_names) == {"image", "name"}
    assert len(set(rows["name"])) == len(rows)
    for row in rows:
        with Image.open(row["image"]["path"]) as image:
            assert min(image.size) >= 300, row["name"]


def test_the_splits_share_no_scene() -> None:
    train, test = (build_photos(split)["name"] for split in ("train", "test"))
    assert not find_scenes(train) & find_scenes(test)
    assert len(find_scenes(train)) == len(train)


def find_scenes(names: list[str]) -> set[str]:
    """The scenes of photographs, some of which are halves of a stereo pair."""
    return {name.removesuffix("_left").removesuffix("_right") for name in names}


def test_the_origin_of_each_of_ours_is_told() -> None:
    rows = [line.strip("| ").split(" | ") for line in ORIGIN.splitlines() if line.startswith("| ")]
    sources = {row[0] for row in rows if len(row) == 4} - {"source", "---"}
    photographs = [row for row in rows if row[0].startswith("`")]
    assert sorted(row[0] for row in photographs) == sorted(f"`{name}`" for name in OURS)
    for _, source, address, author, license_ in photographs:
        assert source in sources
        assert address
        assert author
        assert license_ == "CC0-1.0" or license_.startswith("public domain: ")


def test_ours_are_of_one_size_small_and_without_metadata() -> None:
    assert sum(path.stat().st_size for path in OURS.values()) < 10e6
    for name, path in OURS.items():
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB"), name
            assert min(image.size) == 512, name
            assert not {"exif", "icc_profile", "comment", "xmp"} & set(image.info), name


def test_decodes_as_a_datasets_column() -> None:
    import datasets

    first = build_photos("test").cast_column("image", datasets.Image())[0]
    assert first["image"].size == (512, 512)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DistillkitError, match="pip install scikit-image"):
        build_photos("train")
