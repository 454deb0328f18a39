"""Toy students, trained for a moment and exported, and pictures for them."""

import logging
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from toy_fixtures import install_plugins, save_photos, write_recipe

from distillkit import Restorer as EngineRestorer
from distillkit import load_recipe, run_recipe
from distillkit.export.onnx import ANY_SIZE, GraphForm, export_onnx

ENLARGER = (
    "student={use='toy/enlarger'}",
    "stage1.teachers.fidelity.term='output'",
    "stage1.teachers.realness.term='output'",
)
SIZE_MULTIPLE = 4
TILE = 24
FORMS = {
    "input": ANY_SIZE,
    "plane": GraphForm(plane=True),
    "fixed": GraphForm(0.3),
    "half": GraphForm(half=True),
    "one_size": GraphForm(size=(16, 24)),
}


class Toys(NamedTuple):
    """Two students, by the engine and as graphs."""

    enlarger: EngineRestorer
    """From image to image, for sides of multiples of four; takes a map in one pass."""
    denoiser: EngineRestorer
    """Takes no map."""
    graphs: dict
    """Files: by the name of their form for the enlarger, and the denoiser's."""


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """Train two students and export them, in a few seconds."""
    folder = tmp_path_factory.mktemp("students")
    with pytest.MonkeyPatch.context() as patch:
        # Torch traces every operator for whoever listens to all logs, as pytest does.
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        patch.setattr("toy_models.Enlarger.size_multiple", SIZE_MULTIPLE)
        install_plugins(patch, toy="toy_plugin")
        recipe = write_recipe(folder / "toy.toml", save_photos(folder / "photos"))
        run_recipe(load_recipe(recipe, ["data.eval=[]"]), folder / "denoiser")
        run_recipe(load_recipe(recipe, ["data.eval=[]", *ENLARGER]), folder / "enlarger")
        graphs = {"denoiser": folder / "denoiser.onnx"}
        export_onnx(folder / "denoiser", graphs["denoiser"])
        for name, form in FORMS.items():
            graphs[name] = folder / f"{name}.onnx"
            export_onnx(folder / "enlarger", graphs[name], form)
        denoiser = EngineRestorer.from_pretrained(folder / "denoiser", "cpu", tile=TILE)
        enlarger = EngineRestorer.from_pretrained(folder / "enlarger", "cpu", tile=TILE)
    enlarger.student.model.size_multiple = SIZE_MULTIPLE
    return Toys(enlarger, denoiser, graphs)


def picture(height, width, channels, dtype=np.uint8, seed=0):
    """Draw a smooth picture with an edge."""
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(channels):
        small = Image.fromarray(rng.uniform(0, 1, (5, 6)).astype(np.float32))
        plane = np.array(small.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
        plane[height // 3 : height // 2, width // 4 :] = rng.uniform()
        planes.append((plane * np.iinfo(dtype).max).astype(dtype))
    array = np.stack(planes, 2)
    return Image.fromarray(array[..., 0] if channels == 1 else array)
