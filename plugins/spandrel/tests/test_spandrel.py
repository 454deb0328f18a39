"""Tiny checkpoints of spandrel's own classes with random weights: restored, or refused."""

import hashlib
import json
import os
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel import MAIN_REGISTRY, ImageModelDescriptor, MaskedImageModelDescriptor, ModelLoader
from spandrel.architectures import ESRGAN, SPAN, AuraSR, Compact, DRUNet, NAFNet, SwinIR, Uformer

from distillkit import DistillkitError, ModelInput, WeightsError
from distillkit.recipe.build import build_named_model
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.testing import contract_tests

SHUFFLE = {"upsampler": "pixelshuffle"}
NETWORKS = {
    "ESRGAN": lambda: ESRGAN.ESRGAN(num_filters=4, num_blocks=1, scale=4),
    "ESRGAN x2, pixels unshuffled": lambda: ESRGAN.ESRGAN(
        in_nc=12, num_filters=4, num_blocks=1, scale=4, shuffle_factor=2
    ),
    "SPAN": lambda: SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4),
    "SwinIR": lambda: SwinIR.SwinIR(
        img_size=16, window_size=4, embed_dim=8, depths=[2], num_heads=[2], upscale=2, **SHUFFLE
    ),
    "NAFNet": lambda: NAFNet.NAFNet(
        width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]
    ),
    "Uformer": lambda: Uformer.Uformer(img_size=128, embed_dim=4, win_size=8),
    "DRUNet, gray": lambda: DRUNet.DRUNet(in_nc=2, out_nc=1, nc=[8, 8, 8, 8], nb=2),
    "Compact, gray": lambda: Compact.Compact(
        num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=2
    ),
}
"""One for each demand: multiples, a minimum, a square, one channel, one image at a time."""

