"""How much a command says, to whom and in which form, and how it ends."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from distillkit import console
from distillkit.cli.exit_codes import ExitCode
from distillkit.cli.main import _add_plugin_commands, app
from distillkit.console import LEVEL, logger, progress_bar, with_progress

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "command_line.md"


@pytest.fixture(autouse=True)
def level(monkeypatch):
    """The level and its variable, as they were, after the test."""
    monkeypatch.setenv(LEVEL, "info")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    before = logger.level
    yield
    logger.setLevel(before)


def speak():
    logger.debug("a detail")
    logger.info("a status")
    logger.warning("a danger")
    typer.echo("a result")


@pytest.fixture
def speaking(with_command):
    with_command("speak", speak)


STATUS = "a status\nwarning: a danger\n"
SHOWN = {"debug": "a detail\n" + STATUS, "info": STATUS, "warning": "warning: a danger\n"}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["speak"], "info"),
        (["-v", "speak"], "debug"),
        (["speak", "--verbose"], "debug"),
        (["-q", "speak"], "warning"),
        (["speak", "--quiet"], "warning"),
    ],
)
def test_flags_choose_which_lines_are_shown(distillkit, speaking, arguments, shown):
    outcome = distillkit(*arguments)
    assert outcome.code == 0
    assert outcome.out == "a result\n"
    assert outcome.err.endswith(SHOWN[shown])
    assert ("a detail" in outcome.err) == (shown == "debug")
    assert os.environ[LEVEL] == shown


@pytest.mark.parametrize("name", ["debug", "info", "WARNING", ""])
def test_the_variable_chooses_the_same_levels(distillkit, speaking, monkeypatch, name):
    monkeypatch.setenv(LEVEL, name)
    assert distillkit("speak").err.endswith(SHOWN[name.lower() or "info"])


def test_a_level_that_does_not_exist(distillkit, monkeypatch):
    monkeypatch.setenv(LEVEL, "loud")
    outcome = distillkit("recipe", "list")
    assert outcome.code == ExitCode.REFUSED
    assert outcome.err == f"error: {LEVEL}=loud - expected one of debug, info, warning\n"


def test_quiet_runs_say_nothing_but_their_result(distillkit, recipe, tmp_path):
    out = tmp_path / "out"
    outcome = distillkit("run", recipe, "--out", out, "-q")
    assert outcome.code == 0
    assert outcome.out == f"done: {out}; open {out / 'report.html'}\n"
    assert "stage1" not in outcome.err
    assert "evaluating" not in outcome.err


def test_a_detail_of_an_error_is_where_it_was_raised(distillkit, tmp_path):
    missing = tmp_path / "none.toml"
    assert "Traceback" not in distillkit("run", missing).err
    outcome = distillkit("-v", "run", missing)
    assert outcome.code == ExitCode.REFUSED
    assert "Traceback" in outcome.err


@pytest.mark.parametrize("package", ["httpx", "httpcore.http11", "urllib3", "huggingface_hub"])
def test_records_of_other_packages_are_not_shown(distillkit, with_command, package):
    """They name headers, which may hold a token."""

    def talk():
        other = logging.getLogger(package)
        assert not other.isEnabledFor(logging.DEBUG)
        other.debug("authorization: Bearer hf_secret")
        other.info("GET https://hub/?signature=hf_secret")

    with_command("talk", talk)
    outcome = distillkit("-v", "talk")
    assert outcome.code == 0
    assert "hf_secret" not in outcome.err


@pytest.fixture
def at_once(monkeypatch):
    """Bars appear without a delay."""
    monkeypatch.setattr(console, "BAR_DELAY", 0.0)


def test_what_takes_less_than_two_seconds_shows_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(with_progress("abc", 3, "measuring")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_bars_are_shown_on_a_terminal_unless_quiet(monkeypatch):
    assert progress_bar(total=3).disable
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(total=3) as bar:
        assert not bar.disable
    logger.setLevel(logging.WARNING)
    assert progress_bar(total=3).disable


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys, at_once):
    assert list(with_progress("abc", 3, "measuring")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"measuring 3/3  .* s each  ETA 0:00:00", lines[-1])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(with_progress("abc", 3, "measuring")) == ["a", "b", "c"]
    assert "measuring: 100%" in capsys.readouterr().err


def test_an_unforeseen_error_has_a_code_of_its_own(distillkit, with_command):
    def fail():
        raise ZeroDivisionError("nobody foresaw this")

    with_command("fail", fail)
    outcome = distillkit("fail")
    assert outcome.code == ExitCode.BUG
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("ZeroDivisionError: nobody foresaw this\n")


def test_the_reference_lists_every_exit_code():
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert [int(code) for code in rows] == list(ExitCode)


def test_commands_exit_by_the_names_of_the_codes():
    """A number says nothing, and 1 has been two things before."""
    root = Path(__file__).parents[1]
    folders = [root / "distillkit", *root.glob("plugins/*/distillkit_*")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    wrong = [path for path in files if re.search(r"typer\.Exit\(\d", path.read_text())]
    assert wrong == []


SHELL_ASKS = {
    "bash": {"COMP_WORDS": "distillkit {}", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "distillkit {}"},
    "fish": {"_TYPER_COMPLETE_ARGS": "distillkit {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def complete(shell, begun):
    """What a shell is offered, and the modules that this imports."""
    asked = {name: value.format(begun) for name, value in SHELL_ASKS[shell].items()}
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
        "sys.argv = ['distillkit']; from distillkit.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked | {"_DISTILLKIT_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    *offered, imports_torch = done.stdout.splitlines()
    return "\n".join(offered), imports_torch


@pytest.mark.parametrize("shell", SHELL_ASKS)
def test_shells_complete_commands_of_plugins_without_torch(shell):
    offered, imports_torch = complete(shell, "re")
    for command in ("restore", "recipe", "restore-video"):
        assert command in offered
    assert "doctor" not in offered
    assert imports_torch == "False"


def test_options_are_completed():
    offered, _ = complete("zsh", "degrade --sp")
    assert "--split" in offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_completion_calls_distillkit(distillkit, monkeypatch, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    outcome = distillkit("--show-completion", shell)
    assert outcome.code == 0
    assert "_DISTILLKIT_COMPLETE" in outcome.out


def test_no_command_prints_colors(distillkit, with_command, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with_command("paint", lambda: typer.secho("a result", fg="green"))
    assert distillkit("paint").out == "a result\n"


def in_a_terminal(*arguments, **variables):
    """What a command writes where output and errors are a terminal."""
    import pty

    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "distillkit", *arguments],
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm-256color"} | variables,
    ) as process:
        os.close(follower)
        written = b""
        while process.poll() is None or written == b"":
            try:
                written += os.read(leader, 65536)
            except OSError:  # Linux says so that nobody writes any more
                break
    os.close(leader)
    return written.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
def test_no_color_is_used(variables):
    help_text = in_a_terminal("--help", **variables)
    assert "restore-video" in help_text
    assert "\x1b[" not in help_text
    error = in_a_terminal("run", "no/such", **variables)
    assert "error: " in error
    assert "\x1b[" not in error


JSON_OF = {
    ("plugins",): list,
    ("plugins", "check", "toy/halve"): dict,
    ("recipe", "list"): list,
    ("recipe", "show", "RECIPE"): dict,
    ("recipe", "show", "RECIPE", "--origin"): dict,
    ("doctor", "RECIPE"): list,
    ("cache", "ls", "--dir", "EMPTY"): list,
}


@pytest.mark.parametrize("words", JSON_OF, ids=" ".join)
def test_json_is_all_that_is_printed(distillkit, recipe, tmp_path, words):
    places = {"RECIPE": recipe, "EMPTY": tmp_path / "none"}
    arguments = [places.get(word, word) for word in words]
    outcome = distillkit(*arguments, "--json")
    assert outcome.code == distillkit(*arguments).code == 0
    assert type(json.loads(outcome.out)) is JSON_OF[words]


def test_json_of_a_recipe_has_values_and_their_origins(distillkit, recipe):
    show = ["recipe", "show", recipe, "--set", "seed=3"]
    assert json.loads(distillkit(*show, "--json").out)["stage1"]["steps"] == 6
    origins = json.loads(distillkit(*show, "--origin", "--json").out)
    assert origins["seed"] == {"value": 3, "origin": "--set"}
    assert origins["stage1.steps"]["value"] == 6
    assert "toy.toml:" in origins["stage1.steps"]["origin"]


def test_json_of_doctor_marks_what_is_wrong(distillkit, recipe):
    missing = ["--set", "data.train=[{imagefolder='nowhere'}]"]
    outcome = distillkit("doctor", recipe, *missing, "--json")
    assert outcome.code == ExitCode.CHECK_FAILED
    problems = [found for found in json.loads(outcome.out) if found["is_problem"]]
    assert [found["label"] for found in problems] == ["MISSING"]


def each_command(group, name="distillkit"):
    """Name and command of a group, its subcommands and theirs."""
    yield name, group
    for word, command in getattr(group, "commands", {}).items():
        yield from each_command(command, f"{name} {word}")


def installed_commands():
    """The commands of the engine and of all installed plugins."""
    commands = get_command(app)
    _add_plugin_commands(commands, ["--help"])
    return dict(each_command(commands))


COMMANDS = installed_commands()
SENTENCES = re.compile(r"[A-Z].*[^.]\.", re.DOTALL)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_sentences(name):
    command = COMMANDS[name]
    texts = {name: command.help}
    for parameter in command.params:
        texts[parameter.name] = parameter.help
    wrong = {key: text for key, text in texts.items() if not SENTENCES.fullmatch(text or "")}
    assert wrong == {}


def test_the_commands_of_plugins_are_among_them():
    assert {"distillkit bench", "distillkit restore-video"} <= set(COMMANDS)


def test_json_is_the_same_option_everywhere():
    texts = {}
    for name, command in COMMANDS.items():
        for option in command.params:
            if "--json" in option.opts:
                assert option.is_flag
                texts[name.removeprefix("distillkit ")] = option.help
    assert set(texts.values()) == {"Print JSON instead of a table."}
    tables = {"plugins", "plugins check", "recipe list", "recipe show", "cache ls", "doctor"}
    assert set(texts) == tables | {"bench", "advise", "flicker"}
