"""SinSR: one step, and the deterministic chain it was distilled from."""

import pytest
import torch

from distillkit import DiffusionModel, DistillkitError, ModelInput, OutputTeacher
from distillkit_superres.resshift.build import build_sinsr
from distillkit_superres.resshift.options import SinSROptions
from distillkit_superres.resshift.schedule import SINSR_MAX_START, deterministic, make_sqrt_eta
from distillkit_superres.resshift.sinsr import SinSR

CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.mark.golden("sinsr_[!k]*")
@torch.no_grad()
def test_one_step_reproduces_published_numbers(case):
    model = case.resshift(deterministic)
    g = case.tensors
    condition = model.condition(ModelInput(g["y"]))
    torch.testing.assert_close(condition.y, g["z_y"], **CLOSE)
    torch.testing.assert_close(model.prior(condition, g["noise"]), g["x_T"], **CLOSE)
    latent = SinSR(model).one_step(condition, g["noise"])
    torch.testing.assert_close(latent, g["one_step.latent"], **CLOSE)
    image = model.codec.decode(g["one_step.latent"])
    torch.testing.assert_close(image, g["one_step.image"], **CLOSE)


@pytest.mark.golden("sinsr_[!k]*")
@torch.no_grad()
def test_deterministic_chain_reproduces_published_numbers(case):
    model = case.resshift(deterministic)
    g = case.tensors
    factors = torch.stack(model.reverse[:3], 1).float()
    torch.testing.assert_close(factors, g["ddim.kmj"], rtol=1e-6, atol=1e-6)
    sqrt_eta = model.process.table[1].sqrt().float()
    torch.testing.assert_close(sqrt_eta, g["sqrt_etas"], rtol=1e-6, atol=1e-6)
    # All but the first have no effect.
    noises = iter([g["noise"], *torch.randn(model.nfe, *g["noise"].shape)])
    states = list(model.chain(model.condition(ModelInput(g["y"])), noises))
    latents = torch.stack([z for z, _ in states])
    torch.testing.assert_close(latents, g["ddim.samples"], **CLOSE)
    samples = torch.stack([sample for _, sample in states])
    torch.testing.assert_close(samples, g["ddim.pred_xstart"], **CLOSE)


@pytest.mark.golden("sinsr_[!k]*")
@torch.no_grad()
def test_the_losses_it_was_trained_with_come_out_as_published(case):
    """The network maps to the chain's end at the last timestep, and back at timestep 0.

    The way back scales its input as at the last timestep.
    """
    model = case.resshift(deterministic)
    g = case.tensors
    condition = model.condition(ModelInput(g["y"]))
    last = torch.tensor([model.nfe - 1])
    first = torch.tensor([0])
    x_t = g["x_T"]
    target = g["ddim.samples"][-1]
    gt = model.codec.encode(g["gt"])

    def back(sample):
        return model.network(model.scale_input(sample, last), first, condition.extra["lq"])

    terms = {
        "mse": (model(x_t, last, condition) - target).square().mean(),
        "mse_xT": (back(target) - x_t).square().mean(),
        "mse_gt": (model(back(gt), last, condition) - gt).square().mean(),
    }
    for name, value in terms.items():
        torch.testing.assert_close(value[None], g[f"distill.{name}"], rtol=1e-4, atol=0)
    torch.testing.assert_close(sum(terms.values())[None], g["distill.loss"], rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def tiny():
    return build_sinsr(SinSROptions(size="tiny"))


def test_is_an_output_teacher_only(tiny):
    assert isinstance(tiny, OutputTeacher)
    assert not isinstance(tiny, DiffusionModel)
    assert (tiny.nfe, tiny.scale, tiny.size_multiple) == (1, 4, 16)
    z = torch.zeros(1, 3, 16, 16)
    with pytest.raises(DistillkitError, match=r"superres/sinsr - cannot be asked for a score"):
        tiny.predict(z, torch.tensor([7]), tiny.model.condition(ModelInput(z)))


def test_restoring_is_repeatable_by_its_generator(tiny):
    inputs = ModelInput(torch.rand(2, 3, 16, 32) * 2 - 1)
    one, same, other = (tiny.restore(inputs, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert one.shape == (2, 3, 64, 128)
    assert one.equal(same)
    assert not one.equal(other)
    assert one.abs().max() <= 1


def test_its_schedule_starts_no_higher_than_its_bound():
    assert make_sqrt_eta(4, 0.2, 2.0)[0] == 0.1
    assert make_sqrt_eta(4, 0.2, 2.0, max_start=SINSR_MAX_START)[0] == SINSR_MAX_START
    bounded = make_sqrt_eta(15, 0.04, 2.0, max_start=SINSR_MAX_START)
    torch.testing.assert_close(bounded, make_sqrt_eta(15, 0.04, 2.0))
