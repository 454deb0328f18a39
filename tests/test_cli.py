"""The command line, as a person meets it: what it prints, its exit codes, and that bad input is refused before any work."""

import json
import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import typer
from PIL import Image

from distillkit import __version__, hookimpl
from distillkit.cli import main as cli
from distillkit.plugins import manager


@pytest.fixture
def distillkit(monkeypatch, capfd):
    """``distillkit("run", ...)`` -> exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["distillkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture
def run(distillkit, recipe, tmp_path):
    out = tmp_path / "out"
    assert distillkit("run", recipe, "--out", out)[0] == 0
    return out


def test_run_restore_eval(distillkit, recipe, tmp_path, photos):
    out = tmp_path / "out"
    code, said, told = distillkit("run", recipe, "--out", out, "--set", "stage1.steps=3")
    assert code == 0 and f"done: {out}; open {out / 'report.html'}" in said
    assert "stage1 2/3" in told and "stage2 4/4" in told and "psnr" in told
    code, _, _ = distillkit(
        "restore", photos / "test", "--run", out, "--tradeoff", "0.5", "-o", tmp_path / "restored"
    )
    assert code == 0 and Image.open(tmp_path / "restored" / "test0.png").size == (96, 80)
    code, said, _ = distillkit("evaluate", out, "--set", "evaluation.tradeoffs=[0.0,1.0]")
    rows = json.loads((out / "evaluation/metrics.json").read_text())
    assert code == 0 and {r["tradeoff"] for r in rows if r["method"] == "student"} == {0.0, 1.0}


def test_resume_of_a_finished_run_changes_nothing(distillkit, recipe, run):
    before = (run / "student/stage2.safetensors").read_bytes()
    code, _, _ = distillkit("run", recipe, "--out", run, "--resume")
    assert code == 0 and (run / "student/stage2.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("stage1.stepps=3", r'--set  stage1.stepps - unknown key; did you mean "steps"?'),
        ("stage1.steps='many'", "stage1.steps - expected an integer"),
        ("stage1.steps=0", "stage1.steps - "),
        ("teachers.fidelity.use='toy/faithfull'", 'did you mean "toy/faithful"?'),
        ("student={use='other/student'}", "other/student"),
        ("student.wheels=4", "student.wheels - unknown key"),
        ("teachers.fidelity={use='toy/restorer'}", "score  output"),
        ("data.train=[{imagefolder='nowhere'}]", "no such folder"),
        ("data.train=[]", "data.train - "),
        ("stage2={target='teacher', steps=2}\nteachers={}", "teachers.fidelity is missing"),
        ("stage1.learning_rate=inf", "stage1.learning_rate - "),
    ],
)
def test_a_wrong_recipe_is_refused_on_one_screen_before_any_work(
    distillkit, recipe, tmp_path, change, says
):
    out = tmp_path / "never"
    sets = [argument for text in change.split("\n") for argument in ("--set", text)]
    code, said, told = distillkit("run", recipe, *sets, "--out", out)
    assert (
        code == 2
        and said == ""
        and says in told
        and told.count("\n") <= 12
        and "Traceback" not in told
    )
    assert not out.exists()


def test_all_mistakes_are_told_at_once_with_their_lines(distillkit, recipe):
    lines = (
        recipe.read_text()
        .replace("steps = 6", "stepz = 6")
        .replace("batch_size = 2", "batch_size = 'two'")
    )
    recipe.write_text(lines)
    code, _, told = distillkit("recipe", "validate", recipe)
    at = {
        text: i
        for i, line in enumerate(lines.splitlines(), 1)
        for text in ("stepz", "batch_size")
        if text in line
    }
    assert code == 2
    assert (
        f"toy.toml:{at['stepz']}  stage1.stepz - unknown key" in told
        and f"toy.toml:{at['batch_size']}  data.batch_size - " in told
    )


def test_a_missing_recipe(distillkit, tmp_path):
    code, _, told = distillkit("run", tmp_path / "none.toml")
    assert code == 2 and "none.toml" in told and "Traceback" not in told


def test_an_empty_dataset(distillkit, recipe, tmp_path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    out = tmp_path / "never"
    change = f"data.train=[{{use='toy/photos', folder='{tmp_path / 'empty'}'}}]"
    code, _, told = distillkit("run", recipe, "--set", change, "--out", out)
    assert code == 2 and "empty" in told and not (out / "recipe.toml").exists()


def test_an_output_folder_that_cannot_be_written(distillkit, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, told = distillkit("run", recipe, "--out", tmp_path / "file" / "run")
    assert code == 2 and "cannot be written to" in told and "--out" in told


def test_a_full_disk(distillkit, recipe, tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, told = distillkit("run", recipe, "--out", tmp_path / "full")
    assert code == 2 and "No space left on device" in told


def test_a_second_run_into_the_same_folder(distillkit, recipe, run):
    code, _, told = distillkit("run", recipe, "--out", run)
    assert code == 2 and "holds a run already; continue it with --resume" in told


def test_resuming_with_another_recipe_shows_what_differs(distillkit, recipe, run):
    code, _, told = distillkit("run", recipe, "--set", "seed=7", "--out", run, "--resume")
    assert code == 2 and "  seed: 0 -> 7  (" in told and "--fork" in told


def test_restore_names_what_it_could_not_read_and_goes_on(distillkit, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"not a picture")
    code, _, told = distillkit("restore", folder, "--run", run, "-o", tmp_path / "restored")
    assert (
        code == 1
        and "bad.png" in told
        and [p.name for p in (tmp_path / "restored").iterdir()] == ["good.png"]
    )
    code, _, told = distillkit(
        "restore", folder / "good.png", "--run", run, "-o", tmp_path / "restored" / "good.png"
    )
    assert code == 2 and "--overwrite" in told


def test_restore_from_what_is_no_run(distillkit, tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    code, _, told = distillkit(
        "restore", tmp_path / "a.png", "--run", tmp_path, "-o", tmp_path / "b.png"
    )
    assert code == 2 and "no student here" in told
    code, _, told = distillkit("evaluate", tmp_path)
    assert code == 2 and "not a run's folder" in told


def test_recipe_show_and_schema(distillkit, recipe):
    code, said, _ = distillkit("recipe", "show", recipe, "--origin", "--set", "seed=3")
    assert code == 0
    lines = said.splitlines()
    assert any("stage1.steps" in x and "toy.toml:" in x for x in lines)
    assert any(x.startswith("seed") and "--set" in x for x in lines) and any(
        "default" in x for x in lines
    )
    code, said, _ = distillkit("recipe", "schema")
    assert code == 0 and "toy/student" in json.dumps(json.loads(said))


def test_plugins_lists_and_checks(distillkit, toys):
    code, said, _ = distillkit("plugins")
    assert code == 0 and "toy/faithful" in said and "[output, score]" in said
    code, said, _ = distillkit("plugins", "--json")
    assert code == 0 and {p["name"] for p in json.loads(said)} == {"toy", "distillkit"}
    code, said, _ = distillkit("plugins", "check", "toy")
    assert code == 0, said


def test_doctor(distillkit, toys):
    code, said, _ = distillkit("doctor")
    assert code == 0 and "torch" in said and "all is well" in said


def test_help_and_an_unknown_command(distillkit):
    code, said, _ = distillkit("--help")
    assert code == 0
    for name in ("run", "restore", "export", "push", "evaluate", "compare", "sweep", "fetch"):
        assert f"\n  {name} " in said
    for name in ("doctor", "plugins", "recipe", "cache"):
        assert f"\n  {name} " in said
    code, _, told = distillkit("frobnicate")
    assert code == 2 and "No such command 'frobnicate'" in told


def test_the_help_of_all_installed_plugins_cuts_no_summary(distillkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, said, _ = distillkit("--help")
    assert code == 0
    commands = said.partition("Commands:")[2].splitlines()
    assert len(commands) > 12
    assert [line for line in commands if line.endswith("...")] == []


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
        return plugins

    return add


def say(text):
    def hook(app):
        @app.command("say")
        def command(loud: bool = False):
            """Say something.

            It is said once.
            """
            typer.echo(text)

    return hook


def test_a_plugins_command_is_in_the_help_and_in_the_list_and_runs(distillkit, with_plugins):
    with_plugins(mine=say("hello"))
    assert "  say       Say something.\n" in distillkit("--help")[1]
    assert "It is said once." in distillkit("say", "--help")[1]
    assert distillkit("say") == (0, "hello\n", "")
    assert "  command      say  Say something.\n" in distillkit("plugins")[1]
    (listed,) = [p for p in json.loads(distillkit("plugins", "--json")[1]) if p["name"] == "mine"]
    assert listed["offers"] == [{"kind": "command", "name": "say", "summary": "Say something."}]


def test_commands_of_one_name_are_asked_for_by_their_plugins(distillkit, with_plugins):
    def run(app):
        app.command("run")(lambda: typer.echo("not the engine's"))

    with_plugins(a=say("of a"), b=say("of b"), c=run)
    _, said, _ = distillkit("--help")
    assert "\n  a/say " in said and "\n  b/say " in said and "\n  say " not in said
    assert distillkit("a/say")[1] == "of a\n" and distillkit("b/say")[1] == "of b\n"
    assert distillkit("c/run")[1] == "not the engine's\n"
    assert "RECIPE" in distillkit("run", "--help")[1]


def test_a_plugin_whose_commands_are_broken_takes_no_help_down(distillkit, with_plugins):
    def broken(app):
        raise RuntimeError("no luck")

    with_plugins(bad=broken, good=say("hello"))
    code, said, told = distillkit("--help")
    assert code == 0 and told == "" and "  say " in said
    assert distillkit("say")[1] == "hello\n"
    assert "BROKEN: RuntimeError: no luck" in distillkit("plugins")[1]
    code, _, told = distillkit("frobnicate")
    reason = 'plugin "bad" (plugin_bad) is broken: RuntimeError: no luck'
    assert code == 2 and told == f"error: no command frobnicate; {reason}\n"


def test_a_command_that_comes_with_an_extra_says_so(distillkit, toys):
    code, _, told = distillkit("demo")
    assert code == 2 and "pip install 'distillkit[demo]'" in told


def test_version(distillkit):
    assert distillkit("--version")[:2] == (0, f"distillkit {__version__}\n")
