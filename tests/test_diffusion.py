import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import ToyModel, unshuffled

from distillkit import (
    Condition,
    ContinuousResidualShifting,
    CosineVariancePreserving,
    Identity,
    ModelInput,
    PixelUnshuffle,
    RectifiedFlow,
    ResidualShifting,
    VariancePreserving,
)
from distillkit.diffusion.bridge import Bridge
from distillkit.diffusion.prediction import epsilon_from_sample, sample_from_epsilon, to_prediction
from distillkit.diffusion.process import match_timesteps

PROCESSES = {
    "ddpm": VariancePreserving.scaled_linear(0.00085, 0.012, 1000),
    "cosine": CosineVariancePreserving(),
    "shift15": ResidualShifting(torch.linspace(0.02, 0.99, 15), kappa=2.0),
    "shift": ContinuousResidualShifting(kappa=0.2),
    "flow": RectifiedFlow(),
}
each_process = pytest.mark.parametrize("name", PROCESSES)


def draw(name, n=16, seed=0):
    return PROCESSES[name].sample_timesteps(n, torch.Generator().manual_seed(seed))


@each_process
def test_coefficients_have_the_declared_shape_and_signs(name):
    c = PROCESSES[name].coefficients(draw(name))
    assert all(part.shape == (16, 1, 1, 1) and part.dtype == torch.float32 for part in c)
    assert (c.signal > 0).all() and (c.noise > 0).all() and (c.shift >= 0).all()


@each_process
def test_noisier_times_have_lower_snr(name):
    process = PROCESSES[name]
    t = (
        torch.arange(process.num_train_timesteps)
        if process.num_train_timesteps
        else torch.linspace(process.t_min, process.t_max, 50)
    )
    assert (process.log_snr(t).diff() < 0).all()


def test_each_process_is_the_one_it_says():
    t = torch.tensor([0.25])
    c = CosineVariancePreserving().coefficients(t)
    assert math.isclose(float(c.signal), math.cos(math.pi / 8), rel_tol=1e-6) and math.isclose(
        float(c.noise), math.sin(math.pi / 8), rel_tol=1e-6
    )
    c = ContinuousResidualShifting(kappa=2.0).coefficients(t)
    assert [float(x) for x in c] == [0.9375, 0.0625, 0.5]
    c = RectifiedFlow().coefficients(t)
    assert [float(x) for x in c] == [0.75, 0.0, 0.25]
    c = PROCESSES["ddpm"].coefficients(torch.tensor([999]))
    assert math.isclose(float(c.signal) ** 2, 0.00466009509, rel_tol=1e-5)


@each_process
def test_time_at_inverts_log_snr(name):
    process, t = PROCESSES[name], draw(name)
    again = process.timestep_at(process.log_snr(t))
    assert (
        torch.equal(again, t)
        if process.num_train_timesteps
        else torch.allclose(again, t, atol=1e-4)
    )


@each_process
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_network_is_read_back_exactly(name, prediction_type):
    process, t = PROCESSES[name], draw(name, 8)
    if prediction_type == "v_prediction" and "shift" in name:
        with pytest.raises(TypeError, match="defines no velocity"):
            process.velocity_coefficients(t)
        return
    g = torch.Generator().manual_seed(1)
    z_0, noise, y = torch.randn(3, 8, 2, 4, 4, generator=g)
    z_t = process.add_noise(z_0, noise, t, y)
    if prediction_type == "v_prediction":
        d = process.velocity_coefficients(t)
        output = d.signal * z_0 + d.shift * y + d.noise * noise
    else:
        output = {"epsilon": noise, "sample": z_0}[prediction_type]
    prediction = to_prediction(output, prediction_type, process, z_t, t, y)
    ratio = process.coefficients(t).ratio
    assert ((prediction.sample - z_0) * ratio.clamp(max=1)).abs().max() < 2e-4
    assert ((prediction.epsilon - noise) / ratio.clamp(min=1)).abs().max() < 2e-4


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_velocity_is_the_time_derivative_up_to_the_clock(name):
    process, t, h = PROCESSES[name], torch.tensor([0.4]), 1e-3
    z_0, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    d = process.velocity_coefficients(t)
    slope = (process.add_noise(z_0, noise, t + h) - process.add_noise(z_0, noise, t - h)) / (2 * h)
    clock = math.pi / 2 if name == "cosine" else 1.0
    assert torch.allclose(clock * (d.signal * z_0 + d.noise * noise), slope, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(PROCESSES)), st.integers(0, 2**31))
