"""Plugins: found by entry point, loaded one by one, and what is said of those that do not work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest
from pydantic import ValidationError

from distillkit import Options
from distillkit.errors import PluginError
from distillkit.plugins import listing, manager
from distillkit.plugins.descriptors import DatasetSpec
from distillkit.plugins.hookspecs import API_VERSION
from distillkit.plugins.manager import Plugins, load_plugins
from distillkit.recipe.schema import SourceConfig
from distillkit.testing import doctor

PRELUDE = """\
from distillkit import StudentSpec, TeacherSpec, hookimpl

def teacher(name, **changes):
    fields = {
        "name": name,
        "summary": f"the {name} one",
        "build": "builtins:str",
        "capabilities": frozenset({"output"}),
    }
    return TeacherSpec(**fields | changes)

"""


def offering(expression: str, hook: str = "distillkit_teachers") -> str:
    """The source of a plugin whose hook returns an expression."""
    return f"{PRELUDE}@hookimpl\ndef {hook}():\n    return {expression}\n"


SHARP = offering("[teacher('sharp')]")
SOFT = offering("[teacher('soft')]")
SHARP_AND_SOFT = offering("[teacher('sharp'), teacher('soft')]")
MISSING_MODULE = "import no_such_module_here\n"

Install = Callable[..., None]
Load = Callable[[], Plugins]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a distribution ``distillkit-<name>``, one module of a source, on ``sys.path``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str, distribution: str | None = None) -> None:
        distribution = distribution or f"distillkit_{name}"
        module = f"fake_{distribution}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{distribution}-1.5.dist-info"
        folder.mkdir()
        project = distribution.replace("_", "-")
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.5\n"
        (folder / "METADATA").write_text(metadata)
        (folder / "entry_points.txt").write_text(f"[distillkit]\n{name} = {module}\n")

    return install


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load what is installed there."""

    def load() -> Plugins:
        points = []
        for distribution in distributions(path=[str(tmp_path)]):
            points += distribution.entry_points.select(group="distillkit")
        return load_plugins(points)

    return load


def test_offers_are_found_by_full_and_by_short_name(install: Install, load: Load) -> None:
    install("a", SHARP_AND_SOFT)
    install("b", SHARP)
    plugins = load()
    assert [spec.full_name for spec in plugins.specs("teachers")] == [
        "a/sharp",
        "a/soft",
        "b/sharp",
    ]
    assert plugins.find("teachers", "soft").full_name == "a/soft"
    assert plugins.find("teachers", "b/sharp").full_name == "b/sharp"
    assert [p.distribution for p in plugins] == ["distillkit-a 1.5", "distillkit-b 1.5"]


def test_an_ambiguous_short_name_lists_the_full_names(install: Install, load: Load) -> None:
    install("a", SHARP)
    install("b", SHARP)
    with pytest.raises(PluginError) as caught:
        load().find("teachers", "sharp")
    assert str(caught.value) == (
        '"sharp" is offered by several plugins; say which: "a/sharp", "b/sharp"'
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("sharpp", 'no plugin offers "sharpp" among its teachers; did you mean "sharp"?'),
        ("a/shrp", 'no plugin offers "a/shrp" among its teachers; did you mean "a/sharp"?'),
        ("zzz", 'no plugin offers "zzz" among its teachers; known: "a/sharp"'),
        (
            "remote/sharp",
            '"remote/sharp": no plugin "remote" is installed; installed: "a"; '
            "who wrote the recipe knows which package brings it",
        ),
        (
            "aa/sharp",
            '"aa/sharp": no plugin "aa" is installed; did you mean "a"?; '
            "who wrote the recipe knows which package brings it",
        ),
    ],
)
def test_an_unknown_name_says_what_there_is(
    install: Install, load: Load, use: str, message: str
) -> None:
    install("a", SHARP)
    with pytest.raises(PluginError) as caught:
        load().find("teachers", use)
    assert str(caught.value) == message


def test_an_unknown_name_of_a_kind_that_nobody_offers(install: Install, load: Load) -> None:
    install("a", SHARP)
    with pytest.raises(PluginError, match=r"its datasets; no installed plugin offers datasets$"):
        load().find("datasets", "zzz")


