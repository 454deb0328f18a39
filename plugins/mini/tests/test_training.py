"""The training program: what it draws, that it runs end to end, and that a seed decides the result."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillkit import DistillkitError
from distillkit_mini import train
from distillkit_mini.crops import Crops, find_photos
from distillkit_mini.photos import PHOTOS, photo_path


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    return [photo_path(package, name) for package, name in PHOTOS["train"][:3]]


def test_crops_are_repeatable_and_prefer_detail(photos: list[Path]) -> None:
    def draw(candidates: int, seed: int) -> torch.Tensor:
        return Crops(photos, 32, candidates).draw(64, torch.Generator().manual_seed(seed))

    def detail(crops: torch.Tensor) -> float:
        return crops.diff(dim=3).abs().mean().item()

    crops = draw(2, 0)
    assert crops.shape == (64, 3, 32, 32) and crops.min() >= -1 and crops.max() <= 1
    assert torch.equal(crops, draw(2, 0))
    assert not torch.equal(crops, draw(2, 1))
    assert detail(draw(6, 0)) > detail(draw(1, 0))


def test_photos_are_found_or_the_place_is_named(photos: list[Path], tmp_path: Path) -> None:
    assert find_photos([photos[0].parent]) == sorted(find_photos([photos[0].parent]))
    with pytest.raises(DistillkitError, match="no such file or folder"):
        find_photos([tmp_path / "none"])
    with pytest.raises(DistillkitError, match="no photographs"):
        find_photos([tmp_path])
    with pytest.raises(DistillkitError, match="smaller than a crop of 4096 px"):
        Crops(photos, 4096)


@pytest.mark.parametrize("task", sorted(train.COURSES))
def test_both_teachers_train_and_a_seed_decides_their_weights(
    photos: list[Path], tmp_path: Path, task: str
) -> None:
    if task == "lle":
        pytest.importorskip(
            "distillkit_lowlight",
            reason="the degradation of the low-light models is distillkit-lowlight's",
        )
    course = replace(train.COURSES[task], faithful_steps=(1, 2), realistic_steps=2)
    threads = torch.get_num_threads()
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.run(photos, tmp_path / out, seed, course=course)
    torch.set_num_threads(threads)
    for name in course.names:
        a, b, c = (load_file(tmp_path / out / f"{name}.safetensors") for out in "abc")
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(not torch.equal(a[k], c[k]) for k in a)
        assert json.loads((tmp_path / "a" / f"{name}.json").read_text())["photographs"] == 3


def test_the_low_light_quickstart_darkens_as_its_teachers_training_did() -> None:
    recipe = tomllib.loads(
        (Path(__file__).parents[3] / "recipes" / "quickstart_lle.toml").read_text()
    )
    assert recipe["degradation"] == {"use": "lowlight/dark"} | {
        name: list(bounds) for name, bounds in train.DARK.items()
    }
