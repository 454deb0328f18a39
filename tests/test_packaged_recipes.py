"""Recipes that plugins ship: named from anywhere, extended, listed, copied; what is said if not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from distillkit.errors import PluginError, RecipeError
from distillkit.plugins import manager
from distillkit.plugins.descriptors import TeacherSpec
from distillkit.plugins.hook_results import find_folder
from distillkit.plugins.manager import Plugin, Plugins
from distillkit.plugins.recipes import find_recipe, list_recipes, recipes_of
from distillkit.recipe.load import load_recipe

MINI = "mini/paper_sr4x"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder outside the clone."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def toys_with_recipes(toys, recipe, tmp_path, monkeypatch):
    """Let the plugin ``toy`` ship recipes; return their folder."""
    shipped = tmp_path / "shipped"
    (shipped / "tiny").mkdir(parents=True)
    text = recipe.read_text().replace(str(recipe.parent), ".")
    (shipped / "first.toml").write_text(f"# A first run.\n{text}")
    (shipped / "tiny" / "second.toml").write_text('extends = ["toy/first"]\nseed = 3\n')
    plugins = manager.load_plugins()
    (toy,) = (plugin for plugin in plugins if plugin.name == "toy")
    toy.recipes = shipped
    return shipped


def problem(name: str | Path, plugins: Plugins | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, plugins=plugins)
    return str(caught.value)


def test_a_recipe_is_named_by_its_plugin_and_folder(toys_with_recipes):
    plugins = manager.load_plugins()
    (toy,) = (plugin for plugin in plugins if plugin.name == "toy")
    assert [recipe.name for recipe in recipes_of(toy)] == ["toy/first", "toy/tiny/second"]
    assert find_recipe("toy/first", plugins).summary == "A first run."
    assert find_recipe("toy/tiny/second", plugins).summary == ""
    assert load_recipe("toy/tiny/second").recipe.seed == 3


def test_a_file_extends_a_plugins_recipe(folder):
    Path("mine.toml").write_text(f'extends = ["{MINI}"]\n[stage1]\nsteps = 7\n')
    resolved = load_recipe("mine.toml")
    assert resolved.recipe.name == "paper_sr4x"
    assert resolved.recipe.stage1.steps == 7
    assert resolved.origin("stage1.steps") == "mine.toml:3"
    packaged = find_recipe(MINI, manager.load_plugins()).path
    line = packaged.read_text().splitlines().index("crop_size = 64 # pixels of the clean image")
    assert resolved.origin("data.crop_size") == f"{packaged}:{line + 1}"


def test_paths_in_a_plugins_recipe_start_from_the_working_folder(folder):
    Path("sub").mkdir()
    Path("sub/mine.toml").write_text(
        'extends = ["lowlight/lle_gsad"]\nstudent.weights_dir = "own"\n'
    )
    for name in ("lowlight/lle_gsad", "sub/mine.toml"):
        teacher = load_recipe(name).components["teachers.fidelity"]
        assert teacher.config.weights_dir == folder / "weights"
    assert load_recipe("sub/mine.toml").student.config.weights_dir == folder / "sub" / "own"


def test_a_mistake_in_a_plugins_recipe_names_file_and_line(toys_with_recipes):
    path = toys_with_recipes / "tiny" / "second.toml"
    path.write_text('extends = ["toy/first"]\nsede = 3\n')
    assert problem("toy/tiny/second") == f'{path}:2  sede - unknown key; did you mean "seed"?'


def test_an_unknown_recipe_lists_what_there_is_the_nearest_first(folder):
    text = problem("mini/paper_sr4")
    assert text.startswith('mini/paper_sr4  no plugin has a recipe "mini/paper_sr4", ')
    nearest, *others = text.partition("the nearest first: ")[2].split(", ")
    assert nearest == MINI
    assert {"superres/ctsr_sr4x", "lowlight/lle_gsad", "spandrel/two_models"} < set(others)
    # The name of the file alone is near enough.
    assert f"the nearest first: {MINI}, " in problem("paper_sr4x")
    assert 'no plugin "mine" is installed' in problem("mine/paper_sr4x")
    Path("mine.toml").write_text('\nextends = ["mini/paper"]\n')
    assert problem("mine.toml").startswith('mine.toml:2  extends.0 - no plugin has a recipe "mini')


@pytest.mark.parametrize("name", ["recipes/paper_sr4x.toml", f"{MINI}.toml"])
def test_a_missing_file_of_a_recipes_name_suggests_the_plugins(folder, name):
    suggestion = f'did you mean the recipe of a plugin, "{MINI}"?'
    assert problem(name) == f"{name}  no such file; {suggestion}"
    Path("mine.toml").write_text(f'extends = ["{name}"]\n')
    assert suggestion in problem("mine.toml")


def test_a_plugin_that_is_off_or_broken_is_named(folder):
    plugins = Plugins([Plugin("gone", "gone 2.0", error="ImportError: no foo")], ["off"])
    assert 'plugin "gone" (gone 2.0) is broken: ImportError: no foo' in problem("gone/x", plugins)
    off = 'plugin "off" is switched off, by DISTILLKIT_PLUGINS, DISTILLKIT_WITHOUT_PLUGINS or '
    assert off in problem("off/x", plugins)
    assert "no installed plugin has recipes" in problem("x", plugins)


def test_a_plugins_recipe_extends_others_by_name_so_that_it_can_be_copied(toys_with_recipes):
    (toys_with_recipes / "third.toml").write_text('extends = ["first.toml"]\n')
    assert "a plugin's recipe extends others by name" in problem("toy/third")


@pytest.mark.parametrize("returned", ["recipes", Path("/no/such/folder")])
def test_a_hook_that_returns_no_folder_is_refused(returned):
    import pluggy

    from distillkit.plugins import hookspecs

    class Module:
        @staticmethod
        @hookspecs.hookimpl
        def distillkit_recipes():
            return returned

    plugins = pluggy.PluginManager("distillkit")
    plugins.add_hookspecs(hookspecs)
    plugins.register(Module)
    with pytest.raises(PluginError, match="distillkit_recipes returned"):
        find_folder(plugins, "recipes")


def test_recipes_are_listed(distillkit, folder):
    outcome = distillkit("recipe", "list")
    assert f"{MINI} " in outcome.out
    assert "The paper's method on a laptop CPU" in outcome.out
    rows = json.loads(distillkit("recipe", "list", "--json").out)
    (row,) = (row for row in rows if row["name"] == MINI)
    assert Path(row["file"]).read_text().splitlines()[1] == f"# {row['summary']}"
    assert f"recipe       {MINI}" in distillkit("plugins").out


def test_a_copy_is_the_file_and_runs_like_it(distillkit, folder):
    assert distillkit("recipe", "copy", MINI).out == (
        "paper_sr4x.toml; run it with: distillkit run paper_sr4x.toml\n"
    )
    packaged = find_recipe(MINI, manager.load_plugins()).path
    directive, *lines = Path("paper_sr4x.toml").read_text().splitlines()
    assert directive == "#:schema distillkit.schema.json"
    assert lines == packaged.read_text().splitlines()[1:]
    copied = load_recipe("paper_sr4x.toml").document.values
    assert copied == load_recipe(MINI).document.values


def test_a_copy_has_a_schema_beside_it(distillkit, toys_with_recipes, folder):
    assert distillkit("recipe", "copy", "toy/first", "-o", "copies/mine.toml").code == 0
    assert Path("copies/mine.toml").read_text().startswith("#:schema distillkit.schema.json\n# A f")
    schema = Path("copies/distillkit.schema.json")
    assert schema.read_text() == distillkit("recipe", "schema").out
    assert "toy/student" in schema.read_text()
    schema.write_text("{}")
    assert distillkit("recipe", "copy", "toy/first", "-o", "copies/again.toml").code == 0
    assert schema.read_text() == "{}"


def test_a_copy_does_without_a_schema_where_a_plugin_is_in_the_way(
    distillkit, toys_with_recipes, folder, monkeypatch
):
    def refuse(self):
        raise PluginError("no such options")

    monkeypatch.setattr(TeacherSpec, "config", property(refuse))
    outcome = distillkit("recipe", "copy", "toy/first")
    assert outcome.code == 0
    assert "no distillkit.schema.json, for editors: no such options" in outcome.err
    assert [path.name for path in folder.iterdir()] == ["first.toml"]


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes(manager.load_plugins())])
def test_a_copy_of_any_recipe_means_the_same(distillkit, folder, name):
    assert distillkit("recipe", "copy", name, "-o", "copies/mine.toml").code == 0
    text = Path("copies/mine.toml").read_text()
    Path("mine.toml").write_text(text)
    if "/profiles/" in name:
        assert "extends" not in tomllib.loads(text)
    else:
        assert load_recipe("mine.toml").document.values == load_recipe(name).document.values


def test_a_copy_overwrites_nothing(distillkit, folder):
    Path("mine.toml").write_text("mine")
    outcome = distillkit("recipe", "copy", MINI, "-o", "mine.toml")
    assert outcome.code == 2
    assert "mine.toml - exists already; choose another file with -o" in outcome.err
    assert Path("mine.toml").read_text() == "mine"
    assert "ends in .toml" in distillkit("recipe", "copy", MINI, "-o", "mine").err
    assert distillkit("recipe", "copy", "mini/paper").code == 2
    assert [path.name for path in folder.iterdir()] == ["mine.toml"]


def test_a_run_by_name_writes_resumes_and_suggests_the_name(
    distillkit, toys_with_recipes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert distillkit("run", "toy/first", "--out", "run").code == 0
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["command"][1:3] == ["run", "toy/first"]
    assert manifest["status"] == "finished"
    assert distillkit("run", "toy/first", "--out", "run", "--resume").code == 0
    outcome = distillkit("run", "toy/first", "--out", "run", "--resume", "--set", "seed=9")
    assert outcome.code == 2
    assert "distillkit run toy/first --set seed=9 --fork run --out NEWDIR" in outcome.err
