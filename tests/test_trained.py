"""Trained students that plugins ship: found by name, chosen where there is one."""

import pytest

from distillkit.cli.restore import choose_trained
from distillkit.errors import DistillkitError
from distillkit.inference.student import find_student
from distillkit.plugins.manager import Plugin, Plugins
from distillkit.plugins.trained import find_trained, list_trained


def plugins_with(tmp_path, monkeypatch, *names):
    plugins = []
    for name in names:
        owner, _, student = name.partition("/")
        (tmp_path / owner / student / "student").mkdir(parents=True)
        (tmp_path / owner / "no_student").mkdir(exist_ok=True)
        if owner not in [plugin.name for plugin in plugins]:
            plugins.append(Plugin(owner, "x 1.0", trained=tmp_path / owner))
    loaded = Plugins(plugins)
    monkeypatch.setattr("distillkit.plugins.manager.load_plugins", lambda: loaded)
    monkeypatch.setattr("distillkit.inference.student.load_plugins", lambda: loaded)
    return loaded


def test_they_are_listed_and_found_by_their_full_names(tmp_path, monkeypatch):
    plugins = plugins_with(tmp_path, monkeypatch, "mine/a", "other/b")
    assert [student.name for student in list_trained(plugins)] == ["mine/a", "other/b"]
    assert find_trained("a", plugins) is None
    assert find_student("other/b") == tmp_path / "other" / "b"


def test_one_of_a_plugin_that_is_switched_off_is_not_looked_for_on_the_hub(monkeypatch):
    loaded = Plugins([], switched_off=["mine"])
    monkeypatch.setattr("distillkit.inference.student.load_plugins", lambda: loaded)
    with pytest.raises(DistillkitError, match='mine/a - plugin "mine" is switched off'):
        find_student("mine/a")


def test_a_mistyped_one_is_told_the_nearest(tmp_path, monkeypatch):
    plugins_with(tmp_path, monkeypatch, "mine/photo4x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, problem in [
        ("mine/photo5x", "mine/photo5x - .* not on the Hub: "),
        ("photo4x", "photo4x - no such folder"),
        ("runs/of/photo4x", "runs/of/photo4x - no such folder"),
    ]:
        with pytest.raises(DistillkitError, match=f'{problem}.*; did you mean "mine/photo4x"'):
            find_student(name)


def test_the_first_one_of_the_only_plugin_is_chosen(tmp_path, monkeypatch, capsys):
    plugins_with(tmp_path, monkeypatch, "mine/a-small", "mine/a")
    assert choose_trained("--run") == "mine/a"
    assert capsys.readouterr().err == "restoring with mine/a; another student: --run\n"


def test_of_several_plugins_none_is_chosen(tmp_path, monkeypatch):
    plugins_with(tmp_path, monkeypatch, "mine/a", "mine/a-small", "other/b")
    with pytest.raises(DistillkitError, match="--run: mine/a, mine/a-small, other/b"):
        choose_trained("--run")


def test_without_any_a_student_has_to_be_named(tmp_path, monkeypatch):
    plugins_with(tmp_path, monkeypatch)
    with pytest.raises(
        DistillkitError, match="give --run: no installed plugin has a trained student"
    ):
        choose_trained("--run")
