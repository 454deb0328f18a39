"""The Swin UNet against numbers of the published code, and its window rules."""

from dataclasses import replace

import pytest
import torch

from distillkit_superres.resshift.build import TINY_UNET
from distillkit_superres.resshift.swin import shifted_window_mask
from distillkit_superres.resshift.unet import SwinUNet


@pytest.mark.golden("resshift_unet_small_*")
def test_reproduces_published_outputs(case):
    network = case.load_into(case.unet())
    for i in range(len(case.info["cases"])):
        x, t, lq, expected = (case.tensors[f"case{i}.{k}"] for k in ("x", "t", "lq", "out"))
        torch.testing.assert_close(network(x, t, lq), expected, atol=2e-5, rtol=0)


def _check_keys(case, network):
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == case.info["keys"]
    assert {k for k, _ in network.named_buffers()} == set(case.info["buffers"])
    assert sum(p.numel() for p in network.parameters()) == case.info["n_params"]


@pytest.mark.golden("resshift_keys_full")
def test_resshift_has_the_published_keys(case):
    with torch.device("meta"):
        network = case.unet()
    _check_keys(case, network)
    assert (len(network.state_dict()), network.size_multiple) == (564, 64)


@pytest.mark.golden("sinsr_keys_full")
def test_sinsr_has_the_published_keys(case):
    with torch.device("meta"):
        _check_keys(case, case.unet())


def test_only_the_last_row_of_windows_is_masked_and_by_token_columns():
    mask = shifted_window_mask(rows=3, columns=2, window=8, shift=4)
    assert mask.shape == (6, 64, 64)
    assert not mask[:4].any()
    for window in mask[4:]:
        for i in range(64):
            for j in range(64):
                assert window[i, j] == (-100 if (i % 8 >= 4) != (j % 8 >= 4) else 0)


@pytest.mark.parametrize(
    ("change", "multiple"),
    [
        ({}, 16),
        ({"image_size": 8, "attention_resolutions": (8, 4)}, 8),
        ({"image_size": 16, "channel_mult": (1,), "num_res_blocks": (1,)}, 8),
        (
            {
                "image_size": 32,
                "channel_mult": (1, 1, 1),
                "num_res_blocks": (1, 1, 1),
                "window_size": 4,
            },
            16,
        ),
        ({"image_size": 64, "lq_size": 64, "attention_resolutions": ()}, 16),
    ],
)
def test_sides_are_multiples_of_the_windows(change, multiple):
    lq_size = change.get("image_size", TINY_UNET.image_size)
    network = SwinUNet(replace(TINY_UNET, **{"lq_size": lq_size} | change))
    assert network.size_multiple == multiple
    x = torch.randn(1, 3, multiple, 2 * multiple)
    assert network(x, torch.tensor([1]), x).shape == x.shape
    if multiple > 8:
        x = torch.randn(1, 3, multiple, multiple // 2)
        with pytest.raises(ValueError, match=f"multiples of {multiple}"):
            network(x, torch.tensor([1]), x)


def test_a_larger_low_quality_image_is_brought_down_by_strided_convolutions():
    network = SwinUNet(replace(TINY_UNET, lq_size=64, lq_channels=4))
    channels = {}
    for name, parameter in network.feature_extractor.named_parameters():
        if name.endswith("weight"):
            channels[name] = tuple(parameter.shape[:2])
    assert channels == {
        "0.weight": (16, 4),
        "2.op.weight": (32, 16),
        "3.weight": (32, 32),
        "5.op.weight": (64, 32),
    }
    x = torch.randn(1, 3, 16, 16)
    lq = torch.randn(1, 4, 64, 64)
    assert network(x, torch.tensor([0]), lq).shape == x.shape


def test_images_of_a_batch_do_not_mix():
    network = SwinUNet(TINY_UNET)
    x = torch.randn(3, 3, 32, 16)
    lq = torch.randn(3, 3, 32, 16)
    t = torch.tensor([0, 3, 14])
    together = network(x, t, lq)
    alone = network(x[1:2], t[1:2], lq[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_bfloat16_follows_float32():
    torch.manual_seed(0)
    network = SwinUNet(TINY_UNET)
    x = torch.randn(1, 3, 16, 16)
    lq = torch.randn(1, 3, 16, 16)
    t = torch.tensor([2])
    expected = network(x, t, lq)
    low = network.to(torch.bfloat16)(x.bfloat16(), t, lq.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()
