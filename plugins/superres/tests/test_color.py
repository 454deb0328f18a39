"""Color fixes against numbers of the published code, and their defining properties."""

import pytest
import torch

from distillkit.inference.color import adain, wavelet


@pytest.mark.golden("colorfix*")
def test_reproduces_published_outputs(case):
    names = sorted({k.split(".")[0] for k in case.tensors})
    assert names
    for name in names:
        content, style, by_adain, by_wavelet = (
            case.tensors[f"{name}.{k}"] for k in ("content", "style", "adain", "wavelet")
        )
        torch.testing.assert_close(adain(content, style), by_adain, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            wavelet(content, style, case.info["levels"]), by_wavelet, atol=1e-5, rtol=0
        )


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 40, 48, generator=g), 0.3 + 0.1 * torch.rand(2, 3, 40, 48, generator=g)


def test_adain_takes_over_mean_and_spread_of_each_channel(images):
    image, reference = images
    fixed = adain(image, reference[..., :20])  # sizes may differ
    torch.testing.assert_close(fixed.mean((2, 3)), reference[..., :20].mean((2, 3)))
    torch.testing.assert_close(
        fixed.std((2, 3)), reference[..., :20].std((2, 3)), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("fix", [adain, wavelet])
def test_an_image_already_in_its_colors_stays_as_it_is(fix, images):
    torch.testing.assert_close(fix(images[0], images[0]), images[0], atol=1e-6, rtol=0)


def test_wavelet_keeps_detail_and_replaces_color(images):
    image, _ = images
    shifted = image + torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet(shifted, image), image, atol=1e-6, rtol=0)
    flat = torch.full_like(image, 0.25)
    detail = wavelet(image, flat) - flat
    torch.testing.assert_close(
        wavelet(image, image + 1) - detail, wavelet(flat, image + 1), atol=1e-5, rtol=0
    )
