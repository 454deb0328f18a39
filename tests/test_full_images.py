"""Held-out images of any size: what the models see of them, and what comes of it."""

import pytest
import torch
from toy_models import Enlarger

from distillkit import ModelInput
from distillkit.diffusion.padding import restore_padded
from distillkit.inference.full_images import restore_full_image
from distillkit.inference.student import Student
from distillkit.recipe.load import load_recipe
from distillkit.runs.evaluate import evaluate_run
from distillkit.runs.run import run_recipe


@pytest.fixture
def seen(monkeypatch):
    """The sizes of all images that students are given."""
    sizes = []
    restore = Student.restore

    def note(student, inputs, *args):
        sizes.append(tuple(inputs.lq.shape[-2:]))
        return restore(student, inputs, *args)

    monkeypatch.setattr(Student, "restore", note)
    return sizes


def restore(image, tile=None, **model_attributes):
    model = Enlarger()
    for name, value in model_attributes.items():
        setattr(model, name, value)
    student = Student(model.requires_grad_(False), None)
    inputs = ModelInput(image)
    tiled = restore_full_image(student, inputs, None, torch.Generator(), device="cpu", tile=tile)
    in_one_piece = restore_padded(model.restore, inputs, model.scale, model.size_multiple)
    return tiled, in_one_piece


@pytest.mark.parametrize("size", [(32, 32), (7, 100), (31, 30)])
def test_an_image_of_no_more_pixels_than_a_tile_is_seen_as_it_is(seen, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    tiled, in_one_piece = restore(image, tile=32, size_multiple=4)
    assert torch.equal(tiled, in_one_piece)
    assert len(seen) == 1


def test_of_a_larger_image_the_model_sees_no_more_than_a_tile_at_once(seen):
    image = torch.rand(1, 3, 150, 90, generator=torch.Generator().manual_seed(0))
    tiled, in_one_piece = restore(image, tile=32)
    assert max(height * width for height, width in seen) <= 32 * 32
    assert tiled.shape == in_one_piece.shape == (1, 3, 300, 180)
    assert (tiled - in_one_piece).abs().mean() < 0.01


def test_the_default_tile_is_that_of_a_restorer(seen):
    restore(torch.zeros(1, 3, 384, 384), scale=2)
    assert seen == [(384, 384)]
    seen.clear()
    restore(torch.zeros(1, 3, 384, 385), scale=2)
    assert len(seen) > 1


def test_the_tiles_of_an_evaluation_are_the_recipes(recipe, tmp_path, seen):
    sets = ["stage2.steps=0", "evaluation.tradeoffs=[0.0]"]
    run_recipe(load_recipe(recipe, sets), tmp_path / "run")
    assert max(seen) == (20, 24)
    seen.clear()
    tiles = load_recipe(tmp_path / "run/recipe.toml", ["evaluation.tile_size=16"])
    evaluate_run(tiles, tmp_path / "run", "cpu")
    assert max(height * width for height, width in seen) <= 16 * 16
