"""At every step the engine has the losses of the plain algorithm of ``benchmarks/baseline.py``."""

import json

import pytest
import torch
from baseline import Baseline

from distillkit.recipe.load import load_recipe
from distillkit.runs.run import open_batches, run_recipe

PLAIN = [
    "training.ema_decay=0.0",
    "training.logging_steps=1",
    "training.validation_steps=0",
    "data.eval=[]",
    "stage1.reconstruction.perceptual_max_shift=3",
]
PERCEPTUAL = [
    "data.crop_size=32",
    "stage1.reconstruction.perceptual_metric='stlpips-alex'",
    "stage1.reconstruction.perceptual_weight=2.0",
    "stage1.reconstruction.l1_weight=0.5",
]
RELATIVE = 1e-5
"""Tolerance of each term at each step: the same function in float32, written in two ways."""


def losses_of_both(recipe, out, *sets):
    """Return the terms of every step, stage 1 then stage 2, of the engine and of the baseline."""
    resolved = load_recipe(recipe, [*PLAIN, *sets])
    run_recipe(resolved, out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    plain = Baseline(resolved)
    batches = open_batches(resolved, plain.student.scale, 1)
    terms = list(plain.stage1(batches, resolved.recipe.stage1.steps))
    terms += plain.stage2(batches, resolved.recipe.stage2.steps)
    return lines, [{name: float(term) for name, term in of_step.items()} for of_step in terms]


def assert_same_terms(line, terms):
    assert {name: line[name] for name in terms} == pytest.approx(terms, rel=RELATIVE)


@pytest.mark.parametrize("space", ["pixels", "unshuffle"])
@pytest.mark.parametrize("gradient", ["full", "sds"])
@pytest.mark.parametrize(
    "sets",
    [
        ["stage2.target='reconstruction'", *PERCEPTUAL],
        ["stage2.target='teacher'", "stage1.score_weighting='literal'"],
        ["stage1.score_weighting='sample'", "data.cycle_steps=2"],
        ["training.per_term_backward=true", "training.gradient_checkpointing=true", *PERCEPTUAL],
    ],
    ids=["reconstruction", "teacher", "sample", "saving memory"],
)
def test_the_engine_has_the_losses_of_the_plain_algorithm(recipe, tmp_path, sets, gradient, space):
    """Ten steps of training on both sides: equal gradients too, or the later losses would part."""
    sets = [*sets, f"stage1.teacher_gradient='{gradient}'", f"teachers.fidelity.space='{space}'"]
    engine, plain = losses_of_both(recipe, tmp_path / "out", *sets)
    assert len(engine) == len(plain) == 10
    for line, terms in zip(engine, plain, strict=True):
        assert_same_terms(line, terms)
        assert line["loss"] == pytest.approx(sum(terms.values()), rel=RELATIVE)


def test_an_output_teacher_too(recipe, tmp_path):
    sets = [
        "teachers.fidelity={use='toy/restorer'}",
        "stage1.teachers.fidelity.term='output'",
        "stage2.target='teacher'",
    ]
    engine, plain = losses_of_both(recipe, tmp_path / "out", *sets)
    for line, terms in zip(engine, plain, strict=True):
        assert_same_terms(line, terms)


def test_networks_of_the_baseline_are_separate(recipe):
    plain = Baseline(load_recipe(recipe, ["teachers.realness.seed=2"]))
    models = [plain.student, *plain.teachers.values()]
    parameters = []
    for model in models:
        parameters += model.parameters()
    pointers = {parameter.data_ptr() for parameter in parameters}
    assert len(pointers) == len(parameters)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_the_baseline_refuses_what_is_not_the_papers(recipe):
    with pytest.raises(ValueError, match="adapter_scaling, not oftsr"):
        Baseline(load_recipe(recipe, ["stage2.variant='oftsr'"]))
    with pytest.raises(ValueError, match="not stage1.decode_crop_size"):
        Baseline(load_recipe(recipe, ["stage1.decode_crop_size=8"]))
    output_loss = "stage1.teachers.fidelity.output_loss"
    with pytest.raises(ValueError, match=f"not {output_loss}"):
        Baseline(load_recipe(recipe, [f"{output_loss}='denoised'"]))
