"""Reti-Diff's weight files, its output, the distance of retinex maps, and the prior score."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from distillkit import Metric, ModelInput, OutputTeacher, WeightsError
from distillkit.objectives.dual_teacher import StudentOutput, draw_timesteps, score_distillation
from distillkit_lowlight.build import (
    TINY_RETIDIFF,
    gsad_student,
    prior_teacher,
    retidiff_teacher,
    retinex_distance,
)
from distillkit_lowlight.options import (
    GSADStudentOptions,
    PriorOptions,
    RetiDiffOptions,
    RetinexOptions,
)
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff, StageOneExtractors
from distillkit_lowlight.retidiff.weights import load_decomposition, load_retidiff, load_stage_one
from distillkit_lowlight.schedule import make_betas, make_tables


def published(network):
    """The flat state dictionary of the training program.

    It has denoisers and extractors a second time, and the schedule's tables.
    """
    state = {k: v.clone() for k, v in network.state_dict().items()}
    tables = make_tables(make_betas("quad", 4, 0.1, 0.99))
    for prior in ("img", "rex"):
        for own, wrapped in (("denoise", "model"), ("condition", "condition")):
            for name, tensor in list(state.items()):
                head, _, rest = name.partition(".")
                if head == f"{prior}_{own}":
                    state[f"{prior}_diffusion.{wrapped}.{rest}"] = tensor.clone()
        for name, table in tables.items():
            state[f"{prior}_diffusion.{name}"] = table
    return state


def save(path, state):
    """Save weights as the average of a training program, beside others that are not it."""
    others = {k: v + 1 for k, v in state.items()}
    torch.save({"params": others, "params_ema": state}, path)
    return path


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.fixture
def trained():
    return RetiDiff(replace(TINY_RETIDIFF, training_head=True))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_the_averaged_weights(tmp_path, trained, prefix):
    path = save(tmp_path / "llie.pth", {prefix + k: v for k, v in published(trained).items()})
    with_head, without = (
        RetiDiff(replace(TINY_RETIDIFF, training_head=True)),
        RetiDiff(TINY_RETIDIFF),
    )
    load_retidiff(with_head, path)
    load_retidiff(without, path)
    assert same(with_head, trained) and same(without, trained)


def test_training_head_may_be_absent_from_the_file(tmp_path, trained):
    path = save(
        tmp_path / "llie.pth",
        {k: v for k, v in published(trained).items() if not k.startswith("G.decom.")},
    )
    network = RetiDiff(TINY_RETIDIFF)
    load_retidiff(network, path)
    assert same(network, trained)
    with pytest.raises(WeightsError, match=r"missing G\.decom"):
        load_retidiff(RetiDiff(replace(TINY_RETIDIFF, training_head=True)), path)


@pytest.mark.parametrize(
    "name",
    [
        "rex_condition.E_I.2.body.0.weight",
        "img_diffusion.model.resmlp.0.bias",
        "rex_diffusion.condition.E_I.2.body.2.bias",
    ],
)
def test_refuses_aliases_that_differ(tmp_path, trained, name):
    state = published(trained)
    state[name] = state[name] + 1e-3
    with pytest.raises(WeightsError, match="name one tensor but differ"):
        load_retidiff(RetiDiff(TINY_RETIDIFF), save(tmp_path / "llie.pth", state))


def test_refuses_another_architecture(tmp_path, trained):
    path = save(tmp_path / "llie.pth", published(trained))
    with pytest.raises(WeightsError, match="another architecture"):
        load_retidiff(RetiDiff(replace(TINY_RETIDIFF, n_encoder_res=2)), path)


@pytest.mark.parametrize("content", [b"", b"not weights", bytes(range(256)) * 20])
def test_refuses_what_is_no_weight_file(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    for load, network in (
        (load_retidiff, RetiDiff(TINY_RETIDIFF)),
        (load_decomposition, Decomposition()),
    ):
        with pytest.raises(WeightsError, match=r"x\.pth"):
            load(network, tmp_path / "x.pth")


def test_reads_decomposition_networks(tmp_path):
    network, plain, nested = Decomposition(), Decomposition(), Decomposition()
    torch.save(network.state_dict(), tmp_path / "retinex_decomnet.pth")
    checkpoint = {
        "epoch": 3,
        "state_dict": {"model_R": network.state_dict()},
        "optimizer": {"lr": 1e-4},
    }
    torch.save(checkpoint, tmp_path / "init_low.pth")
    load_decomposition(plain, tmp_path / "retinex_decomnet.pth")
    load_decomposition(nested, tmp_path / "init_low.pth")
    assert same(plain, network) and same(nested, network)


def test_reads_stage_one(tmp_path, trained):
    extractors, read = (StageOneExtractors(TINY_RETIDIFF.n_feats, 1) for _ in range(2))
    state = dict(extractors.state_dict()) | {f"G.{k}": v for k, v in trained.G.state_dict().items()}
    load_stage_one(read, save(tmp_path / "s1.pth", state))
    assert same(read, extractors)


def test_residual_blocks_are_shared():
    extractor = RetiDiff(TINY_RETIDIFF).rex_condition
    assert extractor.E_R[2] is extractor.E_I[2]


@pytest.fixture(scope="module")
def teacher():
    return retidiff_teacher(RetiDiffOptions(size="tiny", seed=3)).requires_grad_(False)


@pytest.mark.parametrize("size", [(32, 40), (27, 45), (9, 8)])
def test_restores_any_size(teacher, images, size, generator):
    restored = teacher.restore(ModelInput(images(2, *size)), generator)
    assert isinstance(teacher, OutputTeacher) and restored.shape == (2, 3, *size)
    assert restored.abs().max() <= 1


def test_starts_are_drawn_from_the_generator(teacher, images):
    inputs = ModelInput(images(1, 16, 16))
    one, same, other = (
        teacher.restore(inputs, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_retinex_distance_is_a_differentiable_metric(images):
    distance = retinex_distance(RetinexOptions(size="tiny"))
    gt, restored = images(2, 16, 16), images(2, 16, 16, seed=1).requires_grad_()
    assert isinstance(distance, Metric) and distance.differentiable
    value = distance(restored, gt)
    assert value.shape == (2,) and (value > 0).all() and (distance(gt, gt) == 0).all()
    value.sum().backward()
    assert restored.grad.abs().sum() > 0
    assert all(p.grad is None for p in distance.decomposition.parameters())


@pytest.fixture(scope="module")
def priors():
    return prior_teacher(PriorOptions(size="tiny", seed=3)).requires_grad_(False)


def test_prior_score_terms(priors, images):
    """The engine's score terms: anchor in the space of priors, imitation through the image."""
    student = gsad_student(GSADStudentOptions(size="tiny", generate="one-step"))
    student.requires_grad_(False)
    inputs = ModelInput(images(2, 16, 16))
    gt = images(2, 16, 16, seed=1)
    image = images(2, 16, 16, seed=2).requires_grad_()
    output = StudentOutput(student.condition(inputs), image, image)
    terms = score_distillation(
        priors,
        student,
        output,
        inputs,
        gt,
        torch.Generator().manual_seed(5),
        weighting="literal",
    )

    draws = torch.Generator().manual_seed(5)
    t, t_student = draw_timesteps(priors.process, student.process, 2, draws, torch.device("cpu"))

    def mean(gap):
        return gap.square().mean()

    condition = priors.condition(inputs)
    z_s = priors.encode(image, condition)
    z = priors.encode(gt, condition)
    assert z.shape == (2, 2 * priors.network.prior_size, 1, 1)
    noise = torch.randn(z.shape, generator=draws)

    def predict(latent):
        return priors.predict(priors.process.add_noise(latent, noise, t), t, condition)

    of_student = predict(z_s)
    of_truth = predict(z)
    anchor = mean(of_student.epsilon - of_truth.epsilon)
    assert_close(terms.anchor, anchor, rtol=1e-4, atol=1e-6)

    own_noise = torch.randn(image.shape, generator=draws)
    z_t = student.process.add_noise(image, own_noise, t_student)
    own = student.predict(z_t, t_student, output.condition).sample
    ratio = student.process.coefficients(t_student).ratio
    imitate = mean(ratio * (own - priors.decode(of_student.sample, condition)))
    assert_close(terms.imitate, imitate, rtol=1e-4, atol=1e-6)
    for term in terms:
        (gradient,) = torch.autograd.grad(term, image, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_prior_chain_is_the_teachers(priors, teacher, images):
    """Generating a latent and decoding it is what the output teacher does."""
    inputs = ModelInput(images(2, 16, 24))
    restored = priors.restore(inputs, torch.Generator().manual_seed(4))
    expected = teacher.restore(inputs, torch.Generator().manual_seed(4))
    assert_close(restored, expected, atol=1e-6, rtol=0)
