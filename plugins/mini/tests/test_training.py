"""The training program draws, runs end to end, and a seed decides the result."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import distillkit_mini
from distillkit import DistillkitError
from distillkit_mini import train
from distillkit_mini.pairs import BATCH, TrainingPairs, open_photos
from distillkit_mini.photos import find_photos
from distillkit_mini.training_setups import DARK, TRAINING_SETUPS

SUPER_RESOLUTION = TRAINING_SETUPS["sr4x"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in find_photos("train")[:3]:
        shutil.copy(path, folder)
    return folder


def draw_pairs(folder: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    batches = open_photos([folder], SUPER_RESOLUTION, seed)
    return TrainingPairs(batches, SUPER_RESOLUTION.degradation(), seed).draw()


def test_training_pairs_are_repeatable(photos: Path) -> None:
    lq, gt = draw_pairs(photos, seed=0)
    assert gt.shape == (BATCH, 3, 64, 64)
    assert lq.shape == (BATCH, 3, 16, 16)
    assert gt.min() >= -1 and gt.max() <= 1
    again = draw_pairs(photos, seed=0)
    assert torch.equal(again[0], lq) and torch.equal(again[1], gt)
    assert not torch.equal(draw_pairs(photos, seed=1)[1], gt)


def test_large_photographs_are_used_at_half_their_size_too(photos: Path) -> None:
    full, halves = open_photos([photos], SUPER_RESOLUTION, seed=0).sources
    sizes = [min(full.read(i).gt.shape[:2]) for i in range(len(full))]
    large = [size // 2 for size in sizes if size >= SUPER_RESOLUTION.large]
    assert [min(halves.read(i).gt.shape[:2]) for i in range(len(halves))] == large


def test_folders_without_photographs_are_named(photos: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(DistillkitError, match=str(folder)):
            open_photos([photos, folder], SUPER_RESOLUTION, seed=0)


def test_photographs_smaller_than_a_crop_are_left_out(photos: Path, tmp_path: Path) -> None:
    batches = open_photos([photos], replace(SUPER_RESOLUTION, crop=4096), seed=0)
    pairs = TrainingPairs(batches, SUPER_RESOLUTION.degradation(), seed=0)
    with pytest.raises(DistillkitError, match="smaller than the crop"):
        pairs.draw()


@pytest.mark.parametrize("task", sorted(TRAINING_SETUPS))
def test_both_teachers_train_and_a_seed_decides_their_weights(
    photos: Path, tmp_path: Path, task: str
) -> None:
    if task == "lle":
        pytest.importorskip(
            "distillkit_lowlight",
            reason="the degradation of the low-light models is distillkit-lowlight's",
        )
    setup = replace(TRAINING_SETUPS[task], faithful_steps=(1, 2), realistic_steps=2)
    threads = torch.get_num_threads()
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.run([photos], tmp_path / out, seed, setup)
    torch.set_num_threads(threads)
    for name in setup.names:
        a, b, c = (load_file(tmp_path / out / f"{name}.safetensors") for out in "abc")
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert any(not torch.equal(a[key], c[key]) for key in a)
        card = json.loads((tmp_path / "a" / f"{name}.json").read_text())
        assert card["photographs"] == 3


def test_the_low_light_recipe_darkens_as_its_teachers_training_did() -> None:
    path = Path(distillkit_mini.__file__).parent / "recipes" / "paper_lle.toml"
    recipe = tomllib.loads(path.read_text())
    assert recipe["degradation"] == {"use": "lowlight/dark"} | {
        name: list(bounds) for name, bounds in DARK.items()
    }
