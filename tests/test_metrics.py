"""Metrics against independent implementations, and against published numbers.

The published images are not part of the repository.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from skimage.metrics import structural_similarity

from distillkit import ModelInput
from distillkit.errors import DataError, WeightsError
from distillkit.evaluation.protocol import bicubic_method
from distillkit.files.images import to_uint8
from distillkit.metrics import builtin, learned
from distillkit.metrics.base import Metric, from_uint8
from distillkit.metrics.distortion import PSNR_CAP

SHARED = Path("/work/shared/data")
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"{SHARED} with the published images is not on this machine"
)
SPECS = {spec.name: spec for spec in builtin.distillkit_metrics()}


def build(name: str, **options) -> Metric:
    return SPECS[name].create(SPECS[name].config(**options))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth images and their noisy versions, noisy first, on the 8-bit grid.

    Each is (2, 3, 40, 52) in [-1, 1].
    """
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 5, 6, generator=g)
    gt = F.interpolate(coarse, (40, 52), mode="bicubic") * 1.6 - 0.8
    noisy = gt + 0.1 * torch.randn(gt.shape, generator=g)
    return from_uint8(to_uint8(noisy)), from_uint8(to_uint8(gt))


def array(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image).movedim(-3, -1).numpy().astype(np.float64)


def read(path: Path) -> torch.Tensor:
    pixels = np.array(Image.open(path).convert("RGB"))
    return from_uint8(torch.from_numpy(pixels).movedim(-1, 0)[None])


@pytest.mark.parametrize(
    "name", ["psnr", "psnr-y", "ssim", "ssim-y", "stlpips-alex", "stlpips-vgg"]
)
def test_metrics_are_metrics_and_put_the_truth_first(name, pair):
    metric = build(name)
    restored, gt = pair
    assert isinstance(metric, Metric)
    assert metric.name == name
    value = metric(restored, gt)
    best = metric(gt, gt)
    assert value.shape == best.shape == (2,)
    sign = 1 if metric.higher_is_better else -1
    assert (sign * best > sign * value).all()
    torch.testing.assert_close(metric(restored, gt[:1])[0], value[0])
    with pytest.raises(ValueError, match=name):
        metric(restored, gt[..., 1:])


def test_psnr_of_equal_images_is_capped_and_finite(pair):
    assert build("psnr")(pair[1], pair[1]).tolist() == [PSNR_CAP] * 2
    assert build("psnr-y")(pair[1], pair[1]).tolist() == [PSNR_CAP] * 2


def test_psnr_is_that_of_the_saved_files(pair):
    restored, gt = pair
    mse = np.mean((array(restored) - array(gt)) ** 2, axis=(1, 2, 3))
    expected = 10 * np.log10(255**2 / mse)
    psnr = build("psnr")
    below_rounding = 0.4 / 127.5
    assert psnr(restored, gt).tolist() == pytest.approx(expected, abs=1e-4)
    assert psnr(restored + below_rounding, gt).tolist() == pytest.approx(expected, abs=1e-4)
    outside = restored * 100
    assert psnr(outside, gt).tolist() == psnr(outside.clamp(-1, 1), gt).tolist()


def test_psnr_y_of_gray_images_scales_the_difference_to_the_luma_range():
    gt = from_uint8(torch.full((1, 3, 8, 8), 100, dtype=torch.uint8))
    restored = from_uint8(torch.full((1, 3, 8, 8), 110, dtype=torch.uint8))
    difference = 10 * 219 / 255  # the weights add up to 219
    expected = 20 * math.log10(255 / difference)
    assert build("psnr-y")(restored, gt).item() == pytest.approx(expected, abs=2e-4)


def test_ssim_equals_scikit_image(pair):
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
        "channel_axis": -1,
    }
    expected = []
    for restored, gt in zip(*pair, strict=True):
        expected.append(structural_similarity(array(restored), array(gt), **options))
    assert build("ssim")(*pair).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["ssim", "ssim-y", "stlpips-alex", "stlpips-vgg"])
def test_an_image_that_is_too_small_is_refused_in_a_sentence(name, pair):
    small = [image[..., :8, :8] for image in pair]
    smallest = {"stlpips-alex": 21, "stlpips-vgg": 18}.get(name, 11)
    sentence = f"an image of 8x8 px is too small for {name}; it takes {smallest} px a side or more"
    with pytest.raises(DataError, match=sentence):
        build(name)(*small)


