"""Plugins that are a file: ``--plugin my_plugin.py``."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distillkit.plugins import files, manager

PLUGIN = '''
from distillkit import DegradationSpec, Options, hookimpl


class HalveOptions(Options):
    """It has none."""


class Halve:
    scale = 2

    def __init__(self, options):
        self.options = options

    def __call__(self, gt, generator):
        import torch.nn.functional as F

        return (F.avg_pool2d(gt, 2) * 127.5 + 127.5).round() / 127.5 - 1


@hookimpl
def distillkit_degradations():
    return [
        DegradationSpec(
            name="halve",
            summary="area averaging",
            options="halving:HalveOptions",
            build="halving:Halve",
        )
    ]
'''


@pytest.fixture
def halving(tmp_path, monkeypatch):
    """Write a plugin of one file; forget it after the test."""
    path = tmp_path / "elsewhere" / "halving.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(files.FILES, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    installed = manager._installed
    installed.cache_clear()
    yield path
    sys.modules.pop("halving", None)
    installed.cache_clear()


def recorded(path: Path) -> str:
    return f"halving.py sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("last", [False, True])
def test_a_file_is_listed_with_its_hash(distillkit, halving, last):
    option = ["--plugin", halving]
    words = ["plugins", "--json", *option] if last else [*option, "plugins", "--json"]
    outcome = distillkit(*words)
    assert outcome.code == 0, outcome.err
    (listed,) = (row for row in json.loads(outcome.out) if row["name"] == "halving")
    assert listed["distribution"] == recorded(halving)
    assert [offer["name"] for offer in listed["offers"]] == ["halving/halve"]


def test_a_file_is_switched_off_as_other_plugins_are(distillkit, halving, monkeypatch):
    monkeypatch.setenv("DISTILLKIT_WITHOUT_PLUGINS", "")
    outcome = distillkit("--plugin", halving, "--no-plugin", "halving", "plugins", "--json")
    assert outcome.code == 0, outcome.err
    assert "halving" not in [row["name"] for row in json.loads(outcome.out)]


def test_a_file_is_checked_against_the_contract(distillkit, halving):
    outcome = distillkit("plugins", "check", "halving", f"--plugin={halving}")
    assert outcome.code == 0, outcome.out
    assert "0 failed" in outcome.out


def test_a_recipe_names_what_is_in_a_file(halving, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'extends = ["mini/paper_lle"]\n'
        'degradation = { use = "halving/halve" }\n'
        'student = { use = "mini/student" }\n'
        'teachers.fidelity = { use = "mini/faithful" }\n'
        'teachers.realness = { use = "mini/realistic" }\n'
    )
    command = [sys.executable, "-m", "distillkit", "recipe", "validate", "mine.toml"]
    variables = os.environ | {files.FILES: ""}

    def call(*words):
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, check=False, env=variables
        )

    without = call()
    assert without.returncode == 2
    assert '"halving/halve": no plugin "halving" is installed' in without.stderr
    done = call("--plugin", str(halving))
    assert done.returncode == 0, done.stderr
    assert "degradation = halving/halve" in done.stdout


STUDENT = """
from distillkit import Options, StudentSpec, hookimpl


class MineOptions(Options):
    seed: int = 0


def build(options):
    from toy_models import ToyModel

    return ToyModel(seed=options.seed, scale=2)


@hookimpl
def distillkit_students():
    return [
        StudentSpec(name="student", summary="s", options="mine:MineOptions", build="mine:build")
    ]
"""


def test_a_student_of_a_file_is_trained_and_restores_and_says_what_it_needs(
    fork_server, recipe, tmp_path
):
    """From the command line on; the manifest and the student have the hash of the file."""
    file = tmp_path / "mine.py"
    file.write_text(STUDENT)
    text = recipe.read_text().replace("toy/student", "mine/student")
    recipe.write_text(text)
    run = tmp_path / "run"
    done = fork_server("run", recipe, "--out", run, "--plugin", file)
    assert done["codes"] == [0], done["outputs"]
    distribution = f"mine.py sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert json.loads((run / "manifest.json").read_text())["plugins"]["mine"] == distribution
    about = json.loads((run / "student" / "distillkit.json").read_text())
    assert about["plugins"]["mine"] == distribution

    photo = next((tmp_path / "photos" / "test").glob("*.png"))
    words = ["restore", photo, "--run", run, "-o", tmp_path / "restored.png"]
    done = fork_server(*words)
    assert done["codes"] == [2]
    assert f"it was trained with {distribution}: give --plugin mine.py" in done["outputs"][0]
    assert not (tmp_path / "restored.png").exists()
    done = fork_server(*words, "--plugin", file)
    assert done["codes"] == [0], done["outputs"]
    assert (tmp_path / "restored.png").is_file()


def test_a_student_says_which_file_it_needs(monkeypatch):
    from distillkit.errors import PluginError
    from distillkit.inference.student import _find_spec

    made_with = {"mine": "mine.py sha256:0123", "other": "other 1.0"}
    with pytest.raises(PluginError, match="--plugin mine.py$"):
        _find_spec("mine/student", made_with)
    with pytest.raises(PluginError, match="install it from where its author offers it$"):
        _find_spec("other/student", made_with)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.py", "--plugin absent.py - no such file; expected a file of Python"),
        ("", "--plugin  - no such file"),
        ("elsewhere", "--plugin elsewhere - no such file"),
        ("notes.txt", "--plugin notes.txt - its name, which is the plugin's, is letters, digits"),
        ("my-plugin.py", "--plugin my-plugin.py - its name, which is the plugin's"),
    ],
)
def test_what_cannot_be_a_plugin_is_refused(distillkit, halving, name, reason):
    Path("notes.txt").write_text("")
    Path("my-plugin.py").write_text("")
    outcome = distillkit("--plugin", name, "plugins")
    assert outcome.code == 2
    assert reason in outcome.err


def test_a_file_that_is_gone_is_broken(distillkit, halving, monkeypatch):
    monkeypatch.setenv(files.FILES, str(halving.with_name("gone.py")))
    outcome = distillkit("plugins")
    assert outcome.code == 0
    assert "gone.py - no such file; it is named by DISTILLKIT_PLUGIN_FILES" in outcome.out


def test_a_file_with_the_name_of_another_module_is_broken(distillkit, halving):
    Path("json.py").write_text("")
    outcome = distillkit("--plugin", "json.py", "plugins")
    assert 'BROKEN: another module is called "json"; rename the file' in outcome.out


def test_a_file_with_the_name_of_a_plugin_names_both(distillkit, halving):
    Path("mini.py").write_text("")
    outcome = distillkit("--plugin", "mini.py", "plugins")
    assert '2 plugins are called "mini" (' in outcome.out
    assert "mini.py sha256:" in outcome.out
    assert "uninstall or rename all but one" in outcome.out


def test_a_file_that_fails_is_broken_and_takes_nothing_down(distillkit, halving):
    halving.write_text("import nothing_of_this_name\n")
    outcome = distillkit("--plugin", halving, "plugins")
    assert outcome.code == 0
    assert "BROKEN: ModuleNotFoundError" in outcome.out
    assert "mini/faithful" in outcome.out
