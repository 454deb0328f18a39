"""What the plugin offers, and that offering it is cheap."""

import subprocess
import sys
from collections import defaultdict
from importlib.metadata import EntryPoint

import pytest
import torch
from pydantic import ValidationError

from distillkit import DiffusionModel, ModelInput, OutputTeacher, WeightsError
from distillkit.plugins.manager import load_plugins
from distillkit.testing import contract_tests
from distillkit_lowlight.gsad.model import LastStepStudent, OneStepStudent

TINY = {"size": "tiny"}
test_contract = contract_tests(
    "lowlight",
    {
        "lowlight/gsad": TINY,
        "lowlight/retidiff": TINY,
        "lowlight/retidiff-priors": TINY,
        "lowlight/retinex": TINY,
    },
)  # the data sets are skipped: their folders have no default


@pytest.fixture(scope="module")
def plugins():
    return load_plugins([EntryPoint("lowlight", "distillkit_lowlight.plugin", "distillkit")])


def build(plugins, kind, name, **options):
    spec = plugins.find(kind, f"lowlight/{name}")
    return spec.create(spec.config(**options))


def test_is_whole(plugins):
    (plugin,) = plugins
    assert plugin.error is None and not plugin.problems
    names = defaultdict(set)
    for spec in plugin.specs:
        names[spec.kind].add(spec.name)
    assert names == {
        "teacher": {"gsad", "retidiff", "retidiff-priors"},
        "student": {"gsad"},
        "degradation": {"dark"},
        "dataset": {"lol-v1", "lol-v2-real", "lol-v2-syn"},
        "metric": {"psnr-gtmean", "ssim-uniform", "ssim-uniform-gtmean", "retinex"}
        | {
            f"{base}-gtmean"
            for base in ("ssim", "stlpips-alex", "stlpips-vgg", "lpips-alex", "lpips-vgg")
        }
        | {"lpips-alex-gtmean-bgr"},
    }


def test_importing_it_brings_in_no_torch():
    code = """
import sys
import distillkit_lowlight.plugin

distillkit_lowlight.plugin.distillkit_teachers()
print({"torch", "datasets"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("kind", "name"), [("teachers", "gsad"), ("teachers", "retidiff"), ("students", "gsad")]
)
def test_tiny_models_restore(plugins, images, generator, kind, name):
    model = build(plugins, kind, name, size="tiny")
    with torch.no_grad():
        restored = model.restore(ModelInput(images(1, 20, 26)), generator)
    assert restored.shape == (1, 3, 20, 26) and restored.abs().max() <= 1
    assert isinstance(model, OutputTeacher)


def test_capabilities_are_what_is_built(plugins):
    for spec in plugins.specs("teachers"):
        model = spec.create(spec.config(size="tiny"))
        assert isinstance(model, DiffusionModel) == ("score" in spec.capabilities), spec.name


@pytest.mark.parametrize(
    ("generate", "kind", "nfe"),
    [("last-step", LastStepStudent, 20), ("one-step", OneStepStudent, 1)],
)
def test_kind_of_student(plugins, generate, kind, nfe):
    model = build(plugins, "students", "gsad", size="tiny", generate=generate, data_set="lol-v1")
    assert type(model) is kind and model.nfe == nfe


@pytest.mark.parametrize(
    ("kind", "name", "options", "what"),
    [
        ("students", "gsad", {"size": "tiny", "weights": "a.pth"}, "reads no weights"),
        ("students", "gsad", {"size": "tiny", "generate": "two-step"}, "last-step"),
        ("degradations", "dark", {"gamma": (3, 2)}, "above the upper"),
        ("degradations", "dark", {"exposure": (0.5, 1.5)}, "less than or equal to 1"),
        ("degradations", "dark", {"jpeg": (0, 90)}, "greater than or equal to 1"),
        ("datasets", "lol-v1", {"root": ".", "splits": "train"}, "Extra inputs"),
        (
            "metrics",
            "retinex",
            {"size": "tiny", "decomposition": "a.pth"},
            "reads no decomposition",
        ),
    ],
)
def test_options_that_cannot_be(plugins, kind, name, options, what):
    with pytest.raises(ValidationError, match=what):
        build(plugins, kind, name, **options)


def test_weight_files_are_declared(plugins):
    spec = plugins.find("teachers", "lowlight/retidiff")
    config = spec.config(weights="here/llie_syn.pth", decomposition="here/retinex_decomnet.pth")
    files = config.weight_files()
    assert [f.name for f in files] == ["here/llie_syn.pth", "here/retinex_decomnet.pth"]
    assert all(f.find() is None and f.license == "NONE" for f in files)
    assert spec.config(size="tiny").weight_files() == ()


@pytest.mark.parametrize(
    ("kind", "name", "options", "files"),
    [
        ("students", "gsad", {}, ["weights/lolv2_syn_gen.pth"]),
        ("teachers", "gsad", {"data_set": "lol-v1"}, ["weights/lolv1_gen.pth"]),
        (
            "teachers",
            "retidiff",
            {"weights": "mine.pth"},
            ["mine.pth", "weights/retinex_decomnet.pth"],
        ),
        ("metrics", "retinex", {}, ["weights/init_high.pth"]),
    ],
)
def test_published_files_are_the_default_and_come_by_hand(plugins, kind, name, options, files):
    spec = plugins.find(kind, f"lowlight/{name}")
    found = spec.config(**options).weight_files()
    assert [f.name for f in found] == files
    assert all(not f.fetchable and "github.com/" in f.source for f in found)
    with pytest.raises(WeightsError, match="no such"):
        build(plugins, kind, name, **options)


def test_degradation_takes_its_options(plugins):
    assert build(plugins, "degradations", "dark", exposure=[0.1, 0.2]).options.exposure == (
        0.1,
        0.2,
    )
