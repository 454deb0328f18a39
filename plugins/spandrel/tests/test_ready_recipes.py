"""The ready recipes run to a report and to checkpoints, on two generated networks at tiny size."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader
from spandrel.architectures import SPAN, Compact

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe
from distillkit.export.checkpoints import export_checkpoints, format_tradeoff

SMALL = (
    "data.crop_size=32",
    "data.batch_size=2",
    "evaluation.metrics=['psnr-y']",
    "evaluation.crop_size=32",
    "evaluation.max_images=2",
    "evaluation.tradeoffs=[0.0, 1.0]",
    "evaluation.alphas=[0.5]",
    "stage2.line.perceptual_weight=0",
    "training.cache_gib=0",
    "training.validation_steps=0",
)


@pytest.fixture
def checkpoints(tmp_path):
    return write_checkpoints(tmp_path)


def write_checkpoints(folder):
    """Write a Compact and a SPAN of random weights, small ones; return their folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compact = Compact.Compact(num_feat=8, num_conv=2, upscale=4)
        span = SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4)
    save_file(compact.state_dict(), folder / "compact.safetensors")
    save_file(span.state_dict(), folder / "span.safetensors")
    return folder


def run(name, tmp_path, *overrides):
    run_recipe(load_recipe(f"spandrel/{name}", [*SMALL, *overrides]), tmp_path / "run")
    assert (tmp_path / "run/report.html").stat().st_size > 0
    return tmp_path / "run"


@pytest.fixture
def image():
    return torch.rand(1, 3, 17, 23, generator=torch.Generator().manual_seed(1))


def open_by_spandrel(path, image):
    descriptor = ModelLoader().load_from_file(path).eval()
    return descriptor, descriptor(image)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """A finished run, made once; nothing is written there."""
    checkpoints = write_checkpoints(tmp_path_factory.mktemp("two_models"))
    return run(
        "two_models",
        checkpoints,
        f"teachers.fidelity.weights='{checkpoints / 'span.safetensors'}'",
        f"teachers.realness.weights='{checkpoints / 'compact.safetensors'}'",
        "student.parameters={num_feat=8, num_conv=2}",
        "data.cycle_steps=0",
        "stage1.steps=4",
        "stage1.pretraining_steps=2",
        "stage1.reconstruction.perceptual_weight=0",
        "stage2.steps=3",
    )


def test_two_models_become_two_checkpoints_that_hold_the_tradeoff(two_models, tmp_path, image):
    files = export_checkpoints(two_models, tmp_path / "out", [0.3])
    assert [file.name for file in files] == [
        "two_models_t0.safetensors",
        "two_models_t0.30.safetensors",
        "two_models_t1.safetensors",
    ]
    realistic, middle, faithful = map(load_file, files)
    for name, value in middle.items():
        expected = 0.7 * realistic[name] + 0.3 * faithful[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    restorer = Restorer.from_pretrained(two_models, "cpu")
    for file, expected in zip(files, restorer(image, [0.0, 0.3, 1.0]), strict=True):
        descriptor, restored = open_by_spandrel(file, image)
        assert descriptor.architecture.id == "Compact"
        assert descriptor.scale == 4
        torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    with safe_open(files[1], "pt") as opened:
        metadata = opened.metadata()
    assert metadata["tradeoff"] == "0.3"
    assert metadata["recipe"] == "two_models"
    assert "teachers.realness" in metadata["licenses"]


def test_pretraining_asks_nobody(two_models):
    lines = [json.loads(line) for line in (two_models / "metrics.jsonl").open()]
    first = {name for line in lines if line["stage"] == "stage1" for name in line}
    assert {"pretraining", "realness/output"} <= first


def test_a_model_of_ones_own_is_the_realistic_end_bit_for_bit(tmp_path, checkpoints, image):
    mine = checkpoints / "span.safetensors"
    finished = run(
        "knob_for_my_model",
        tmp_path,
        f"student.weights='{mine}'",
        "stage2.steps=4",
        "stage2.faithful_steps=2",
    )
    files = export_checkpoints(finished, tmp_path / "out")
    (_, original), (_, exported) = (open_by_spandrel(file, image) for file in (mine, files[0]))
    torch.testing.assert_close(exported, original, atol=1e-5, rtol=0)
    _, faithful = open_by_spandrel(files[1], image)
    assert (faithful - original).abs().max() > 1e-3


def test_the_command_writes_them_in_float16(distillkit, two_models, tmp_path):
    out = tmp_path / "out"
    outcome = distillkit("export", two_models, "--spandrel", out, "--tradeoff", "0.125", "--half")
    assert outcome.code == 0, outcome.err
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "two_models_t0.125.safetensors",
        "two_models_t0.safetensors",
        "two_models_t1.safetensors",
    ]
    assert load_file(out / names[0])["body.0.weight"].dtype == torch.float16
    again = distillkit("export", two_models, "--spandrel", out)
    assert again.code
    assert f"{out} - exists; name a new folder" in again.err


def test_a_student_of_another_kind_is_refused(tmp_path):
    from distillkit.inference.student import save_student

    resolved = load_recipe("mini/paper_sr4x")
    student = Restorer.from_model("mini/student", device="cpu").student
    from distillkit.recipe.build import build_adapter

    adapter = build_adapter(student.model.stage1_network, resolved.recipe.stage1.adapter, 0)
    save_student(tmp_path / "student", resolved, {"stage1": adapter.tensors()})
    with pytest.raises(DistillkitError, match="mini/student has no checkpoints that other"):
        export_checkpoints(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tradeoff", "text"), [(0.0, "0"), (1.0, "1"), (0.3, "0.30"), (0.125, "0.125")]
)
def test_names_of_tradeoffs(tradeoff, text):
    assert format_tradeoff(tradeoff) == text


def test_pictures_survive_the_way_through_a_checkpoint(two_models, tmp_path):
    (file, *_) = export_checkpoints(two_models, tmp_path / "out")
    photo = Image.fromarray(np.full((16, 16, 3), 128, dtype=np.uint8))
    by_checkpoint = Restorer.from_model("spandrel/checkpoint", {"weights": file}, "cpu")(photo)
    by_student = Restorer.from_pretrained(two_models, "cpu")(photo, 0.0)
    difference = np.asarray(by_checkpoint).astype(int) - np.asarray(by_student).astype(int)
    assert np.abs(difference).max() <= 1
