"""A thin student that trained a decoder of its own: saved, loaded, exported."""

import pytest
import torch
from changed_student import save_changed_student
from safetensors.torch import load_file

from distillkit import DistillkitError, ModelInput, Restorer
from distillkit.export.folder import export_folder
from distillkit.export.onnx import GraphForm, export_onnx
from distillkit.inference.student import interpolate_students, load_student
from distillkit.recipe.build import build
from distillkit.recipe.load import load_recipe

RECIPE = "superres/tiny/ctsr_sr4x_thin"


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, tmp_path_factory):
    """A run's folder, with a student whose stages changed it visibly."""
    folder = tmp_path_factory.mktemp(request.param)
    save_changed_student(folder, load_recipe(RECIPE, [f'stage1.adapter.kind="{request.param}"']))
    return folder


@pytest.fixture
def inputs():
    return ModelInput(torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1)


def test_stage_1_trains_the_decoder_and_stage_2_leaves_it_alone(run, inputs):
    names = {
        stage: load_file(run / "student" / f"{stage}.safetensors") for stage in ("stage1", "stage2")
    }
    assert {name.split(".")[0] for name in names["stage1"]} == {"unet", "decoder"}
    assert "conv_in.lora_A.distillkit.weight" in names["stage2"]
    student = load_student(run)
    untrained = build(load_recipe(RECIPE).student, "cpu")
    with torch.no_grad():
        condition = student.model.condition(inputs)
        latent = student.model.generate(condition)
        decoded = student.model.decode(latent, condition)
        assert (decoded - untrained.decode(latent, condition)).abs().max() > 1e-3


def test_one_tradeoff_and_several_give_the_same_images(run, inputs):
    student = load_student(run)
    together = student.restore_each(inputs, [0.0, 0.5, 1.0])
    for tradeoff, image in zip((0.0, 0.5, 1.0), together, strict=True):
        torch.testing.assert_close(student.restore(inputs, tradeoff), image, atol=1e-5, rtol=0)
    assert (together[0] - together[2]).abs().max() > 1e-2


def test_an_export_gives_the_same_images_and_no_adapters_that_lack_the_decoder(run):
    out = run / "out"
    ways = [line.partition(":")[0] for line in export_folder(run, out)]
    assert ways == ["Restorer", "diffusers pipeline"]
    assert not (out / "adapters" / "stage1").exists()
    assert "width = 0.5" in (out / "student" / "recipe.toml").read_text()


def test_merged_weights_hold_the_decoder(run, inputs):
    export_folder(run, run / "merged", merge_at=0.5)
    merged = load_file(run / "merged" / "student" / "network.safetensors")
    assert {name.split(".")[0] for name in merged} == {"unet", "decoder"}
    restored = Restorer.from_pretrained(run / "merged").student.restore(inputs)
    expected = load_student(run).restore(inputs, 0.5)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)


def test_a_graph_of_one_size_gives_the_same_images(run):
    pytest.importorskip("onnxruntime")
    said = export_onnx(run, run / "student.onnx", GraphForm(size=(16, 16)))
    assert "largest difference" in said


def test_decoders_are_not_interpolated(run):
    with pytest.raises(DistillkitError, match="trained a decoder of its own"):
        interpolate_students(run, run)
