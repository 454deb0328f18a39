"""Exported adapters of a student on a UNet of diffusers.

With them plain diffusers and plain peft make the Restorer's images.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from changed_student import save_changed_student
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig, PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file

from distillkit import ModelInput, Restorer
from distillkit.export.folder import export_folder
from distillkit.recipe.load import load_recipe
from distillkit_superres.osediff.build import build_osediff
from distillkit_superres.osediff.options import OSEDiffOptions

# peft warns of the second adapter, which is intended.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
RECIPE = "superres/tiny/ctsr_sr4x"
ADAPTERS = [
    "stage1.adapter.rank=2",
    "stage1.adapter.alpha=5",
    "stage2.adapter.rank=3",
    "stage2.adapter.alpha=1.2",
]
TOLERANCE = 2e-5
"""Of images in [-1, 1]: float32 sums in another order."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a tiny student whose stages changed the network visibly.

    Also what ``export_folder`` says was compared.
    """
    folder = tmp_path_factory.mktemp("run")
    save_changed_student(folder, load_recipe(RECIPE, ADAPTERS))
    return folder / "out", export_folder(folder, folder / "out")


@pytest.fixture
def base():
    return build_osediff(OSEDiffOptions(size="tiny")).requires_grad_(False).eval()


@pytest.fixture
def image():
    return torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_same_image(model, image, folder, tradeoff):
    """The model restores as the exported student does at a tradeoff, and the tradeoff matters."""
    student = Restorer.from_pretrained(folder, "cpu").student
    inputs = ModelInput(image)
    with torch.no_grad():
        error = (model.restore(inputs) - student.restore(inputs, tradeoff)).abs().max()
    realistic, faithful = student.restore_each(inputs, [0.0, 1.0])
    assert error < TOLERANCE < 1e-3 * (realistic - faithful).abs().max()


def test_every_way_to_load_it_was_compared(exported):
    names = [line.partition(":")[0] for line in exported[1]]
    assert names == ["Restorer", "diffusers pipeline", "peft adapters", "diffusers adapters"]
    with safe_open(exported[0] / "adapters/stage2/pytorch_lora_weights.safetensors", "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (config["unet.r"], config["unet.lora_alpha"]) == (3, 1.2)


def test_an_export_leaves_out_where_this_machine_keeps_weights(exported):
    folder = exported[0]
    of_run = json.loads((folder.parent / "student/distillkit.json").read_text())
    of_export = json.loads((folder / "student/distillkit.json").read_text())
    assert of_run["student"].pop("weights_dir") == str(Path.cwd() / "weights")
    assert of_export["student"] == of_run["student"]


@pytest.mark.parametrize("tradeoff", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("by_pipeline", [True, False])
def test_plain_diffusers_sets_the_trade_off_as_the_weight_of_the_second_adapter(
    exported, base, image, tradeoff, by_pipeline
):
    unet, folder = base.network, exported[0]
    pipe = StableDiffusionPipeline(
        None, None, None, unet, DDPMScheduler(), None, None, requires_safety_checker=False
    )
    for stage in ("stage1", "stage2"):
        if by_pipeline:
            pipe.load_lora_weights(str(folder / "adapters" / stage), adapter_name=stage)
        else:
            unet.load_lora_adapter(
                str(folder / "adapters" / stage),
                prefix="unet",
                adapter_name=stage,
                use_safetensors=True,
            )
    (pipe if by_pipeline else unet).set_adapters(["stage1", "stage2"], [1.0, tradeoff])
    assert_same_image(base, image, folder, tradeoff)


@pytest.mark.parametrize("tradeoff", [0.0, 0.37, 1.0])
def test_plain_peft_reads_the_same_files(exported, base, image, tradeoff):
    unet, folder = base.network, exported[0] / "adapters"
    for stage in ("stage1", "stage2"):
        with safe_open(folder / stage / "pytorch_lora_weights.safetensors", "pt") as file:
            config = json.loads(file.metadata()["lora_adapter_metadata"])
        tensors = {
            k.removeprefix("unet."): v
            for k, v in load_file(folder / stage / "pytorch_lora_weights.safetensors").items()
        }
        inject_adapter_in_model(
            LoraConfig(**{k.removeprefix("unet."): v for k, v in config.items()}), unet, stage
        )
        assert not set_peft_model_state_dict(unet, tensors, stage).unexpected_keys
    for layer in (m for m in unet.modules() if isinstance(m, LoraLayer)):
        layer.set_adapter(["stage1", "stage2"])
        layer.set_scale("stage2", tradeoff)
    assert_same_image(base, image, exported[0], tradeoff)


def test_peft_has_a_layout_of_its_own(exported, base, image):
    folder = exported[0] / "adapters"
    network = PeftModel.from_pretrained(base.network, folder / "stage1", "stage1")
    network.load_adapter(folder / "stage2", "stage2")
    network.base_model.set_adapter(["stage1", "stage2"])
    assert_same_image(base, image, exported[0], 1.0)
