"""The camera: repeatable, each image by itself, and with the statistics it states."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distillkit import Degradation, DistillkitError
from distillkit_mini.degradation import Camera, gaussian_kernel
from distillkit_mini.plugin import distillkit_degradations

LUMA = torch.tensor([0.299, 0.587, 0.114])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(batch: int, size: int = 64) -> Tensor:
    x = torch.linspace(-1, 1, size)
    return (0.6 * torch.outer(x, x)).expand(batch, 3, size, size).contiguous()


def test_is_a_degradation_to_a_quarter_of_the_size_in_eight_bits() -> None:
    camera = Camera()
    assert isinstance(camera, Degradation)
    assert camera.scale == 4
    lq = camera(smooth_images(2, 48), seeded())
    assert lq.shape == (2, 3, 12, 12)
    values = (lq + 1) * 127.5
    torch.testing.assert_close(values, values.round(), atol=1e-4, rtol=0)
    assert values.min() >= 0
    assert values.max() <= 255.001


def test_is_a_function_of_image_and_generator() -> None:
    camera = Camera()
    gt = smooth_images(3)
    lq = camera(gt, seeded(1))
    assert torch.equal(lq, camera(gt, seeded(1)))
    assert not torch.equal(lq, camera(gt, seeded(2)))


def test_images_of_a_batch_draw_their_own_and_do_not_touch_each_other() -> None:
    camera = Camera()
    gt = smooth_images(4)
    lq = camera(gt, seeded())
    assert len(torch.unique(lq, dim=0)) == 4
    other = gt.clone()
    other[0] = -other[0]
    changed = camera(other, seeded())
    assert not torch.equal(changed[0], lq[0])
    torch.testing.assert_close(changed[1:], lq[1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("low", "high"), [(4, 4), (0, 8)])
def test_noise_has_the_stated_spread(low: float, high: float) -> None:
    gray = torch.zeros(64, 3, 64, 64)
    noise = 127.5 * Camera(noise=(low, high), quality=(100, 100))(gray, seeded())
    # JPEG at quality 100 keeps luma and halves chroma.
    luma = torch.einsum("bchw,c->bhw", noise, LUMA)
    sigma = luma.std(dim=(1, 2)) / LUMA.norm()
    expected = torch.linspace(low, high, 64)
    assert (sigma.sort().values - expected).abs().max() < 1.2
    assert sigma.mean().item() == pytest.approx((low + high) / 2, abs=0.5)


def stripes() -> Tensor:
    return torch.sin(torch.arange(64.0) * 0.7).expand(8, 3, 64, 64) * 0.8


def test_blur_removes_detail() -> None:
    sharp = Camera(blur=(0.3, 0.3), noise=(0, 0), quality=(100, 100))(stripes(), seeded())
    blurred = Camera(blur=(2.0, 2.0), noise=(0, 0), quality=(100, 100))(stripes(), seeded())
    assert blurred.std() < 0.7 * sharp.std()


def test_jpeg_quality_matters() -> None:
    def degrade(quality: float) -> Tensor:
        camera = Camera(blur=(0.3, 0.3), noise=(0, 0), quality=(quality, quality))
        return camera(stripes(), seeded())

    reference = degrade(100)
    best, middle, worst = ((degrade(q) - reference).square().mean() for q in (95, 70, 30))
    assert best < middle < worst


def test_kernels_have_unit_sum_and_the_stated_spread() -> None:
    sigma = torch.tensor([0.5, 1.0, 2.0])
    kernel = gaussian_kernel(sigma, 2.0)
    torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(3))
    x = torch.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    variance = (kernel.sum(1) * x**2).sum(1)
    torch.testing.assert_close(variance.sqrt(), sigma, atol=0.04, rtol=0)


def test_both_ways_of_shrinking_are_used() -> None:
    image = torch.rand(1, 3, 64, 64, generator=seeded()) * 2 - 1
    camera = Camera(blur=(0.3, 0.3), noise=(0, 0), quality=(100, 100))
    lq = camera(image.expand(32, 3, 64, 64), seeded())
    assert len(torch.unique(lq, dim=0)) == 2


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(DistillkitError, match="multiples of 4, not 66x64"):
        Camera()(torch.zeros(1, 3, 66, 64), seeded())


def test_options_are_checked() -> None:
    (spec,) = distillkit_degradations()
    camera = spec.create(spec.config(noise=(0, 2)))
    assert isinstance(camera, Camera)
    for wrong in ({"blur": (2, 1)}, {"quality": (0, 50)}, {"noise": (-1, 2)}, {"nosie": (0, 1)}):
        with pytest.raises(ValidationError):
            spec.config(**wrong)


def test_the_border_of_an_incomplete_jpeg_block_is_as_good_as_its_middle() -> None:
    flat = torch.full((1, 3, 72, 72), 0.6)
    lq = Camera(noise=(0, 0), quality=(50, 50))(flat, seeded())
    assert (lq - 0.6).abs().max() < 0.02
