"""ResShift's schedule, reverse chain and model bundle."""

import math
from dataclasses import replace

import pytest
import torch

from distillkit import Condition, DiffusionModel, ModelInput
from distillkit.diffusion.prediction import epsilon_from_sample, sample_from_epsilon
from distillkit_superres.resshift.autoencoder import VQModel
from distillkit_superres.resshift.build import (
    TINY_AUTOENCODER,
    TINY_UNET,
    build_resshift,
    make_process,
)
from distillkit_superres.resshift.model import ResShift
from distillkit_superres.resshift.options import ResShiftOptions
from distillkit_superres.resshift.schedule import ancestral, deterministic
from distillkit_superres.resshift.unet import SwinUNet

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.golden("resshift_schedule_s*")
def test_schedule_reproduces_published_tables(case):
    forward = case.process()
    g = case.tensors
    posterior = ancestral(forward)
    expected = torch.tensor(case.info["sqrt_etas_float64"], dtype=torch.float64)
    torch.testing.assert_close(forward.table[1].sqrt(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(forward.table[1].float(), g["sched.etas"], **EXACT)
    torch.testing.assert_close(posterior.sample.float(), g["sched.posterior_mean_coef2"], **EXACT)
    torch.testing.assert_close(posterior.current.float(), g["sched.posterior_mean_coef1"], **EXACT)
    torch.testing.assert_close((posterior.noise**2).float(), g["sched.posterior_variance"], **EXACT)
    # The published code puts the second entry for the first, which is -inf and never used.
    log_variance = (2 * posterior.noise.log())[1:].float()
    stored = g["sched.posterior_log_variance_clipped"][1:]
    torch.testing.assert_close(log_variance, stored, **EXACT)
    assert g["sched.timestep_map"].equal(torch.arange(forward.num_train_timesteps))


@pytest.mark.golden("resshift_schedule_s*")
def test_forward_process_and_conversions_reproduce_published_numbers(case):
    forward = case.process()
    g = case.tensors
    z_t = g["q_sample"]
    t = g["t"]
    y = g["y"]
    noisy = forward.add_noise(g["x0"], g["noise"], t, y)
    torch.testing.assert_close(noisy, z_t, **EXACT)
    epsilon = epsilon_from_sample(forward, z_t, t, g["x0"], y)
    torch.testing.assert_close(epsilon, g["eps_from_xstart"], **EXACT)
    sample = sample_from_epsilon(forward, z_t, t, g["noise"], y)
    torch.testing.assert_close(sample, g["xstart_from_eps"], **EXACT)


class _Stub(torch.nn.Module):
    """A network that answers with a given latent and remembers what it was asked."""

    size_multiple = 1

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, lq):
        self.asked = x, t
        return self.answer


@pytest.mark.golden("resshift_schedule_s*")
def test_one_reverse_step_reproduces_published_numbers(case):
    g = case.tensors
    t = g["t"]
    model = ResShift(_Stub(g["p_sample.model_output"]), VQModel(TINY_AUTOENCODER), case.process())
    condition = Condition(y=g["y"], extra={"lq": g["y"]})
    torch.testing.assert_close(model.prior(condition, g["noise"]), g["prior_sample"], **EXACT)
    sample = model.predict(g["q_sample"], t, condition).sample
    assert sample.equal(g["p_sample.pred_xstart"])
    scaled, asked_t = model.network.asked
    torch.testing.assert_close(scaled, g["p_sample.model_input"], **EXACT)
    assert asked_t.equal(g["p_sample.model_t"])
    step = model.reverse(t, sample, g["q_sample"], g["y"], g["p_sample.noise"])
    torch.testing.assert_close(step, g["p_sample.sample"], **EXACT)
    mean = model.reverse(t, sample, g["q_sample"], g["y"], torch.zeros_like(step))
    torch.testing.assert_close(mean, g["p_sample.mean"], **EXACT)
    mean = model.reverse(t, g["x0"], g["q_sample"], g["y"], torch.zeros_like(step))
    torch.testing.assert_close(mean, g["posterior_mean"], **EXACT)


@pytest.mark.golden("resshift_loop_s*")
@torch.no_grad()
def test_chain_reproduces_published_samples(case):
    model = case.resshift(ancestral)
    g = case.tensors
    condition = model.condition(ModelInput(g["y"]))
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(condition.y, g["z_y"], **close)
    states = list(model.chain(condition, iter(g["noise"])))
    latents = torch.stack([z for z, _ in states])
    torch.testing.assert_close(latents, g["samples"], **close)
    samples = torch.stack([sample for _, sample in states])
    torch.testing.assert_close(samples, g["pred_xstart"], **close)
    noquant = model.codec.network.decode(latents[-1], force_not_quantize=True)
    torch.testing.assert_close(noquant, g["decoded_noquant"], **close)
    # Decoded from the stored latent: a last digit can flip a code.
    decoded = model.codec.decode(g["samples"][-1])
    torch.testing.assert_close(decoded, g["decoded"], **close)
    torch.testing.assert_close(decoded.clamp(-1, 1), g["final"], **close)


@pytest.mark.parametrize("step", [ancestral, deterministic])
def test_reverse_steps_keep_the_marginals(step):
    """If z_0 is known exactly, a step from q(z_t) lands in q(z_{t-1})."""
    forward = make_process(15, 0.04)
    signal, shift, noise = forward.table
    r = step(forward)
    torch.testing.assert_close((r.sample + r.current * signal)[1:], signal[:-1])
    torch.testing.assert_close((r.shift + r.current * shift)[1:], shift[:-1])
    torch.testing.assert_close(((r.current * noise) ** 2 + r.noise**2)[1:], noise[:-1] ** 2)
    assert (r.sample[0], r.current[0], r.shift[0], r.noise[0]) == (1, 0, 0, 0)


@pytest.fixture(scope="module")
def tiny():
    return build_resshift(ResShiftOptions(size="tiny"))


def test_tiny_goes_through_the_same_classes(tiny):
    assert isinstance(tiny, DiffusionModel)
    assert isinstance(tiny.network, SwinUNet)
    assert (tiny.nfe, tiny.scale, tiny.size_multiple, tiny.prediction_type) == (4, 4, 16, "sample")
    assert tiny.codec.space != "vq-f4"  # other weights, other latents
    assert not any(p.requires_grad for p in tiny.parameters())
    assert tiny.network.get_submodule(tiny.head).out_channels == 3


def test_tiny_weights_depend_on_the_seed_alone(tiny):
    state = torch.random.get_rng_state()
    again, other = (build_resshift(ResShiftOptions(size="tiny", seed=s)) for s in (0, 1))
    assert torch.random.get_rng_state().equal(state)
    weight = "network.input_blocks.0.0.weight"
    assert again.get_parameter(weight).equal(tiny.get_parameter(weight))
    assert not other.get_parameter(weight).equal(tiny.get_parameter(weight))


@pytest.mark.parametrize(("version", "nfe"), [("v1", 15), ("v2", 15), ("v3", 4)])
def test_versions_differ_in_their_steps(version, nfe):
    model = build_resshift(ResShiftOptions(size="tiny", version=version))
    assert (model.nfe, model.process.num_train_timesteps) == (nfe, nfe)
    assert math.isclose(model.process.table[1, -1], 0.99**2)


def test_restoring_is_repeatable_by_its_generator(tiny):
    inputs = ModelInput(torch.rand(2, 3, 16, 32) * 2 - 1)
    one, same, other = (tiny.restore(inputs, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert one.shape == (2, 3, 64, 128)
    assert one.equal(same)
    assert not one.equal(other)
    assert one.abs().max() <= 1


def test_the_deterministic_sampler_draws_noise_only_for_its_start():
    model = build_resshift(ResShiftOptions(size="tiny", sampler="deterministic"))
    condition = model.condition(ModelInput(torch.rand(1, 3, 16, 16) * 2 - 1))
    start = torch.randn_like(condition.y)
    ends = []
    for _ in range(2):
        *_, (z, _) = model.chain(condition, iter([start, *torch.randn(model.nfe, *start.shape)]))
        ends.append(z)
    assert ends[0].equal(ends[1])


def test_gradient_of_a_prediction_reaches_the_image_through_the_encoder(tiny):
    image = torch.rand(1, 3, 64, 64).mul(2).sub(1).requires_grad_()
    condition = tiny.condition(ModelInput(torch.rand(1, 3, 16, 16) * 2 - 1))
    t = torch.tensor([2])
    z_t = tiny.process.add_noise(
        tiny.codec.encode(image), torch.randn(1, 3, 16, 16), t, condition.y
    )
    prediction = tiny.predict(z_t, t, condition)
    for value in prediction:
        (gradient,) = torch.autograd.grad(value.square().mean(), image, retain_graph=True)
        assert gradient.abs().max() > 0


def test_a_finer_input_is_brought_to_the_latent_by_the_network():
    """x2 models: the low-quality image is twice the latent's size."""
    network = SwinUNet(replace(TINY_UNET, lq_size=32))
    model = ResShift(network, VQModel(TINY_AUTOENCODER), make_process(4, 0.2), scale=2)
    assert model.size_multiple == 32
    with torch.no_grad():
        restored = model.restore(ModelInput(torch.rand(1, 3, 32, 64) * 2 - 1))
    assert restored.shape == (1, 3, 64, 128)


def test_mixed_precision_follows_float32(tiny):
    """The code search stays in float32 under autocast."""
    torch.manual_seed(0)
    inputs = ModelInput(torch.rand(1, 3, 16, 16) * 2 - 1)
    t = torch.tensor([2])
    condition = tiny.condition(inputs)
    z_t = tiny.process.add_noise(condition.y, torch.randn_like(condition.y), t, condition.y)
    expected = tiny.predict(z_t, t, condition).sample
    codes = tiny.codec.network.quantize.nearest(z_t)
    with torch.autocast("cpu", torch.bfloat16):
        sample = tiny.predict(z_t, t, tiny.condition(inputs)).sample
        assert tiny.codec.network.quantize.nearest(z_t).equal(codes)
        assert tiny.restore(inputs).isfinite().all()
    assert (sample - expected).abs().max() < 0.05 * expected.abs().max()