OPTIONS: dict[str, dict[str, object]] = {
    "spandrel/student": {"architecture": "SPAN", "scale": 2, "parameters": {"feature_channels": 8}}
}
test_contract = contract_tests("spandrel", OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def contract_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    path = write_checkpoint(folder, "ESRGAN x2, pixels unshuffled")
    OPTIONS["spandrel/checkpoint"] = {"weights": path}


def state_of(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name]().state_dict()


def write_checkpoint(folder, name="ESRGAN"):
    torch.save(state_of(name), folder / "x.pth")
    return folder / "x.pth"


def build_teacher(path, **options):
    return build_named_model("spandrel/checkpoint", {"weights": path} | options, "cpu")


def random_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", NETWORKS)
def test_restores_as_spandrel_does_image_by_image_and_channel_by_channel(tmp_path, name):
    teacher = build_teacher(write_checkpoint(tmp_path, name))
    reference = MAIN_REGISTRY.load(state_of(name))
    lq = random_images(2, 3, 13, 19)
    expected = []
    for image in lq.split(1):
        groups = image.chunk(3 // reference.input_channels, 1)
        channels = [reference(group * 0.5 + 0.5) for group in groups]
        expected.append(torch.cat(channels, 1))
    restored = teacher.restore(ModelInput(lq))
    torch.testing.assert_close(restored, torch.cat(expected) * 2 - 1, atol=2e-6, rtol=0)
    assert restored.shape == (2, 3, 13 * teacher.scale, 19 * teacher.scale)
    assert restored.std() > 0
    assert teacher.size_multiple == reference.size_requirements.multiple_of
    assert teacher.nfe == 1


@pytest.mark.parametrize("form", ["safetensors", "params_ema", "module.", "half"])
def test_every_layout_gives_the_same_float32_network(tmp_path, form):
    state = state_of("ESRGAN")
    path = tmp_path / "other.pth"
    tolerance = 0
    if form == "safetensors":
        path = tmp_path / "other.safetensors"
        save_file(state, path)
    elif form == "params_ema":
        torch.save({"params": {}, "params_ema": state}, path)
    elif form == "module.":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save({name: value.half() for name, value in state.items()}, path)
        tolerance = 1e-3
    teacher = build_teacher(path)
    lq = random_images(1, 3, 8, 8)
    expected = build_teacher(write_checkpoint(tmp_path)).restore(ModelInput(lq))
    torch.testing.assert_close(teacher.restore(ModelInput(lq)), expected, atol=tolerance, rtol=0)
    assert not teacher.training
    for parameter in teacher.parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_its_image_is_a_constant_of_a_loss(tmp_path):
    student = random_images(1, 3, 32, 32).requires_grad_()
    inputs = ModelInput(random_images(1, 3, 8, 8))
    restored = build_teacher(write_checkpoint(tmp_path)).restore(inputs)
    # Multiplication keeps the teacher's image for the backward pass.
    (student * restored).mean().backward()
    torch.testing.assert_close(student.grad, restored / restored.numel())


def test_mixed_precision_leaves_it_alone(tmp_path):
    teacher = build_teacher(write_checkpoint(tmp_path))
    lq = random_images(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        restored = teacher.restore(ModelInput(lq))
    assert restored.dtype == torch.float32
    assert torch.equal(restored, teacher.restore(ModelInput(lq)))


def test_a_network_that_draws_follows_the_generator(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AuraSR.AuraSR(
            dim=8,
            image_size=None,
            input_image_size=None,
            self_attn_dim_head=8,
            style_network={"dim_in": 8, "dim_out": 32, "depth": 2},
            num_conv_kernels=2,
            down_dim_mults=(1, 2, 2),
            up_dim_mults=(1, 1, 1, 2, 2),
            attn_depths=(2, 2, 2, 1, 1),
            mid_attn_depth=1,
        )
    torch.save(network.state_dict(), tmp_path / "x.pth")
    teacher = build_teacher(tmp_path / "x.pth")
    lq = random_images(1, 3, 16, 16)
    global_state = torch.get_rng_state()
    one = teacher.restore(ModelInput(lq), torch.Generator().manual_seed(1))
    again = teacher.restore(ModelInput(lq), torch.Generator().manual_seed(1))
    other = teacher.restore(ModelInput(lq), torch.Generator().manual_seed(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), global_state)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_hostile(kind, folder):
    """Write a file that cannot be used."""
    path = write_checkpoint(folder)
    state = state_of("ESRGAN")
    last = max(name for name in state if name.endswith(".weight"))
    four_channels = ESRGAN.ESRGAN(in_nc=4, out_nc=4, num_filters=4, num_blocks=1, scale=4)
    contents = {
        "code": {"params": state, "more": Evil(folder / "ran")},
        "list": list(state.values()),
        "empty": {},
        "unknown": {"a.weight": torch.zeros(3)},
        "no text": {3: torch.zeros(3)},
        "numbers": dict.fromkeys(state, 1.0),
        "lacking": {name: value for name, value in state.items() if name != last},
        "misshapen": state | {last: torch.zeros(3, 5, 3, 3)},
        "four channels": four_channels.state_dict(),
    }
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "random bytes":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    else:
        torch.save(contents[kind], path)
    return path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("truncated", "truncated or damaged"),
        ("random bytes", "not a"),
        ("code", "not a plain file of tensors"),
        ("list", "holds a list"),
        ("empty", "knows no architecture"),
        ("unknown", "knows no architecture"),
        ("no text", "spandrel can load"),
        ("numbers", "spandrel can load"),
        ("lacking", "spandrel can load: RuntimeError: .* Missing key"),
        ("misshapen", "spandrel can load"),
        ("four channels", "takes 4 channels and gives 4"),
    ],
)
def test_what_is_no_restorer_is_refused_by_file_and_reason(tmp_path, kind, why):
    path = write_hostile(kind, tmp_path)
    with pytest.raises(WeightsError, match=why) as error:
        build_teacher(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "purpose", "scale"),
    [
        (ImageModelDescriptor, "FaceSR", {"scale": 4}),
        (MaskedImageModelDescriptor, "Inpainting", {}),
    ],
)
def test_faces_and_masks_are_refused(tmp_path, monkeypatch, kind, purpose, scale):
    known = MAIN_REGISTRY.load(state_of("ESRGAN"))
    other = kind(
        known.model,
        known.model.state_dict(),
        known.architecture,
        purpose,
        tags=[],
        supports_half=False,
        supports_bfloat16=False,
        input_channels=3,
        output_channels=3,
        **scale,
    )
    monkeypatch.setattr(ModelLoader, "load_from_state_dict", lambda *_: other)
    with pytest.raises(WeightsError, match=f"ESRGAN for {purpose}: only restorers"):
        build_teacher(write_checkpoint(tmp_path))


def test_a_stated_scale_and_hash_are_held_against_the_file(tmp_path):
    path = write_checkpoint(tmp_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert build_teacher({"path": path, "sha256": sha256}, scale=4).scale == 4
    with pytest.raises(WeightsError, match="its scale is 4, not 2 as the recipe has it"):
        build_teacher(path, scale=2)
    with pytest.raises(WeightsError, match=f"its sha256 is {sha256}, not 0000"):
        build_teacher({"path": path, "sha256": "0" * 64})


def test_a_file_that_is_not_here_is_named_with_its_license(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"owner/name/x.pth@main \(license MIT\)"):
        build_teacher({"repo": "owner/name", "filename": "x.pth"}, license="MIT")
    with pytest.raises(WeightsError, match=r"no.pth \(license unknown\)"):
        build_teacher({"path": tmp_path / "no.pth", "url": "https://example.org/no.pth"})
    with pytest.raises(DistillkitError, match="license"):
        build_teacher(tmp_path / "no.pth", license='a "quoted" one')


def test_more_architectures_are_known_where_they_are_installed(tmp_path, monkeypatch):
    installed = []
    extra = ModuleType("spandrel_extra_arches")
    extra.__spec__ = ModuleSpec("spandrel_extra_arches", loader=None)
    extra.install = lambda *, ignore_duplicates: installed.append(ignore_duplicates)
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    build_teacher(write_checkpoint(tmp_path))
    assert installed == [True]


def test_a_run_distills_its_images_and_the_student_states_its_license(tmp_path, photos):
    source = f'imagefolder = "{photos}"'
    (tmp_path / "recipe.toml").write_text(
        f"""
        name = "a_run"
        student.use = "mini/student"
        degradation.use = "mini/camera"
        stage1.steps = 2
        stage1.reconstruction.perceptual_weight = 0
        stage1.teachers.fidelity.term = "output"
        stage1.teachers.realness.weight = 0
        stage2.steps = 0
        evaluation = {{ crop_size = 32, metrics = ["psnr"] }}
        [data]
        crop_size = 32
        batch_size = 2
        train = [{{ {source} }}]
        eval = [{{ {source} }}]
        [teachers.fidelity]
        use = "spandrel/checkpoint"
        weights = "{write_checkpoint(tmp_path)}"
        license = "BSD-3-Clause"
        scale = 4
        """
    )
    run_recipe(load_recipe(tmp_path / "recipe.toml"), tmp_path / "run")
    logged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert logged["fidelity/output"] > 0
    student = json.loads((tmp_path / "run/student/distillkit.json").read_text())
    assert student["licenses"]["teachers.fidelity"] == "BSD-3-Clause"
    rows = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert {"fidelity", "student"} <= {row["method"] for row in rows}


def test_the_recipes_of_the_readme_are_valid(tmp_path):
    readme = Path(__file__).parents[1] / "README.md"
    texts = re.findall(r"```toml\n(.*?)```", readme.read_text(), re.DOTALL)
    resolved = {}
    for text in texts:
        (tmp_path / "recipe.toml").write_text(text)
        recipe = load_recipe(tmp_path / "recipe.toml")
        resolved[recipe.recipe.name] = recipe
    named = resolved["paper_sr4x_realesrgan"].components["teachers.realness"]
    (file,) = named.config.weight_files()
    assert file.fetchable
    assert file.license == named.license == "BSD-3-Clause"
    assert resolved["paper_sr4x_span"].student.config.architecture == "SPAN"


def test_restores_files_on_the_command_line(tmp_path, photos, monkeypatch):
    from distillkit.cli import main as cli

    command = ["distillkit", "restore", str(photos), "-o", str(tmp_path / "out")]
    command += ["--model", "spandrel/checkpoint", "--set", "scale=4"]
    command += ["--set", f'weights="{write_checkpoint(tmp_path)}"']
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert Image.open(tmp_path / "out/0.png").size == (320, 288)
