"""Stages that are trained for a few steps take the steps of a run."""

import json

import pytest

from distillkit import DistillkitError, load_recipe, prepare_stages, run_recipe

ALL_LOSSES = ["training.logging_steps=1", "data.eval=[]"]


def test_the_losses_are_those_of_a_run(recipe, tmp_path):
    resolved = load_recipe(recipe, ALL_LOSSES)
    run_recipe(resolved, tmp_path / "run")
    of_run = {"stage1": [], "stage2": []}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        of_run[values["stage"]].append(values["loss"])
    losses = {}
    for prepared in prepare_stages(resolved):
        batches = prepared.open_batches(16)
        steps = prepared.stage.steps
        losses[prepared.name] = prepared.train(batches, steps, lambda steps_made: None)
    assert losses == of_run


def test_the_first_steps_that_learn_something_else_are_left_out(recipe):
    first = ["stage1.pretraining_steps=5", "stage2.faithful_steps=3"]
    losses = []
    for settings in ([], first):
        for prepared in prepare_stages(load_recipe(recipe, settings)):
            losses.append(prepared.train(prepared.open_batches(16), 2, lambda steps_made: None))
    assert losses[:2] == losses[2:]


def test_it_calls_back_before_the_first_step_and_after_each(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    prepared = next(prepare_stages(load_recipe(recipe)))
    calls = []
    prepared.train(prepared.open_batches(8), 3, calls.append)
    assert calls == [0, 1, 2, 3]
    assert set(tmp_path.rglob("*")) == before


def test_crops_have_the_size_asked_for(recipe):
    prepared = next(prepare_stages(load_recipe(recipe)))
    batch = prepared.open_batches(8).batch("stage1", 0, 0)
    assert batch.gt.shape == (2, 3, 8, 8)


def test_stage_2_has_the_faithful_teacher_alone_and_a_student_with_a_tradeoff(recipe):
    third = [
        "teachers.third={ use = 'toy/realistic' }",
        "stage1.teachers.third={ weight = 0.5 }",
        "stage2.target='teacher'",
    ]
    stages = prepare_stages(load_recipe(recipe, third))
    stage1 = next(stages)
    assert set(stage1.models.teachers) == {"fidelity", "realness", "third"}
    assert stage1.student.variant is None
    stage2 = next(stages)
    assert set(stage2.models.teachers) == {"fidelity"}
    assert stage2.student.variant is not None
    assert list(stages) == []


def test_a_stage_without_steps_is_left_out(recipe):
    (stage2,) = prepare_stages(load_recipe(recipe, ["stage1.steps=0"]))
    assert stage2.name == "stage2"
    (stage1,) = prepare_stages(load_recipe(recipe, ["stage2.steps=0"]))
    assert stage1.name == "stage1"


def test_held_out_images_may_be_missing_but_not_those_to_train_on(recipe):
    missing = "[{imagefolder='nowhere'}]"
    next(prepare_stages(load_recipe(recipe, [f"data.eval={missing}"])))
    with pytest.raises(DistillkitError, match=r"data.train.0.imagefolder - no such folder"):
        next(prepare_stages(load_recipe(recipe, [f"data.train={missing}"])))
