"""NIQE: statistics of known distributions, and published numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distillkit.errors import DataError, WeightsError
from distillkit.files.images import read_image
from distillkit.metrics import builtin, niqe
from distillkit.metrics.base import Metric

SHARED = Path("/work/shared/data")
SPEC = next(spec for spec in builtin.distillkit_metrics() if spec.name == "niqe")


@pytest.fixture
def parameters(tmp_path):
    """A file with some parameters."""
    path = tmp_path / "parameters.npz"
    np.savez(path, mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=np.eye(36))
    return path


def photo(height: int = 200, width: int = 300, seed: int = 0) -> torch.Tensor:
    """Smooth fields and grain, (1, 3, height, width) in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 18, generator=g)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic") * 1.6 - 0.8
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=g)).clamp(-1, 1)


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"{SHARED} with the published images is not on this machine"
)
def test_it_reproduces_published_numbers():
    content = json.loads((SHARED / "realsr/published_osediff.json").read_text())
    published = content["realsr"]["rows"]
    metric = SPEC.create(SPEC.config(parameters=SHARED / "weights/niqe_pris_params.npz"))
    paths = sorted((SHARED / "realsr/osediff").glob("*.png"))
    assert len(paths) == 50
    for path in paths:
        image = read_image(path)[None]
        value = metric(image, image).item()
        assert value == pytest.approx(published[path.name]["NIQE"], abs=0.005)


def test_it_judges_each_image_by_itself(parameters):
    metric = niqe.niqe(parameters)
    assert isinstance(metric, Metric) and not metric.higher_is_better and metric.perceptual
    a = photo(seed=1)
    b = photo(seed=2)
    both = metric(torch.cat([a, b]), torch.zeros(1, 3, 8, 8))
    assert both.tolist() == [metric(a, b).item(), metric(b, a).item()]
    with pytest.raises(ValueError, match="niqe"):
        metric(a[0], a)


@pytest.mark.parametrize(
    ("draw", "shape", "scale"),
    [
        (np.random.Generator.standard_normal, 2.0, np.sqrt(2)),
        (np.random.Generator.laplace, 1.0, 1.0),
    ],
)
def test_the_shape_and_scales_of_known_distributions_are_fitted(draw, shape, scale):
    """The density is ``exp(-(|x| / scale)^shape)``."""
    values = draw(np.random.default_rng(0), size=(1, 1000, 1000))
    fitted, left, right = niqe._fit_asymmetric_gaussian(torch.from_numpy(values))
    assert fitted.item() == pytest.approx(shape, abs=0.01)
    assert left.item() == pytest.approx(scale, rel=0.01)
    assert right.item() == pytest.approx(scale, rel=0.01)


def test_a_skewed_distribution_has_two_scales():
    values = np.random.default_rng(0).standard_normal((1, 1000, 1000))
    values[values > 0] *= 3
    _, left, right = niqe._fit_asymmetric_gaussian(torch.from_numpy(values))
    assert right.item() / left.item() == pytest.approx(3, rel=0.01)


def test_a_flat_region_shows_the_sum_of_the_kernel():
    """Its weights are float32, so local mean and contrast of a flat gray are not exact."""
    weights = niqe._gaussian_kernel()
    total = weights.sum().item()
    assert total != 1
    assert total == pytest.approx(1, abs=1e-6)
    gray = torch.full((1, 1, 20, 20), 113.0, dtype=torch.float64)
    variance = abs(113.0**2 * total - (113.0 * total) ** 2)
    expected = 113.0 * (1 - total) / (math.sqrt(variance + 2.0**-52) + 1)
    assert niqe._normalize(gray)[0, 0, 10, 10].item() == pytest.approx(expected, rel=1e-6)


def test_gray_is_rounded_as_a_matrix_product_in_float32_rounds_it():
    """Halfway between two grays, a color falls to either side by the rounding of each step."""
    colors = torch.cartesian_prod(*[torch.arange(0, 256, 5, dtype=torch.uint8)] * 3)
    exact = colors.long() @ torch.tensor([299, 587, 114])
    halfway = exact % 1000 == 500
    image = colors.T[None, :, None]
    gray = niqe._gray(image)[0, 0, 0]
    assert (gray[~halfway] == (exact[~halfway] / 1000).round()).all()
    above = (gray[halfway] > exact[halfway] / 1000).double().mean()
    assert halfway.sum() > 50
    assert 0 < above < 1


def test_halving_is_antialiased_bicubic():
    gray = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 1, 40, 52)))
    expected = F.interpolate(gray, scale_factor=0.5, mode="bicubic", antialias=True)
    torch.testing.assert_close(niqe._halve(gray)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_what_does_not_fill_a_block_is_left_out():
    image = photo(200, 300)
    features = niqe.block_features(image)
    assert features.shape == (6, 36)
    np.testing.assert_array_equal(features, niqe.block_features(image[..., :192, :288]))


def test_images_that_are_too_small_or_flat_are_refused(parameters):
    metric = niqe.niqe(parameters)
    with pytest.raises(DataError, match="two blocks of 96x96 pixels, not 191x100"):
        metric(photo(100, 191), photo())
    with pytest.raises(DataError, match="flat"):
        metric(torch.zeros(1, 3, 96, 192), photo())


def test_without_its_file_it_says_what_to_set():
    with pytest.raises(WeightsError, match="set niqe.parameters"):
        SPEC.create(SPEC.config())


def test_files_that_hold_something_else_are_refused(tmp_path, parameters):
    with pytest.raises(WeightsError, match="no such file"):
        niqe.niqe(tmp_path / "none.npz")
    content = parameters.read_bytes()
    hostile = np.empty(1, object)
    hostile[0] = {"runs": "code"}
    np.savez(tmp_path / "pickled.npz", mu_pris_param=hostile, cov_pris_param=np.eye(36))
    np.savez(tmp_path / "small.npz", mu_pris_param=np.zeros(18), cov_pris_param=np.eye(18))
    np.savez(tmp_path / "nan.npz", mu_pris_param=np.full(36, np.nan), cov_pris_param=np.eye(36))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in (
        "pickled.npz",
        "small.npz",
        "nan.npz",
        "other.npz",
        "array.npy",
        "cut.npz",
        "empty.npz",
    ):
        with pytest.raises(WeightsError, match=name):
            niqe.niqe(tmp_path / name)