def test_noise_difference_is_snr_times_clean_difference(name, seed):
    """|eps_a - eps_b|^2 = SNR |x0_a - x0_b|^2 at the same z_t."""
    process, g = PROCESSES[name], torch.Generator().manual_seed(seed)
    t = process.sample_timesteps(4, g)
    z_t, a, b, y = torch.randn(4, 4, 2, 3, 3, generator=g)
    eps = [epsilon_from_sample(process, z_t, t, x, y) for x in (a, b)]
    snr = process.log_snr(t).exp()
    left = (eps[0] - eps[1]).square().sum(dim=(1, 2, 3))
    assert torch.allclose(left, snr * (a - b).square().sum(dim=(1, 2, 3)), rtol=1e-3)
    assert torch.allclose(
        sample_from_epsilon(process, z_t, t, eps[0], y),
        a,
        atol=1e-2 * float(1 / snr.min().sqrt()) + 1e-4,
    )


@pytest.mark.parametrize("source", PROCESSES)
@pytest.mark.parametrize("target", PROCESSES)
def test_matched_times_have_equal_snr(source, target):
    a, b, t = PROCESSES[source], PROCESSES[target], draw(source, 64)
    matched, kept = match_timesteps(a, t, b)
    assert kept.any()
    gap = (a.log_snr(t) - b.log_snr(matched)).abs()[kept]
    if b.num_train_timesteps is None:
        assert (gap < 1e-3).all()
    else:
        steps = b.log_snr(torch.arange(b.num_train_timesteps)).diff().abs()
        assert (gap <= steps.max()).all()


def test_draws_outside_the_other_process_are_marked_not_clamped():
    """The last of 15 residual-shifting timesteps is noisier than anything a DDPM saw.

    Its signal / noise is 0.01, below the DDPM's 0.0684.
    """
    ratio = 0.3
    steps = 15
    sqrt_eta = 0.02 * (0.99 / 0.02) ** ((torch.arange(steps) / (steps - 1)) ** ratio)
    shifting = ResidualShifting(sqrt_eta, kappa=2.0)
    matched, kept = match_timesteps(shifting, torch.arange(steps), PROCESSES["ddpm"])
    assert kept.tolist() == [True] * 14 + [False]
    assert matched.tolist()[:14] == [
        1,
        55,
        109,
        167,
        227,
        289,
        352,
        417,
        484,
        554,
        629,
        712,
        809,
        941,
    ]


@pytest.mark.parametrize("codec", [Identity(), PixelUnshuffle(4, scale=2.0)])
def test_codecs_invert_exactly_and_pass_gradient(codec):
    image = torch.rand(2, 3, 8, 12, requires_grad=True)
    assert torch.equal(codec.decode(codec.encode(image)), image)
    codec.encode(image).sum().backward()
    assert image.grad is not None and (image.grad != 0).all()


def test_bridge_is_nothing_within_a_space_and_pixels_between_spaces():
    a, b = ToyModel(), unshuffled()
    latent = torch.rand(1, 3, 8, 8, requires_grad=True)
    same, other = Bridge(a, ToyModel(), Condition()), Bridge(a, b, Condition())
    assert (
        same.identity
        and same.to_teacher(latent, a.codec.decode(latent)) is latent
        and same.to_student(latent) is latent
    )
    there = other.to_teacher(latent, a.codec.decode(latent))
    assert not other.identity and there.shape == (1, 12, 4, 4)
    assert torch.allclose(other.to_student(there), latent)
    there.sum().backward()
    assert latent.grad is not None


def test_restore_is_clamped_and_scaled():
    restored = ToyModel(scale=2).restore(ModelInput(torch.rand(2, 3, 6, 8) * 2 - 1))
    assert restored.shape == (2, 3, 12, 16) and restored.abs().max() <= 1
