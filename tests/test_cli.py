"""The command line, as a person meets it.

What it prints, its exit codes, and that bad input is refused before any work.
"""

import json
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from distillkit import __version__, hookimpl
from distillkit.plugins import manager


@pytest.fixture
def photos(trained_photos):
    """Those of the finished run, which a recipe of theirs resumes."""
    return trained_photos


@pytest.fixture
def run(toys, finished_run, capfd):
    """Make a finished run, and forget what it said."""
    folder = finished_run()
    capfd.readouterr()
    return folder


def save_image(path, value=99, side=8):
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def test_run_says_what_it_does(distillkit, recipe, tmp_path):
    out = tmp_path / "out"
    outcome = distillkit("run", recipe, "--out", out, "--set", "stage1.steps=3")
    assert outcome.code == 0
    assert f"done: {out}; open {out / 'report.html'}" in outcome.out
    assert "stage1 2/3" in outcome.err
    assert "stage2 4/4" in outcome.err
    assert "psnr" in outcome.err


def test_restore_restores_a_folder(distillkit, run, photos, tmp_path):
    restored = tmp_path / "restored"
    outcome = distillkit(
        "restore", photos / "test", "--run", run, "--tradeoff", "0.5", "-o", restored
    )
    assert outcome.code == 0
    assert Image.open(restored / "test0.png").size == (96, 80)


def test_evaluate_judges_a_run_again(distillkit, run):
    outcome = distillkit("evaluate", run, "--set", "evaluation.tradeoffs=[0.0,1.0]")
    assert outcome.code == 0
    assert f"open {run / 'report.html'}" in outcome.out
    rows = json.loads((run / "evaluation/metrics.json").read_text())
    tradeoffs = {row["tradeoff"] for row in rows if row["method"] == "student"}
    assert tradeoffs == {0.0, 1.0}


@pytest.mark.parametrize("alphas", ["2", "0.5,x"])
def test_alphas_are_numbers_from_0_to_1(distillkit, run, alphas):
    outcome = distillkit("evaluate", run, "--alphas", alphas)
    assert outcome.code == 2
    assert f"--alphas {alphas} - expected a number from 0 to 1" in outcome.err


@pytest.mark.parametrize("missing", ["--gt", "--method", "--out"])
def test_compare_asks_for_what_it_needs(distillkit, tmp_path, missing):
    given = {"--gt": tmp_path, "--method": f"a={tmp_path}", "--out": tmp_path / "out"}
    del given[missing]
    options = [text for option in given.items() for text in option]
    outcome = distillkit("compare", *options)
    assert outcome.code == 2
    assert f"Missing option '{missing}'" in outcome.err


def test_resume_of_a_finished_run_changes_nothing(distillkit, recipe, run):
    before = (run / "student/stage2.safetensors").read_bytes()
    assert distillkit("run", recipe, "--out", run, "--resume").code == 0
    assert (run / "student/stage2.safetensors").read_bytes() == before


WRONG_CHANGES = {
    "stage1.stepps=3": r'--set  stage1.stepps - unknown key; did you mean "steps"?',
    "stage1.steps='many'": "stage1.steps - expected an integer",
    "stage1.steps=-1": "stage1.steps - ",
    "teachers.fidelity.use='toy/faithfull'": 'did you mean "toy/faithful"?',
    "student={use='other/student'}": "other/student",
    "student.wheels=4": "student.wheels - unknown key",
    "teachers.fidelity={use='toy/restorer'}": "score  output",
    "data.train=[{imagefolder='nowhere'}]": "no such folder",
    "data.train=[]": "data.train - ",
    "stage2={target='teacher', steps=2}\nteachers={}": "teachers.fidelity is missing",
    "stage1.learning_rate=inf": "stage1.learning_rate - ",
}


@pytest.mark.parametrize("change", WRONG_CHANGES)
def test_a_wrong_recipe_is_refused_on_one_screen_before_any_work(
    distillkit, recipe, tmp_path, change
):
    out = tmp_path / "never"
    options = []
    for text in change.split("\n"):
        options += ["--set", text]
    outcome = distillkit("run", recipe, *options, "--out", out)
    assert outcome.code == 2
    assert outcome.out == ""
    assert WRONG_CHANGES[change] in outcome.err
    assert outcome.err.count("\n") <= 12
    assert "Traceback" not in outcome.err
    assert not out.exists()


def test_all_mistakes_are_named_at_once_with_their_lines(distillkit, recipe):
    text = recipe.read_text()
    text = text.replace("steps = 6", "stepz = 6")
    text = text.replace("batch_size = 2", "batch_size = 'two'")
    recipe.write_text(text)
    line_of = {line.partition(" = ")[0]: i for i, line in enumerate(text.splitlines(), 1)}
    outcome = distillkit("recipe", "validate", recipe)
    assert outcome.code == 2
    assert f"toy.toml:{line_of['stepz']}  stage1.stepz - unknown key" in outcome.err
    assert f"toy.toml:{line_of['batch_size']}  data.batch_size - " in outcome.err


