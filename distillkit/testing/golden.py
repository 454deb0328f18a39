"""Golden cases: stored numbers of another implementation, to compare with.

A case is ``NAME.json`` (what it was made with) beside ``NAME.safetensors`` (inputs, weights and
outputs). A ``conftest.py`` names the folder of the cases::

    from distillkit.testing.golden import GoldenCase, parametrize_golden

    def pytest_generate_tests(metafunc):
        parametrize_golden(metafunc, Path(__file__).parent / "golden", GoldenCase)

A test marked ``@pytest.mark.golden("prefix*")`` then runs once for every case of that name pattern,
with the case as its argument ``case``. ``DISTILLKIT_GOLDEN`` in the environment names another
folder.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


class GoldenCase:
    """One golden case. A plugin's own subclass builds its models for a case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Everything in the case's safetensors file."""
        return load_file(self.path.with_suffix(".safetensors"))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def tensors_under(self, prefix: str) -> dict[str, Tensor]:
        """Select the tensors whose names start with a prefix, and take it off."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def other(self, name: str) -> Self:
        """Open another case of the same folder; skip the test where it is not there."""
        path = self.path.with_name(name).with_suffix(".json")
        if not path.with_suffix(".safetensors").is_file():
            pytest.skip(_not_there(path.stem, path.parent))
        return type(self)(path)


def parametrize_golden(
    metafunc: pytest.Metafunc,
    folder: Path,
    case_type: type[GoldenCase] = GoldenCase,
) -> None:
    """Run a marked test once for every case of its name pattern.

    Args:
        metafunc: What pytest passes to ``pytest_generate_tests``.
        folder: Where the cases are, unless ``DISTILLKIT_GOLDEN`` says otherwise.
        case_type: What a case is opened as.
    """
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    (pattern,) = marker.args
    folder = golden_folder(folder)
    paths = sorted(folder.glob(f"{pattern}.json"))
    cases = [pytest.param(case_type(path), id=path.stem) for path in paths]
    if not cases:
        missing = pytest.mark.skip(_not_there(pattern, folder))
        cases = [pytest.param(None, id="none", marks=missing)]
    metafunc.parametrize("case", cases)


def golden_folder(default: Path) -> Path:
    """Choose the folder of ``DISTILLKIT_GOLDEN``, if that is set."""
    return Path(os.environ.get("DISTILLKIT_GOLDEN", default))


def _not_there(cases: str, folder: Path) -> str:
    return f"no case {cases} in {folder}; set DISTILLKIT_GOLDEN to a folder that has it"


def draw_by_name(name: str, shape: Iterable[int], seed: int) -> Tensor:
    """Draw standard normal numbers that depend on a name and a seed alone, float64."""
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    return torch.from_numpy(random.standard_normal(tuple(shape)))


@torch.no_grad()
def fill_by_name(parameters: Iterable[tuple[str, Tensor]], seed: int) -> None:
    """Fill parameters by their names and a seed, so that a case need not store them.

    Matrices and kernels get ``n / sqrt(fan in)``, scales ``1 + 0.1 n`` and all else ``0.1 n``.

    Args:
        parameters: Names and parameters, which are filled in place.
        seed: Seed of the case.
    """
    for name, parameter in parameters:
        values = draw_by_name(name, parameter.shape, seed)
        if name.endswith("temperature"):
            values = 1 + 0.1 * values
        elif parameter.ndim >= 2:
            values = values / math.sqrt(math.prod(parameter.shape[1:]))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        parameter.copy_(values)
