"""ncnn networks give the student's images; networks that give others never appear."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe
from distillkit.export.ncnn import export_ncnn

ENLARGER = (
    "student={use='toy/enlarger'}",
    "stage1.teachers.fidelity.term='output'",
    "stage1.teachers.realness.term='output'",
)
REASON = "pip install 'distillkit[ncnn]' to test ncnn exports"
pytest.importorskip("pnnx", reason=REASON)
ncnn = pytest.importorskip("ncnn", reason=REASON)


@pytest.fixture
def make_run(recipe, tmp_path):
    def make(*overrides):
        overrides = ["data.eval=[]", *ENLARGER, *overrides]
        run_recipe(load_recipe(recipe, overrides), tmp_path / "run")
        return tmp_path / "run"

    return make


@pytest.fixture
def change_network(monkeypatch):
    """Let the student's image pass one more function."""
    from toy_models import Enlarger

    def change(function):
        generate = Enlarger.generate

        def generate_and_change(self, condition, generator=None):
            return function(generate(self, condition, generator))

        monkeypatch.setattr(Enlarger, "generate", generate_and_change)

    return change


def restore(network, image):
    """Restore as hosts do: files found by name, RGB in [0, 1] into data, out of output."""
    net = ncnn.Net()
    assert net.load_param(f"{network}.param") == 0
    assert net.load_model(f"{network}.bin") == 0
    extractor = net.create_extractor()
    assert extractor.input("data", ncnn.Mat(image.numpy()).clone()) == 0
    code, restored = extractor.extract("output")
    assert code == 0
    return torch.from_numpy(np.array(restored)).clamp(0, 1)


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(5))


def test_each_tradeoff_is_a_network_of_its_own(make_run, tmp_path, image, distillkit):
    run = make_run()
    out = tmp_path / "out"
    outcome = distillkit("export", run, "--ncnn", out, "--tradeoff", "0.3")
    assert not outcome.code
    assert "toy_x2_t0.30: largest difference from the original" in outcome.out
    names = ["toy_x2_t0", "toy_x2_t0.30", "toy_x2_t1"]
    files = [f"{name}.{suffix}" for name in names for suffix in ("bin", "param")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "about.json"])
    expected = Restorer.from_pretrained(run, "cpu")(image, [0.0, 0.3, 1.0])
    assert (expected[0] - expected[2]).abs().max() > 1e-2
    for name, original in zip(names, expected, strict=True):
        # ncnn's own choice of arithmetic may be float16.
        torch.testing.assert_close(restore(out / name, image), original, atol=2e-3, rtol=0)
    about = json.loads((out / "about.json").read_text())
    assert about["recipe"] == "toy"
    assert about["scale"] == 2
    assert about["licenses"]["student"] == "unknown"
    with pytest.raises(DistillkitError, match="out - exists; name a new folder"):
        export_ncnn(run, out)


def test_weights_in_float16_take_half_of_the_space(make_run, tmp_path, image):
    run = make_run("stage2.steps=0")
    sizes = {}
    for half in (False, True):
        out = tmp_path / str(half)
        report = export_ncnn(run, out, half=half)
        assert [line.partition(":")[0] for line in report] == ["toy_x2_t0"]
        sizes[half] = (out / "toy_x2_t0.bin").stat().st_size
    assert sizes[True] < 0.6 * sizes[False]
    expected = Restorer.from_pretrained(run, "cpu")(image)
    restored = restore(tmp_path / "True" / "toy_x2_t0", image)
    torch.testing.assert_close(restored, expected, atol=4e-3, rtol=0)


def test_a_diffusion_model_of_one_evaluation_converts_as_well(recipe, tmp_path, image):
    run_recipe(load_recipe(recipe, ["data.eval=[]"]), tmp_path / "run")
    export_ncnn(tmp_path / "run", tmp_path / "out")
    expected = Restorer.from_pretrained(tmp_path / "run", "cpu")(image, 1.0)
    restored = restore(tmp_path / "out" / "toy_x2_t1", image)
    torch.testing.assert_close(restored, expected, atol=2e-3, rtol=0)


def invert_spectrum(image):
    return torch.fft.irfft2(torch.fft.rfft2(image), s=image.shape[-2:])


def sort_pixels(image):
    return image.sort(-1).values


def darken_large(image):
    return image - 0.1 * (image.shape[-1] > 40)


def crop_small(image):
    return image if image.shape[-1] > 40 else image[..., :-2, :-2]


def add_noise(image):
    return image + 0.1 * torch.randn_like(image)


class Untraceable(nn.Module):
    def forward(self, image):
        raise ValueError("not under the tracer")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (invert_spectrum, "ncnn cannot run it: layer torch.fft.rfft2 not exists"),
        (sort_pixels, "ncnn cannot run it: layer "),
        (add_noise, "ncnn cannot run it: layer torch.randn_like not exists"),
        (darken_large, "ncnn gives images that differ by 0.05"),
        (crop_small, "ncnn gives another size for an input of 33x12 pixels"),
        (torch.zeros_like, "ncnn cannot run it: "),
        (Untraceable(), "not under the tracer"),
    ],
)
def test_what_ncnn_does_otherwise_is_refused(make_run, tmp_path, change_network, function, why):
    run = make_run()
    change_network(function)
    with pytest.raises(DistillkitError, match=f"Enlarger cannot be exported to ncnn: {why}"):
        export_ncnn(run, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_models_that_take_multiples_of_a_size_are_refused(make_run, tmp_path, monkeypatch):
    from toy_models import Enlarger

    run = make_run()
    monkeypatch.setattr(Enlarger, "size_multiple", 4)
    with pytest.raises(DistillkitError, match="Enlarger takes sides that are multiples of 4; host"):
        export_ncnn(run, tmp_path / "out")


def test_variants_that_do_not_change_weights_are_refused(make_run, recipe, tmp_path):
    run_recipe(load_recipe(recipe, ["data.eval=[]", "stage2.variant='oftsr'"]), tmp_path / "run")
    with pytest.raises(DistillkitError, match="Oftsr does not change weights"):
        export_ncnn(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ("echo no space for the model >&2; exit 3", "no space for the model"),
        ("exit 0", "it says nothing, code 0"),
        ("kill -9 $$", "it says nothing, code -9"),
    ],
)
def test_a_converter_that_fails_is_quoted(make_run, tmp_path, monkeypatch, ends, why):
    import pnnx

    program = tmp_path / "broken"
    program.write_text(f"#!/bin/sh\n{ends}\n")
    program.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(program))
    with pytest.raises(DistillkitError, match=f"pnnx fails: {why}"):
        export_ncnn(make_run(), tmp_path / "out")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    def find_spec(name):
        return None if name == "pnnx" else name

    monkeypatch.setattr("distillkit.export.ncnn.find_spec", find_spec)
    message = r"ncnn export needs pnnx: pip install 'distillkit\[ncnn\]'"
    with pytest.raises(DistillkitError, match=message):
        export_ncnn(tmp_path, tmp_path / "out")
