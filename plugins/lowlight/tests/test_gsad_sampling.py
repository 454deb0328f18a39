"""Schedules, the forward process, the sampler and its padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from distillkit import ModelInput
from distillkit.diffusion.prediction import sample_from_epsilon
from distillkit_lowlight.gsad.model import GSAD
from distillkit_lowlight.gsad.padding import Border, choose_border, crop, pad
from distillkit_lowlight.gsad.process import CLEANEST_LEVEL, NoiseLevelProcess
from distillkit_lowlight.gsad.sampler import EVALUATION, TRAINING, predict_sample, run_reverse_chain
from distillkit_lowlight.schedule import make_betas, make_level_edges, make_tables


@pytest.mark.golden("gsad_schedules*")
def test_schedules(case, make_schedule):
    for name, options in case.info["schedules"].items():
        beta = make_schedule(options).betas
        if name in case.tensors:
            assert_close(beta, case[name], atol=1e-7, rtol=1e-6)
            continue
        for table, values in make_tables(beta).items():
            stored = case[f"{name}.{table}"]
            assert_close(values, stored, atol=1e-7, rtol=1e-6, msg=f"{name}.{table}")
        assert_close(
            make_level_edges(beta),
            case[f"{name}.sqrt_alphas_cumprod_prev_f64"],
            atol=1e-12,
            rtol=1e-9,
        )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.1, 0.2, 0.3]),
        ("quad", [0.1, ((0.1**0.5 + 0.3**0.5) / 2) ** 2, 0.3]),
        ("const", [0.3, 0.3, 0.3]),
        ("jsd", [1 / 3, 1 / 2, 1]),
        ("warmup10", [0.3, 0.3, 0.3]),
        ("warmup50", [0.1, 0.3, 0.3]),
    ],
)
def test_kinds_of_schedule(kind, expected):
    assert_close(make_betas(kind, 3, 0.1, 0.3), torch.tensor(expected, dtype=torch.float64))


def test_published_schedules():
    """Last levels of the fact sheet; the training range ends above v2-syn's last level."""
    last = {name: round(s.noise_level(s.steps - 1, 1).item(), 4) for name, s in EVALUATION.items()}
    assert last == {"lol-v1": 0.0007, "lol-v2-real": 0.0304, "lol-v2-syn": 0.0329}
    assert round(TRAINING.noise_level(499, 1).item(), 4) == 0.0797


@pytest.mark.golden("gsad_diffusion_small*")
def test_training_quantities(case, make_schedule):
    network = case.other(case.info["uses_weights_of"]).unet()
    level = case["train.level"][:, 0]
    noise = case["in.noise"]
    schedule = make_schedule(case.info["train_schedule"])
    process = NoiseLevelProcess(make_level_edges(schedule.betas))
    z_t = process.add_noise(case["in.gt"], noise, level)
    assert_close(z_t, case["train.q_sample"], atol=1e-6, rtol=0)
    eps, var = network.with_uncertainty(torch.cat([case["in.lq"], z_t], 1), level)
    assert_close(eps, case["train.eps"], atol=3e-5, rtol=0)
    assert_close(var, case["train.var"], atol=3e-5, rtol=0)
    model = GSAD(network, schedule)
    model.process = process
    predicted = model.predict(z_t, level, model.condition(ModelInput(case["in.lq"])))
    assert torch.equal(predicted.epsilon, eps)
    clean = sample_from_epsilon(process, z_t, level, case["train.eps"], None)
    assert_close(clean, case["train.predict_start"], atol=5e-5, rtol=0)
    mean, log_variance = schedule.posterior(
        case.info["predict_t_minus1_t"], z_t, clean.clamp(-1, 1)
    )
    earlier = mean + np.exp(0.5 * log_variance) * case["train.predict_t_minus1_z"]
    assert_close(earlier, case["train.predict_t_minus1"], atol=5e-5, rtol=0)


@pytest.mark.golden("gsad_diffusion_small*")
def test_sampler_steps(case, make_schedule):
    (options,) = case.info["val_schedule"].values()
    schedule = make_schedule(options)
    network = case.other(case.info["uses_weights_of"]).unet()
    for i in case.info["steps"]:
        x = case[f"step{i}.x_t"]
        level = schedule.noise_level(i, len(x))
        assert_close(level, case[f"step{i}.noise_level"][:, 0], atol=1e-7, rtol=1e-6)
        eps = network(torch.cat([case["in.lq"], x], 1), level)
        assert_close(eps, case[f"step{i}.eps"], atol=3e-5, rtol=0)
        sample = schedule.sample_from_epsilon(i, x, case[f"step{i}.eps"])
        assert_close(sample, case[f"step{i}.x0_unclipped"], atol=5e-5, rtol=1e-6)
        mean, log_variance = schedule.posterior(i, x, sample.clamp(-1, 1))
        assert_close(mean, case[f"step{i}.mean"], atol=5e-5, rtol=0)
        assert log_variance == pytest.approx(case[f"step{i}.log_var"].item(), rel=1e-6)
        out = mean
        if i > 0:
            out = mean + np.exp(0.5 * log_variance) * case[f"step{i}.z"]
        assert_close(out, case[f"step{i}.out"], atol=5e-5, rtol=0)


