"""Shift-tolerant LPIPS: numbers of the package that published it, and what a loss needs."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.errors import DataError, WeightsError
from distillkit.metrics.options import Trunk
from distillkit.metrics.perceptual import SMALLEST_SIDE, PerceptualDistance

NETWORKS: tuple[Trunk, ...] = ("alex", "vgg")


@pytest.fixture(scope="module", params=NETWORKS)
def distance(request: pytest.FixtureRequest) -> PerceptualDistance:
    return PerceptualDistance(request.param)


def pattern(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    waves = [
        torch.sin(0.31 * x + 0.17 * y),
        torch.cos(0.11 * x * y / 16),
        torch.sin(0.05 * (x - y) ** 2 / 8),
    ]
    return torch.stack(waves)[None].float()


def box_blur(image: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(F.pad(image, (size // 2,) * 4, mode="reflect"), size, 1)


# stlpips_pytorch 0.0.2, LPIPS(net=..., variant="shift_tolerant"):
# size -> distance of (contrast and ghost, 5x5 box blur)
GOLDEN = {
    "alex": {
        (64, 64): (0.0243892, 0.0314253),
        (96, 80): (0.0181555, 0.0975291),
        (65, 71): (0.0238360, 0.0370042),
    },
    "vgg": {
        (64, 64): (0.0566701, 0.0312877),
        (96, 80): (0.0431496, 0.0507596),
        (65, 71): (0.0468829, 0.0352047),
    },
}


@pytest.mark.parametrize("size", [(64, 64), (96, 80), (65, 71)])
def test_equals_the_published_package(distance: PerceptualDistance, size: tuple[int, int]) -> None:
    a = pattern(*size)
    ghost = a * 0.7 + 0.1 * torch.roll(a, 3, -1)
    ours = [distance(a, b).item() for b in (ghost, box_blur(a, 5))]
    assert ours == pytest.approx(GOLDEN[distance.network][size], abs=2e-6)


def test_equal_images_are_at_no_distance_and_order_does_not_matter(
    distance: PerceptualDistance,
) -> None:
    a = pattern(40, 48)
    b = box_blur(a, 3)
    assert distance(a, a).item() == 0
    assert torch.equal(distance(a, b), distance(b, a))


def test_each_image_of_a_batch_is_measured_by_itself(distance: PerceptualDistance) -> None:
    a = torch.cat([pattern(40, 40), pattern(40, 40).flip(1)])
    b = box_blur(a, 3)
    assert distance(a, b).shape == (2,)
    torch.testing.assert_close(distance(a, b)[1:], distance(a[1:], b[1:]))


def test_grows_with_blur(distance: PerceptualDistance) -> None:
    a = pattern(64, 64)
    values = [distance(a, box_blur(a, size)).item() for size in (1, 3, 5, 7, 9)]
    assert values == sorted(values)
    assert values[1] > values[0]


def test_gradient_reaches_the_image_and_no_weight(distance: PerceptualDistance) -> None:
    b = pattern(40, 40)
    a = box_blur(b, 5).requires_grad_()
    distance(a, b).sum().backward()
    assert a.grad is not None and a.grad.abs().max() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    step = a.detach() - 1e-2 * a.grad / a.grad.norm()
    assert distance(step, b).item() < distance(a, b).item()


def test_gradient_of_a_flat_image_is_finite(distance: PerceptualDistance) -> None:
    a = torch.full((1, 3, 32, 32), -1.0, requires_grad=True)
    distance(a, pattern(32, 32)).sum().backward()
    assert a.grad is not None and a.grad.isfinite().all()


def test_smallest_side(distance: PerceptualDistance) -> None:
    side = SMALLEST_SIDE[distance.network]
    assert distance(torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)).item() > 0
    small = torch.zeros(1, 3, side - 1, 64)
    with pytest.raises(
        DataError, match=f"64x{side - 1} px is too small for {distance.network}; it takes {side} px"
    ):
        distance(small, small)
    # The trunk itself cannot take it, so the limit is no stricter than needed.
    with pytest.raises(RuntimeError):
        distance.net(small)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install stlpips-pytorch"):
        PerceptualDistance("alex")
