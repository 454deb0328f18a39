"""Fixtures of several test files.

distillkit comes before spandrel: it makes a torchvision for another torch importable.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from small_disk import disk
from toy_fixtures import distillkit

from distillkit.inference.student import save_student
from distillkit.recipe.build import build_adapter, build_named_model, build_variant
from distillkit.recipe.load import load_recipe

__all__ = ["disk", "distillkit"]

PARAMETERS = {
    "Compact": {"num_feat": 8, "num_conv": 2},
    "SPAN": {"feature_channels": 8},
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "PLKSR": {"dim": 8, "n_blocks": 1, "kernel_size": 5},
    "RealPLKSR": {"dim": 8, "n_blocks": 1, "kernel_size": 5},
}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC)
        photo.save(folder / f"{i}.png")
    return folder


@pytest.fixture
def make_student(tmp_path):
    """Write a student whose adapters hold random numbers, as a run does; return its folder."""

    def make(architecture, scale=4):
        about = {
            "architecture": architecture,
            "scale": scale,
            "parameters": PARAMETERS[architecture],
        }
        resolved = load_recipe("mini/paper_sr4x", _overrides(about))
        model = build_named_model("spandrel/student", about, "cpu")
        first = build_adapter(model.stage1_network, resolved.recipe.stage1.adapter, 0)
        trained = {"stage1": _perturbed(first.tensors())}
        first.merge()
        second = build_variant(model, resolved.recipe.stage2, 0)
        trained["stage2"] = _perturbed(second.tensors())
        save_student(tmp_path / "run/student", resolved, trained)
        return tmp_path / "run"

    return make


def _overrides(about):
    """Put a student into a recipe of score teachers, for which it need not have a score."""
    lines = [f"student.{key}={value!r}" for key, value in about.items() if key != "parameters"]
    lines += [f"student.parameters.{key}={value}" for key, value in about["parameters"].items()]
    return [
        "student={use='spandrel/student'}",
        *lines,
        "stage1.teachers.fidelity.term='output'",
        "stage1.teachers.realness.term='output'",
    ]


def _perturbed(tensors):
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name, tensor in tensors.items():
        changed[name] = tensor.detach() + 0.04 * torch.randn(tensor.shape, generator=generator)
    return changed
