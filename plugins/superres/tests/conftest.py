"""Golden cases: ``NAME.json`` (constructor arguments) beside ``NAME.safetensors`` (inputs, weights and outputs).

They are read from the folder named by ``DISTILLKIT_GOLDEN``, by default the copies in ``tests/golden``. A test marked
``@pytest.mark.golden("prefix_*")`` runs once for every case of that name pattern, its argument ``case`` a :class:`Golden`.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SHIPPED = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("DISTILLKIT_GOLDEN", SHIPPED))


class Golden:
    """One golden case."""

    def __init__(self, path):
        self.path = path
        self.info = json.loads(path.read_text())

    @property
    def tensors(self):
        return load_file(self.path.with_suffix(".safetensors"))

    def sibling(self, filename):
        """Another case of the same folder, by the name of one of its files."""
        return Golden((self.path.parent / filename).with_suffix(".json"))

    def load_into(self, module):
        """Give ``module`` the case's weights, key for key: the stored ``sd.*``, or those of the seeded recipe in the json."""
        state = {k.removeprefix("sd."): v for k, v in self.tensors.items() if k.startswith("sd.")}
        if state:
            module.load_state_dict(state, strict=True)
        else:
            recipe_weights(module, self.info["recipe_seed"])
        return module.eval().requires_grad_(False)


def recipe_weights(module, seed):
    """Weights that depend on nothing but each parameter's name and the seed, so that a case need not store them.

    n ~ RandomState(crc32(name) xor seed): matrices and kernels n / sqrt(fan in), scales of norms 1 + 0.1 n, all else 0.1 n.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            n = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(tuple(parameter.shape))
            if parameter.ndim >= 2:
                n = n / np.sqrt(np.prod(parameter.shape[1:]))
            else:
                n = 0.1 * n + name.endswith("weight")
            parameter.copy_(torch.from_numpy(n))


def pytest_configure(config):
    config.addinivalue_line("markers", "golden(pattern): run once for every golden case of this name pattern")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    (pattern,) = marker.args
    cases = [pytest.param(Golden(p), id=p.stem) for p in sorted(FOLDER.glob(f"{pattern}.json"))]
    missing = pytest.param(None, id="none", marks=pytest.mark.skip(f"no case {pattern} in {FOLDER}; set DISTILLKIT_GOLDEN"))
    metafunc.parametrize("case", cases or [missing])
