"""The low-light degradation."""

import pytest
import torch
from torch.testing import assert_close

from distillkit import Degradation
from distillkit_lowlight.degradation import LowLight
from distillkit_lowlight.options import LowLightOptions


def low_light(**options):
    return LowLight(LowLightOptions(**options))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_darkens_to_8_bits(images):
    gt = images(4, 40, 56)
    dark = low_light()
    assert isinstance(dark, Degradation)
    assert dark.scale == 1
    lq = dark(gt, seeded())
    assert lq.shape == gt.shape
    assert ((lq + 1).mean((1, 2, 3)) < 0.7 * (gt + 1).mean((1, 2, 3))).all()
    levels = (lq + 1) * 127.5
    assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert levels.min() >= 0 and levels.max() <= 255


def test_is_a_function_of_image_and_generator(images):
    gt = images(2, 32, 32)
    assert torch.equal(low_light()(gt, seeded(1)), low_light()(gt, seeded(1)))
    assert not torch.equal(low_light()(gt, seeded(1)), low_light()(gt, seeded(2)))


def test_every_image_has_draws_of_its_own(images):
    gt = images(1, 32, 32).expand(6, -1, -1, -1)
    brightness = low_light()(gt, seeded()).mean((2, 3))
    assert brightness.mean(1).unique().numel() == 6
    assert (brightness - brightness.mean(1, keepdim=True)).std(0).min() > 0  # the cast differs, too


OFF = {
    "gamma": (1.0, 1.0),
    "exposure": (1.0, 1.0),
    "cast": (1.0, 1.0),
    "shot": (0.0, 0.0),
    "read": (0.0, 0.0),
    "jpeg": (100.0, 100.0),
}


@pytest.mark.parametrize("gray", [0.25, 0.5, 1.0])
def test_brightness_follows_the_formula(gray):
    gt = torch.full((1, 3, 16, 16), gray * 2 - 1)
    dark = low_light(**OFF | {"gamma": (2.0, 2.0), "exposure": (0.6, 0.6)})
    assert_close(
        (dark(gt, seeded()) + 1) / 2, torch.full_like(gt, 0.6 * gray**2), atol=1.5 / 255, rtol=0
    )


def test_nothing_is_done_when_everything_is_off():
    gt = torch.full((1, 3, 32, 32), 0.2).mul(127.5).round().div(127.5)
    assert_close(low_light(**OFF)(gt, seeded()), gt, atol=2.5 / 127.5, rtol=0)


def test_shot_noise_grows_with_light_and_read_noise_does_not():
    def spread(**options):
        gray = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 64, 64) * 2 - 1
        lq = low_light(**OFF | options)(gray, seeded())
        # The mean over channels, because JPEG subsamples chroma.
        return lq.mean(1).std((1, 2))

    dark, bright = spread(shot=(0.01, 0.01))
    assert bright / dark == pytest.approx(2, rel=0.1)
    dark, bright = spread(read=(0.05, 0.05))
    assert bright / dark == pytest.approx(1, rel=0.1)
