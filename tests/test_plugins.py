"""Plugins: found by entry point, loaded one by one, and what is said of those that do not work."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from distillkit import Options
from distillkit.errors import PluginError
from distillkit.plugins.manager import Plugins, load_plugins

TEACHERS = """
    from distillkit import Options, TeacherSpec, hookimpl

    def teacher(name, **changes):
        fields = dict(name=name, summary=f"the {name} one", build="builtins:str", capabilities=frozenset({"output"}))
        return TeacherSpec(**{**fields, **changes})
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install("name", source)`` lays a distribution ``distillkit-<name>`` with one module and one entry point on ``sys.path``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, *source: str, distribution: str | None = None) -> None:
        distribution = distribution or f"distillkit_{name}"
        monkeypatch.delitem(sys.modules, f"fake_{distribution}", raising=False)
        (tmp_path / f"fake_{distribution}.py").write_text("".join(map(textwrap.dedent, source)))
        folder = tmp_path / f"{distribution}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution.replace('_', '-')}\nVersion: 1.5\n"
        )
        (folder / "entry_points.txt").write_text(f"[distillkit]\n{name} = fake_{distribution}\n")

    return install


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], Plugins]:
    return lambda: load_plugins(
        p
        for d in distributions(path=[str(tmp_path)])
        for p in d.entry_points.select(group="distillkit")
    )


Load = Callable[[], Plugins]


def good(*names: str) -> str:
    offered = ", ".join(f'teacher("{name}")' for name in names)
    return (
        textwrap.dedent(TEACHERS)
        + f"\n@hookimpl\ndef distillkit_teachers():\n    return [{offered}]\n"
    )


def test_offers_are_found_by_full_and_by_short_name(install: Install, load: Load) -> None:
    install("a", good("sharp", "soft"))
    install("b", good("sharp"))
    plugins = load()
    assert list(plugins.specs("teachers")) == ["a/sharp", "a/soft", "b/sharp"]
    assert plugins.find("teachers", "soft")[0] == "a/soft"
    assert plugins.find("teachers", "b/sharp")[1].name == "sharp"
    assert [p.distribution for p in plugins] == ["distillkit-a 1.5", "distillkit-b 1.5"]


def test_an_ambiguous_short_name_lists_the_full_names(install: Install, load: Load) -> None:
    install("a", good("sharp"))
    install("b", good("sharp"))
    with pytest.raises(
        PluginError,
        match=r'^"sharp" is offered by several plugins; say which: "a/sharp", "b/sharp"$',
    ):
        load().find("teachers", "sharp")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("sharpp", 'no plugin offers "sharpp" among its teachers; did you mean "sharp"?'),
        ("a/shrp", 'no plugin offers "a/shrp" among its teachers; did you mean "a/sharp"?'),
        ("zzz", 'no plugin offers "zzz" among its teachers; known: "a/sharp"'),
    ],
)
def test_an_unknown_name_says_what_there_is(
    install: Install, load: Load, use: str, message: str
) -> None:
    install("a", good("sharp"))
    with pytest.raises(PluginError) as caught:
        load().find("teachers", use)
    assert str(caught.value) == message


def test_a_name_of_another_kind_says_so(install: Install, load: Load) -> None:
    install("a", good("sharp"))
    with pytest.raises(PluginError, match=r'^"sharp" is among the teachers, not the students$'):
        load().find("students", "sharp")


BROKEN = {
    "raises at import": (
        "import no_such_module_here",
        "ModuleNotFoundError: No module named 'no_such_module_here'",
    ),
    "exits at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "a syntax error": ("def f(:", "SyntaxError: invalid syntax (fake_distillkit_bad.py, line 1)"),
    "raises in a hook": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        raise RuntimeError('no disk')",
        "RuntimeError: no disk",
    ),
    "a hook of another signature": (
        TEACHERS + "\n    @hookimpl\n    def distillkit_teachers(config):\n        return []",
        "PluginValidationError: Plugin 'bad' for hook 'distillkit_teachers'",
    ),
    "a hook that forgets to return": (
        TEACHERS + "\n    @hookimpl\n    def distillkit_teachers():\n        [teacher('x')]",
        "distillkit_teachers returned a NoneType, not a list or tuple",
    ),
    "a generator": (
        TEACHERS + "\n    @hookimpl\n    def distillkit_teachers():\n        yield teacher('x')",
        "distillkit_teachers returned a generator, not a list or tuple",
    ),
    "no descriptor": (
        TEACHERS + "\n    @hookimpl\n    def distillkit_teachers():\n        return [7]",
        "distillkit_teachers returned 7, which is no TeacherSpec",
    ),
    "a descriptor of another kind": (
        TEACHERS + "\n    @hookimpl\n    def distillkit_students():\n        return [teacher('x')]",
        "which is no StudentSpec",
    ),
    "a name with a slash": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('a/b')]",
        "distillkit_teachers: 'a/b' is no name (letters, digits, '.', '_' and '-')",
    ),
    "options that are a class": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('x', options=dict)]",
        'distillkit_teachers: options of "x" is <class \'dict\'>, not "module:Class"',
    ),
    "a build that is a function": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('x', build=print)]",
        'distillkit_teachers: build of "x" is <built-in function print>, not "module:function"',
    ),
    "a build without a function": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('x', build='torch')]",
        'distillkit_teachers: build of "x" is \'torch\', not "module:function"',
    ),
    "an unknown capability": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('x', capabilities=['scores'])]",
        'distillkit_teachers: capabilities of "x" are [\'scores\'], not "score", "output" or both',
    ),
    "one name twice": (
        TEACHERS
        + "\n    @hookimpl\n    def distillkit_teachers():\n        return [teacher('x'), teacher('x', summary='again')]",
        'distillkit_teachers offers the name "x" twice: "the x one" and "again"',
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_and_takes_nothing_down(
    install: Install, load: Load, case: str
) -> None:
    source, reason = BROKEN[case]
    install("bad", source)
    install("good", good("sharp"))
    plugins = load()
    assert plugins.find("teachers", "sharp")[0] == "good/sharp"
    (broken,) = plugins.broken
    assert (broken.name, broken.distribution) == ("bad", "distillkit-bad 1.5")
    assert broken.error is not None and reason in broken.error and "\n" not in broken.error
    assert broken.traceback is not None and "Traceback" in broken.traceback
    with pytest.raises(PluginError) as caught:
        plugins.find("teachers", "bad/anything")
    assert str(caught.value) == f'plugin "bad" (distillkit-bad 1.5) is broken: {broken.error}'


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ("no_such_module_here:make", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("builtins:strr", "AttributeError: module 'builtins' has no attribute 'strr'"),
    ],
)
def test_a_build_that_cannot_be_imported_names_plugin_and_descriptor(
    install: Install, load: Load, build: str, reason: str
) -> None:
    offered = f'return [teacher("x", build="{build}")]'
    install("a", TEACHERS, f"@hookimpl\ndef distillkit_teachers(): {offered}")
    _, spec = load().find("teachers", "x")
    with pytest.raises(PluginError) as caught:
        spec.create(Options())
    assert str(caught.value) == (
        f'teacher "a/x": its build = "{build}" cannot be imported: {reason}'
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            "no_such_module_here:Options",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("builtins:dict", "is no subclass of Options"),
        ("builtins:len", "is no subclass of Options"),
    ],
)
def test_options_that_are_none_name_plugin_and_descriptor(
    install: Install, load: Load, options: str, reason: str
) -> None:
    offered = f'return [teacher("x", options="{options}")]'
    install("a", TEACHERS, f"@hookimpl\ndef distillkit_teachers(): {offered}")
    _, spec = load().find("teachers", "x")
    with pytest.raises(PluginError) as caught:
        _ = spec.config
    assert str(caught.value) == f'teacher "a/x": its options = "{options}" {reason}'


