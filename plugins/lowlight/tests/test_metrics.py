"""The GT-mean protocol against numbers of the published code and of scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from distillkit import DataError, FullReference, Metric, WeightsError, load_plugins, psnr
from distillkit.metrics.distortion import ssim
from distillkit_lowlight.metrics import (
    after_gt_mean,
    gt_mean,
    psnr_gtmean,
    ssim_uniform,
    ssim_uniform_gtmean,
    to_levels,
)


def _images(case):
    return (case[f"in.{name}"][None] for name in ("out", "gt"))


@pytest.mark.golden("gsad_eval_protocol*")
def test_gt_mean(case):
    out, gt = _images(case)
    assert torch.equal(to_levels(out)[0].permute(1, 2, 0).byte(), case["u8.out_rgb"])
    assert torch.equal(to_levels(gt)[0].permute(1, 2, 0).byte(), case["u8.gt_rgb"])
    found = to_levels(gt_mean(out, gt))[0].permute(1, 2, 0)
    off = (found - case["u8.out_gtmean_rgb"].float()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 1e-3


@pytest.mark.golden("gsad_eval_protocol*")
def test_published_protocols(case):
    out, gt = _images(case)
    info = case.info
    (published,) = (v for k, v in info.items() if k.startswith("gsad_protocol"))
    raw = info["no_gt_mean_rounding_uint8"]
    assert psnr_gtmean()(out, gt).item() == pytest.approx(published["psnr"], abs=1e-3)
    assert ssim_uniform_gtmean()(out, gt).item() == pytest.approx(published["ssim"], abs=1e-5)
    assert psnr()(out, gt).item() == pytest.approx(raw["psnr"], abs=1e-3)
    assert ssim_uniform()(out, gt).item() == pytest.approx(raw["ssim_skimage_win7"], abs=1e-5)


@pytest.mark.golden("gsad_eval_protocol*")
def test_the_engines_psnr_and_ssim_are_the_raw_protocol_of_the_field(case):
    out, gt = _images(case)
    raw = case.info["no_gt_mean_rounding_uint8"]
    assert psnr()(out, gt).item() == pytest.approx(raw["psnr"], abs=1e-3)
    assert ssim()(out, gt).item() == pytest.approx(
        raw["ssim_basicsr_gauss11_valid_per_channel_mean"], abs=1e-5
    )


def test_uniform_ssim_is_scikit_images(images):
    a = images(2, 20, 33)
    b = images(2, 20, 33, seed=1)
    arrays = [to_levels(v).permute(0, 2, 3, 1).numpy().astype(np.uint8) for v in (a, b)]
    expected = [structural_similarity(x, y, channel_axis=2) for x, y in zip(*arrays, strict=True)]
    assert_close(ssim_uniform()(a, b), torch.tensor(expected).float(), atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="6x20 px is too small for ssim-uniform; it takes 7 px"):
        ssim_uniform()(a[..., :6], b[..., :6])


def test_gt_mean_undoes_a_change_of_brightness(images):
    gt = images(2, 16, 16) * 0.5
    half = (gt + 1) / 2 - 1
    assert (psnr()(half, gt) < 15).all() and (psnr_gtmean()(half, gt) > 40).all()
    assert torch.isfinite(psnr_gtmean()(torch.full_like(gt, -1), gt)).all()


@pytest.mark.parametrize("name", ["ssim-gtmean", "stlpips-alex-gtmean", "stlpips-vgg-gtmean"])
def test_engine_metrics_after_gt_mean(name, images):
    spec = load_plugins().find("metrics", f"lowlight/{name}")
    own = load_plugins().find("metrics", "distillkit/" + name.removesuffix("-gtmean"))
    metric = spec.create(spec.config())
    base = own.create(own.config())
    gt = images(2, 64, 64) * 0.4
    out = images(2, 64, 64, seed=1) * 0.4 - 0.3
    assert (metric.name, metric.perceptual, metric.higher_is_better) == (
        name,
        base.perceptual,
        base.higher_is_better,
    )
    assert_close(metric(out, gt), base(gt_mean(out, gt), gt))
    assert not torch.equal(metric(out, gt), base(out, gt))
    assert metric.protocol.startswith("GT-mean") and metric.protocol.endswith(base.protocol)


def test_gsads_order_of_channels(images):
    red = FullReference(
        "red", "RGB, the first channel", lambda a, b: a[:, 0].mean((1, 2)), False, False, True
    )
    out = images(2, 16, 16)
    gt = images(2, 16, 16, seed=1)
    found = after_gt_mean(red, "red-gtmean-bgr", bgr=True)
    assert_close(found(out, gt), gt_mean(out, gt)[:, 2].mean((1, 2)))
    assert "BGR, the first channel" in found.protocol


def test_lpips_after_gt_mean_asks_for_the_trunk_of_lpips(tmp_path):
    for name in ("lpips-alex-gtmean", "lpips-vgg-gtmean", "lpips-alex-gtmean-bgr"):
        spec = load_plugins().find("metrics", f"lowlight/{name}")
        assert [f.path for f in spec.config(trunk=tmp_path / "trunk.pth").weight_files()] == [
            tmp_path / "trunk.pth"
        ]
        with pytest.raises(WeightsError, match="trunk"):
            spec.create(spec.config(trunk=tmp_path / "trunk.pth"))


@pytest.mark.parametrize("make", [psnr_gtmean, ssim_uniform, ssim_uniform_gtmean])
def test_metrics(make, images):
    metric = make()
    gt = images(3, 16, 16)
    assert isinstance(metric, Metric)
    assert ("gtmean" in metric.name) == ("GT-mean" in metric.protocol)
    near, far = (
        metric((gt + s * torch.sign(images(3, 16, 16, seed=9))).clamp(-1, 1), gt)
        for s in (0.02, 0.2)
    )
    assert near.shape == (3,) and (near > far).all()
    assert_close(metric(gt[1:2], gt[2:3]), metric(gt[[0, 1]], gt[[0, 2]])[1:])
