"""Sources of low-quality photographs of which nobody has the ground truth."""

import json

import numpy as np
import pytest
import torch
from interruption import assert_resumed_equals_uninterrupted
from PIL import Image

from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.evaluation_pairs import evaluation_pairs
from distillkit.data.opening import open_source
from distillkit.data.sources import Columns
from distillkit.errors import DataError, RecipeError
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe

CHANGES = (
    "stage1.teachers.fidelity.term='output'",
    "stage2.target='line'",
    "stage2.line.perceptual_weight=0",
    "training.logging_steps=1",
)


@pytest.fixture
def phone(tmp_path):
    """A folder of low-quality photographs, smaller than a clean crop."""
    folder = tmp_path / "phone"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for i in range(4):
        pixels = rng.integers(0, 255, (12, 14, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"phone{i}.png")
    return folder


@pytest.fixture
def mixed(recipe, photos, phone):
    """The toy recipe, with a second source without ground truth."""
    first = f"{{ use = 'toy/photos', folder = '{photos}' }}"
    second = f"{{ imagefolder = '{phone}', ground_truth = false }}"

    def load(*changes):
        return load_recipe(recipe, [*CHANGES, f"data.train=[{first}, {second}]", *changes])

    return load


def open_phone(phone):
    return open_source(imagefolder=phone, columns=Columns(image=None, lq="image"))


def read_log(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_crops_are_cut_of_the_low_quality_image(phone):
    source = open_phone(phone)
    settings = BatchSettings(crop_size=16, batch_size=2, scale=2, seed=0, augment=False)
    batch = TrainingBatches([source], [1.0], settings).batch("stage1", 0)
    assert batch.gt is None
    assert batch.lq.shape == (2, 3, 8, 8)
    pixels = source.read(int(batch.ids[0].split("[")[1].split("]")[0])).lq
    image = torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1
    windows = image.unfold(1, 8, 1).unfold(2, 8, 1)
    differences = (windows - batch.lq[0][:, None, None]).abs().amax(dim=(0, 3, 4))
    assert differences.min() < 1e-6


def test_images_smaller_than_the_crop_are_bad(phone):
    settings = BatchSettings(crop_size=32, batch_size=1, scale=2, seed=0)
    with pytest.raises(DataError, match="14x12 is smaller than the low-quality crop of 16x16"):
        TrainingBatches([open_phone(phone)], [1.0], settings).batch("stage1", 0)


def test_other_sources_keep_their_batches(photos, phone):
    clean = open_source(imagefolder=photos / "train")
    settings = BatchSettings(crop_size=16, batch_size=2, scale=2, seed=0)
    alone = TrainingBatches([clean], [1.0], settings)
    both = TrainingBatches([clean, open_phone(phone)], [1.0, 1.0], settings)
    batches = [both.batch("stage1", step) for step in range(6)]
    kinds = [batch.gt is None for batch in batches]
    assert 0 < sum(kinds) < 6
    first = kinds.index(False)
    # The positions in the source's order are counted without the other kind's batches.
    assert set(batches[first].ids) == set(alone.batch("stage1", 0).ids)


def test_nothing_is_evaluated_without_ground_truth(phone):
    with pytest.raises(DataError, match="no ground truth to evaluate against"):
        evaluation_pairs(open_phone(phone), None, crop=None, scale=2, seed=0)


@pytest.mark.parametrize("per_term", [False, True])
def test_a_run_logs_the_terms_of_both_kinds(mixed, tmp_path, per_term):
    resolved = mixed(f"training.per_term_backward={str(per_term).lower()}")
    run_recipe(resolved, tmp_path / "whole")
    log = read_log(tmp_path / "whole")
    stage1 = [line for line in log if "fidelity/output" in line]
    untrue = [line for line in stage1 if "l2" not in line]
    assert len(stage1) == 6
    assert 0 < len(untrue) < 6
    for line in stage1:
        assert ("realness/imitate" in line) == ("l2" in line)
    for line in untrue:
        assert line["loss"] == pytest.approx(line["fidelity/output"])
    stage2 = [line for line in log if "mix" in line]
    assert len(stage2) == 4
    assert 0 < sum("truth" in line for line in stage2) < 4


def test_interrupted_and_resumed_equals_uninterrupted(mixed, tmp_path, monkeypatch):
    assert_resumed_equals_uninterrupted(mixed(), tmp_path, monkeypatch, 2, 4)


REFUSED = [
    (["stage1.teachers.fidelity.term='score'"], "no teacher of stage 1 gives images"),
    (["stage1.teachers.fidelity.imitation_weight=0"], "no teacher of stage 1 gives images"),
    (["stage2.target='reconstruction'"], "stage 2 needs it"),
    (["stage2.target='teacher'"], "stage 2 needs it"),
    (["stage2.variant='oftsr'"], "stage 2 needs it"),
    (["stage2.line.faithful_end='ground_truth'"], "stage 2 needs it"),
    (["stage2.line.mix_weight=0"], "stage 2 needs it"),
    (["training.sharding='full'"], "calls fewer teachers"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_a_stage_with_nothing_to_learn_is_refused(mixed, changes, reason):
    with pytest.raises(RecipeError, match=rf"data\.train\.1\.ground_truth.*{reason}"):
        mixed(*changes)


def test_a_stage_that_is_left_out_is_not_refused(mixed):
    mixed("stage1.teachers.fidelity.term='score'", "stage1.steps=0")
    mixed("stage2.target='teacher'", "stage2.steps=0")


def test_held_out_sources_need_ground_truth(mixed, phone):
    table = f"data.eval=[{{ imagefolder = '{phone}', ground_truth = false }}]"
    with pytest.raises(RecipeError, match=r"data\.eval\.0\.ground_truth.*evaluate against"):
        mixed(table)


def test_such_a_source_needs_no_degradation(recipe, phone):
    text = recipe.read_text().replace('degradation = { use = "toy/halve" }\n', "")
    recipe.write_text(text)
    train = f"data.train=[{{ imagefolder = '{phone}', ground_truth = false }}]"
    load_recipe(recipe, [*CHANGES, train])
