"""DISTS, FID and the metrics of pyiqa.

The formulas are compared with plain arithmetic; files may be absent or of another network.
"""

import io
import sys
import types
from functools import partial

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.errors import DataError, WeightsError
from distillkit.evaluation.protocol import (
    EvaluationSettings,
    available_metrics,
    bicubic_method,
    evaluate,
)
from distillkit.evaluation.results import Results
from distillkit.files.images import to_uint8
from distillkit.metrics import builtin
from distillkit.metrics.base import Metric, NoReference, SetMetric
from distillkit.metrics.distortion import psnr
from distillkit.metrics.dists import WIDTHS, Dists, L2Pool, dists
from distillkit.metrics.fid import Fid, fid
from distillkit.metrics.no_reference import pyiqa_metric
from distillkit.report.documents import evaluation_markdown
from distillkit.report.tables import Cell, main_table, metric_cells

SPECS = {spec.name: spec for spec in builtin.distillkit_metrics()}


def noise(n: int = 2, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def vgg(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random convolutions under torchvision's names."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in Dists().state_dict().items():
        if not key.startswith("features."):
            continue
        scale = 0.1
        if key.endswith("weight"):
            scale = 0.5 / value[0].numel() ** 0.5
        state[key] = scale * torch.randn(value.shape, generator=g)
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A trunk with its classifier, and alpha and beta beside it, as their authors publish them."""
    folder = tmp_path_factory.mktemp("dists")
    g = torch.Generator().manual_seed(1)
    torch.save(vgg() | {"classifier.0.bias": torch.zeros(4)}, folder / "vgg16.pth")
    alpha = torch.rand(1, 1475, 1, 1, generator=g)
    beta = torch.rand(1, 1475, 1, 1, generator=g)
    torch.save({"alpha": alpha, "beta": beta}, folder / "weights.pt")
    return folder


def test_dists_is_its_formula(files):
    metric = dists(files / "weights.pt", files / "vgg16.pth")
    a = noise(seed=1)
    b = noise(seed=2)
    weights = torch.load(files / "weights.pt", weights_only=True)
    network = Dists()
    network.load_state_dict(vgg() | weights)
    textures = []
    structures = []
    with torch.no_grad():
        for x, y in zip(network.stages(a), network.stages(b), strict=True):
            x = x.double().flatten(2)
            y = y.double().flatten(2)
            mx = x.mean(2)
            my = y.mean(2)
            textures.append((2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6))
            x0 = x - mx[..., None]
            y0 = y - my[..., None]
            variances = x0.square().mean(2) + y0.square().mean(2)
            structures.append((2 * (x0 * y0).mean(2) + 1e-6) / (variances + 1e-6))
    alpha = weights["alpha"].flatten().double()
    beta = weights["beta"].flatten().double()
    similarity = torch.cat(textures, 1) @ alpha + torch.cat(structures, 1) @ beta
    expected = 1 - similarity / (alpha.sum() + beta.sum())
    torch.testing.assert_close(metric(a, b).double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(metric(a, a), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(metric(a, b[:1])[0], metric(a, b)[0])


def test_dists_numbers_its_layers_as_torchvision_does_and_passes_gradient(files):
    from torchvision.models import vgg16

    with torch.device("meta"):
        theirs = {k: v.shape for k, v in vgg16().features.state_dict().items()}
    ours = {k: v.shape for k, v in Dists().features.state_dict().items()}
    assert ours == theirs
    assert len(WIDTHS) == 17
    metric = dists(files / "weights.pt", files / "vgg16.pth")
    image = noise().requires_grad_()
    metric(image, noise(seed=1)).sum().backward()
    assert isinstance(metric, Metric)
    assert metric.differentiable
    assert image.grad.abs().sum() > 0


def test_l2_pooling_keeps_a_constant_and_halves():
    pooled = L2Pool()(torch.full((1, 2, 8, 8), 3.0))
    assert pooled.shape == (1, 2, 4, 4)
    torch.testing.assert_close(pooled[..., 1:, 1:], torch.full((1, 2, 3, 3), 3.0))


def test_dists_weights_that_are_absent_or_of_another_network(files, tmp_path):
    with pytest.raises(WeightsError, match="set dists.weights to a file"):
        SPECS["dists"].create(SPECS["dists"].config())
    with pytest.raises(WeightsError, match="missing features"):
        dists(files / "weights.pt")
    with pytest.raises(WeightsError, match="no such weight file"):
        dists(files / "weights.pt", tmp_path / "none.pth")
    weights = torch.load(files / "weights.pt", weights_only=True)
    torch.save(vgg() | weights, tmp_path / "complete.pth")
    of_one_file = dists(tmp_path / "complete.pth")
    of_two_files = dists(files / "weights.pt", files / "vgg16.pth")
    a = noise(1)
    b = noise(1, seed=3)
    assert of_one_file(a, b).item() == of_two_files(a, b).item()


class Means(nn.Module):
    """Color means as features."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x.float().mean((2, 3)),)


def test_fid_is_the_frechet_distance_of_gaussians():
    metric = Fid(Means(), "none")
    g = torch.Generator().manual_seed(0)
    a = torch.randn(40, 5, generator=g)
    b = 2 * torch.randn(30, 5, generator=g) + 1
    s1 = torch.cov(a.T.double())
    s2 = torch.cov(b.T.double())
    root = torch.linalg.eigvals(s1 @ s2).real.clamp(min=0).sqrt().sum()
    between_means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    expected = between_means + s1.trace() + s2.trace() - 2 * root
    assert metric.distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert metric.distance(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="two images"):
        metric.distance(a[:1], b)


def test_fid_is_the_distance_of_torch_fidelity():
    g = torch.Generator().manual_seed(1)
    a = torch.randn(40, 6, generator=g)
    b = 2 * torch.randn(30, 6, generator=g) + 1
    statistics = [fid_features_to_statistics(features.double()) for features in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert Fid(Means(), "none").distance(a, b) == pytest.approx(theirs, rel=1e-9)


def untrained_inception(monkeypatch: pytest.MonkeyPatch) -> FeatureExtractorInceptionV3:
    """The network of published FIDs with random weights: its class insists on reading a file."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        return FeatureExtractorInceptionV3("random", ["2048"], nothing)


def test_fid_reads_the_inception_of_published_numbers_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="weights-inception-2015-12-05-6726825d.pth"):
        SPECS["fid"].create(SPECS["fid"].config())
    other_contents = {"other": {"fc.weight": torch.zeros(2)}, "list": [torch.zeros(2)]}
    for name, content in other_contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=rf"{name}\.pth - weights of another architecture"):
            fid(tmp_path / f"{name}.pth")
    inception = untrained_inception(monkeypatch)
    torch.save(inception.state_dict(), tmp_path / "inception.pth")
    metric = SPECS["fid"].create(SPECS["fid"].config(weights=tmp_path / "inception.pth"))
    assert isinstance(metric, SetMetric) and not isinstance(metric, Metric)
    images = noise(2, 40)
    (expected,) = inception(to_uint8(images))
    assert expected.shape == (2, 2048)
    assert torch.equal(metric.features(images), expected)
    assert "inception.pth" in metric.protocol
    assert "published FIDs" in metric.protocol


def items(n: int = 3):
    for i in range(n):
        gt = noise(1, 24, seed=i)
        yield EvaluationPair(f"photo{i}", nn.functional.avg_pool2d(gt, 2), gt)


def test_a_metric_of_the_whole_set_has_one_number_and_no_standard_error():
    metrics = [psnr(), Fid(Means(), "color means")]
    results = evaluate([bicubic_method(2)], items(), metrics, EvaluationSettings("toy"))
    assert results.values["bicubic", "fid"].shape == ()
    estimate = results.summary("bicubic", "fid")
    assert estimate.mean >= 0
    assert estimate.sem is None
    (row,) = [row for row in results.rows() if row["metric"] == "fid"]
    assert (row["mean"], row["sem"], row["n"]) == (estimate.mean, None, 3)
    assert metric_cells(results, results.methods[0])[1] == Cell(f"{estimate.mean:.4f}")
    again = Results.from_json(results.to_json())
    assert again.rows() == results.rows()
    assert again.metrics[1].of_set
    assert results.perceptual == []


def stub(calls: list[str]) -> types.ModuleType:
    """A stand-in for pyiqa with what its documentation promises.

    ``create_metric(name, device=...)`` returns a module that takes images (N, 3, H, W) in [0, 1].
    """

    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.min() >= 0 and x.max() <= 1 and len(x) == 1
            return x.mean((1, 2, 3))[:, None]

    def create_metric(name: str, device: torch.device) -> nn.Module:
        calls.append(name)
        if name == "unheard-of":
            raise KeyError(name)
        return Brightness().to(device)

    module = types.ModuleType("pyiqa")
    module.create_metric = create_metric
    return module


def test_metrics_of_pyiqa_through_a_stand_in(monkeypatch):
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pyiqa", stub(calls))
    metric = SPECS["maniqa"].create(SPECS["maniqa"].config(model="maniqa-pipal"))
    assert isinstance(metric, NoReference)
    assert metric.name == "maniqa"
    assert metric.higher_is_better
    assert calls == ["maniqa-pipal"]
    assert "maniqa-pipal of pyiqa" in metric.protocol
    images = torch.stack([torch.full((3, 8, 8), v) for v in (-1.0, 0.0, 1.0)])
    torch.testing.assert_close(metric(images, images[:1]), torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(WeightsError, match="could not create unheard-of: KeyError"):
        pyiqa_metric("musiq", "unheard-of")


def test_without_pyiqa_the_cell_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    builders = {}
    for name in ("psnr", "musiq", "niqe"):
        builders[name] = partial(SPECS[name].create, SPECS[name].config())
    metrics, absent = available_metrics(builders)
    settings = EvaluationSettings("toy", absent=absent)
    results = evaluate([bicubic_method(2)], items(), metrics, settings)

    where = "the package BasicSR (niqe_pris_params.npz)"
    wanted = f"weights absent: set niqe.parameters to a file from {where}"
    reasons = ["pyiqa is not installed", wanted]
    heads = [str(head).partition(" ")[0] for head in main_table(results, []).header]
    assert heads[-3:] == ["psnr", "musiq", "niqe"]
    assert [str(cell) for cell in metric_cells(results, results.methods[0])[1:]] == reasons
    assert [row["protocol"] for row in results.rows() if row["mean"] is None] == reasons
    text = evaluation_markdown(results, [], [])
    assert "pip install 'distillkit[iqa]'" in text
    assert "no commercial use" in text
    assert "niqe_pris_params.npz" in text


@pytest.mark.parametrize("name", ["musiq", "maniqa", "clipiqa"])
def test_the_license_of_pyiqa_is_stated(name):
    spec = SPECS[name]
    assert "Noncommercial" in spec.license and "no commercial use" in spec.summary
