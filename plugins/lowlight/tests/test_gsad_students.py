"""GSAD as score teacher and student: eq. 2 against golden numbers, and the students' gradients."""

import re

import pytest
import torch
from torch.testing import assert_close

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.diffusion.prediction import epsilon_from_sample, sample_from_epsilon
from distillkit.objectives.dual_teacher import StudentOutput, score_distillation
from distillkit_lowlight.build import gsad_student, gsad_teacher
from distillkit_lowlight.gsad.model import GSAD
from distillkit_lowlight.gsad.sampler import EVALUATION, Schedule
from distillkit_lowlight.options import GSADOptions, GSADStudentOptions


@pytest.fixture
def loss_case(case, recipe_numbers):
    """Teacher, student (weights moved a little) and the inputs of the golden loss."""
    data = case.other(case.path.stem.replace("ctsr_loss", "diffusion"))
    unet = case.other(data.info["uses_weights_of"])
    teacher, student = (GSAD(unet.unet(), EVALUATION["lol-v2-syn"]) for _ in range(2))
    amount = float(re.search(r"([\d.]+) ?\* ?array", case.info["student"])[1])
    with torch.no_grad():
        for name, p in student.network.named_parameters():
            p.add_(amount * recipe_numbers(f"stu.{name}", p.shape, case.info["seed"]).float())
    student.requires_grad_(True)
    return teacher, student, data["in.lq"], data["in.gt"], data["in.noise"], case["in.level"][:, 0]


@pytest.mark.golden("gsad_ctsr_loss_small*")
def test_eq_2_by_hand(case, loss_case):
    teacher, student, lq, gt, noise, level = loss_case
    x_s = case["in.x_s"].requires_grad_()
    condition = teacher.condition(ModelInput(lq))
    z_t_s, z_t = (teacher.process.add_noise(z, noise, level) for z in (x_s, gt))
    assert_close(z_t_s, case["mid.z_t_s"], atol=1e-6, rtol=0)
    assert_close(z_t, case["mid.z_t"], atol=1e-6, rtol=0)
    of_student, of_truth = (teacher.predict(z, level, condition) for z in (z_t_s, z_t))
    own = student.predict(z_t_s.detach(), level, condition)
    assert_close(of_student.epsilon, case["mid.eps_T_zts"], atol=3e-5, rtol=0)
    assert_close(of_truth.epsilon, case["mid.eps_T_zt"], atol=3e-5, rtol=0)
    assert_close(own.epsilon, case["mid.eps_S_zts"], atol=3e-5, rtol=0)

    term1 = (of_student.epsilon.detach() - own.epsilon).square().mean()
    term2 = (of_student.epsilon - of_truth.epsilon.detach()).square().mean()
    loss = term1 + case.info["gamma"] * term2
    assert_close(term1, case["out.term1"][0], rtol=1e-4, atol=0)
    assert_close(term2, case["out.term2"][0], rtol=1e-4, atol=0)
    assert_close(loss, case["out.loss"][0], rtol=1e-4, atol=0)
    snr = teacher.process.coefficients(level).ratio ** 2
    via_clean = (snr * (of_student.sample - own.sample).square()).mean()
    assert_close(via_clean, case["out.term1_via_x0_snr"][0], rtol=1e-3, atol=0)

    loss.backward()
    assert_close(x_s.grad, case["out.grad_x_s"], rtol=1e-4, atol=1e-8)
    (name,) = [n for n in case.tensors if n.startswith("out.grad_S.")]
    gradients = {n: p.grad for n, p in student.network.named_parameters() if p.grad is not None}
    assert_close(gradients[name.removeprefix("out.grad_S.")], case[name], rtol=1e-3, atol=1e-7)
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    assert_close(norm, case["out.grad_S_norm"][0], rtol=1e-4, atol=0)


@pytest.mark.golden("gsad_ctsr_loss_small*")
def test_a_teacher_blind_to_z_t(case, loss_case):
    """Its output as a clean latent teaches in term 1; term 2 is left with the ground truth."""
    teacher, _, _, gt, _, level = loss_case
    process, r = teacher.process, case["blind.r"]
    z_t_s, z_t = case["mid.z_t_s"], case["mid.z_t"]
    eps = epsilon_from_sample(process, z_t_s, level, r, None)
    assert_close(eps, case["blind.eps_T"], rtol=1e-5, atol=1e-5)
    snr = process.coefficients(level).ratio ** 2
    own = sample_from_epsilon(process, z_t_s, level, case["mid.eps_S_zts"], None)
    term1 = (snr.clamp(max=5) * (r - own).square()).mean()
    assert_close(term1, case["blind.term1_x0_minsnr5"][0], rtol=1e-4, atol=0)
    term2 = (eps - epsilon_from_sample(process, z_t, level, r, None)).square().mean()
    assert_close(term2, case["blind.term2_equals_snr_mse"][0], rtol=1e-4, atol=0)
    assert_close(term2, (snr * (case["in.x_s"] - gt).square()).mean(), rtol=1e-4, atol=0)