@pytest.mark.parametrize("name", ["stlpips-alex", "stlpips-vgg"])
def test_perceptual_distances_carry_gradient(name, pair):
    metric = build(name)
    assert metric.differentiable and not metric.higher_is_better and metric.perceptual
    restored = pair[0].clone().requires_grad_()
    metric(restored, pair[1]).sum().backward()
    assert restored.grad.abs().sum() > 0


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_without_its_trunk_says_which_file_and_downloads_nothing(net, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (expected,) = SPECS[f"lpips-{net}"].config().weight_files()
    assert (
        expected.path.parent
        == tmp_path / "hub" / "checkpoints"
        == Path(torch.hub.get_dir()) / "checkpoints"
    )
    with pytest.raises(WeightsError, match=expected.path.name):
        build(f"lpips-{net}")
    with pytest.raises(WeightsError, match="elsewhere"):
        build(f"lpips-{net}", trunk=tmp_path / "elsewhere.pth")
    assert list(tmp_path.iterdir()) == []


def test_lpips_refuses_the_trunk_of_another_network(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(WeightsError, match="another architecture"):
        learned.lpips("alex", tmp_path / "vgg.pth")


def test_building_lpips_leaves_the_global_random_state_alone(tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    before = torch.get_rng_state()
    with pytest.raises(WeightsError):
        learned.lpips("alex", tmp_path / "empty.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError):
        SPECS["psnr"].config(color="RGB")


def test_describing_the_metrics_imports_no_torch():
    code = """
import sys
from distillkit.metrics import builtin
builtin.distillkit_metrics()
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def published_numbers() -> dict[str, dict[str, float]]:
    """Image name -> metric -> number."""
    content = json.loads((SHARED / "realsr/published_osediff.json").read_text())
    return content["realsr"]["rows"]


@needs_shared
def test_luma_metrics_reproduce_published_numbers():
    published = published_numbers()
    paths = sorted((SHARED / "realsr/osediff").glob("*.png"))[::7]
    assert len(paths) == 8
    for path in paths:
        restored = read(path)
        gt = read(SHARED / "realsr/HR" / path.name)
        psnr = build("psnr-y")(restored, gt).item()
        ssim = build("ssim-y")(restored, gt).item()
        assert psnr == pytest.approx(published[path.name]["PSNR"], abs=4e-5)
        assert ssim == pytest.approx(published[path.name]["SSIM"], abs=1e-6)


@needs_shared
def test_lpips_reproduces_published_numbers_and_uses_the_linear_weights_of_its_package():
    trunk = SHARED / "weights/lpips_alex.pth"
    published = published_numbers()
    metric = build("lpips-alex", trunk=trunk)
    for path in sorted((SHARED / "realsr/osediff").glob("*.png"))[:2]:
        with torch.no_grad():
            value = metric(read(path), read(SHARED / "realsr/HR" / path.name)).item()
        assert value == pytest.approx(published[path.name]["LPIPS"], abs=4e-4)


def test_the_linear_layers_of_a_complete_lpips_file_are_used(tmp_path):
    import lpips as package

    with torch.random.fork_rng():
        model = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = {}
    for key, value in model.net.state_dict().items():
        _, _, layer = key.partition(".")
        state[f"features.{layer}"] = value
    for i, linear in enumerate(model.lins):
        state[f"lin{i}.weight"] = torch.zeros_like(linear.model[1].weight)
    torch.save(state, tmp_path / "complete.pth")
    noise = torch.rand(1, 3, 64, 64) * 2 - 1
    assert learned.lpips("alex", tmp_path / "complete.pth")(noise, -noise).item() == 0
    del state["lin3.weight"]
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(WeightsError, match=r"missing 3\.model"):
        learned.lpips("alex", tmp_path / "partial.pth")


def test_bicubic_is_pillows(pair):
    ours = bicubic_method(4).restore("", ModelInput(pair[1]), torch.Generator())
    for image, enlarged in zip(array(pair[1]), array(ours), strict=True):
        picture = Image.fromarray(image.astype(np.uint8))
        pillows = picture.resize((52 * 4, 40 * 4), Image.Resampling.BICUBIC)
        difference = enlarged - np.array(pillows, dtype=np.float64)
        assert np.abs(difference).max() <= 1  # Pillow rounds between its two passes
