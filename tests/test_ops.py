"""Filtering and JPEG equal the reference code, and come close to scipy and libjpeg."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from distillkit.data.ops import filter2d, jpeg

CASES = load_file(Path(__file__).parent / "golden" / "ops.safetensors")
"""Two images' bottom right corners, cut where JPEG blocks begin."""


@pytest.fixture
def photo() -> Tensor:
    """(2, 3, 61, 75), smooth with texture and pale colors, in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(61.0), torch.arange(75.0), indexing="ij")
    waves = torch.stack(
        [
            torch.sin(x / 9 + c) * torch.cos(y / 7 - c) + 0.2 * torch.sin(x * y / 50)
            for c in range(6)
        ]
    )
    waves = waves.view(2, 3, 61, 75)
    return 0.5 + 0.3 * waves[:, :1] + 0.05 * waves


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_filter2d_equals_the_reference(kind: str) -> None:
    got = filter2d(CASES["image"], CASES[f"kernel_{kind}"])
    torch.testing.assert_close(
        got[..., 10:, 10:], CASES[f"filter2d_{kind}"][..., 10:, 10:], atol=1e-5, rtol=0
    )


def test_jpeg_equals_the_reference() -> None:
    torch.testing.assert_close(
        jpeg(CASES["image"], CASES["jpeg_quality"]), CASES["jpeg"], atol=1e-5, rtol=0
    )


def test_golden_folder() -> None:
    folder = os.environ.get("DISTILLKIT_GOLDEN")
    if not folder:
        pytest.skip("set DISTILLKIT_GOLDEN to the folder of golden cases to compare with them")
    found = sorted(Path(folder).glob("realesrgan_degradation*.safetensors"))
    assert found, f"no realesrgan_degradation*.safetensors in {folder}"
    for case in map(load_file, found):
        for name in [key[: -len(".jpeg")] for key in case if key.endswith(".jpeg")]:
            image = case[name]
            for kind in ("single", "batch"):
                expected = case[f"{name}.filter2D_{kind}"]
                torch.testing.assert_close(
                    filter2d(image, case[f"{name}.k_{kind}"]), expected, atol=1e-5, rtol=0
                )
            error = (jpeg(image, case[f"{name}.jpeg_quality"]) - case[f"{name}.jpeg"]).abs()
            assert error.quantile(0.99) < 1e-5, name
            assert error.max() <= 2 / 255, name  # a coefficient that lands on .5


def test_filter2d_is_a_correlation_with_reflected_borders(photo: Tensor) -> None:
    kernel = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    expected = scipy.ndimage.correlate(photo[1, 2].numpy(), kernel.numpy(), mode="mirror")
    np.testing.assert_allclose(filter2d(photo, kernel)[1, 2].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "kernel", "message"),
    [
        ((1, 3, 8, 8), (4, 4), "k odd"),
        ((2, 3, 8, 8), (3, 3, 3), "k odd"),
        ((1, 3, 8, 40), (17, 17), "too small"),
    ],
)
def test_filter2d_refuses(shape: tuple[int, ...], kernel: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter2d(torch.zeros(shape), torch.zeros(kernel))


def _libjpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    array = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality, subsampling=2)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_jpeg_comes_close_to_libjpeg(photo: Tensor, quality: int) -> None:
    """Away from the filled border both do the same damage, much of it by the same errors.

    (At the border libjpeg repeats the last pixel.)
    """
    ours = jpeg(photo, torch.tensor(float(quality)))[0]
    theirs = _libjpeg(photo[0], quality)
    our_error = (ours - photo[0])[:, :48, :64] * 255
    their_error = (theirs - photo[0])[:, :48, :64] * 255
    torch.testing.assert_close(
        our_error.square().mean().sqrt(), their_error.square().mean().sqrt(), rtol=0.05, atol=0.1
    )
    if quality <= 75:
        both = torch.stack([our_error.flatten(), their_error.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.6


def test_jpeg_damage_falls_with_quality(photo: Tensor) -> None:
    damage = [
        float((jpeg(photo, torch.tensor([q, q])) - photo).square().mean())
        for q in (1.0, 10.0, 30.0, 49.9, 50.1, 80.0, 95.0)
    ]
    assert damage == sorted(damage, reverse=True)
    gray = photo.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(jpeg(gray, torch.tensor(100.0)), gray, atol=0.2 / 255, rtol=0)


def test_jpeg_takes_each_image_at_its_own_quality_and_overwrites_nothing(photo: Tensor) -> None:
    quality = torch.tensor([12.0, 88.0])
    image_before, quality_before = photo.clone(), quality.clone()
    both = jpeg(photo.requires_grad_(), quality)
    assert not both.requires_grad
    for k in range(2):
        torch.testing.assert_close(
            jpeg(photo[k : k + 1].detach(), quality[k : k + 1]), both[k : k + 1], atol=1e-6, rtol=0
        )
    assert torch.equal(photo, image_before)
    assert torch.equal(quality, quality_before)
    assert both.min() >= 0
    assert both.max() <= 1


def test_jpeg_keeps_type_and_full_precision_under_autocast(photo: Tensor) -> None:
    full = jpeg(photo, torch.tensor(60.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jpeg(photo, torch.tensor(60.0)), full)
    assert jpeg(photo.bfloat16(), torch.tensor(60.0)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "quality", "message"),
    [
        ((1, 1, 8, 8), [50.0], "B, 3"),
        ((2, 3, 8, 8), [50.0] * 3, r"\(B,\)"),
        ((1, 3, 8, 8), [0.0], "1, 100"),
        ((1, 3, 8, 8), [float("nan")], "1, 100"),
    ],
)
def test_jpeg_refuses(shape: tuple[int, ...], quality: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jpeg(torch.zeros(shape), torch.tensor(quality))
