"""Fixtures of the toy plugin, for the tests of the engine and for those of its own plugins."""

import functools
import shutil
import sys
import types
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from distillkit import hookimpl
from distillkit.cli.main import main
from distillkit.plugins import manager


class Outcome(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def distillkit(monkeypatch, capfd):
    """Run ``distillkit`` with the arguments."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["distillkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capfd.readouterr())

    return call


def install_plugins(monkeypatch, **modules):
    """Make the engine's own plugin and these modules what is installed."""
    points = [p for p in entry_points(group=manager.GROUP) if p.name == "distillkit"]
    points += [EntryPoint(name, module, manager.GROUP) for name, module in modules.items()]
    plugins = manager.load_plugins(points)
    assert not plugins.broken
    monkeypatch.setattr(manager, "_installed", lambda: plugins)
    return plugins


@pytest.fixture
def toys(monkeypatch):
    """The toy plugin and the engine's own, as if they were what is installed."""
    return install_plugins(monkeypatch, toy="toy_plugin")


@pytest.fixture
def with_command(monkeypatch, toys):
    """``with_command(name, function)``: a plugin that adds a command, beside the toys."""

    def add(name, function):
        def add_command(app):
            app.command(name)(function)

        module = types.ModuleType("plugin_of_one_command")
        module.distillkit_commands = hookimpl(specname="distillkit_commands")(add_command)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        point = EntryPoint("one", module.__name__, manager.GROUP)
        plugins = manager.Plugins([*toys, *manager.load_plugins([point])])
        monkeypatch.setattr(manager, "_installed", lambda: plugins)

    return add


@pytest.fixture
def photos(tmp_path):
    """A folder with ``train`` and ``test`` images."""
    return save_photos(tmp_path / "photos")


def save_photos(folder):
    """Write smooth random fields with edges."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            small = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
            image = np.array(Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC))
            image[10:20, 8:30] = rng.integers(0, 255, 3)
            Image.fromarray(image).save(folder / split / f"{split}{i}.png")
    return folder


@pytest.fixture(scope="session")
def trained_photos(tmp_path_factory):
    """The photos of finished runs; nothing is written there."""
    return save_photos(tmp_path_factory.mktemp("trained") / "photos")


@pytest.fixture(scope="session")
def trained(trained_photos):
    """``trained(*overrides)``: a run of the toys, trained once for all tests that ask for it."""
    from distillkit import load_recipe, run_recipe

    folder = trained_photos.parent
    recipe = write_recipe(folder / "toy.toml", trained_photos)

    @functools.cache
    def train(*overrides):
        out = folder / f"run{len(list(folder.glob('run*')))}"
        with pytest.MonkeyPatch.context() as patch:
            install_plugins(patch, toy="toy_plugin")
            run_recipe(load_recipe(recipe, overrides), out)
        return out

    return train


@pytest.fixture
def finished_run(trained, tmp_path):
    """``finished_run(*overrides)``: a finished run of the toys, of which the test is the owner."""

    def copy(*overrides):
        return shutil.copytree(trained(*overrides), tmp_path / "finished")

    return copy


@pytest.fixture
def recipe(tmp_path, photos, toys):
    """A recipe of the toys, on disk; 6 + 4 steps."""
    return write_recipe(tmp_path / "toy.toml", photos)


def write_recipe(path, photos):
    """Write a recipe of the toys for these photos."""
    path.write_text(
        f"""
name = "toy"
student = {{ use = "toy/student", seed = 2 }}
teachers.fidelity = {{ use = "toy/faithful", seed = 3 }}
teachers.realness = {{ use = "toy/realistic", seed = 4 }}
degradation = {{ use = "toy/halve" }}
[data]
crop_size = 16
batch_size = 2
train = [{{ use = "toy/photos", folder = "{photos}" }}]
eval = [{{ use = "toy/photos", folder = "{photos}", split = "test" }}]
[stage1]
steps = 6
learning_rate = 1e-2
adapter = {{ rank = 2 }}
reconstruction = {{ perceptual_weight = 0.0, perceptual_max_shift = 0 }}
[stage2]
steps = 4
learning_rate = 1e-2
[training]
checkpointing_steps = 2
logging_steps = 2
validation_steps = 5
ema_decay = 0.9
log_with = []
[evaluation]
tradeoffs = [0.0, 0.5, 1.0]
metrics = ["psnr", "ssim"]
"""
    )
    return path
