"""Stage 1 with a teacher in another latent space: VQ f4 for the fidelity teacher, KL f8 for student and realness teacher."""

from pathlib import Path

import pytest
import torch

from distillkit import ModelInput
from distillkit.data.pairs import Batch
from distillkit.errors import RecipeError
from distillkit.objectives.dual_teacher import StudentOutput, draw_timesteps, score_distillation
from distillkit.recipe.build import build_adapter
from distillkit.recipe.load import load_recipe
from distillkit.training.models import build_models
from distillkit.training.step import Stage1Step

RECIPE = Path(__file__).parents[3] / "recipes" / "tiny" / "ctsr_sr4x.toml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cast():
    return build_models(load_recipe(RECIPE), CPU)


@pytest.fixture(scope="module")
def adapter(cast):
    return build_adapter(cast.student, load_recipe(RECIPE).recipe.stage1.adapter, seed=0)


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 16, generator=g) * 2 - 1, torch.rand(
        2, 3, 64, 64, generator=g
    ) * 2 - 1


def sample_of(student, lq):
    condition = student.condition(ModelInput(lq))
    latent = student.generate(condition)
    return StudentOutput(condition, latent, student.codec.decode(latent))


def fidelity_terms(cast, images, monkeypatch, times, **options):
    """Both terms, with the times of the fidelity teacher given."""
    lq, gt = images
    teacher, student = cast.teachers["fidelity"], cast.student
    monkeypatch.setattr(
        teacher.process, "sample_timesteps", lambda n, generator: torch.tensor(times)
    )
    return score_distillation(
        teacher,
        student,
        sample_of(student, lq),
        lq,
        gt,
        torch.Generator().manual_seed(1),
        **options,
    )


def gradients(adapter, loss):
    return torch.autograd.grad(
        loss, list(adapter.tensors().values()), allow_unused=True, retain_graph=True
    )


def size(found):
    return sum(g.abs().sum().item() for g in found if g is not None)


def test_the_spaces_differ_in_name_and_in_shape(cast, images):
    student, fidelity, realness = cast.student, cast.teachers["fidelity"], cast.teachers["realness"]
    assert student.codec.space == realness.codec.space != fidelity.codec.space
    assert student.codec.encode(images[1]).shape == (2, 4, 8, 8) and fidelity.codec.encode(
        images[1]
    ).shape == (2, 3, 16, 16)


def test_the_bridge_goes_through_pixels_both_ways(cast, images, monkeypatch):
    calls = []

    def note(role, network, way):
        original = getattr(network, way)
        monkeypatch.setattr(network, way, lambda x: calls.append(f"{role} {way}") or original(x))

    for role, model in {"student": cast.student, "fidelity": cast.teachers["fidelity"]}.items():
        note(role, model.codec.network, "encode")
        note(role, model.codec.network, "decode")
    fidelity_terms(cast, images, monkeypatch, [5, 9])
    assert (
        calls.count("fidelity decode") == calls.count("student encode") == 1
    )  # the teacher's clean latent, to the student
    assert calls.count("fidelity encode") == 3  # y, the ground truth, the student's image


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_both_terms_reach_the_students_adapter(cast, adapter, images, monkeypatch, gradient):
    terms = fidelity_terms(cast, images, monkeypatch, [5, 9], gradient=gradient)
    for term in terms:
        found = gradients(adapter, term)
        assert all(g is None or g.isfinite().all() for g in found) and size(found) > 0
    assert all(p.grad is None for model in cast.teachers.values() for p in model.parameters())


def test_times_that_the_student_was_never_trained_at_are_dropped(
    cast, adapter, images, monkeypatch
):
    fidelity, student = cast.teachers["fidelity"].process, cast.student.process
    last = fidelity.num_train_timesteps - 1
    times, _, kept = draw_timesteps(fidelity, student, 4000, torch.Generator().manual_seed(0), CPU)
    assert set(times[~kept].tolist()) == {last} and set(times[kept].tolist()) == set(range(last))
    dropped = fidelity_terms(cast, images, monkeypatch, [last, last])
    assert all(term.item() == 0 and size(gradients(adapter, term)) == 0 for term in dropped)
    one, both = (fidelity_terms(cast, images, monkeypatch, [5, t]) for t in (last, 5))
    assert all(term.item() > 0 for term in one) and not torch.allclose(one.anchor, both.anchor)


def test_mixed_precision_leaves_the_inputs_alone(cast, images):
    batch = Batch(images[1], None, ["a", "b"])
    plain, *_ = cast.inputs(batch, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, *_ = cast.inputs(batch, torch.Generator().manual_seed(0))
    assert mixed.dtype == torch.float32 and mixed.equal(plain)


@pytest.mark.parametrize(("crop", "accepted"), [(64, True), (96, False), (128, True)])
def test_crops_must_suit_every_teacher(crop, accepted):
    resolved = load_recipe(RECIPE, [f"data.crop_size={crop}"])
    if accepted:
        assert build_models(resolved, CPU)
    else:
        with pytest.raises(
            RecipeError,
            match=r"data\.crop - .* 96 pixels: teachers\.fidelity takes multiples of 64; all take 64",
        ):
            build_models(resolved, CPU)


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_the_teacher_of_the_other_space_may_see_a_crop(cast, adapter, monkeypatch, gradient):
    """With ``decode_crop_size`` all that the VQ autoencoder encodes and decodes is a crop; the realness teacher sees everything."""
    options = load_recipe(
        RECIPE,
        [
            "stage1.decode_crop_size=64",
            f'stage1.teacher_gradient="{gradient}"',
            "stage1.reconstruction.perceptual_weight=0",
        ],
    )
    seen = {"encode": set(), "decode": set(), "realness": set()}
    network, realness = cast.teachers["fidelity"].codec.network, cast.teachers["realness"]
    for way in ("encode", "decode"):
        original = getattr(network, way)
        monkeypatch.setattr(
            network, way, lambda x, way=way, of=original: seen[way].add(tuple(x.shape[2:])) or of(x)
        )
    predict = realness.predict
    monkeypatch.setattr(
        realness,
        "predict",
        lambda z, t, c: seen["realness"].add(tuple(z.shape[2:])) or predict(z, t, c),
    )
    gt = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    terms = Stage1Step(cast, adapter, options.recipe.stage1, None, seed=0)(
        Batch(gt, None, ["a"]), 0
    )
    assert seen == {"encode": {(64, 64)}, "decode": {(16, 16)}, "realness": {(16, 16)}}
    for name in ("fidelity/imitate", "fidelity/anchor"):
        assert terms[name] > 0 and size(gradients(adapter, terms[name])) > 0
