"""The terms of a step of stage 1: which there are, of which crop, and with which weights."""

from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from toy_models import ToyModel, unshuffled

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.data.batches import Batch
from distillkit.errors import RecipeError
from distillkit.objectives.dual_teacher import StudentOutput, denoised_output_distillation
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.schema import Stage1Config, TeacherLossConfig
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.models import RunModels
from distillkit.training.step import Stage1Step

CPU = torch.device("cpu")
NOTHING = MappingProxyType({})
OUTPUT = {"fidelity": {"term": "output"}}


def draw_batch():
    draws = torch.Generator().manual_seed(0)
    gt = torch.rand(2, 3, 32, 32, generator=draws) * 2 - 1
    lq = torch.rand(2, 3, 16, 16, generator=draws) * 2 - 1
    return Batch(gt, lq, ["a", "b"])


BATCH = draw_batch()


class Restorer:
    """Keeps the size of its last input."""

    scale = 2
    nfe = 1
    size_multiple = 1

    def restore(self, inputs, generator=None):
        self.seen = tuple(inputs.lq.shape[2:])
        return torch.nn.functional.interpolate(inputs.lq, scale_factor=2)


def step_of(teachers=NOTHING, anchors=NOTHING, losses=NOTHING, l2=0, l1=0, decode_crop_size=None):
    """Make a step of a toy student.

    Args:
        teachers: teachers by name; the paper's two have weight 0 where they are absent.
        anchors: metrics as the anchors of teachers.
        losses: options of the teachers' losses, by name.
        l2: weight of the L2 term.
        l1: weight of the L1 term.
        decode_crop_size: side of the decoded crop.
    """
    configs = {name: TeacherLossConfig(weight=0) for name in ("fidelity", "realness")}
    for name, teacher in teachers.items():
        options = {"weight": 1} | losses.get(name, {})
        configs[name] = TeacherLossConfig(**options)
        if isinstance(teacher, torch.nn.Module):
            teacher.requires_grad_(False)
    student = ToyModel(seed=1).requires_grad_(False)
    adapter = add_adapter(student.network, "lora", rank=2)
    cache = FeatureCache(None, CPU)
    models = RunModels(student, dict(teachers), None, CPU, cache, anchor_metrics=dict(anchors))
    # Not validated: a step needs nothing to learn here.
    config = Stage1Config.model_construct(
        teachers=configs,
        score_weighting="clipped",
        teacher_gradient="full",
        decode_crop_size=decode_crop_size,
    )
    reconstruction = ReconstructionLoss(l2_weight=l2, l1_weight=l1)
    return Stage1Step(models, adapter, config, reconstruction, seed=0)


def test_only_what_has_a_weight_is_a_term():
    teachers = {"fidelity": ToyModel(seed=2), "realness": Restorer()}
    step = step_of(teachers, losses={"realness": {"term": "output"}}, l1=0.5)
    terms = step(BATCH, 0)
    assert set(terms) == {"l1", "fidelity/imitate", "fidelity/anchor", "realness/output"}


def test_a_teacher_may_have_an_anchor_weight_of_its_own():
    teachers = {"fidelity": ToyModel(seed=2), "realness": ToyModel(seed=3)}
    one = {"anchor_weight": 1}
    three = {"anchor_weight": 3}
    equal = step_of(teachers, losses={"fidelity": one, "realness": one})(BATCH, 0)
    own = step_of(teachers, losses={"fidelity": one, "realness": three})(BATCH, 0)
    assert torch.allclose(own["realness/anchor"], 3 * equal["realness/anchor"])
    assert torch.equal(own["fidelity/anchor"], equal["fidelity/anchor"])


def test_a_metric_replaces_the_anchor_of_an_output_teacher():
    def l1(image, gt):
        return (image - gt).abs().mean(dim=(1, 2, 3))

    options = {"term": "output", "weight": 2, "anchor_weight": 3}
    step = step_of({"realness": Restorer()}, {"realness": l1}, {"realness": options}, l1=1)
    terms = step(BATCH, 0)
    assert torch.allclose(terms["realness/metric_anchor"], 2 * 3 * terms["l1"])


