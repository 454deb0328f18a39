"""Stage 1 with a teacher in another latent space.

The fidelity teacher has VQ f4 latents, student and realness teacher have KL f8 latents.
"""

import pytest
import torch

from distillkit import ModelInput
from distillkit.data.batches import Batch
from distillkit.diffusion.prediction import Prediction
from distillkit.errors import RecipeError
from distillkit.objectives.dual_teacher import StudentOutput, draw_timesteps, score_distillation
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.build import build_adapter
from distillkit.recipe.load import load_recipe
from distillkit.training.models import build_models
from distillkit.training.step import Stage1Step

RECIPE = "superres/tiny/ctsr_sr4x"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models():
    return build_models(load_recipe(RECIPE), CPU)


@pytest.fixture(scope="module")
def adapter(models):
    return build_adapter(
        models.student.stage1_network, load_recipe(RECIPE).recipe.stage1.adapter, seed=0
    )


@pytest.fixture
def images():
    """Low-quality and clean images."""
    g = torch.Generator().manual_seed(0)
    lq = torch.rand(2, 3, 16, 16, generator=g) * 2 - 1
    gt = torch.rand(2, 3, 64, 64, generator=g) * 2 - 1
    return lq, gt


def output_of(student, lq):
    condition = student.condition(ModelInput(lq))
    latent = student.generate(condition)
    return StudentOutput(condition, latent, student.codec.decode(latent))


def fidelity_terms(models, images, monkeypatch, timesteps, **options):
    """Both terms, at given timesteps of the fidelity teacher."""
    lq, gt = images
    teacher = models.teachers["fidelity"]
    student = models.student

    def sample_timesteps(n, generator):
        return torch.tensor(timesteps)

    monkeypatch.setattr(teacher.process, "sample_timesteps", sample_timesteps)
    return score_distillation(
        teacher,
        student,
        output_of(student, lq),
        ModelInput(lq),
        gt,
        torch.Generator().manual_seed(1),
        **options,
    )


def record(monkeypatch, model, method):
    """List the sizes of what a method is called with."""
    sizes = []
    original = getattr(model, method)

    def recorded(x, *others):
        sizes.append(tuple(x.shape[2:]))
        return original(x, *others)

    monkeypatch.setattr(model, method, recorded)
    return sizes


def gradients(adapter, loss):
    tensors = list(adapter.tensors().values())
    return torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)


def size(found):
    return sum(g.abs().sum().item() for g in found if g is not None)


def test_the_spaces_differ_in_name_and_in_shape(models, images):
    _, gt = images
    student = models.student.codec
    fidelity = models.teachers["fidelity"].codec
    realness = models.teachers["realness"].codec
    assert student.space == realness.space != fidelity.space
    assert student.encode(gt).shape == (2, 4, 8, 8)
    assert fidelity.encode(gt).shape == (2, 3, 16, 16)


def test_the_bridge_goes_through_pixels_both_ways(models, images, monkeypatch):
    student = models.student.codec.network
    fidelity = models.teachers["fidelity"].codec.network
    student_encoded = record(monkeypatch, student, "encode")
    fidelity_encoded = record(monkeypatch, fidelity, "encode")
    fidelity_decoded = record(monkeypatch, fidelity, "decode")
    fidelity_terms(models, images, monkeypatch, [5, 9])
    # The teacher's clean latent goes to the student's space.
    assert len(fidelity_decoded) == len(student_encoded) == 1
    # y, the ground truth and the student's image go to the teacher's.
    assert len(fidelity_encoded) == 3


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_both_terms_reach_the_students_adapter(models, adapter, images, monkeypatch, gradient):
    terms = fidelity_terms(models, images, monkeypatch, [5, 9], gradient=gradient)
    for term in terms:
        found = gradients(adapter, term)
        assert all(g is None or g.isfinite().all() for g in found)
        assert size(found) > 0
    assert all(p.grad is None for model in models.teachers.values() for p in model.parameters())


def test_timesteps_that_the_student_was_never_trained_at_are_not_drawn(models):
    fidelity = models.teachers["fidelity"].process
    generator = torch.Generator().manual_seed(0)
    timesteps, _ = draw_timesteps(fidelity, models.student.process, 4000, generator, CPU)
    last = fidelity.num_train_timesteps - 1
    assert set(timesteps.tolist()) == set(range(last))


