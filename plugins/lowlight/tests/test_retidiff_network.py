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
    network, decomposition = case.retidiff(training_head=True), case.decomposition("decom.")
    lq, start = case["in.lq"], Priors(case["in.x_T_rex"], case["in.x_T_img"])
    maps = decomposition(lq)
    assert_close(maps, torch.cat([case["mid.R"], case["mid.L"]], 1), **CLOSE)
    condition = network.conditions(lq, maps)
    assert_close(condition.rex, case["mid.cond_rex"], **CLOSE)
    assert_close(condition.img, case["mid.cond_img"], **CLOSE)
    for name, denoiser, x in (
        ("rex", network.rex_denoise, start.rex),
        ("img", network.img_denoise, start.img),
    ):
        told = getattr(condition, name)
        chain = network.diffusion.run_reverse_chain(denoiser, x, told)
        assert_close(torch.stack(chain), case[f"mid.chain_{name}"], **CLOSE)
        steps = reversed(range(network.diffusion.timesteps))
        clean = [
            denoiser(z, torch.full((len(z),), t), told)
            for z, t in zip([x, *chain], steps, strict=False)
        ]
        assert_close(torch.stack(clean), case[f"mid.x0_{name}"], **CLOSE)
    assert_close(network(lq, maps, start), case["out.sr"], **CLOSE)
    assert_close(
        network(lq[1:], maps[1:], Priors(start.rex[1:], start.img[1:])), case["out.sr"][1:], **CLOSE
    )
    _, of_input, of_output = network.G.with_training_heads(lq, *network.priors(lq, maps, start))
    assert_close(of_input, case["out.G_decom_img"], **CLOSE)
    assert_close(of_output, case["out.G_decom_mat"], **CLOSE)


@pytest.mark.golden("retidiff_s2_small*")
def test_priors_modulate_the_transformer(case):
    network = case.retidiff()
    priors = [case[f"mid.chain_{name}"][-1].clone().requires_grad_() for name in ("rex", "img")]
    gradients = torch.autograd.grad(network.G(case["in.lq"], *priors).square().mean(), priors)
    assert_close(gradients[0], case["out.grad_prior_rex"], rtol=1e-4, atol=1e-8)
    assert_close(gradients[1], case["out.grad_prior_img"], rtol=1e-4, atol=1e-8)