def test_a_metric_also_compares_with_the_images_of_an_output_teacher():
    def l2(image, restored):
        return (image - restored).square().mean(dim=(1, 2, 3))

    options = {"term": "output", "weight": 2, "output_metric_weight": 3}
    step = step_of({"realness": Restorer()}, losses={"realness": options})
    step.models.output_metrics["realness"] = l2
    terms = step(BATCH, 0)
    # Without a shift the metric sees what the squared error sees.
    assert torch.allclose(terms["realness/metric"], 3 * terms["realness/output"])


def test_a_decoded_crop_of_full_size_changes_nothing():
    full = step_of(l2=1)(BATCH, 0)["l2"]
    assert torch.equal(step_of(l2=1, decode_crop_size=32)(BATCH, 0)["l2"], full)


def test_the_decoded_crop_is_one_of_the_full_output():
    student = step_of(l2=1).student
    latent = student.generate(student.condition(ModelInput(BATCH.lq)))
    error = (student.codec.decode(latent) - BATCH.gt).square()
    crops = []
    for top in range(0, 25, 2):
        for left in range(0, 25, 2):
            crops.append(error[..., top : top + 8, left : left + 8].mean())
    step = step_of(l2=1, decode_crop_size=8)
    losses = torch.stack([step(replace(BATCH, step=i), i)["l2"] for i in range(8)])
    distance, place = (losses[:, None] - torch.stack(crops)).abs().min(dim=1)
    assert distance.max() < 1e-6
    assert len(place.unique()) > 1


@pytest.mark.parametrize(("make", "size"), [(ToyModel, (16, 16)), (unshuffled, (4, 4))])
def test_teachers_of_another_space_see_the_decoded_crop_only(make, size):
    teacher = make(seed=2)
    condition = teacher.condition
    seen = []

    def note(inputs):
        seen.append(tuple(inputs.lq.shape[2:]))
        return condition(inputs)

    teacher.condition = note
    terms = step_of({"fidelity": teacher}, decode_crop_size=8)(BATCH, 0)
    assert seen == [size]
    assert all(torch.isfinite(term) for term in terms.values())


def test_output_teachers_restore_the_decoded_crop_only():
    restorer = Restorer()
    step_of({"fidelity": restorer}, losses=OUTPUT, decode_crop_size=8)(BATCH, 0)
    assert restorer.seen == (4, 4)


def test_a_crop_that_a_model_cannot_take_is_refused():
    restorer = Restorer()
    restorer.size_multiple = 4
    step = step_of({"fidelity": restorer}, losses=OUTPUT, decode_crop_size=12)
    message = "stage1.decode_crop_size - 12 pixels: these models take 8 and its multiples"
    with pytest.raises(RecipeError, match=message):
        step(BATCH, 0)


def test_denoised_output_distillation_is_clipped_snr_times_the_error_of_the_sample():
    student = ToyModel(seed=1)
    restored = BATCH.gt
    condition = student.condition(ModelInput(BATCH.lq))
    latent = student.generate(condition)
    output = StudentOutput(condition, latent, None)
    draws = torch.Generator().manual_seed(3)
    loss = denoised_output_distillation(student, output, restored, draws)

    draws = torch.Generator().manual_seed(3)
    t = student.process.sample_timesteps(2, draws)
    noise = torch.randn(latent.shape, generator=draws)
    z_t = student.process.add_noise(latent, noise, t, condition.y)
    snr = student.process.coefficients(t).ratio ** 2
    error = student.predict(z_t, t, condition).sample - restored
    expected = (snr.clamp(max=1) * error.square()).mean()
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_denoised_output_distillation_pushes_the_sample_as_in_score_distillation():
    student = ToyModel(seed=1).requires_grad_(False)
    condition = student.condition(ModelInput(BATCH.lq))

    def loss_and_gradient(mode):
        latent = student.generate(condition).requires_grad_()
        output = StudentOutput(condition, latent, None)
        draws = torch.Generator().manual_seed(3)
        loss = denoised_output_distillation(student, output, BATCH.gt, draws, gradient=mode)
        (gradient,) = torch.autograd.grad(loss, latent)
        return loss.item(), gradient

    full_loss, full_gradient = loss_and_gradient("full")
    sds_loss, sds_gradient = loss_and_gradient("sds")
    assert sds_loss == pytest.approx(full_loss)
    assert sds_gradient.abs().sum() > 0
    assert not torch.allclose(sds_gradient, full_gradient)
