"""Line distillation, and students that have no denoiser."""

import json

import pytest
import torch
from toy_models import Enlarger, ToyModel

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.diffusion.model import Condition
from distillkit.errors import RecipeError
from distillkit.inference.student import load_student
from distillkit.objectives.adapter_scaling import AdapterScaling, LineObjective
from distillkit.objectives.controllability import Stage2Batch
from distillkit.objectives.dual_teacher import StudentOutput, score_distillation
from distillkit.objectives.grid import grid_loss
from distillkit.objectives.line import LineLoss
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe

WEIGHTS = {
    "mix_weight": 0.7,
    "ground_truth_weight": 0.2,
    "faithful_weight": 0.5,
    "mix_perceptual_weight": 0.4,
    "perceptual_weight": 0.3,
    "faithful_perceptual_weight": 0.05,
    "l2_weight": 10.0,
    "l1_weight": 2.0,
}


def draw_images(seed, side=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, side, side, generator=generator) * 2 - 1


def cubed_error(a, b):
    return (a - b).abs().pow(3).mean(dim=(1, 2, 3))


def fourth_power_error(a, b):
    return (a - b).pow(4).mean(dim=(1, 2, 3))


def make_loss(**changes):
    return LineLoss(**(WEIGHTS | changes), distances=[cubed_error, fourth_power_error])


def loss_of(loss, x_t, t, m_t, x):
    return sum(loss(x_t, t, m_t, x, torch.Generator()).values())


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_loss_is_the_equation(t):
    x_t, m_t, x = (draw_images(seed) for seed in range(3))

    def pixel_loss(a, b):
        return 10 * (a - b).square().mean() + 2 * (a - b).abs().mean()

    def distance(a, b):
        return (cubed_error(a, b).mean() + fourth_power_error(a, b).mean()) / 2

    expected = 0.7 * pixel_loss(x_t, m_t) + (0.2 + t * 0.5) * pixel_loss(x_t, x)
    expected = expected + (1 - t) * 0.4 * distance(x_t, m_t)
    expected = expected + ((1 - t) * 0.3 + t * 0.05) * distance(x_t, x)
    torch.testing.assert_close(loss_of(make_loss(), x_t, t, m_t, x), expected)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_grid_counts_at_every_tradeoff_and_without_a_target(t):
    x_t = draw_images(0, side=16)
    losses = make_loss(grid_weight=3.0)(x_t, t, None, None, torch.Generator())
    assert losses.keys() == {"grid"}
    torch.testing.assert_close(losses["grid"], 3 * grid_loss(x_t, 4))


def test_its_gradient_is_that_of_finite_differences():
    x_t, m_t, x = (draw_images(seed, side=3).double() for seed in range(3))
    x_t.requires_grad_()
    assert torch.autograd.gradcheck(lambda image: loss_of(make_loss(), image, 0.4, m_t, x), x_t)


def test_without_ground_truth_or_without_teachers_the_other_terms_are_the_same():
    x_t, m_t, x = (draw_images(seed) for seed in range(3))
    everything = make_loss()(x_t, 0.4, m_t, x, torch.Generator())
    untrue = make_loss()(x_t, 0.4, m_t, None, torch.Generator())
    control = make_loss()(x_t, 0.4, None, x, torch.Generator())
    assert untrue.keys() == {"mix", "mix_perceptual"}
    assert control.keys() == {"truth", "perceptual"}
    for name, value in (untrue | control).items():
        assert torch.equal(value, everything[name])


def make_batch(student, faithful, realistic, gt, step):
    lq = draw_images(9, side=4)
    return Stage2Batch(
        condition=student.condition(ModelInput(lq)),
        gt=gt,
        stage1_latent=lambda: pytest.fail("nobody asked for the stage-1 student"),
        faithful_target=lambda: pytest.fail("nobody asked for a latent"),
        realistic_image=realistic,
        faithful_image=faithful,
        generator=torch.Generator().manual_seed(0),
        student_generator=torch.Generator,
        step=step,
        averaged_weights=torch.no_grad,
    )


def test_the_optimum_of_the_mix_is_the_line_between_the_ends():
    """A student that is free to give any image ends on m_t, at each tradeoff."""
    faithful, realistic, gt = (draw_images(seed) for seed in range(3))
    loss = LineLoss(faithful_weight=0.0)
    objective = LineObjective(Enlarger(), loss, "teacher", "teacher")
    batch = make_batch(Enlarger(), lambda: faithful, lambda: realistic, gt, 0)
    for t in (0.0, 0.25, 1.0):
        image = ((1 - t) * realistic + t * faithful).requires_grad_()
        total = sum(objective(batch, t, image).values())
        (gradient,) = torch.autograd.grad(total, image)
        assert total < 1e-6
        assert gradient.abs().max() < 1e-6


def test_an_end_of_weight_zero_is_not_asked():
    student = Enlarger()
    gt = draw_images(2)
    variant = AdapterScaling(
        student,
        add_adapter(student.network, "full"),
        LineObjective(student, LineLoss(), "teacher", "teacher"),
        faithful_steps=2,
        faithful_every=0,
    )
    refuse = pytest.fail

    def realistic():
        refuse("tradeoff 1 has no use for the realistic end")

    for step in range(2):
        variant.losses(make_batch(student, lambda: gt, realistic, gt, step))
    with pytest.raises(pytest.fail.Exception):
        variant.losses(make_batch(student, lambda: gt, realistic, gt, 2))


