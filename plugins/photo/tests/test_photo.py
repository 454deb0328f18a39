"""The trained students: found, restoring in one pass, and opening elsewhere."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ModelLoader

from distillkit import ModelInput, Restorer, load_plugins
from distillkit.objectives.grid import pattern_strength
from distillkit_photo import student, teacher
from distillkit_photo.graphics import draw_graphic
from distillkit_photo.options import SmallOptions, TeacherOptions

NAMES = ["photo/photo4x", "photo/photo4x-small", "photo/photo4x-large"]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def restorer(name):
    return Restorer.from_pretrained(name, "cpu")


def picture(height, width):
    """A disc on a ramp of colors, (3, height, width) in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2 < height * width / 9).float()
    return torch.stack([disc, x / width, y / height]) * 0.8 + 0.1


def test_the_student_restores_at_every_tradeoff_what_it_was_given(restorer):
    image = picture(24, 31)
    restored = restorer(image, [0.0, 0.5, 1.0])
    assert restorer.student.nfe == 1
    for result in restored:
        assert result.shape == (3, 96, 124)
        smaller = torch.nn.functional.interpolate(result[None], scale_factor=0.25, mode="area")[0]
        assert (smaller - image).square().mean().sqrt() < 0.03
    assert (restored[0] - restored[2]).abs().mean() > 0.001


def test_texture_has_no_pattern_of_the_upsampler(restorer):
    """Photographs have about 1; 1.6 and more were seen by the eye in earlier weights."""
    texture = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        texture = torch.nn.functional.avg_pool2d(texture, 3, 1, 1)
    texture = ((texture - texture.mean()) / texture.std() * 0.12 + 0.5).clamp(0, 1)
    for restored in restorer(texture, [0.0, 0.4, 1.0]):
        assert pattern_strength(restored[None] * 2 - 1, 4) < 1.2


def test_drawings_stay_what_they_are(restorer):
    draw = random.Random(7)
    for _ in range(4):
        small = draw_graphic(draw, 192).resize((48, 48), Image.Resampling.NEAREST)
        image = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
        for result in restorer(image, [0.0, 1.0]):
            smaller = torch.nn.functional.interpolate(result[None], scale_factor=0.25, mode="area")
            assert (smaller[0] - image).square().mean().sqrt() < 0.06


def test_relight_brings_light_into_a_dark_photograph_at_every_tradeoff():
    restorer = Restorer.from_pretrained("photo/relight", "cpu")
    assert restorer.scale == 1
    bright = picture(64, 72)
    realistic, between, faithful = restorer(0.3 * bright**1.8, [0.0, 0.5, 1.0])
    for restored in (realistic, between, faithful):
        assert restored.shape == bright.shape
        assert (restored - bright).abs().mean() < 0.5 * (0.3 * bright**1.8 - bright).abs().mean()
    assert (realistic - faithful).abs().mean() > 0.002


def test_noise_does_not_drive_it_out_of_range(restorer):
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    for result in restorer(noise, [0.0, 0.5, 1.0]):
        assert (result.mean() - noise.mean()).abs() < 0.1


def test_restore_takes_it_where_no_student_is_named(distillkit, tmp_path):
    pixels = (picture(12, 10).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    outcome = distillkit("restore", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert outcome.code == 0
    assert "restoring with photo/photo4x" in outcome.err
    assert Image.open(tmp_path / "b.png").size == (40, 48)


def test_its_checkpoints_open_in_spandrel(distillkit, tmp_path, name, restorer):
    outcome = distillkit("export", name, "--spandrel", tmp_path / "out")
    assert outcome.code == 0
    (file,) = (tmp_path / "out").glob("*_t1.safetensors")
    found = ModelLoader().load_from_file(file)
    architectures = dict(zip(NAMES, ["SPAN", "Compact", "SPAN"], strict=True))
    assert (found.architecture.id, found.scale) == (architectures[name], 4)
    image = picture(16, 16)
    with torch.no_grad():
        opened = found.eval()(image[None])[0].clamp(0, 1)
    torch.testing.assert_close(opened, restorer(image, 1.0), atol=1e-3, rtol=0)


def test_it_teaches_at_a_tradeoff():
    restorer = Restorer.from_pretrained("photo/photo4x", "cpu")
    image = picture(16, 20)
    for tradeoff in (0.0, 1.0):
        taught = teacher.build(TeacherOptions(tradeoff=tradeoff)).restore(
            ModelInput(image[None] * 2 - 1)
        )
        torch.testing.assert_close(
            taught[0] / 2 + 0.5, restorer(image, tradeoff), atol=1e-5, rtol=0
        )


def test_small_starts_for_psnr_or_for_lpips():
    """Both give the picture, and not the same one."""
    image = picture(24, 32)
    inputs = ModelInput(image[None] * 2 - 1)
    restored = []
    for trained_for in ("psnr", "lpips"):
        model = student.build(SmallOptions(trained_for=trained_for))
        with torch.no_grad():
            restored.append(model.restore(inputs)[0] / 2 + 0.5)
        smaller = torch.nn.functional.interpolate(
            restored[-1][None], scale_factor=0.25, mode="area"
        )
        assert (smaller[0] - image).square().mean().sqrt() < 0.03
    assert (restored[0] - restored[1]).abs().mean() > 0.001


def test_plugins_lists_them(distillkit):
    listed = distillkit("plugins").out
    assert all(f"trained      {name} " in listed for name in NAMES)
    assert not [plugin for plugin in load_plugins() if plugin.name == "photo" and plugin.error]