def test_a_batch_of_8_weighs_as_8_batches_of_1(monkeypatch):
    """ResShift v3 has 4 timesteps, and the student knows 3 of them.

    Gradient accumulation and several processes both number their micro-batches, and average them.
    With predictions that are the same at all timesteps, so is every term.
    """
    resolved = load_recipe(RECIPE, ['teachers.fidelity.version="v3"'])
    models = build_models(resolved, CPU)
    fidelity = models.teachers["fidelity"]
    assert fidelity.process.num_train_timesteps == 4
    for model, value in ((fidelity, 0.3), (models.student, 0.1)):
        predict_same(monkeypatch, model, value)
    changes = [
        'stage1.score_weighting="sample"',
        "stage1.reconstruction.perceptual_weight=0",
        "stage1.teachers.realness.weight=0",
    ]
    stage1 = load_recipe(RECIPE, changes).recipe.stage1
    adapter = build_adapter(models.student.stage1_network, stage1.adapter, seed=0)
    step = Stage1Step(models, adapter, stage1, ReconstructionLoss(), seed=0)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = imitation(step, image.expand(8, -1, -1, -1), 0)
    assert together > 0
    for number in range(8):
        torch.testing.assert_close(imitation(step, image, number), together)


def predict_same(monkeypatch, model, value):
    """Let a model predict one value everywhere, at every timestep."""

    def predict(z_t, t, condition):
        constant = torch.full_like(z_t, value)
        return Prediction(constant, constant)

    monkeypatch.setattr(model, "predict", predict)


def imitation(step, gt, micro_batch):
    """The imitation term of the fidelity teacher, for one micro-batch."""
    step.micro_batch = micro_batch
    ids = [str(i) for i in range(len(gt))]
    with torch.no_grad():
        return step(Batch(gt, None, ids), 0)["fidelity/imitate"]


def test_mixed_precision_leaves_the_inputs_alone(models, images):
    _, gt = images
    batch = Batch(gt, None, ["a", "b"])
    plain = models.prepare(batch, torch.Generator().manual_seed(0)).lq
    with torch.autocast("cpu", torch.bfloat16):
        mixed = models.prepare(batch, torch.Generator().manual_seed(0)).lq
    assert mixed.dtype == torch.float32
    assert mixed.equal(plain)


@pytest.mark.parametrize(("crop", "accepted"), [(64, True), (96, False), (128, True)])
def test_crops_must_suit_every_teacher(crop, accepted):
    resolved = load_recipe(RECIPE, [f"data.crop_size={crop}"])
    if accepted:
        assert build_models(resolved, CPU)
    else:
        message = r".* 96 pixels: teachers\.fidelity takes multiples of 64; all take 64"
        with pytest.raises(RecipeError, match=rf"data\.crop_size - {message}"):
            build_models(resolved, CPU)


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_the_teacher_of_the_other_space_may_see_a_crop(models, adapter, monkeypatch, gradient):
    """With ``decode_crop_size`` the VQ autoencoder encodes and decodes crops only.

    The realness teacher sees everything.
    """
    changes = [
        "stage1.decode_crop_size=64",
        f'stage1.teacher_gradient="{gradient}"',
        "stage1.reconstruction.perceptual_weight=0",
    ]
    stage1 = load_recipe(RECIPE, changes).recipe.stage1
    autoencoder = models.teachers["fidelity"].codec.network
    encoded = record(monkeypatch, autoencoder, "encode")
    decoded = record(monkeypatch, autoencoder, "decode")
    predicted = record(monkeypatch, models.teachers["realness"], "predict")
    gt = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    step = Stage1Step(models, adapter, stage1, ReconstructionLoss(), seed=0)
    terms = step(Batch(gt, None, ["a"]), 0)
    assert set(encoded) == {(64, 64)}
    assert set(decoded) == {(16, 16)}
    assert set(predicted) == {(16, 16)}
    for name in ("fidelity/imitate", "fidelity/anchor"):
        assert terms[name] > 0
        assert size(gradients(adapter, terms[name])) > 0