def test_the_ground_truth_can_be_the_faithful_end():
    realistic, gt = draw_images(1), draw_images(2)
    objective = LineObjective(Enlarger(), LineLoss(faithful_weight=0), "teacher", "ground_truth")
    batch = make_batch(Enlarger(), lambda: pytest.fail("no teacher"), lambda: realistic, gt, 0)
    image = 0.4 * gt + 0.6 * realistic
    assert sum(objective(batch, 0.4, image).values()) < 1e-6


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_a_student_without_a_denoiser_is_pulled_to_the_denoised_sample(gradient):
    """With the output as imitator, the gradient is that of score distillation sampling."""
    student, teacher = Enlarger(seed=1), ToyModel(seed=2).requires_grad_(False)
    lq, gt = draw_images(3, side=4), draw_images(4)
    image = student.network(lq)
    terms = score_distillation(
        teacher,
        student,
        StudentOutput(Condition(), image, image),
        ModelInput(lq),
        gt,
        torch.Generator().manual_seed(0),
        weighting="sample",
        gradient=gradient,
        imitator="output",
    )
    (push,) = torch.autograd.grad(terms.imitate, image, retain_graph=True)

    generator = torch.Generator().manual_seed(0)
    t = teacher.process.sample_timesteps(2, generator)
    noise = torch.randn(image.shape, generator=generator)
    condition = teacher.condition(ModelInput(lq))
    z_t = teacher.process.add_noise(image, noise, t, condition.y)
    denoised = teacher.predict(z_t, t, condition).sample
    torch.testing.assert_close(push, 2 * (image - denoised).detach() / image.numel())


LINE = (
    "student = { use = 'toy/enlarger' }",
    "stage1.teachers.fidelity.term = 'output'",
    "stage1.teachers.realness.term = 'output'",
    "stage2.target = 'line'",
    "stage2.line.perceptual_weight = 0",
)


def overrides(*more):
    return [text.replace(" = ", "=", 1) for text in (*LINE, *more)]


def test_a_student_without_a_denoiser_is_distilled(recipe, tmp_path):
    run_recipe(load_recipe(recipe, overrides()), tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert {"fidelity/output", "realness/output"} <= logged[0].keys()
    assert {"mix", "truth"} <= logged[-1].keys()
    student = load_student(tmp_path / "run")
    inputs = ModelInput(draw_images(0))
    realistic, middle, faithful = student.restore_each(inputs, [0.0, 0.5, 1.0])
    assert realistic.shape == (2, 3, 16, 16)
    assert not torch.equal(realistic, middle)
    assert not torch.equal(middle, faithful)


def test_without_stage_1_the_realistic_end_is_the_student_as_built(recipe, tmp_path):
    run_recipe(load_recipe(recipe, overrides("stage1.steps = 0")), tmp_path / "run")
    inputs = ModelInput(draw_images(0))
    student = load_student(tmp_path / "run")
    assert torch.equal(student.restore(inputs, 0.0), Enlarger().restore(inputs))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["stage1.teachers.realness.term = 'score'"], "stage1.teachers.realness.imitator"),
        (["stage1.teachers.fidelity.output_loss = 'denoised'"], "fidelity.output_loss"),
        (["stage2.variant = 'oftsr'"], "stage2.variant"),
    ],
)
def test_what_asks_a_missing_denoiser_is_refused_with_what_each_model_offers(recipe, changes, key):
    with pytest.raises(RecipeError, match=key) as refused:
        load_recipe(recipe, overrides(*changes))
    assert "toy/enlarger has none" in str(refused.value)
    assert "student" in str(refused.value)
    assert "toy/faithful" in str(refused.value)


def test_a_score_teacher_may_pull_its_output(recipe, tmp_path):
    changes = [
        "stage1.teachers.realness.term = 'score'",
        "stage1.teachers.realness.imitator = 'output'",
    ]
    run_recipe(load_recipe(recipe, overrides(*changes)), tmp_path / "run")
    logged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert logged["realness/imitate"] > 0


def test_the_line_names_the_teachers_that_it_asks(recipe):
    load_recipe(recipe, overrides("stage2.line.faithful_end = 'ground_truth'"))
    text = recipe.read_text().replace("teachers.realness", "teachers.other")
    recipe.write_text(text + "[stage1.teachers.other]\n[stage1.teachers.realness]\nweight = 0\n")
    changes = overrides()
    del changes[2]
    with pytest.raises(RecipeError, match=r"images of teachers\.realness.*missing"):
        load_recipe(recipe, changes)


def test_a_stage_that_is_left_out_needs_no_metric(recipe):
    changes = overrides("stage1.reconstruction.perceptual_weight = 1")
    assert load_recipe(recipe, changes).perceptual_metric is not None
    assert load_recipe(recipe, [*changes, "stage1.steps=0"]).perceptual_metric is None
    with_stage2 = [*changes, "stage1.steps=0", "stage2.target='reconstruction'"]
    assert load_recipe(recipe, with_stage2).perceptual_metric is not None
