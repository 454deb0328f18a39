import copy
import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from toy_models import ToyModel, unshuffled

from distillkit import (
    Condition,
    ContinuousResidualShifting,
    DistillkitError,
    ModelInput,
    ResidualShifting,
    VariancePreserving,
)
from distillkit.adapters import add_adapter
from distillkit.objectives.adapter_scaling import (
    AdapterScaling,
    ReconstructionObjective,
    TeacherObjective,
)
from distillkit.objectives.controllability import Stage2Batch, tradeoff_timestep
from distillkit.objectives.ctsr import CtsrAlg2, CtsrEq8
from distillkit.objectives.dual_teacher import (
    StudentOutput,
    draw_timesteps,
    output_distillation,
    score_distillation,
)
from distillkit.objectives.grid import grid_loss, grid_strength, pattern_strength
from distillkit.objectives.oftsr import Oftsr
from distillkit.objectives.reconstruction import ReconstructionLoss

CPU = torch.device("cpu")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    gt = torch.rand(4, 3, 8, 8, generator=gen(5)) * 2 - 1
    return torch.nn.functional.avg_pool2d(gt, 2), gt


def make_sample(student, lq):
    condition = student.condition(ModelInput(lq))
    latent = student.generate(condition)
    return StudentOutput(condition, latent, student.codec.decode(latent))


def distill(teacher, student, batch, seed=0, **options):
    lq, gt = batch
    sample = make_sample(student, lq)
    inputs = ModelInput(lq)
    return sample, score_distillation(teacher, student, sample, inputs, gt, gen(seed), **options)


# --- the grid of an upsampler


def noise_with_a_grid(strength):
    """Noise in whose every fourth row and column the amplitude is ``1 + strength``."""
    noise = torch.randn(2, 1, 64, 64, generator=gen(3)).expand(-1, 3, -1, -1) * 0.1
    amplitude = torch.ones(64, 64)
    amplitude[::4, ::4] += strength
    return noise * amplitude


def test_the_grid_is_small_in_noise_and_grows_with_the_amplitude_of_a_phase():
    plain, weak, strong = (float(grid_strength(noise_with_a_grid(s), 4)) for s in (0, 1, 3))
    assert plain < 0.05
    assert plain < weak < strong


def test_the_grid_has_its_period():
    image = noise_with_a_grid(3)
    assert grid_strength(image, 4) > 3 * grid_strength(image, 3)


def test_a_flat_image_has_no_grid_and_a_finite_gradient():
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    loss = grid_loss(image, 4)
    loss.backward()
    assert loss == 0
    assert torch.isfinite(image.grad).all()


