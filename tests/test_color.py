"""Color fixes: the published code's numbers, their defining properties, and the bands of rows."""

import numpy as np
import pytest
import torch

from distillkit.inference.color import WAVELET_LEVELS, blur, fix_colors, wavelet
from distillkit.inference.image_types import quantized, to_unit

FIXES = ("adain", "wavelet")


def textured(height, width):
    """Waves, hard edges and a little noise, (height, width, 3), uint8."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([np.sin(x / 3), np.cos(y / 7), np.sin((x + y) / 5)], axis=2) * 60 + 90
    image[height // 3 : height // 2, width // 4 :] += 80
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def names_of(case):
    return sorted({key.split(".")[0] for key in case.tensors})


@pytest.mark.golden("colorfix*")
def test_wavelets_reproduce_published_outputs(case):
    assert names_of(case)
    for name in names_of(case):
        content, style = case[f"{name}.content"], case[f"{name}.style"]
        fixed = wavelet(content, style, case.info["levels"])
        torch.testing.assert_close(fixed, case[f"{name}.wavelet"], atol=1e-5, rtol=0)


@pytest.mark.golden("colorfix*")
@pytest.mark.parametrize("fix", FIXES)
def test_arrays_reproduce_published_outputs(case, fix):
    if case.info["levels"] != WAVELET_LEVELS:
        pytest.skip(f"the case is not of {WAVELET_LEVELS} levels")
    for name in names_of(case):
        images = [case[f"{name}.{part}"] for part in ("content", "style", fix)]
        for content, style, expected in zip(*images, strict=True):
            restored = content.permute(1, 2, 0).contiguous().numpy()
            lq = style.permute(1, 2, 0).contiguous().numpy()
            fix_colors(restored, lq, fix)
            expected = expected.permute(1, 2, 0).numpy().clip(0, 1)
            np.testing.assert_allclose(restored, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fix", FIXES)
def test_an_image_already_in_its_colors_stays_as_it_is(fix):
    image = textured(40, 48)
    fixed = image.copy()
    fix_colors(fixed, image, fix)
    assert np.array_equal(fixed, image)


def test_wavelet_keeps_detail_and_replaces_color():
    image = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    shifted = image + torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet(shifted, image), image, atol=1e-6, rtol=0)
    flat = torch.full_like(image, 0.25)
    detail = wavelet(image, flat) - flat
    fixed = wavelet(image, image + 1)
    plain = wavelet(flat, image + 1)
    torch.testing.assert_close(fixed - detail, plain, atol=1e-5, rtol=0)


def test_arrays_by_their_definition():
    lq = textured(40, 30)
    restored = textured(80, 60) // 2 + 100
    by_adain = restored.copy()
    fix_colors(by_adain, lq, "adain")
    assert np.allclose(by_adain.mean((0, 1)), lq.mean((0, 1)), atol=2)
    assert np.allclose(by_adain.std((0, 1)), lq.std((0, 1)), atol=2)
    by_wavelet = restored.copy()
    fix_colors(by_wavelet, lq, "wavelet")
    enlarged = torch.nn.functional.interpolate(to_unit(lq), scale_factor=2, mode="bicubic")
    image = to_unit(restored)
    expected = image - blur(image) + blur(enlarged.clamp(-1, 1))
    assert np.array_equal(by_wavelet, quantized(expected, np.dtype(np.uint8)))
    untouched = restored.copy()
    fix_colors(untouched, lq, "none")
    assert np.array_equal(untouched, restored)


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("fix", FIXES)
def test_bands_do_not_show(monkeypatch, fix, scale):
    lq = textured(150, 20)
    restored = textured(150 * scale, 20 * scale) // 2 + 100
    in_one_band = restored.copy()
    fix_colors(in_one_band, lq, fix)
    monkeypatch.setattr("distillkit.inference.color.BAND_ROWS", 10)
    fix_colors(restored, lq, fix)
    assert np.abs(restored.astype(int) - in_one_band).max() <= 1
    assert (restored != in_one_band).mean() < 1e-3
