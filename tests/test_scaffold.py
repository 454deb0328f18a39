"""``distillkit plugins new``: what is written passes its own tests, for each kind."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from distillkit.plugins import manager
from distillkit.plugins.manager import Plugins, load_plugins
from distillkit.plugins.recipes import recipes_of
from distillkit.plugins.scaffold import KINDS, TEMPLATES, write_plugin
from distillkit.recipe.load import load_recipe
from distillkit.testing import check_plugin

COMMON = {
    ".github/workflows/test.yml",
    "README.md",
    "distillkit_new_one/__init__.py",
    "distillkit_new_one/py.typed",
    "pyproject.toml",
    "tests/test_new_one.py",
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write plugins of any kind into a folder; return it with the plugins that there are then."""
    kept = set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def written(kind: str) -> tuple[Path, Plugins]:
        folder = write_plugin("new-one", kind, None, ())
        monkeypatch.syspath_prepend(folder)
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        points = [*entry_points(group=manager.GROUP)]
        for name, module in project["entry-points"][manager.GROUP].items():
            points.append(EntryPoint(name, module, manager.GROUP))
        return folder, load_plugins(points)

    yield written
    for name in set(sys.modules) - kept:
        if name.startswith("distillkit_new_one"):
            del sys.modules[name]


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_kind_has_its_templates():
    assert {path.name for path in TEMPLATES.iterdir()} == {"common", *KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_complete_and_keeps_the_contract(kind, written):
    folder, plugins = written(kind)
    (plugin,) = (plugin for plugin in plugins if plugin.name == "new-one")
    assert (plugin.error, plugin.problems) == (None, [])
    if kind == "command":
        assert list(plugin.commands) == ["new-one"]
        assert files_in(folder) == COMMON
        return
    results = check_plugin("new-one", plugins=plugins)
    assert [str(result) for result in results if result.outcome == "failed"] == []
    assert [result.outcome for result in results].count("passed") > 1
    if kind == "mask":
        # No recipe names a mask.
        assert files_in(folder) == COMMON | {"distillkit_new_one/build.py"}
        return
    assert files_in(folder) == COMMON | {
        "distillkit_new_one/build.py",
        "distillkit_new_one/options.py",
        "distillkit_new_one/recipes/first.toml",
    }
    assert [recipe.name for recipe in recipes_of(plugin)] == ["new-one/first"]
    resolved = load_recipe("new-one/first", plugins=plugins)
    assert any(name.startswith("new-one/") for name in names_in(resolved))


def names_in(resolved):
    return {component.full_name for component in resolved.components.values()}


def test_a_name_that_holds_the_placeholder_is_not_filled_in_twice(tmp_path):
    folder = write_plugin("myplugin2", "metric", tmp_path / "plugin", ())
    assert (folder / "distillkit_myplugin2" / "__init__.py").is_file()
    assert 'name = "distillkit-myplugin2"' in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_formatted_by_the_defaults(kind, written):
    folder, _ = written(kind)
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "myplugin" not in text
            if path.suffix == ".py":
                compile(text, path, "exec")
    ruff = [sys.executable, "-m", "ruff"]
    if subprocess.run([*ruff, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("ruff is not installed")
    for command in (["check", "--select", "E,F,I,UP,B"], ["format", "--diff"]):
        done = subprocess.run(
            [*ruff, *command, "--isolated", "."],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["output-teacher", "mask", "command"])
def test_the_tests_that_are_written_pass(kind, written):
    """In a process of their own, with an entry point as an installer writes it."""
    folder, _ = written(kind)
    info = folder / "distillkit_new_one-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkit-new-one\n")
    (info / "entry_points.txt").write_text("[distillkit]\nnew-one = distillkit_new_one\n")
    paths = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout


def test_on_the_command_line(distillkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = distillkit("plugins", "new", "night_noise", "--kind", "degradation")
    assert outcome.code == 0
    assert outcome.out.startswith("distillkit-night-noise; next: cd distillkit-night-noise; ")
    written = files_in(tmp_path / "distillkit-night-noise")
    assert "distillkit_night_noise/build.py" in written
    project = tomllib.loads(Path("distillkit-night-noise/pyproject.toml").read_text())["project"]
    assert project["name"] == "distillkit-night-noise"
    assert project["entry-points"]["distillkit"] == {"night_noise": "distillkit_night_noise"}
    assert distillkit("plugins", "new", "day", "-o", "deep/down").code == 0
    assert "distillkit_day/build.py" in files_in(tmp_path / "deep" / "down")


REFUSED = {
    ("Grain",): '"Grain" cannot be the name of a plugin; expected lower-case letters and digits',
    ("../grain",): "cannot be the name of a plugin",
    ("2x",): "cannot be the name of a plugin",
    ("mini",): 'a plugin "mini" is installed already; choose another name',
    ("distillkit",): 'a plugin "distillkit" is installed already',
    ("grain", "--kind", "teacher"): "--kind teacher - expected output-teacher, score-teacher, ",
    ("grain", "-o", "there"): "there - exists already; choose another folder with -o",
}


@pytest.mark.parametrize(
    ("words", "reason"), REFUSED.items(), ids=[" ".join(words) for words in REFUSED]
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(
    distillkit, tmp_path, monkeypatch, words, reason
):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    outcome = distillkit("plugins", "new", *words)
    assert outcome.code == 2
    assert reason in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    write = Path.write_text

    def fail_at_the_third(path, *arguments, **options):
        if path.name == "test_grain.py":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "write_text", fail_at_the_third)
    with pytest.raises(Exception, match="No space left"):
        write_plugin("grain", "degradation", None, ())
    assert list(tmp_path.iterdir()) == []
