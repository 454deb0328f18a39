"""What a training step of stage 1 is made of: which terms, of which part of the image, with which weights."""

from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from toy_models import ToyModel, unshuffled

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.data.pairs import Batch
from distillkit.errors import RecipeError
from distillkit.objectives.dual_teacher import StudentOutput, denoised_output_distillation
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.schema import Stage1Config, TeacherLossConfig
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.models import RunModels
from distillkit.training.step import Stage1Step

CPU = torch.device("cpu")
G = torch.Generator().manual_seed(0)
BATCH = Batch(
    torch.rand(2, 3, 32, 32, generator=G) * 2 - 1,
    torch.rand(2, 3, 16, 16, generator=G) * 2 - 1,
    ["a", "b"],
)


class Restorer:
    """Remembers what it was asked for."""

    scale, nfe, size_multiple = 2, 1, 1

    def restore(self, inputs, generator=None):
        self.seen = inputs.lq
        return torch.nn.functional.interpolate(inputs.lq, scale_factor=2)


def step_of(
    teachers=MappingProxyType({}),
    anchors=MappingProxyType({}),
    student=None,
    l2=0,
    l1=0,
    losses=MappingProxyType({}),
    **options,
):
    """Make a step of a toy student; weights of L_rec and of absent teachers are 0 unless given.

    ``losses``: options of the teachers' losses, by their names.
    """
    tables = {name: {"weight": 0} for name in ("fidelity", "realness")}
    tables |= {name: {"weight": 1} | losses.get(name, {}) for name in teachers}
    student = (student or ToyModel(seed=1)).requires_grad_(False)
    for teacher in teachers.values():
        if isinstance(teacher, torch.nn.Module):
            teacher.requires_grad_(False)
    adapter = add_adapter(student.network, "lora", rank=2)
    models = RunModels(
        student, dict(teachers), None, CPU, FeatureCache(None, CPU), anchor_metrics=dict(anchors)
    )
    configs = {name: TeacherLossConfig(**table) for name, table in tables.items()}
    config = Stage1Config.model_construct(
        teachers=configs,
        score_weighting="clipped",
        teacher_gradient="full",
        decode_crop_size=options.get("decode_crop_size"),
    )
    reconstruction = ReconstructionLoss(l2_weight=l2, l1_weight=l1)
    return Stage1Step(models, adapter, config, reconstruction, seed=0)


def test_only_what_has_a_weight_is_a_term():
    terms = step_of(
        {"fidelity": ToyModel(seed=2), "realness": Restorer()},
        losses={"realness": {"term": "output"}},
        l1=0.5,
    )(BATCH, 0)
    assert set(terms) == {"l1", "fidelity/imitate", "fidelity/anchor", "realness/output"}


def test_a_teacher_may_have_a_gamma_of_its_own():
    teachers = {"fidelity": ToyModel(seed=2), "realness": ToyModel(seed=3)}
    gammas = {"fidelity": {"anchor_weight": 1}, "realness": {"anchor_weight": 1}}
    one = step_of(teachers, losses=gammas)(BATCH, 0)
    own = step_of(teachers, losses=gammas | {"realness": {"anchor_weight": 3}})(BATCH, 0)
    assert torch.allclose(own["realness/anchor"], 3 * one["realness/anchor"])
    assert torch.equal(own["fidelity/anchor"], one["fidelity/anchor"])


def test_a_metric_stands_in_for_the_anchor_of_an_output_teacher():
    def metric(image, gt):
        return (image - gt).abs().mean(dim=(1, 2, 3))

    terms = step_of(
        {"realness": Restorer()},
        {"realness": metric},
        losses={"realness": {"term": "output", "weight": 2, "anchor_weight": 3}},
        l1=1,
    )(BATCH, 0)
    assert torch.allclose(terms["realness/metric_anchor"], 2 * 3 * terms["l1"])


def test_the_decoded_crop_is_a_window_of_the_whole_output():
    """With an adapter at zero and the whole image as crop nothing changes; a smaller one is a part of the same error map."""
    step = step_of(l2=1)
    whole = step(BATCH, 0)["l2"]
    assert torch.equal(step_of(l2=1, decode_crop_size=32)(BATCH, 0)["l2"], whole)
    student, lq = step.student, BATCH.lq
    error = (
        student.codec.decode(student.generate(student.condition(ModelInput(lq)))) - BATCH.gt
    ).square()
    windows = torch.stack(
        [error[..., y : y + 8, x : x + 8].mean() for y in range(0, 25, 2) for x in range(0, 25, 2)]
    )
    cropped = step_of(l2=1, decode_crop_size=8)
    found = torch.stack([cropped(replace(BATCH, step=i), i)["l2"] for i in range(8)])
    distance, place = (found[:, None] - windows).abs().min(dim=1)
    assert distance.max() < 1e-6 and len(set(place.tolist())) > 1


@pytest.mark.parametrize("make", [ToyModel, unshuffled])
def test_teachers_of_another_space_see_the_decoded_crop_only(make):
    teacher, seen = make(seed=2), []
    real = teacher.condition
    teacher.condition = lambda x: seen.append(tuple(x.lq.shape[2:])) or real(x)
    terms = step_of({"fidelity": teacher}, decode_crop_size=8)(BATCH, 0)
    assert seen == [(4, 4) if make is unshuffled else (16, 16)]
    assert all(torch.isfinite(t) for t in terms.values())


def test_output_teachers_restore_the_decoded_crop_only():
    restorer = Restorer()
    step_of({"fidelity": restorer}, losses={"fidelity": {"term": "output"}}, decode_crop_size=8)(
        BATCH, 0
    )
    assert restorer.seen.shape[2:] == (4, 4)


def test_a_crop_that_somebody_cannot_take_is_refused():
    restorer = Restorer()
    restorer.size_multiple = 4
    with pytest.raises(
        RecipeError,
        match="stage1.decode_crop_size - 12 pixels: these models take 8 and its multiples",
    ):
        step_of(
            {"fidelity": restorer}, losses={"fidelity": {"term": "output"}}, decode_crop_size=12
        )(BATCH, 0)


def test_denoised_output_distillation_is_clipped_snr_times_the_clean_error():
    student, lq, restored = ToyModel(seed=1), BATCH.lq, BATCH.gt
    condition = student.condition(ModelInput(lq))
    latent = student.generate(condition)
    sample = StudentOutput(condition, latent, None)
    loss = denoised_output_distillation(student, sample, restored, torch.Generator().manual_seed(3))
    draws = torch.Generator().manual_seed(3)
    t = student.process.sample_timesteps(2, draws)
    noise = torch.randn(latent.shape, generator=draws)
    z_t = student.process.add_noise(latent, noise, t, condition.y)
    snr = student.process.coefficients(t).ratio ** 2
    expected = (
        snr.clamp(max=1) * (student.predict(z_t, t, condition).sample - restored).square()
    ).mean()
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_denoised_output_distillation_pushes_the_sample_in_score_mode():
    student = ToyModel(seed=1).requires_grad_(False)
    condition = student.condition(ModelInput(BATCH.lq))
    grads = {}
    for mode in ("full", "sds"):
        latent = student.generate(condition).requires_grad_()
        sample = StudentOutput(condition, latent, None)
        loss = denoised_output_distillation(
            student, sample, BATCH.gt, torch.Generator().manual_seed(3), gradient=mode
        )
        grads[mode] = loss.item(), torch.autograd.grad(loss, latent)[0]
    assert grads["full"][0] == pytest.approx(grads["sds"][0])
    assert grads["sds"][1].abs().sum() > 0 and not torch.allclose(grads["full"][1], grads["sds"][1])
