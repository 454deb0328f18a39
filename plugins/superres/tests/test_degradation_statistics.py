"""``benchmarks/degradation.py`` tabulates draws, and sees those that are not as published."""

import re

import degradation as statistics
import numpy as np
import pytest
import torch
from PIL import Image

from distillkit_superres.degradation.draws import draw
from distillkit_superres.degradation.options import PRESETS, RealESRGANOptions


def drawn(config, count=400):
    g = torch.Generator().manual_seed(0)
    return [draw(config, g) for _ in range(count)]


def problems(config, draws):
    return {
        name: value.problem()
        for name, value in statistics.parameters(config, draws).items()
        if value.problem()
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_draws_of_a_preset_fit_it_and_no_other(preset):
    config = RealESRGANOptions(preset=preset)
    assert problems(config, drawn(config)) == {}
    for other in set(PRESETS) - {preset}:
        assert problems(RealESRGANOptions(preset=other), drawn(config))


@pytest.mark.parametrize(
    ("change", "name", "what"),
    [
        ({"first": {"sigma": [0.2, 3.5]}}, "sigma 1", "values from"),
        ({"second": {"jpeg_quality": [50, 95]}}, "JPEG quality 2", "mean is .* standard errors"),
        ({"second": {"gray_prob": 0.6}}, "noise is gray 2", "share is"),
        ({"final_sinc_prob": 0.5}, "final sinc happens", "share is"),
    ],
)
def test_a_changed_parameter_is_seen(change, name, what):
    found = problems(RealESRGANOptions(), drawn(RealESRGANOptions.model_validate(change)))
    assert found.keys() == {name}
    assert re.match(what, found[name])


def test_the_program_prints_a_table_and_draws_a_sheet(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for i in range(14):
        noise = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((72, 64), Image.Resampling.BICUBIC).save(
            tmp_path / f"{i}.png"
        )
    Image.fromarray(noise).save(tmp_path / "small.png")
    monkeypatch.setattr(
        "sys.argv",
        [
            "degradation.py",
            str(tmp_path),
            "--crop",
            "64",
            "--sheet",
            str(tmp_path / "out" / "s.png"),
        ],
    )
    (tmp_path / "out").mkdir()
    statistics.main()
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "14 photographs, 64 x 64"
        and lines[2] == "| parameter | osediff | resshift | pisasr |"
    )
    assert len(lines) == 44 and all(line.count("|") == 5 for line in lines[2:])
    with Image.open(tmp_path / "out" / "s.png") as image:
        assert image.size == (12 * 16 * 2, 4 * 16 * 2)