@pytest.mark.golden("gsad_diffusion_small*")
def test_sampling_loop_returns_the_whole_batch(case, make_schedule):
    (options,) = case.info["val_schedule"].values()
    model = GSAD(case.other(case.info["uses_weights_of"]).unet(), make_schedule(options))
    condition = model.condition(ModelInput(case["in.lq"]))

    def predict_noise(x, level):
        return model(x, level, condition)

    with torch.no_grad():
        x = run_reverse_chain(predict_noise, model.schedule, case["loop.x_T"], iter(case["loop.z"]))
        sample = predict_sample(predict_noise, model.schedule, x).clamp(-1, 1)
    assert_close(sample, case["loop.final_batch"], atol=5e-5, rtol=0)
    assert_close(sample[-1], case["loop.returned"], atol=5e-5, rtol=0)


@pytest.mark.golden("gsad_diffusion_small*")
def test_generate_draws_like_the_loop(case, make_schedule, monkeypatch):
    """``generate`` is the golden loop once its draws are the recorded ones."""
    (options,) = case.info["val_schedule"].values()
    model = GSAD(case.other(case.info["uses_weights_of"]).unet(), make_schedule(options))
    draws = iter([case["loop.x_T"], *case["loop.z"]])
    monkeypatch.setattr(torch, "randn", lambda *shape, generator=None: next(draws))
    restored = model.restore(ModelInput(case["in.lq"]))
    assert_close(restored, case["loop.final_batch"], atol=5e-5, rtol=0)
    assert next(draws, None) is None


@pytest.fixture(scope="module")
def process():
    return NoiseLevelProcess(make_level_edges(TRAINING.betas))


def test_levels_are_drawn_between_neighbors(process, generator):
    drawn = process.sample_timesteps(20_000, generator)
    edges = process.edges
    assert drawn.dtype == torch.float32
    assert float(edges[-1].float()) <= drawn.min() and drawn.max() <= CLEANEST_LEVEL
    share = [
        ((drawn < hi) & (drawn >= lo)).float().mean() for hi, lo in pairwise(edges[::50].tolist())
    ]
    assert_close(torch.stack(share), torch.full((10,), 0.1), atol=0.01, rtol=0)
    inside = drawn[(drawn > edges[251]) & (drawn < edges[250])].double()
    position = (edges[250] - inside) / (edges[250] - edges[251])
    assert 0.3 < position.mean() < 0.7 and position.std() > 0.2


def test_seeded_levels_are_repeatable(process):
    a, b = (process.sample_timesteps(16, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)


@settings(deadline=None)
@given(st.floats(0.08, 0.9999))
def test_level_of_an_snr(level):
    process = NoiseLevelProcess(make_level_edges(TRAINING.betas))
    t = torch.tensor([level])
    assert_close(process.timestep_at(process.log_snr(t)), t, atol=1e-5, rtol=1e-5)


def test_every_drawn_level_is_in_the_declared_range(process, generator):
    low, high = process.log_snr_range()
    snr = process.log_snr(process.sample_timesteps(5000, generator))
    assert torch.isfinite(snr).all() and low - 1e-4 <= snr.min() and snr.max() <= high + 1e-4
    assert torch.isfinite(process.coefficients(torch.tensor([CLEANEST_LEVEL])).ratio).all()


@pytest.mark.golden("gsad_eval_protocol*")
def test_published_border(case):
    image = case["pad.in_rgb_hwc"].permute(2, 0, 1)[None].float()
    padded = pad(image, Border(8, 8, 4, 4))
    assert torch.equal(padded[0].permute(1, 2, 0).byte(), case["pad.out_reflect_8_8_4_4_hwc"])
    assert torch.equal(crop(padded, Border(8, 8, 4, 4)), image)


def test_borders_of_the_data_sets():
    assert choose_border(torch.empty(1, 3, 400, 600), 16) == Border(8, 8, 4, 4)
    assert choose_border(torch.empty(1, 3, 384, 384), 16) == Border(0, 0, 0, 0)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([2, 8, 16]))
def test_any_size_is_padded_to_a_multiple_and_back(height, width, multiple):
    image = torch.arange(float(height * width)).reshape(1, 1, height, width)
    by = choose_border(image, multiple)
    padded = pad(image, by)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert max(padded.shape[-2] - height, padded.shape[-1] - width) < multiple
    assert torch.equal(crop(padded, by), image)
    expected = np.pad(
        image[0, 0].numpy(), ((by.top, by.bottom), (by.left, by.right)), mode="symmetric"
    )
    assert torch.equal(padded[0, 0], torch.from_numpy(expected))