def noise_with_a_pattern(strength, period=4):
    """Noise, and the same small pattern in every ``period`` x ``period`` pixels."""
    noise = torch.randn(2, 1, 64, 64, generator=gen(3)).expand(-1, 3, -1, -1) * 0.02
    tile = torch.randn(period, period, generator=gen(4))
    return noise + strength * tile.tile(64 // period + 1, 64 // period + 1)[:64, :64]


def test_a_pattern_shows_where_all_phases_are_equally_sharp():
    faint = noise_with_a_pattern(0.02)
    assert 0.8 < pattern_strength(noise_with_a_pattern(0), 4) < 1.25
    assert pattern_strength(faint, 4) > 2
    assert pattern_strength(noise_with_a_pattern(0.02, period=5), 4) < 0.5


def test_stripes_of_another_period_are_no_pattern():
    stripes = torch.sin(torch.arange(64) * 2 * math.pi / 7).expand(1, 3, 64, 64)
    assert pattern_strength(stripes, 4) < 1.25


def test_the_loss_of_the_grid_is_spread_and_pattern_squared():
    """In noise whose Laplacian is far above tau, s is its sign."""
    signs = torch.ones(1, 3, 34, 34)
    signs[..., ::2, ::2] = -1
    signs[..., 1::2, 1::2] = -1
    loud = 100 * signs
    assert grid_strength(loud, 4) == 0
    torch.testing.assert_close(grid_loss(loud, 4), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_a_step_down_the_loss_of_the_grid_lowers_it_without_adding_detail():
    image = noise_with_a_grid(2).requires_grad_()
    (gradient,) = torch.autograd.grad(grid_loss(image, 4), image)
    smoother = (image - 5.0 * gradient).detach()
    assert grid_strength(smoother, 4) < grid_strength(image, 4)
    assert grid_loss(smoother, 4) < grid_loss(image, 4)
    assert smoother.square().mean() < image.square().mean()


def test_the_term_of_the_grid_has_its_weight():
    image = noise_with_a_grid(2)
    losses = ReconstructionLoss(l2_weight=0, grid_weight=3.0)(image, image, gen())
    assert set(losses) == {"grid"}
    torch.testing.assert_close(losses["grid"], 3 * grid_loss(image, 4))


# --- eq. 1


def test_reconstruction_terms_are_means_of_unclamped_errors():
    x, gt = torch.full((2, 3, 4, 4), 1.5), torch.zeros(2, 3, 4, 4)
    loss = ReconstructionLoss(1.0, 1.0, 1.0, lambda a, b: (a - b).mean(dim=(1, 2, 3)))
    terms = loss(x, gt, gen())
    assert {k: float(v) for k, v in terms.items()} == {"l2": 2.25, "l1": 1.5, "perceptual": 1.5}


def test_reconstruction_terms_are_weighted_and_left_out_at_weight_zero():
    x, gt = torch.full((2, 3, 4, 4), 1.5), torch.zeros(2, 3, 4, 4)
    terms = ReconstructionLoss(l2_weight=2.0, l1_weight=0.0)(x, gt, gen(), l2_factor=3.0)
    assert {k: float(v) for k, v in terms.items()} == {"l2": 2.0 * 3.0 * 2.25}


def test_perceptual_distance_sees_the_same_shifted_crop_of_both_images():
    seen = []
    x = torch.rand(1, 3, 12, 12)

    def distance(a, b):
        seen.append((a, b))
        return torch.zeros(1)

    for seed in range(8):
        ReconstructionLoss(0.0, 0.0, 1.0, distance, max_shift=3)(x, x, gen(seed))
    assert all(torch.equal(a, b) and a.shape[-2:] == (9, 9) for a, b in seen)
    assert len({float(a[0, 0, 0, 0]) for a, _ in seen}) > 3


# --- eq. 2 and 3


def plain_eq_2(teacher, student, batch, weighting):
    """Write out the definition of eq. 2 for two models of one space and one process."""
    lq, gt = batch
    sample, g = make_sample(student, lq), gen()
    t = student.process.sample_timesteps(len(lq), g)
    noise = torch.randn(gt.shape, generator=g)
    c, condition = student.process.coefficients(t), teacher.condition(ModelInput(lq))
    z_t_s, z_t = c.signal * sample.latent + c.noise * noise, c.signal * gt + c.noise * noise
    t_s, t_gt, s_s = (
        teacher.predict(z_t_s, t, condition),
        teacher.predict(z_t, t, condition),
        student.predict(z_t_s, t, sample.condition),
    )
    if weighting == "sample":
        return (t_s.sample - s_s.sample).square().mean(), (
            t_s.sample - t_gt.sample.detach()
        ).square().mean()
    weight = 1 if weighting == "literal" else 1 / torch.maximum(c.signal / c.noise, torch.ones(()))
    return (weight * (t_s.epsilon - s_s.epsilon)).square().mean(), (
        weight * (t_s.epsilon - t_gt.epsilon.detach())
    ).square().mean()


@pytest.mark.parametrize("weighting", ["literal", "clipped", "sample"])
def test_within_one_space_the_terms_are_eq_2_and_so_are_their_gradients(batch, weighting):
    teacher, student = ToyModel(seed=1).requires_grad_(False), ToyModel(seed=2)
    _, terms = distill(teacher, student, batch, weighting=weighting)
    expected = plain_eq_2(teacher, student, batch, weighting)
    parameters = list(student.network.parameters())
    for ours, theirs in zip(terms, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4)
        a, b = (torch.autograd.grad(v, parameters, retain_graph=True) for v in (ours, theirs))
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(a, b, strict=True))


def test_a_student_that_is_its_teacher_has_nothing_to_imitate(batch):
    student = ToyModel(seed=1)
    _, terms = distill(copy.deepcopy(student).requires_grad_(False), student, batch)
    assert terms.imitate.item() < 1e-10 < terms.anchor.item()


def test_a_perfect_student_has_no_anchor(batch):
    lq, gt = batch
    student = ToyModel(seed=1)
    sample = StudentOutput(student.condition(ModelInput(lq)), gt, gt)
    terms = score_distillation(
        ToyModel(seed=2).requires_grad_(False), student, sample, ModelInput(lq), gt, gen()
    )
    assert float(terms.anchor) == 0 < float(terms.imitate)


@pytest.mark.parametrize("gradient", ["full", "sds"])
@pytest.mark.parametrize(
    "make_teacher",
    [ToyModel, unshuffled, lambda **k: ToyModel(ContinuousResidualShifting(0.2), "sample", **k)],
)
def test_gradient_reaches_the_student_and_never_the_teacher(batch, gradient, make_teacher):
    teacher, student = make_teacher(seed=1), ToyModel(seed=2)
    teacher.requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    sample, terms = distill(teacher, student, batch, gradient=gradient)
    for term in terms:
        for g in torch.autograd.grad(
            term, [sample.latent, student.network.last.weight], retain_graph=True
        ):
            assert torch.isfinite(g).all() and g.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_score_mode_has_the_values_of_full_mode_and_pushes_along_the_difference(batch):
    teacher, student = ToyModel(seed=1).requires_grad_(False), ToyModel(seed=2)
    _, full = distill(teacher, student, batch, gradient="full", weighting="literal")
    sample, score = distill(teacher, student, batch, gradient="sds", weighting="literal")
    assert all(torch.allclose(a, b) for a, b in zip(full, score, strict=True))
    (push,) = torch.autograd.grad(score.anchor, sample.latent, retain_graph=True)
    lq, gt = batch
    g = gen()
    t = student.process.sample_timesteps(len(lq), g)
    noise, c = torch.randn(gt.shape, generator=g), student.process.coefficients(t)
    a, b = (
        teacher.predict(
            c.signal * z + c.noise * noise, t, teacher.condition(ModelInput(lq))
        ).epsilon
        for z in (sample.latent, gt)
    )
    assert torch.allclose(push, 2 * (a - b) / a.numel(), atol=1e-6)


def test_a_teacher_in_a_rotated_space_gives_the_anchor_of_its_own_space(batch):
    """Pixel-unshuffling re-orders pixels: a model that undoes it is the same teacher elsewhere."""

    class Unshuffled(ToyModel):
        def condition(self, inputs):
            return Condition(y=self.codec.encode(ToyModel(seed=1).condition(inputs).y))

        def forward(self, z_t, t, condition):
            pixels = [self.codec.decode(v) for v in (z_t, condition.y)]
            return self.codec.encode(self.inner.network(*pixels, t))

    direct, rotated = ToyModel(seed=1).requires_grad_(False), Unshuffled(codec=unshuffled().codec)
    rotated.codec.scale, rotated.inner = 1.0, direct
    student, values = ToyModel(seed=2), []
    for teacher in (direct, rotated):
        draws = [distill(teacher, student, batch, seed=s)[1] for s in range(300)]
        values.append(torch.tensor([[d.imitate.item(), d.anchor.item()] for d in draws]))
    gap = (values[1] - values[0]).mean(0)
    error = (values[0].var(0) / 300 + values[1].var(0) / 300).sqrt()
    assert gap[1].abs() < 4 * error[1], (gap, error)
    assert gap[0] > 4 * error[0], (
        "each space has its own noise, which the imitate term then sees on top"
    )


def test_timesteps_are_drawn_on_the_coarser_grid_among_those_that_both_know():
    coarse = ResidualShifting(torch.tensor([0.1, 0.5, 0.99]), kappa=2.0)
    fine = VariancePreserving.scaled_linear(0.00085, 0.012, 1000)
    of_coarse, of_fine = draw_timesteps(coarse, fine, 3000, gen(), CPU)
    counts = torch.bincount(of_coarse, minlength=3)
    assert counts[2] == 0, "the last one is noisier than all of the fine grid"
    assert (counts[:2] - 1500).abs().max() < 150
    assert len(of_fine.unique()) == 2
    of_fine, of_coarse = draw_timesteps(fine, coarse, 3000, gen(), CPU)
    assert torch.equal(torch.bincount(of_coarse, minlength=3), counts)


def test_processes_that_know_all_of_each_other_draw_as_in_training():
    process = VariancePreserving.scaled_linear(0.00085, 0.012, 1000)
    t, same = draw_timesteps(process, process, 64, gen(3), CPU)
    assert t.equal(same)
    assert t.equal(process.sample_timesteps(64, gen(3)))


def test_processes_without_a_common_timestep_are_refused(monkeypatch):
    monkeypatch.setattr("distillkit.objectives.dual_teacher.MAX_REDRAWS", 20)
    noisy = ResidualShifting(torch.tensor([0.98, 0.99]), kappa=2.0)
    fine = VariancePreserving.scaled_linear(0.00085, 0.012, 1000)
    message = r"no timestep of equal SNR in ResidualShifting \(log SNR -\d+.*VariancePreserving"
    with pytest.raises(DistillkitError, match=message):
        draw_timesteps(noisy, fine, 2, gen(), CPU)


def test_output_distillation_is_a_mean_square(batch):
    sample = make_sample(ToyModel(), batch[0])
    assert torch.allclose(
        output_distillation(sample.image, batch[1]), (sample.image - batch[1]).square().mean()
    )


# --- eq. 5-9


def stage2_batch(variant, batch, z_1=None, step=0, seed=0):
    lq, gt = batch
    condition = variant.student.condition(ModelInput(lq))

    @torch.no_grad()
    def start():
        return variant.generate(condition, 0.0, gen())

    return Stage2Batch(
        condition=condition,
        gt=gt,
        stage1_latent=start,
        faithful_target=lambda: z_1,
        realistic_image=lambda: z_1,
        faithful_image=lambda: z_1,
        generator=gen(seed),
        student_generator=gen,
        step=step,
        averaged_weights=nullcontext,
    )


def variants():
    def adapter_scaling(target):
        def build():
            student = ToyModel(seed=2)
            adapter = add_adapter(student.network, "lora", rank=4)
            objective = TeacherObjective()
            if target == "reconstruction":
                objective = ReconstructionObjective(student, ReconstructionLoss(), 40.0)
            return AdapterScaling(student, adapter, objective)

        return build

    def literal(kind):
        def build():
            student = ToyModel(seed=2)
            return kind(student, add_adapter(student.network, "lora", rank=4))

        return build

    return {
        "adapter_scaling-teacher": adapter_scaling("teacher"),
        "adapter_scaling-reconstruction": adapter_scaling("reconstruction"),
        "ctsr_eq8": literal(CtsrEq8),
        "ctsr_alg2": literal(CtsrAlg2),
        "oftsr": lambda: Oftsr(ToyModel(seed=2).requires_grad_(False)),
    }


each_variant = pytest.mark.parametrize("name", variants())


def fit(variant, batch, z_1, steps, lr=2e-2):
    optimizer = torch.optim.Adam(variant.tensors().values(), lr=lr)
    losses = []
    for step in range(steps):
        loss = sum(variant.losses(stage2_batch(variant, batch, z_1, step, seed=step)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@each_variant
def test_tradeoff_zero_is_the_stage_1_student_bit_for_bit_even_after_training(batch, name):
    variant, student = variants()[name](), ToyModel(seed=2)
    fit(variant, batch, batch[1], 5)
    condition = student.condition(ModelInput(batch[0]))
    assert torch.equal(variant.generate(condition, 0.0), student.generate(condition))
    assert not torch.equal(variant.generate(condition, 1.0), student.generate(condition))


@each_variant
def test_only_the_declared_tensors_get_gradient(batch, name):
    variant = variants()[name]()
    sum(variant.losses(stage2_batch(variant, batch, batch[1], step=2)).values()).backward()
    named = {id(p) for p in variant.tensors().values()}
    with_gradient = {id(p) for p in variant.student.parameters() if p.grad is not None}
    assert with_gradient <= named and any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in variant.tensors().values()
    )


@pytest.mark.parametrize(
    "name", ["adapter_scaling-teacher", "adapter_scaling-reconstruction", "oftsr"]
)
def test_variants_with_an_endpoint_learn_to_reach_it(batch, name):
    """Training moves tradeoff 1 toward the faithful target, and the way there is monotone."""
    variant = variants()[name]()
    fit(variant, batch, batch[1], 150)
    condition = variant.student.condition(ModelInput(batch[0]))
    errors = [
        float((variant.generate(condition, t) - batch[1]).square().mean())
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert errors[-1] < 0.8 * errors[0]
    assert all(b < a + 1e-3 for a, b in pairwise(errors)), errors


def test_the_teacher_target_is_its_definition(batch):
    variant, student = variants()["adapter_scaling-teacher"](), ToyModel(seed=2)
    with torch.no_grad():
        for p in variant.tensors().values():
            p.add_(0.05)
    drawn = float(torch.rand((), generator=gen()))
    for step, t in ((0, drawn), (2, 1.0)):
        condition = student.condition(ModelInput(batch[0]))
        target = (1 - t) * student.generate(condition) + t * batch[1]
        expected = (variant.generate(condition, t) - target).square().mean()
        assert torch.allclose(
            variant.losses(stage2_batch(variant, batch, batch[1], step))["teacher"], expected
        )


def test_the_reconstruction_target_weights_l2_geometrically(batch):
    student = ToyModel(seed=2)
    variant = AdapterScaling(
        student,
        add_adapter(student.network, "lora"),
        ReconstructionObjective(student, ReconstructionLoss(l2_weight=10.0), 40.0),
        faithful_every=1,
    )
    error = (student.generate(student.condition(ModelInput(batch[0]))) - batch[1]).square().mean()
    assert torch.allclose(
        variant.losses(stage2_batch(variant, batch))["l2"], 400 * error, rtol=1e-5
    )
    assert not variant.needs_faithful_target


def test_eq_8_and_algorithm_2_as_printed(batch):
    """Both losses against the formulas, with T_S the frozen student and S the trained one."""
    z_eps = {}
    for name in ("ctsr_eq8", "ctsr_alg2"):
        variant, frozen = variants()[name](), ToyModel(seed=2)
        with torch.no_grad():
            for p in variant.tensors().values():
                p.add_(0.05)
        condition, g = frozen.condition(ModelInput(batch[0])), gen()
        z_0 = frozen.generate(condition)
        t, u = torch.rand(2, 4, generator=g)
        if name == "ctsr_alg2":
            t, u = torch.minimum(t, u), torch.maximum(t, u)

        def eps(model, z, when, condition=condition):
            return model.predict(z, tradeoff_timestep(model.process, when), condition).epsilon

        a, b = t.reshape(-1, 1, 1, 1), u.reshape(-1, 1, 1, 1)
        z_t = z_0 + a * eps(frozen, z_0, t)
        if name == "ctsr_eq8":
            known = a * eps(frozen, z_0, t) - b * eps(frozen, z_0, u)
        else:
            z_u = z_t + b * eps(frozen, z_0, t)
            known = a * eps(frozen, z_t, t) - b * eps(frozen, z_u, u)
        expected = (known + (b - a) * eps(variant.student, z_t, t)).square().mean()
        assert torch.allclose(
            variant.losses(stage2_batch(variant, batch))["ctrl"], expected, rtol=1e-4
        )
        z_eps[name] = float(expected)
    assert z_eps["ctsr_eq8"] != z_eps["ctsr_alg2"]


def test_oftsr_starts_at_zero_and_needs_a_head(batch):
    variant, student = variants()["oftsr"](), ToyModel(seed=2)
    condition = student.condition(ModelInput(batch[0]))
    assert torch.equal(variant.generate(condition, 1.0), student.generate(condition))
    headless = ToyModel()
    headless.head = None
    with pytest.raises(DistillkitError, match="names no head"):
        Oftsr(headless)


def test_tradeoff_timestep_spans_the_process():
    ends = torch.tensor([0.0, 1.0])
    assert tradeoff_timestep(VariancePreserving.scaled_linear(1e-4, 2e-2, 50), ends).tolist() == [
        0,
        49,
    ]
    assert torch.allclose(
        tradeoff_timestep(ToyModel().process, ends), torch.tensor([0.03, 0.97]), atol=1e-5
    )
