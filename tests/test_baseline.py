"""The engine's losses are those of the paper's algorithm written plainly (``benchmarks/baseline.py``), step by step."""

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
"""Tolerance of each term at each of the steps; both sides are float32, and the same function written in two ways."""


def losses_of_both(recipe, out, *sets):
    """Terms of every step, stage 1 then stage 2, of the engine and of the baseline."""
    resolved = load_recipe(recipe, [*PLAIN, *sets])
    run_recipe(resolved, out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    plain = Baseline(resolved)
    batches = open_batches(resolved, plain, 1)
    steps = resolved.recipe.stage1.steps, resolved.recipe.stage2.steps
    terms = [*plain.stage1(batches, steps[0]), *plain.stage2(batches, steps[1])]
    return lines, [{k: float(v) for k, v in t.items()} for t in terms]


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
    ids=["reconstruction", "teacher", "clean", "saving memory"],
)
def test_the_engine_has_the_losses_of_the_plain_algorithm(recipe, tmp_path, sets, gradient, space):
    """Ten steps of training on both sides: equal gradients too, or the later losses would part."""
    sets = [*sets, f"stage1.teacher_gradient='{gradient}'", f"teachers.fidelity.space='{space}'"]
    engine, plain = losses_of_both(recipe, tmp_path / "out", *sets)
    assert len(engine) == len(plain) == 10
    for line, terms in zip(engine, plain, strict=True):
        assert {k: line[k] for k in terms} == pytest.approx(terms, rel=RELATIVE)
        assert line["loss"] == pytest.approx(sum(terms.values()), rel=RELATIVE)


def test_an_output_teacher_too(recipe, tmp_path):
    sets = [
        "teachers.fidelity={use='toy/restorer'}",
        "stage1.teachers.fidelity.term='output'",
        "stage2.target='teacher'",
    ]
    engine, plain = losses_of_both(recipe, tmp_path / "out", *sets)
    for line, terms in zip(engine, plain, strict=True):
        assert {k: line[k] for k in terms} == pytest.approx(terms, rel=RELATIVE)


def test_networks_of_the_baseline_are_separate(recipe):
    plain = Baseline(load_recipe(recipe, ["teachers.realness.seed=2"]))
    models = [plain.student, *plain.teachers.values()]
    pointers = [p.data_ptr() for m in models for p in m.parameters()]
    assert len(set(pointers)) == len(pointers) and all(
        p.dtype == torch.float32 for m in models for p in m.parameters()
    )
    with pytest.raises(ValueError, match="gate, not oftsr"):
        Baseline(load_recipe(recipe, ["stage2.variant='oftsr'"]))
    with pytest.raises(ValueError, match="not stage1.decode_crop_size"):
        Baseline(load_recipe(recipe, ["stage1.decode_crop_size=8"]))
