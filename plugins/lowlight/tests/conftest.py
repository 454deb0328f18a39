"""Golden cases of the low-light models; see :mod:`distillkit.testing.golden`.

The copies in ``tests/golden`` leave out the cases with large stored weights.
"""

from pathlib import Path

import pytest
import torch

from distillkit.testing.golden import GoldenCase, draw_by_name, fill_by_name, parametrize_golden
from distillkit_lowlight.gsad.sampler import Schedule
from distillkit_lowlight.gsad.unet import UNet, UNetConfig
from distillkit_lowlight.retidiff.config import RetiDiffConfig
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff
from distillkit_lowlight.retidiff.weights import canonical_name, unique_tensors


class LowLightCase(GoldenCase):
    """Builds the networks for the constructor arguments in a case's json."""

    def unet(self):
        """The U-Net with the case's weights."""
        network = UNet(UNetConfig(**self.info["constructor"]))
        if "recipe_seed" in self.info:
            fill_by_name(network.named_parameters(), self.info["recipe_seed"])
        else:
            network.load_state_dict(self.tensors_under("sd."))
        return network.eval().requires_grad_(False)

    def retidiff(self, **options):
        """Reti-Diff with the case's weights."""
        if "n_feats" in self.info:
            options["n_feats"] = self.info["n_feats"]
        network = RetiDiff(RetiDiffConfig(**self.info["constructor"], **options))
        if "recipe_seed" in self.info:
            fill_by_name(network.named_parameters(), self.info["recipe_seed"])
        else:
            unique = unique_tensors(self.tensors_under("sd."), self.path)
            network.load_state_dict({k: unique[canonical_name(k)] for k in network.state_dict()})
        return network.requires_grad_(False)

    def decomposition(self, prefix):
        """A decomposition network with the weights stored under ``prefix``.

        A case without stored weights calls the network ``decomnet``.
        """
        network = Decomposition()
        if "recipe_seed" in self.info:
            named = [(f"decomnet.{name}", p) for name, p in network.named_parameters()]
            fill_by_name(named, self.info["recipe_seed"])
        else:
            network.load_state_dict(self.tensors_under(prefix))
        return network.requires_grad_(False)


def schedule(options):
    """A :class:`Schedule` of the json's options."""
    return Schedule(
        options["n_timestep"],
        options.get("linear_start", 1e-4),
        options.get("linear_end", 2e-2),
        options["schedule"],
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(pattern): run once for every golden case of this name pattern"
    )


def pytest_generate_tests(metafunc):
    parametrize_golden(metafunc, Path(__file__).parent / "golden", LowLightCase)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def recipe_numbers():
    """:func:`draw_by_name`, for tests that need such numbers themselves."""
    return draw_by_name


@pytest.fixture
def make_schedule():
    """:func:`schedule`."""
    return schedule


@pytest.fixture
def images():
    """``images(b, h, w)``: smooth random images in [-1, 1], the same at every call."""

    def make(batch, height, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(batch, 3, 5, 5, generator=generator) * 2 - 1
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        return smooth.clamp(-1, 1)

    return make
