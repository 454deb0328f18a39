"""Golden cases: ``NAME.json`` (constructor arguments) beside ``NAME.safetensors`` (inputs, weights and outputs).

They are read from the folder named by ``DISTILLKIT_GOLDEN``, by default the copies in ``tests/golden``, which leave out the cases
with large stored weights. A test marked ``@pytest.mark.golden("prefix*")`` runs once for every case of that name pattern, its
argument ``case`` a :class:`Golden`.
"""

import json
import os
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distillkit_lowlight.gsad.sampler import Schedule
from distillkit_lowlight.gsad.unet import UNet
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff
from distillkit_lowlight.retidiff.weights import canonical, unique_tensors

SHIPPED = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("DISTILLKIT_GOLDEN", SHIPPED))


class Golden:
    """One golden case. The methods build the product's objects for the constructor arguments in its json."""

    def __init__(self, path):
        self.path = path
        self.info = json.loads(path.read_text())

    @cached_property
    def tensors(self):
        return load_file(self.path.with_suffix(".safetensors"))

    def __getitem__(self, name):
        return self.tensors[name]

    def part(self, prefix):
        """The tensors whose names start with ``prefix``, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def other(self, file):
        """Another case of the same folder."""
        path = self.path.with_name(file).with_suffix(".json")
        if not path.with_suffix(".safetensors").is_file():
            pytest.skip(
                f"{path.stem} is not in {FOLDER}; set DISTILLKIT_GOLDEN to a folder that has it"
            )
        return Golden(path)

    def unet(self):
        """The U-Net with the case's weights."""
        network = UNet(**self.info["constructor"])
        if "recipe_seed" in self.info:
            recipe_weights(network.named_parameters(), self.info["recipe_seed"])
        else:
            network.load_state_dict(self.part("sd."))
        return network.eval().requires_grad_(False)

    def retidiff(self, **options):
        """Reti-Diff with the case's weights."""
        feats = {"n_feats": self.info["n_feats"]} if "n_feats" in self.info else {}
        network = RetiDiff(**self.info["constructor"], **feats, **options)
        if "recipe_seed" in self.info:
            recipe_weights(network.named_parameters(), self.info["recipe_seed"])
        else:
            unique = unique_tensors(self.part("sd."), self.path)
            network.load_state_dict({k: unique[canonical(k)] for k in network.state_dict()})
        return network.requires_grad_(False)

    def decomposition(self, prefix):
        """A decomposition network: its weights stored under ``prefix``, or by recipe as the network named ``decomnet``."""
        network = Decomposition()
        if "recipe_seed" in self.info:
            recipe_weights(
                ((f"decomnet.{k}", p) for k, p in network.named_parameters()),
                self.info["recipe_seed"],
            )
        else:
            network.load_state_dict(self.part(prefix))
        return network.requires_grad_(False)


def schedule(options):
    """A :class:`Schedule` of the json's options."""
    return Schedule(
        options["n_timestep"],
        options.get("linear_start", 1e-4),
        options.get("linear_end", 2e-2),
        options["schedule"],
    )


def recipe_array(name, shape, seed):
    """Standard normal numbers that depend on a name and a seed alone, float64."""
    return torch.from_numpy(
        np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(
            tuple(shape)
        )
    )


@torch.no_grad()
def recipe_weights(parameters, seed):
    """Weights that follow from each parameter's name and the seed, so that a case need not store them."""
    for name, parameter in parameters:
        n = recipe_array(name, parameter.shape, seed)
        if name.endswith("temperature"):
            n = 1 + 0.1 * n
        elif parameter.ndim >= 2:
            n = n / np.sqrt(np.prod(parameter.shape[1:]))
        elif name.endswith("weight"):
            n = 1 + 0.1 * n
        else:
            n = 0.1 * n
        parameter.copy_(n)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(pattern): run once for every golden case of this name pattern"
    )


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    (pattern,) = marker.args
    cases = [pytest.param(Golden(p), id=p.stem) for p in sorted(FOLDER.glob(f"{pattern}.json"))]
    missing = pytest.param(
        None,
        id="none",
        marks=pytest.mark.skip(f"no case {pattern} in {FOLDER}; set DISTILLKIT_GOLDEN"),
    )
    metafunc.parametrize("case", cases or [missing])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def recipe_numbers():
    """:func:`recipe_array`, for tests that need such numbers themselves."""
    return recipe_array


@pytest.fixture
def make_schedule():
    """:func:`schedule`."""
    return schedule


@pytest.fixture
def images():
    """``images(b, h, w)``: smooth random images in [-1, 1], the same at every call."""

    def make(batch, height, width, seed=0):
        coarse = torch.rand(batch, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)

    return make
