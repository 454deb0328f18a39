"""The README's program that pairs evaluation images does what it says."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from distillkit.data.sources import open_source

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_pairs_are_those_of_the_two_folders(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for part, side in (("test_HR", 16), ("test_LR", 4)):
        folder = tmp_path / "data" / "RealSRVal_crop128" / part
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((side, side, 3), 50 * i, np.uint8)).save(folder / f"Canon_00{i}.png")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    source = open_source(imagefolder="data/RealSRVal_crop128", lq_column="lq")
    pairs = [source.read(i) for i in range(len(source))]
    assert [(len(p.gt), len(p.lq)) for p in pairs] == [(16, 4)] * 3
    assert [(p.gt.max(), p.lq.max()) for p in pairs] == [(0, 0), (50, 50), (100, 100)]