def test_an_unknown_short_name_mentions_the_broken_plugins(install: Install, load: Load) -> None:
    install("bad", "import no_such_module_here")
    with pytest.raises(
        PluginError,
        match=r'no plugin offers "sharp".*plugin "bad" .* is broken: ModuleNotFoundError',
    ):
        load().find("teachers", "sharp")


def test_two_plugins_with_one_name_are_refused_naming_both(install: Install, load: Load) -> None:
    install("twin", good("sharp"), distribution="first")
    install("twin", good("soft"), distribution="second")
    install("good", good("other"))
    plugins = load()
    assert plugins.find("teachers", "other")[0] == "good/other"
    with pytest.raises(
        PluginError,
        match=r'2 plugins are called "twin" \((first|second) 1.5 and (first|second) 1.5\); uninstall',
    ):
        plugins.find("teachers", "twin/sharp")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (
            "@hookimpl\ndef distillkit_teacher(): return []",
            'hook distillkit_teacher, which does not exist; did you mean "distillkit_teachers"?',
        ),
        (
            "def distillkit_metric(): return []",
            'hook distillkit_metric, which does not exist; did you mean "distillkit_metrics"?',
        ),
        (
            "@hookimpl\ndef step(): pass",
            'hook step, which does not exist; did you mean "distillkit_step"?',
        ),
        (
            "def distillkit_students(): return []",
            "function distillkit_students without @hookimpl, so it is never called",
        ),
    ],
)
def test_a_misspelt_hook_is_reported(install: Install, load: Load, hook: str, problem: str) -> None:
    install("a", good("sharp"), hook)
    plugins = load()
    (plugin,) = plugins
    assert plugin.problems == (f"has a {problem}",)
    assert plugins.find("teachers", "sharp")[0] == "a/sharp"
    with pytest.raises(PluginError, match=r"distillkit-a 1\.5\) has a"):
        plugins.find("students", "a/student")


def test_a_hook_may_be_named_by_specname(install: Install, load: Load) -> None:
    install(
        "a",
        TEACHERS,
        '@hookimpl(specname="distillkit_teachers")\ndef offered(): return [teacher("sharp")]',
    )
    plugins = load()
    assert [p.problems for p in plugins] == [()]
    assert list(plugins.specs("teachers")) == ["a/sharp"]


def test_an_observer_that_raises_is_warned_of_once_and_others_go_on(
    install: Install, load: Load
) -> None:
    install(
        "bad",
        "from distillkit import hookimpl\n@hookimpl\ndef distillkit_step(step): raise OSError('disk full')",
    )
    install(
        "good",
        "from distillkit import hookimpl\nseen = []\n@hookimpl\ndef distillkit_step(step): seen.append(step)",
    )
    plugins = load()
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(3):
            plugins.notify("distillkit_step", stage="stage1", step=step, terms={})
    assert [str(w.message) for w in caught] == [
        'plugin "bad" (distillkit-bad 1.5) failed in distillkit_step and is not called again: OSError: disk full'
    ]
    assert sys.modules["fake_distillkit_good"].seen == [0, 1, 2]


def test_an_unknown_observer_hook_is_the_callers_mistake(install: Install, load: Load) -> None:
    install("a", good("sharp"))
    with pytest.raises(AttributeError, match="distillkit_stepp"):
        load().notify("distillkit_stepp")


def test_an_entry_point_without_a_distribution_works() -> None:
    plugins = load_plugins([EntryPoint("gone", "no_such_module_here", "distillkit")])
    assert [p.distribution for p in plugins] == ["no_such_module_here"]


def test_installed_plugins_are_loaded_once() -> None:
    assert load_plugins() is load_plugins()
