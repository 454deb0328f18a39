"""The camera: repeatable, each image by itself, and with the statistics it states."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distillkit import Degradation, DistillkitError
from distillkit_mini.degradation import Camera, gaussian_kernel
from distillkit_mini.plugin import distillkit_degradations


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(batch: int, size: int = 64) -> Tensor:
    x = torch.linspace(-1, 1, size)
    return (0.6 * torch.outer(x, x)).expand(batch, 3, size, size).contiguous()


def test_is_a_degradation_to_a_quarter_of_the_size_in_eight_bits() -> None:
    camera = Camera()
    assert isinstance(camera, Degradation) and camera.scale == 4
    lq = camera(smooth(2, 48), seeded())
    assert lq.shape == (2, 3, 12, 12)
    levels = (lq + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert levels.min() >= 0 and levels.max() <= 255.001


def test_is_a_function_of_image_and_generator() -> None:
    camera, gt = Camera(), smooth(3)
    assert torch.equal(camera(gt, seeded(1)), camera(gt, seeded(1)))
    assert not torch.equal(camera(gt, seeded(1)), camera(gt, seeded(2)))


def test_images_of_a_batch_draw_their_own_and_do_not_touch_each_other() -> None:
    camera, gt = Camera(), smooth(4)
    lq = camera(gt, seeded())
    assert all(not torch.equal(lq[i], lq[j]) for i in range(4) for j in range(i))
    other = gt.clone()
    other[0] = -other[0]
    changed = camera(other, seeded())
    assert not torch.equal(changed[0], lq[0])
    torch.testing.assert_close(changed[1:], lq[1:], atol=1e-6, rtol=0)


def test_noise_has_the_stated_spread() -> None:
    gray = torch.zeros(64, 3, 64, 64)
    for low, high in ((4, 4), (0, 8)):
        noise = 127.5 * Camera(noise=(low, high), quality=(100, 100))(gray, seeded())
        luma = (
            noise[:, 0] * 0.299 + noise[:, 1] * 0.587 + noise[:, 2] * 0.114
        )  # JPEG at 100 keeps luma and halves chroma
        sigma = luma.std(dim=(1, 2)) / (0.299**2 + 0.587**2 + 0.114**2) ** 0.5
        expected = torch.linspace(low, high, 64)
        assert (sigma.sort().values - expected).abs().max() < 1.2
        assert sigma.mean().item() == pytest.approx((low + high) / 2, abs=0.5)


def test_blur_removes_detail_and_jpeg_quality_matters() -> None:
    stripes = torch.sin(torch.arange(64.0) * 0.7).expand(8, 3, 64, 64) * 0.8
    clean = {"noise": (0.0, 0.0), "quality": (100.0, 100.0)}
    sharp, blurred = (Camera(blur=(s, s), **clean)(stripes, seeded()).std() for s in (0.3, 2.0))
    assert blurred < 0.7 * sharp
    reference = Camera(blur=(0.3, 0.3), **clean)(stripes, seeded())
    errors = [
        (Camera(blur=(0.3, 0.3), noise=(0, 0), quality=(q, q))(stripes, seeded()) - reference)
        .square()
        .mean()
        for q in (95, 70, 30)
    ]
    assert errors[0] < errors[1] < errors[2]


def test_kernels_have_unit_sum_and_the_stated_spread() -> None:
    sigma = torch.tensor([0.5, 1.0, 2.0])
    kernel = gaussian_kernel(sigma, 2.0)
    torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(3))
    x = torch.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    torch.testing.assert_close((kernel.sum(1) * x**2).sum(1).sqrt(), sigma, atol=0.04, rtol=0)


def test_both_ways_of_shrinking_are_used() -> None:
    gt = (torch.rand(1, 3, 64, 64, generator=seeded()) * 2 - 1).expand(32, 3, 64, 64)
    lq = Camera(blur=(0.3, 0.3), noise=(0, 0), quality=(100, 100))(gt, seeded())
    kinds = {tuple(image.flatten().tolist()) for image in lq}
    assert len(kinds) == 2


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(DistillkitError, match="multiples of 4, not 66x64"):
        Camera()(torch.zeros(1, 3, 66, 64), seeded())


def test_options_are_checked() -> None:
    (spec,) = distillkit_degradations()
    assert isinstance(spec.create(spec.config(noise=(0, 2))), Camera)
    for wrong in ({"blur": (2, 1)}, {"quality": (0, 50)}, {"noise": (-1, 2)}, {"nosie": (0, 1)}):
        with pytest.raises(ValidationError):
            spec.config(**wrong)


def test_the_border_of_an_image_that_does_not_fill_its_jpeg_blocks_is_as_good_as_its_middle() -> (
    None
):
    lq = Camera(noise=(0, 0), quality=(50, 50))(torch.full((1, 3, 72, 72), 0.6), seeded())
    assert (lq - 0.6).abs().max() < 0.02