def student(**options):
    return gsad_student(GSADStudentOptions(size="tiny", **options))


@pytest.mark.parametrize("generate", ["last-step", "one-step"])
def test_gradient_reaches_the_student(images, generator, generate):
    model = student(generate=generate)
    z = model.generate(model.condition(ModelInput(images(2, 24, 20))), generator)
    assert z.shape == (2, 3, 24, 20)
    z.square().mean().backward()
    without = {n for n, p in model.network.named_parameters() if p.grad is None}
    assert without == {n for n, p in model.network.named_parameters() if not p.requires_grad}
    assert all(".mlp." in n or n.startswith("var_conv.") for n in without)


def test_last_step_student_stops_at_every_step_of_its_sampler(images, monkeypatch):
    model = student()
    generator = torch.Generator().manual_seed(0)
    model.schedule = Schedule(4, 0.01, 0.8)
    condition = model.condition(ModelInput(images(1, 16, 16)))
    with_gradient = []
    forward = model.network.forward

    def recorded(x, t):
        with_gradient.append(torch.is_grad_enabled())
        return forward(x, t)

    monkeypatch.setattr(model.network, "forward", recorded)
    lengths = set()
    for _ in range(40):
        with_gradient.clear()
        model.generate(condition, generator)
        *earlier, last = with_gradient
        assert last
        assert not any(earlier)
        lengths.add(len(with_gradient))
    assert lengths == set(range(1, model.schedule.steps + 1))
    with_gradient.clear()
    with torch.no_grad():
        model.generate(condition, generator)
    assert with_gradient == [False] * model.schedule.steps


def test_restoring_with_the_student_equals_the_teacher_at_first(images):
    teacher = gsad_teacher(GSADOptions(size="tiny"))
    inputs = ModelInput(images(1, 20, 28))
    with torch.no_grad():
        by_teacher = teacher.restore(inputs, torch.Generator().manual_seed(1))
        by_student = student().restore(inputs, torch.Generator().manual_seed(1))
    assert torch.equal(by_teacher, by_student)
    assert by_teacher.shape == (1, 3, 20, 28)
    assert by_teacher.abs().max() <= 1


def test_one_step_student_looks_at_noise_once(images, generator, monkeypatch):
    model = student(generate="one-step")
    levels = []
    forward = model.network.forward

    def recorded(x, level):
        levels.append(level)
        return forward(x, level)

    monkeypatch.setattr(model.network, "forward", recorded)
    with torch.no_grad():
        model.restore(ModelInput(images(2, 16, 16)), generator)
    assert len(levels) == model.nfe == 1
    assert_close(levels[0], torch.full((2,), 0.0797), atol=1e-4, rtol=0)


def test_the_one_step_ignores_mixed_precision(images):
    """It divides by 0.0797, and every rounding with it."""
    model = student(generate="one-step")
    inputs = ModelInput(images(1, 16, 16))
    expected = model.generate(model.condition(inputs), torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.generate(model.condition(inputs), torch.Generator().manual_seed(1))
    assert torch.equal(latent, expected)


def test_seeds_decide_the_weights_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (student(seed=s).network.downs[0].weight for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_forward_pads_what_it_is_given(images, generator):
    """The noise of an odd-sized image is that of the padded one, cropped."""
    model = student()
    lq = images(1, 22, 17)
    z_t = torch.randn(1, 3, 22, 17, generator=generator)
    t = torch.tensor([0.5])
    assert model(z_t, t, model.condition(ModelInput(lq))).shape == z_t.shape
    square_lq = images(1, 16, 16)
    square_z_t = z_t[..., :16, :16]
    direct = model.network(torch.cat([square_lq, square_z_t], 1), t)
    through_model = model(square_z_t, t, model.condition(ModelInput(square_lq)))
    assert torch.equal(through_model, direct)


ADAPTED = [
    "downs.0",
    "noise_level_mlp.1",
    "noise_level_mlp.3",
    "noise_func.0",
    "block.3",
    "res_conv",
    "qkv",
    "out",
    "conv",
]
"""As the README gives them: every layer that is used when restoring."""


def test_distils_in_the_engine(images, generator):
    """At the start student and teacher agree; the documented adapter targets all learn."""
    teacher = gsad_teacher(GSADOptions(size="tiny")).requires_grad_(False)
    model = student()
    adapter = add_adapter(model.network, "lora", rank=2, targets=ADAPTED)
    inputs = ModelInput(images(2, 16, 16))
    gt = images(2, 16, 16, seed=1)
    condition = model.condition(inputs)
    latent = model.generate(condition, generator)
    output = StudentOutput(condition, latent, model.codec.decode(latent))
    terms = score_distillation(teacher, model, output, inputs, gt, generator)
    assert terms.imitate < 1e-10 < terms.anchor
    terms.anchor.backward()
    assert all(p.grad is not None for p in adapter.tensors().values())
    assert all(p.grad is None for p in teacher.parameters())