@pytest.mark.golden("retidiff_s2_small*")
def test_training_chain_starts_from_the_noised_prior(case):
    network = case.retidiff()
    for name, denoiser in (("rex", network.rex_denoise), ("img", network.img_denoise)):
        clean = case[f"train.s1_{name}"]
        noised = network.diffusion.add_noise(
            clean, network.diffusion.timesteps - 1, case[f"train.noise_{name}"]
        )
        assert_close(noised, case[f"train.x_noisy_{name}"], **CLOSE)
        chain = network.diffusion.run_reverse_chain(denoiser, noised, case[f"mid.cond_{name}"])
        assert_close(torch.stack(chain), case[f"train.pred_{name}"], **CLOSE)
    last = case["train.pred_rex"][-1]
    assert_close(
        F.l1_loss(last, case["train.s1_rex"]), case["train.abs_rex"][0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.golden("retidiff_s2_small*")
def test_pads_any_size(case):
    teacher = RetiDiffTeacher(case.retidiff(), case.decomposition("decom."))
    start = Priors(case["in.x_T_rex"][:1], case["in.x_T_img"][:1])
    assert_close(teacher.restore_unit(case["pad.in"], start), case["pad.out"], **CLOSE)


@pytest.mark.golden("retidiff_full_recipe*")
def test_full_size(case):
    network, decomposition = case.retidiff(), case.decomposition("")
    lq, start = case["in.lq"], Priors(case["in.x_T_rex"], case["in.x_T_img"])
    maps = decomposition(lq)
    assert_close(maps, case["mid.retinex"], **CLOSE)
    for found, name in (
        (network.conditions(lq, maps), "cond"),
        (network.priors(lq, maps, start), "prior"),
    ):
        assert_close(found.rex, case[f"mid.{name}_rex"], **CLOSE)
        assert_close(found.img, case[f"mid.{name}_img"], **CLOSE)
    assert_close(network(lq, maps, start), case["out.sr"], atol=3e-4, rtol=0)


def _stage_one(case):
    extractors = StageOneExtractors(case.info["n_feats"], case.info["constructor"]["n_encoder_res"])
    unique = unique_tensors(case.tensors_under("sd."), case.path)
    extractors.load_state_dict({k: unique[canonical_name(k)] for k in extractors.state_dict()})
    return extractors


@pytest.mark.golden("retidiff_s1_small*")
def test_stage_one_priors(case):
    lq_maps, gt_maps = (
        case.decomposition("decom_low.")(case["in.lq"]),
        case.decomposition("decom_high.")(case["in.gt"]),
    )
    assert_close(lq_maps, case["mid.retinex_lq"], **CLOSE)
    assert_close(gt_maps, case["mid.retinex_gt"], **CLOSE)
    priors = _stage_one(case)(case["in.lq"], lq_maps, case["in.gt"], gt_maps)
    assert_close(priors.rex, case["out.prior_rex"], **CLOSE)
    assert_close(priors.img, case["out.prior_img"], **CLOSE)


@pytest.mark.golden("retidiff_s1_small*")
def test_stage_one_restores_with_the_transformer_of_stage_two(case):
    transformer = case.other(case.info["G_weights"].split(" of ")[1]).retidiff().G
    assert_close(
        transformer(case["in.lq"], case["out.prior_rex"], case["out.prior_img"]),
        case["out.sr"],
        **CLOSE,
    )


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
    x, told = case["in.x"], case["in.c"]
    for t in range(info["timesteps"]):
        assert_close(denoiser(x, torch.full((len(x),), t), told), case[f"step{t}.x0_pred"], **CLOSE)
        assert_close(diffusion.step(denoiser, x, t, told), case[f"step{t}.mean"], **CLOSE)
        assert_close(
            diffusion.add_noise(case["in.x0"], t, case["in.noise"]),
            case[f"step{t}.q_sample"],
            **CLOSE,
        )
    assert_close(
        torch.stack(diffusion.run_reverse_chain(denoiser, x, told)), case["chain"], **CLOSE
    )


@pytest.mark.golden("retidiff_decom_published*")
def test_published_decomposition(case):
    maps = case.decomposition("sd.")(case["in.image"])
    assert_close(maps, torch.cat([case["out.R"], case["out.L"]], 1), **CLOSE)
    assert (recompose(maps) - case["in.image"]).abs().mean() < 0.05


@pytest.mark.golden("retidiff_keys_full*")
def test_published_key_map(case):
    keys, config, totals = (
        case.info["keys_S2"],
        case.info["config"],
        case.info["totals_unique_parameters"],
    )
    with torch.device("meta"):
        trained, tested, extractors = (
            RetiDiff(RetiDiffConfig(**config, training_head=True)),
            RetiDiff(RetiDiffConfig(**config)),
            StageOneExtractors(),
        )
    aliases = {k: canonical_name(k) for k in keys if canonical_name(k) != k}
    assert aliases == case.info["aliases_S2"]
    wrapped = ("img_diffusion.", "rex_diffusion.")
    unique = {
        k: shape for k, shape in keys.items() if k not in aliases and not k.startswith(wrapped)
    }
    assert {k: list(p.shape) for k, p in trained.named_parameters()} == unique
    assert all(list(trained.get_parameter(aliases[k]).shape) == keys[k] for k in aliases)
    buffers = [k for k in keys if k not in aliases and k.startswith(wrapped)]
    assert sorted(buffers) == sorted(f"{w}{table}" for w in wrapped for table in TABLE_NAMES)
    assert sorted(set(unique) - dict(tested.named_parameters()).keys()) == sorted(
        case.info["s2_minus_interface"]
    )
    assert {k: list(v.shape) for k, v in extractors.state_dict().items()} == case.info[
        "keys_S1_encoders"
    ]

    counts = [sum(p.numel() for p in m.parameters()) for m in (trained, tested)]
    assert counts == [totals["S2"], totals["S2_Interface"]]
    assert [len(keys), len(keys) - len(case.info["s2_minus_interface"])] == [
        case.info["n_keys"][k] for k in ("S2", "S2_Interface")
    ]
    assert len(aliases) == 124 and counts[1] == 26_107_831