def test_a_missing_recipe(distillkit, tmp_path):
    outcome = distillkit("run", tmp_path / "none.toml")
    assert outcome.code == 2
    assert "none.toml" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_empty_dataset(distillkit, recipe, tmp_path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    out = tmp_path / "never"
    change = f"data.train=[{{use='toy/photos', folder='{tmp_path / 'empty'}'}}]"
    outcome = distillkit("run", recipe, "--set", change, "--out", out)
    assert outcome.code == 2
    assert "empty" in outcome.err
    assert not (out / "recipe.toml").exists()


def test_an_output_folder_that_cannot_be_written(distillkit, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    outcome = distillkit("run", recipe, "--out", tmp_path / "file" / "run")
    assert outcome.code == 2
    assert "cannot be written to" in outcome.err
    assert "--out" in outcome.err


def test_a_full_disk(distillkit, recipe, tmp_path, monkeypatch):
    def refuse(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    outcome = distillkit("run", recipe, "--out", tmp_path / "full")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err


def test_a_second_run_into_the_same_folder(distillkit, recipe, run):
    outcome = distillkit("run", recipe, "--out", run)
    assert outcome.code == 2
    assert "holds a run already; continue it with --resume" in outcome.err


def test_resuming_with_another_recipe_shows_what_differs(distillkit, recipe, run):
    outcome = distillkit("run", recipe, "--set", "seed=7", "--out", run, "--resume")
    assert outcome.code == 2
    assert "  seed: 0 -> 7  (" in outcome.err
    assert "--fork" in outcome.err


def test_restore_names_what_it_could_not_read_and_continues(distillkit, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    save_image(folder / "good.png")
    (folder / "bad.png").write_bytes(b"not a picture")
    restored = tmp_path / "restored"
    outcome = distillkit("restore", folder, "--run", run, "-o", restored)
    assert outcome.code == 3
    assert "bad.png" in outcome.err
    assert [path.name for path in restored.iterdir()] == ["good.png"]


def test_a_restore_of_nothing_is_no_part_of_the_work(distillkit, run, tmp_path):
    save_image(tmp_path / "photo.png")
    Image.new("L", (9, 200)).save(tmp_path / "mask.png")
    outcome = distillkit(
        *("restore", tmp_path / "photo.png", "--run", run, "-o", tmp_path / "out.png"),
        *("--tradeoff-map", tmp_path / "mask.png"),
    )
    assert outcome.code == 2
    assert "photo.png - a tradeoff map of 9 x 200 pixels does not fit" in outcome.err


def test_restore_overwrites_only_if_asked(distillkit, run, tmp_path):
    save_image(tmp_path / "good.png")
    save_image(tmp_path / "there.png")
    outcome = distillkit(
        "restore", tmp_path / "good.png", "--run", run, "-o", tmp_path / "there.png"
    )
    assert outcome.code == 2
    assert "--overwrite" in outcome.err


def test_a_folder_that_is_no_run(distillkit, tmp_path):
    save_image(tmp_path / "a.png")
    outcome = distillkit("restore", tmp_path / "a.png", "--run", tmp_path, "-o", tmp_path / "b.png")
    assert outcome.code == 2
    assert "no student here" in outcome.err
    outcome = distillkit("evaluate", tmp_path)
    assert outcome.code == 2
    assert "not a run's folder" in outcome.err


def test_recipe_show_gives_the_origin_of_values(distillkit, recipe):
    outcome = distillkit("recipe", "show", recipe, "--origin", "--set", "seed=3")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert any("stage1.steps" in line and "toy.toml:" in line for line in lines)
    assert any(line.startswith("seed") and "--set" in line for line in lines)
    assert any("default" in line for line in lines)


def test_recipe_schema_names_what_plugins_offer(distillkit, toys):
    outcome = distillkit("recipe", "schema")
    assert outcome.code == 0
    assert "toy/student" in json.dumps(json.loads(outcome.out))


def test_plugins_lists_and_checks(distillkit, toys):
    outcome = distillkit("plugins")
    assert outcome.code == 0
    assert "toy/faithful" in outcome.out
    assert "[output, score]" in outcome.out
    outcome = distillkit("plugins", "--json")
    assert outcome.code == 0
    assert {plugin["name"] for plugin in json.loads(outcome.out)} == {"toy", "distillkit"}
    outcome = distillkit("plugins", "check", "toy")
    assert outcome.code == 0, outcome.out


ENGINE_COMMANDS = (
    "run",
    "restore",
    "export",
    "push",
    "evaluate",
    "compare",
    "sweep",
    "degrade",
    "fetch",
    "doctor",
    "plugins",
    "recipe",
    "cache",
)


@pytest.fixture
def installed_again(monkeypatch):
    """What is really installed, found once more, before and after the test."""
    monkeypatch.setenv(manager.WITHOUT, "")
    manager._installed.cache_clear()
    yield
    manager._installed.cache_clear()


@pytest.mark.parametrize("option", [["--no-plugin", "mini"], ["--no-plugin=mini"]])
def test_a_plugin_is_switched_off_on_the_command_line(distillkit, installed_again, option):
    outcome = distillkit(*option, "plugins", "--json")
    assert outcome.code == 0
    names = {plugin["name"] for plugin in json.loads(outcome.out)}
    assert "mini" not in names
    assert {"distillkit", "example"} <= names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mimi", '--no-plugin mimi - no plugin "mimi" is installed; did you mean "mini"?'),
        ("distillkit", '"distillkit" is the engine itself, which cannot be switched off'),
    ],
)
def test_only_a_plugin_that_is_there_is_switched_off(distillkit, installed_again, name, reason):
    outcome = distillkit("--no-plugin", name, "plugins")
    assert outcome.code == 2
    assert outcome.err == f"error: {reason}\n"


def test_the_help_lists_every_command(distillkit, toys):
    outcome = distillkit("--help")
    assert outcome.code == 0
    for name in ENGINE_COMMANDS:
        assert f"\n  {name} " in outcome.out


def test_the_help_of_all_installed_plugins_cuts_no_summary(distillkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = distillkit("--help")
    assert outcome.code == 0
    summaries = outcome.out.partition("Commands:")[2].splitlines()
    assert len(summaries) > len(ENGINE_COMMANDS)
    assert [line for line in summaries if line.endswith("...")] == []


def test_an_unknown_command(distillkit, toys):
    outcome = distillkit("frobnicate")
    assert outcome.code == 2
    assert "No such command 'frobnicate'" in outcome.err


def test_version(distillkit):
    assert distillkit("--version") == (0, f"distillkit {__version__}\n", "")


@pytest.fixture
def with_plugins(monkeypatch, toys):
    """``with_plugins(name=hook)``: plugins that add commands by their hook, beside the toys."""

    def add(**hooks):
        points = []
        for name, hook in hooks.items():
            module = types.ModuleType(f"plugin_{name}")
            module.distillkit_commands = hookimpl(specname="distillkit_commands")(hook)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            points.append(EntryPoint(name, module.__name__, manager.GROUP))
        plugins = manager.Plugins([*toys, *manager.load_plugins(points)])
        monkeypatch.setattr(manager, "_installed", lambda: plugins)

    return add


def saying(text):
    """A hook that adds the command ``say``."""

    def hook(app):
        @app.command("say")
        def say():
            """Say something.

            It is said once.
            """
            typer.echo(text)

    return hook


def test_a_plugins_command_is_in_the_help_and_runs(distillkit, with_plugins):
    with_plugins(mine=saying("hello"))
    assert "  say       Say something.\n" in distillkit("--help").out
    assert "It is said once." in distillkit("say", "--help").out
    assert distillkit("say") == (0, "hello\n", "")


def test_a_plugins_command_is_in_the_list_of_plugins(distillkit, with_plugins):
    with_plugins(mine=saying("hello"))
    assert "  command      say  Say something.\n" in distillkit("plugins").out
    plugins = json.loads(distillkit("plugins", "--json").out)
    (mine,) = [plugin for plugin in plugins if plugin["name"] == "mine"]
    assert mine["offers"] == [{"kind": "command", "name": "say", "summary": "Say something."}]


def test_commands_of_one_name_are_asked_for_by_their_plugins(distillkit, with_plugins):
    def add_run(app):
        app.command("run")(lambda: typer.echo("not the engine's"))

    with_plugins(a=saying("of a"), b=saying("of b"), c=add_run)
    help_text = distillkit("--help").out
    assert "\n  a/say " in help_text
    assert "\n  b/say " in help_text
    assert "\n  say " not in help_text
    assert distillkit("a/say").out == "of a\n"
    assert distillkit("b/say").out == "of b\n"
    assert distillkit("c/run").out == "not the engine's\n"
    assert "RECIPE" in distillkit("run", "--help").out


def test_a_plugin_whose_commands_are_broken_takes_no_help_down(distillkit, with_plugins):
    def fail(app):
        raise RuntimeError("no luck")

    with_plugins(bad=fail, good=saying("hello"))
    outcome = distillkit("--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert "  say " in outcome.out
    assert distillkit("say").out == "hello\n"
    assert "BROKEN: RuntimeError: no luck" in distillkit("plugins").out


def test_an_unknown_command_may_be_that_of_a_broken_plugin(distillkit, with_plugins):
    def fail(app):
        raise RuntimeError("no luck")

    with_plugins(bad=fail)
    outcome = distillkit("frobnicate")
    assert outcome.code == 2
    reason = 'plugin "bad" (plugin_bad) is broken: RuntimeError: no luck'
    assert outcome.err == f"error: no command frobnicate; {reason}\n"


@pytest.mark.parametrize(
    ("command", "extra"), [("demo", "demo"), ("bench", "bench"), ("advise", "bench")]
)
def test_a_command_that_comes_with_an_extra_says_so(distillkit, toys, command, extra):
    outcome = distillkit(command)
    assert outcome.code == 2
    assert f"pip install 'distillkit[{extra}]'" in outcome.err
