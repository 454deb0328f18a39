"""The README's programs do what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.data.opening import open_source
from distillkit.data.sources import Columns

README = (Path(__file__).parents[1] / "README.md").read_text()


def program(word):
    (found,) = (p for p in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in p)
    return found


@pytest.mark.parametrize(
    ("name", "parts"),
    [("RealSRVal_crop128", ("test_HR", "test_LR")), ("DIV2K_V2_val", ("gt", "lq"))],
)
def test_the_pairs_are_those_of_the_two_folders(tmp_path, monkeypatch, name, parts):
    for part, side in zip(parts, (16, 4), strict=True):
        folder = tmp_path / "data" / name / part
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((side, side, 3), 50 * i, np.uint8)).save(
                folder / f"Canon_00{i}.png"
            )
    monkeypatch.chdir(tmp_path)
    exec(program("RealSRVal_crop128"), {})
    source = open_source(imagefolder=f"data/{name}", columns=Columns(lq="lq"))
    pairs = [source.read(i) for i in range(len(source))]
    assert [(len(p.gt), len(p.lq)) for p in pairs] == [(16, 4)] * 3
    assert [(p.gt.max(), p.lq.max()) for p in pairs] == [(0, 0), (50, 50), (100, 100)]


class Tagging(torch.nn.Module):
    """In RAM's place: remembers what it is shown."""

    def generate_tag(self, image):
        self.shown = image
        return ["dog | grass", "ball"][: len(image)], ["", ""]


def test_the_tagger_normalises_images_and_joins_tags(monkeypatch):
    network, models = Tagging(), ModuleType("ram.models")
    models.ram = lambda pretrained, image_size, vit: network
    monkeypatch.setitem(sys.modules, "ram", ModuleType("ram"))
    monkeypatch.setitem(sys.modules, "ram.models", models)
    scope = {}
    exec(program("def ram()"), scope)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    image = (mean * 2 - 1).expand(2, 3, 40, 24)
    assert scope["ram"]()(image) == ["dog, grass", "ball"]
    assert network.shown.shape == (2, 3, 384, 384) and network.shown.abs().max() < 1e-5