def test_a_name_of_another_kind_says_so(install: Install, load: Load) -> None:
    install("a", SHARP)
    with pytest.raises(PluginError, match=r'^"sharp" is among the teachers, not the students$'):
        load().find("students", "sharp")


BROKEN = {
    "raises at import": (
        MISSING_MODULE,
        "ModuleNotFoundError: No module named 'no_such_module_here'",
    ),
    "exits at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "a syntax error": ("def f(:", "SyntaxError: invalid syntax (fake_distillkit_bad.py, line 1)"),
    "raises in a hook": (
        offering("1 / 0"),
        "ZeroDivisionError: division by zero",
    ),
    "a hook of another signature": (
        f"{PRELUDE}@hookimpl\ndef distillkit_teachers(config):\n    return []\n",
        "PluginValidationError: Plugin 'bad' for hook 'distillkit_teachers'",
    ),
    "a hook that forgets to return": (
        offering("None"),
        "distillkit_teachers returned a NoneType, not a list or tuple",
    ),
    "a generator": (
        offering("(teacher(name) for name in 'x')"),
        "distillkit_teachers returned a generator, not a list or tuple",
    ),
    "no descriptor": (
        offering("[7]"),
        "distillkit_teachers returned 7, which is no TeacherSpec",
    ),
    "a descriptor of another kind": (
        offering("[teacher('x')]", hook="distillkit_students"),
        "which is no StudentSpec",
    ),
    "a name with a slash": (
        offering("[teacher('a/b')]"),
        "teacher \"a/b\": its name is 'a/b', not letters, digits, '.', '_' and '-'",
    ),
    "a summary that is no text": (
        offering("[teacher('x', summary=None)]"),
        'teacher "x": its summary is None, not a line of text',
    ),
    "options that are a class": (
        offering("[teacher('x', options=dict)]"),
        'teacher "x": its options is <class \'dict\'>, not "module:Class"',
    ),
    "a build that is a function": (
        offering("[teacher('x', build=print)]"),
        'teacher "x": its build is <built-in function print>, not "module:function"',
    ),
    "a build without a function": (
        offering("[teacher('x', build='torch')]"),
        'teacher "x": its build is \'torch\', not "module:function"',
    ),
    "an unknown capability": (
        offering("[teacher('x', capabilities=['scores'])]"),
        'teacher "x": its capabilities are [\'scores\'], not "score", "output" or both',
    ),
    "no capability": (
        offering("[teacher('x', capabilities=[])]"),
        'teacher "x": its capabilities are [], not "score", "output" or both',
    ),
    "one name twice": (
        offering("[teacher('x'), teacher('x', summary='again')]"),
        'distillkit_teachers offers the name "x" twice: "the x one" and "again"',
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_and_takes_nothing_down(
    install: Install, load: Load, case: str
) -> None:
    source, reason = BROKEN[case]
    install("bad", source)
    install("good", SHARP)
    plugins = load()
    assert plugins.find("teachers", "sharp").full_name == "good/sharp"
    (broken,) = plugins.broken
    assert broken.name == "bad"
    assert broken.distribution == "distillkit-bad 1.5"
    assert broken.error is not None
    assert reason in broken.error
    assert "\n" not in broken.error
    assert broken.traceback is not None
    assert "Traceback" in broken.traceback
    with pytest.raises(PluginError) as caught:
        plugins.find("teachers", "bad/anything")
    assert str(caught.value) == f'plugin "bad" (distillkit-bad 1.5) is broken: {broken.error}'


def test_an_unknown_short_name_mentions_the_broken_plugins(install: Install, load: Load) -> None:
    install("bad", MISSING_MODULE)
    with pytest.raises(PluginError) as caught:
        load().find("teachers", "sharp")
    said = str(caught.value)
    assert said.startswith('no plugin offers "sharp"')
    assert 'plugin "bad" (distillkit-bad 1.5) is broken: ModuleNotFoundError' in said


def test_two_plugins_with_one_name_are_refused_naming_both(install: Install, load: Load) -> None:
    install("twin", SHARP, distribution="first")
    install("twin", SOFT, distribution="second")
    install("good", offering("[teacher('other')]"))
    plugins = load()
    assert plugins.find("teachers", "other").full_name == "good/other"
    with pytest.raises(PluginError) as caught:
        plugins.find("teachers", "twin/sharp")
    said = str(caught.value)
    assert '2 plugins are called "twin" (' in said
    assert "first 1.5" in said
    assert "second 1.5" in said
    assert said.endswith("uninstall or rename all but one")


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
    install("a", offering(f"[teacher('x', build='{build}')]"))
    spec = load().find("teachers", "x")
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
    install("a", offering(f"[teacher('x', options='{options}')]"))
    spec = load().find("teachers", "x")
    with pytest.raises(PluginError) as caught:
        _ = spec.config
    assert str(caught.value) == f'teacher "a/x": its options = "{options}" {reason}'


MISSPELLED = {
    "@hookimpl\ndef distillkit_teacher(): return []": (
        'hook distillkit_teacher, which does not exist; did you mean "distillkit_teachers"?'
    ),
    "def distillkit_metric(): return []": (
        'hook distillkit_metric, which does not exist; did you mean "distillkit_metrics"?'
    ),
    "@hookimpl\ndef step(): pass": (
        'hook step, which does not exist; did you mean "distillkit_step"?'
    ),
    "def distillkit_students(): return []": (
        "function distillkit_students without @hookimpl, so it is never called"
    ),
}


@pytest.mark.parametrize("hook", MISSPELLED)
def test_a_misspelled_hook_is_reported(install: Install, load: Load, hook: str) -> None:
    install("a", SHARP + hook)
    plugins = load()
    (plugin,) = plugins
    assert plugin.problems == [f"has a {MISSPELLED[hook]}"]
    assert plugins.find("teachers", "sharp").full_name == "a/sharp"
    with pytest.raises(PluginError, match=r"distillkit-a 1\.5\) has a"):
        plugins.find("students", "a/student")


def test_a_hook_may_be_named_by_specname(install: Install, load: Load) -> None:
    hook = "@hookimpl(specname='distillkit_teachers')\ndef offered(): return [teacher('sharp')]"
    install("a", PRELUDE + hook)
    plugins = load()
    (plugin,) = plugins
    assert plugin.problems == []
    assert [spec.full_name for spec in plugins.specs("teachers")] == ["a/sharp"]


def observing(statement: str) -> str:
    """The source of a plugin that does something at each step that is logged."""
    imported = "from distillkit import hookimpl\nseen = []\n"
    return f"{imported}@hookimpl\ndef distillkit_step(step):\n    {statement}\n"


def test_an_observer_that_raises_is_warned_of_once_and_others_continue(
    install: Install, load: Load
) -> None:
    install("bad", observing("raise OSError('disk full')"))
    install("good", observing("seen.append(step)"))
    plugins = load()
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(3):
            plugins.notify("distillkit_step", stage="stage1", step=step, terms={})
    (warning,) = caught
    plugin = 'plugin "bad" (distillkit-bad 1.5)'
    reason = "failed in distillkit_step and is not called again: OSError: disk full"
    assert str(warning.message) == f"{plugin} {reason}"
    assert sys.modules["fake_distillkit_good"].seen == [0, 1, 2]


def test_an_unknown_observer_hook_is_the_callers_mistake(install: Install, load: Load) -> None:
    install("a", SHARP)
    with pytest.raises(AttributeError, match="distillkit_stepp"):
        load().notify("distillkit_stepp")


def test_an_entry_point_without_a_distribution_works() -> None:
    plugins = load_plugins([EntryPoint("gone", "no_such_module_here", "distillkit")])
    assert [p.distribution for p in plugins] == ["no_such_module_here"]


def test_installed_plugins_are_loaded_once() -> None:
    assert load_plugins() is load_plugins()


def test_an_optional_hook_is_no_misspelling(install: Install, load: Load) -> None:
    hook = "@hookimpl(optionalhook=True)\ndef distillkit_of_another_version(): pass"
    install("a", SHARP + hook)
    (plugin,) = load()
    assert plugin.problems == []


def test_an_observer_that_exits_is_contained(install: Install, load: Load) -> None:
    install("bad", observing("raise SystemExit(3)"))
    plugins = load()
    with pytest.warns(RuntimeWarning, match=r"is not called again: SystemExit: 3$"):
        plugins.notify("distillkit_step", stage="stage1", step=1, terms={})


METRIC = """\
from distillkit import MetricSpec, hookimpl

@hookimpl
def distillkit_metrics():
    return [MetricSpec(name="{}", summary="", build="builtins:str")]
"""


def with_engine(plugins: Plugins) -> list[EntryPoint]:
    """The entry points of the engine and of plugins that were laid on ``sys.path``."""
    points = [EntryPoint(p.name, f"fake_distillkit_{p.name}", "distillkit") for p in plugins]
    return [*points, manager.ENGINE]


def test_a_metric_of_the_engines_name_is_refused_and_the_engines_own_stays(
    install: Install, load: Load
) -> None:
    install("mine", METRIC.format("psnr"))
    install("other", METRIC.format("psnr-of-mine"))
    plugins = load_plugins(with_engine(load()))
    assert plugins.find("metrics", "psnr").full_name == "distillkit/psnr"
    assert plugins.find("metrics", "psnr-of-mine").full_name == "other/psnr-of-mine"
    (refused,) = plugins.broken
    assert refused.error == 'offers a metric "psnr", a name of the engine\'s own; rename it'


def test_a_plugin_of_the_engines_name_is_refused_and_the_engines_own_stays() -> None:
    newcomer = EntryPoint("distillkit", "no_such_module_here", "distillkit")
    plugins = load_plugins([newcomer, manager.ENGINE])
    assert plugins.find("metrics", "distillkit/psnr").full_name == "distillkit/psnr"
    (refused,) = plugins.broken
    assert refused.error == 'the name "distillkit" is reserved for the engine; rename the plugin'
    assert refused.distribution == "no_such_module_here"


def test_a_requirement_that_is_not_met_is_said(
    install: Install, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("a", SHARP)
    metadata = tmp_path / "distillkit_a-1.5.dist-info/METADATA"
    requires = 'Requires-Dist: no-such-package>=2\nRequires-Dist: other; extra == "more"\n'
    metadata.write_text(metadata.read_text() + requires)
    plugins = load()
    need = (
        "needs no-such-package>=2, and no-such-package is absent; pip install 'no-such-package>=2'"
    )
    (plugin,) = plugins
    assert plugin.unmet_requirements() == [need]
    monkeypatch.setattr(listing, "load_plugins", lambda: plugins)
    assert f"  warning: {need}\n" in listing.plugin_table()
    monkeypatch.setattr(doctor, "load_plugins", lambda: plugins)
    problems = [str(finding) for finding in doctor.diagnose() if finding.is_problem]
    assert f'PROBLEM      plugin "a" (distillkit-a 1.5) {need}' in problems


def test_a_slow_import_is_named_with_what_it_imports(
    install: Install, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("a", f"import this\n{SHARP}")
    monkeypatch.delitem(sys.modules, "this", raising=False)
    (quick,) = load()
    assert quick.slow == ""
    monkeypatch.setattr(manager, "SLOW_IMPORT", 0.0)
    monkeypatch.delitem(sys.modules, "this")
    monkeypatch.delitem(sys.modules, "fake_distillkit_a")
    (slow,) = load()
    assert slow.slow.startswith("takes 0.")
    assert "this" in slow.slow
    assert slow.slow.endswith("import such packages inside its functions")


def test_what_a_plugin_prints_goes_to_stderr(
    install: Install, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    install("a", "print('at import')\n" + SHARP + observing("print('at a step')"))
    plugins = load()
    plugins.notify("distillkit_step", stage="stage1", step=1, terms={})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "at import" in printed.err
    assert "at a step" in printed.err


@pytest.mark.parametrize("variable", ["DISTILLKIT_PLUGINS", "DISTILLKIT_WITHOUT_PLUGINS"])
def test_a_name_in_a_variable_that_no_plugin_has_is_warned_of(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    install("nearby", SHARP)
    monkeypatch.setenv(variable, "nearby, nearly")
    manager._installed.cache_clear()
    load_plugins()
    manager._installed.cache_clear()
    assert caplog.messages == [
        f'{variable}: no plugin "nearly" is installed; did you mean "nearby"?'
    ]


@pytest.mark.parametrize(
    ("variable", "value", "loaded"),
    [
        ("DISTILLKIT_PLUGINS", "", ["distillkit"]),
        ("DISTILLKIT_PLUGINS", "b", ["b", "distillkit"]),
        ("DISTILLKIT_WITHOUT_PLUGINS", "b, distillkit", ["a", "distillkit"]),
    ],
)
def test_plugins_can_be_switched_off(
    install: Install,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    loaded: list[str],
) -> None:
    install("a", SHARP)
    install("b", SOFT)
    points = with_engine(load())
    monkeypatch.setenv(variable, value)
    plugins = load_plugins(points)
    assert [plugin.name for plugin in plugins] == loaded
    off = "a" if "a" not in loaded else "b"
    with pytest.raises(PluginError, match=f'plugin "{off}" is switched off'):
        plugins.find("teachers", f"{off}/sharp")


OPTIONS = """
from distillkit import DatasetSpec, Options

class Mine(Options{}):
    {}

@hookimpl
def distillkit_datasets():
    return [DatasetSpec(
        name="d", summary="", build="builtins:str", options="fake_distillkit_a:Mine"
    )]
"""


@pytest.mark.parametrize(
    ("settings", "field", "problem"),
    [
        ("", "use: str = ''", 'has an option "use", and that name is reserved'),
        ("", "weight: float = 1.0", 'has an option "weight", and that name is reserved'),
        (", extra='allow'", "pass", "sets extra = 'allow', and the engine has 'forbid'"),
        (", validate_default=False", "pass", "sets validate_default = False"),
    ],
)
def test_options_leave_the_engine_what_is_its_own(
    install: Install, load: Load, settings: str, field: str, problem: str
) -> None:
    install("a", PRELUDE + OPTIONS.format(settings, field))
    spec = load().find("datasets", "d")
    with pytest.raises(PluginError) as caught:
        _ = spec.config
    said = str(caught.value)
    assert said.startswith(f'dataset "a/d": its options = "fake_distillkit_a:Mine" {problem}')


def test_the_keys_of_a_source_are_reserved_but_for_those_of_the_hub() -> None:
    keys = set(SourceConfig.model_fields) | {"weight_files"}
    of_hub = {"revision", "split", "config", "streaming", "shuffle_buffer"}
    assert keys - DatasetSpec.reserved_options == of_hub


def test_a_default_is_validated(install: Install, load: Load) -> None:
    install("a", PRELUDE + OPTIONS.format("", "size: int = 'large'"))
    with pytest.raises(ValidationError, match="size"):
        load().find("datasets", "d").config()


def test_a_check_that_does_not_apply_has_a_reason(install: Install, load: Load) -> None:
    install("a", offering("[teacher('x', exempt={'restore': ''})]"))
    (broken,) = load().broken
    assert broken.error == (
        "teacher \"x\": its exempt is {'restore': ''}, not a reason for each check"
    )


API_VERSIONS = {
    "DISTILLKIT_API = 1\n": None,
    "DISTILLKIT_API = 2\n": (
        "it is made for version 2 of the plugin API, distillkit has 1; install a newer distillkit: "
        "pip install -U distillkit"
    ),
    "DISTILLKIT_API = 0\n": (
        "it is made for version 0 of the plugin API, distillkit has 1; install a newer old "
        "(distillkit-old)"
    ),
    "DISTILLKIT_API = '1'\n": "its DISTILLKIT_API is '1', not an integer",
}


@pytest.mark.parametrize(("line", "error"), API_VERSIONS.items(), ids=API_VERSIONS)
def test_a_plugin_of_another_api_says_what_to_install(
    install: Install, load: Load, line: str, error: str | None
) -> None:
    assert API_VERSION == 1
    install("old", line + SHARP)
    (plugin,) = load()
    assert plugin.error == error
    assert bool(plugin.specs) == (error is None)
