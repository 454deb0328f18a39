"""Reti-Diff's networks against numbers of the published code."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from distillkit_lowlight.retidiff.config import RetiDiffConfig
from distillkit_lowlight.retidiff.decomposition import recompose
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff, StageOneExtractors
from distillkit_lowlight.retidiff.priors import VectorDenoiser, VectorDiffusion
from distillkit_lowlight.retidiff.teacher import RetiDiffTeacher
from distillkit_lowlight.retidiff.weights import canonical_name, unique_tensors
from distillkit_lowlight.schedule import TABLE_NAMES

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.mark.golden("retidiff_s2_small*")
def test_restores_end_to_end(case):
    network = case.retidiff(training_head=True)
    lq = case["in.lq"]
    start = Priors(case["in.x_T_rex"], case["in.x_T_img"])
    maps = case.decomposition("decom.")(lq)
    assert_close(maps, torch.cat([case["mid.R"], case["mid.L"]], 1), **CLOSE)
    condition = network.conditions(lq, maps)
    assert_close(condition.rex, case["mid.cond_rex"], **CLOSE)
    assert_close(condition.img, case["mid.cond_img"], **CLOSE)
    for name, denoiser in (("rex", network.rex_denoise), ("img", network.img_denoise)):
        x = getattr(start, name)
        known = getattr(condition, name)
        chain = network.diffusion.run_reverse_chain(denoiser, x, known)
        assert_close(torch.stack(chain), case[f"mid.chain_{name}"], **CLOSE)
        steps = reversed(range(network.diffusion.timesteps))
        samples = []
        for z, t in zip([x, *chain], steps, strict=False):
            samples.append(denoiser(z, torch.full((len(z),), t), known))
        assert_close(torch.stack(samples), case[f"mid.x0_{name}"], **CLOSE)
    assert_close(network(lq, maps, start), case["out.sr"], **CLOSE)
    last_start = Priors(start.rex[1:], start.img[1:])
    last = network(lq[1:], maps[1:], last_start)
    assert_close(last, case["out.sr"][1:], **CLOSE)
    _, of_input, of_output = network.G.with_training_heads(lq, *network.priors(lq, maps, start))
    assert_close(of_input, case["out.G_decom_img"], **CLOSE)
    assert_close(of_output, case["out.G_decom_mat"], **CLOSE)


@pytest.mark.golden("retidiff_s2_small*")
def test_priors_modulate_the_transformer(case):
    network = case.retidiff()
    rex = case["mid.chain_rex"][-1].clone().requires_grad_()
    img = case["mid.chain_img"][-1].clone().requires_grad_()
    loss = network.G(case["in.lq"], rex, img).square().mean()
    rex_gradient, img_gradient = torch.autograd.grad(loss, [rex, img])
    assert_close(rex_gradient, case["out.grad_prior_rex"], rtol=1e-4, atol=1e-8)
    assert_close(img_gradient, case["out.grad_prior_img"], rtol=1e-4, atol=1e-8)


@pytest.mark.golden("retidiff_s2_small*")
def test_training_chain_starts_from_the_noised_prior(case):
    network = case.retidiff()
    for name, denoiser in (("rex", network.rex_denoise), ("img", network.img_denoise)):
        sample = case[f"train.s1_{name}"]
        last_timestep = network.diffusion.timesteps - 1
        noise = case[f"train.noise_{name}"]
        noised = network.diffusion.add_noise(sample, last_timestep, noise)
        assert_close(noised, case[f"train.x_noisy_{name}"], **CLOSE)
        chain = network.diffusion.run_reverse_chain(denoiser, noised, case[f"mid.cond_{name}"])
        assert_close(torch.stack(chain), case[f"train.pred_{name}"], **CLOSE)
    distance = F.l1_loss(case["train.pred_rex"][-1], case["train.s1_rex"])
    assert_close(distance, case["train.abs_rex"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.golden("retidiff_s2_small*")
def test_pads_any_size(case):
    teacher = RetiDiffTeacher(case.retidiff(), case.decomposition("decom."))
    start = Priors(case["in.x_T_rex"][:1], case["in.x_T_img"][:1])
    assert_close(teacher.restore_unit(case["pad.in"], start), case["pad.out"], **CLOSE)


@pytest.mark.golden("retidiff_full_recipe*")
def test_full_size(case):
    network = case.retidiff()
    lq = case["in.lq"]
    start = Priors(case["in.x_T_rex"], case["in.x_T_img"])
    maps = case.decomposition("")(lq)
    assert_close(maps, case["mid.retinex"], **CLOSE)
    condition = network.conditions(lq, maps)
    assert_close(condition.rex, case["mid.cond_rex"], **CLOSE)
    assert_close(condition.img, case["mid.cond_img"], **CLOSE)
    priors = network.priors(lq, maps, start)
    assert_close(priors.rex, case["mid.prior_rex"], **CLOSE)
    assert_close(priors.img, case["mid.prior_img"], **CLOSE)
    assert_close(network(lq, maps, start), case["out.sr"], atol=3e-4, rtol=0)


def _stage_one(case):
    extractors = StageOneExtractors(case.info["n_feats"], case.info["constructor"]["n_encoder_res"])
    unique = unique_tensors(case.tensors_under("sd."), case.path)
    extractors.load_state_dict({k: unique[canonical_name(k)] for k in extractors.state_dict()})
    return extractors


@pytest.mark.golden("retidiff_s1_small*")
def test_stage_one_priors(case):
    lq_maps = case.decomposition("decom_low.")(case["in.lq"])
    gt_maps = case.decomposition("decom_high.")(case["in.gt"])
    assert_close(lq_maps, case["mid.retinex_lq"], **CLOSE)
    assert_close(gt_maps, case["mid.retinex_gt"], **CLOSE)
    priors = _stage_one(case)(case["in.lq"], lq_maps, case["in.gt"], gt_maps)
    assert_close(priors.rex, case["out.prior_rex"], **CLOSE)
    assert_close(priors.img, case["out.prior_img"], **CLOSE)


@pytest.mark.golden("retidiff_s1_small*")
def test_stage_one_restores_with_the_transformer_of_stage_two(case):
    _, other = case.info["G_weights"].split(" of ")
    transformer = case.other(other).retidiff().G
    restored = transformer(case["in.lq"], case["out.prior_rex"], case["out.prior_img"])
    assert_close(restored, case["out.sr"], **CLOSE)


@pytest.mark.golden("retidiff_denoiser*")
def test_vector_diffusion(case):
    info = case.info
    diffusion = VectorDiffusion(info["timesteps"], info["linear_start"], info["linear_end"])
    for table in TABLE_NAMES:
        assert_close(diffusion.tables[table], case[f"sched.{table}"], atol=1e-7, rtol=1e-6)
    denoiser = VectorDenoiser(4 * info["n_feats"], info["n_denoise_res"], info["timesteps"])
    assert denoiser.max_period == info["max_period"]
    denoiser.load_state_dict(case.tensors_under("sd."))
    denoiser.requires_grad_(False)
    x = case["in.x"]
    condition = case["in.c"]
    for t in range(info["timesteps"]):
        sample = denoiser(x, torch.full((len(x),), t), condition)
        assert_close(sample, case[f"step{t}.x0_pred"], **CLOSE)
        mean = diffusion.step(denoiser, x, t, condition)
        assert_close(mean, case[f"step{t}.mean"], **CLOSE)
        noisy = diffusion.add_noise(case["in.x0"], t, case["in.noise"])
        assert_close(noisy, case[f"step{t}.q_sample"], **CLOSE)
    chain = diffusion.run_reverse_chain(denoiser, x, condition)
    assert_close(torch.stack(chain), case["chain"], **CLOSE)


@pytest.mark.golden("retidiff_decom_published*")
def test_published_decomposition(case):
    maps = case.decomposition("sd.")(case["in.image"])
    assert_close(maps, torch.cat([case["out.R"], case["out.L"]], 1), **CLOSE)
    assert (recompose(maps) - case["in.image"]).abs().mean() < 0.05


@pytest.mark.golden("retidiff_keys_full*")
def test_published_key_map(case):
    keys = case.info["keys_S2"]
    config = case.info["config"]
    with torch.device("meta"):
        trained = RetiDiff(RetiDiffConfig(**config, training_head=True))
        tested = RetiDiff(RetiDiffConfig(**config))
        extractors = StageOneExtractors()
    aliases = {name: canonical_name(name) for name in keys if canonical_name(name) != name}
    assert aliases == case.info["aliases_S2"]
    assert len(aliases) == 124

    wrappers = ("img_diffusion.", "rex_diffusion.")
    own = {name: shape for name, shape in keys.items() if name not in aliases}
    tables = sorted(name for name in own if name.startswith(wrappers))
    assert tables == sorted(f"{wrapper}{table}" for wrapper in wrappers for table in TABLE_NAMES)
    weights = {name: shape for name, shape in own.items() if name not in tables}
    assert shapes(trained) == weights
    for alias, name in aliases.items():
        assert list(trained.get_parameter(name).shape) == keys[alias]

    only_trained = case.info["s2_minus_interface"]
    assert sorted(weights.keys() - shapes(tested).keys()) == sorted(only_trained)
    assert len(keys) == case.info["n_keys"]["S2"]
    assert len(keys) - len(only_trained) == case.info["n_keys"]["S2_Interface"]
    stage_one = {name: list(value.shape) for name, value in extractors.state_dict().items()}
    assert stage_one == case.info["keys_S1_encoders"]

    totals = case.info["totals_unique_parameters"]
    assert count(trained) == totals["S2"]
    assert count(tested) == totals["S2_Interface"] == 26_107_831


def shapes(network):
    return {name: list(parameter.shape) for name, parameter in network.named_parameters()}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())
