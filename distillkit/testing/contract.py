"""Build everything that a plugin offers, and check what the engine relies on.

Torch is imported when a check runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from distillkit.console import progress_bar
from distillkit.contract.results import Check, CheckResult, DoesNotApply, name_of, statement_of
from distillkit.errors import DistillkitError, PluginError, did_you_mean
from distillkit.plugins.descriptors import Spec, StudentSpec, TeacherSpec
from distillkit.plugins.manager import Plugin, Plugins, load_plugins, say_not_installed
from distillkit.recipe.errors import explain

OptionsByName = Mapping[str, Mapping[str, Any]]
"""Options to build with instead of the defaults, by full name."""


def check_plugin(
    name: str,
    options: OptionsByName | None = None,
    plugins: Plugins | None = None,
) -> list[CheckResult]:
    """Check what a plugin offers.

    Args:
        name: A plugin (``"example"``), or a full name (``"example/sharpen"``).
        options: Recipe options to build with, by full name, where the defaults are too large or
            need weights.
        plugins: Where to find it; default: the installed plugins.

    Raises:
        PluginError: No such plugin, a broken one, or no such name in it.
    """
    results: list[CheckResult] = []
    specs = _find_specs(name, plugins or load_plugins())
    for spec in progress_bar(specs, unit="component", desc="checking"):
        results += check_spec(spec, _options_of(spec, options))
    return results


def check_spec(spec: Spec, options: Mapping[str, Any]) -> list[CheckResult]:
    """Build one thing and check it; return one skipped result where it cannot be built here."""
    statement = "Build"
    try:
        built = _build(spec, options)
    except (Exception, SystemExit) as e:  # whatever the plugin's code raises is the finding
        return [_result_of_error(spec, statement, e)]
    results = [CheckResult(spec.kind, spec.full_name, statement, "passed")]
    first, *others = _checks_of(spec)
    results += _unknown_exemptions(spec, others)
    results.append(_run_check(first, built, spec))
    # The others rely on the interface that the first one checks.
    if results[-1].outcome != "failed":
        results += [_check_unless_exempt(check, built, spec) for check in others]
    return results


def _unknown_exemptions(spec: Spec, checks: Iterable[Check]) -> Iterator[CheckResult]:
    known = [name_of(check) for check in checks]
    statement = "Be exempt from checks that exist"
    for name in spec.exempt:
        if name not in known:
            detail = f'there is no check "{name}"{did_you_mean(name, known)}; {", ".join(known)}'
            yield CheckResult(spec.kind, spec.full_name, statement, "failed", detail)


def _check_unless_exempt(check: Check, built: Any, spec: Spec) -> CheckResult:
    reason = spec.exempt.get(name_of(check))
    if reason is None:
        return _run_check(check, built, spec)
    return CheckResult(spec.kind, spec.full_name, statement_of(check), "skipped", reason)


def _build(spec: Spec, options: Mapping[str, Any]) -> Any:
    try:
        config = spec.config(**options)
    except ValidationError as e:
        problems = []
        for error in e.errors():
            key = ": ".join(map(str, error["loc"]))
            problems.append(f"{key}: {explain(error)}")
        needed = "; ".join(problems)
        raise DoesNotApply(f"its options have no usable defaults: {needed}") from e
    missing = [file.name for file in config.weight_files() if file.find() is None]
    if missing:
        raise DoesNotApply(f"needs weights that are not here: {', '.join(missing)}")
    return spec.create(config)


def _checks_of(spec: Spec) -> list[Check]:
    """List what is checked of a kind of thing; the first check is of its interface."""
    # imported here because both import torch
    from distillkit.contract import image_checks, model_checks

    if isinstance(spec, StudentSpec):
        return model_checks.student_checks(spec.capabilities)
    if isinstance(spec, TeacherSpec):
        return model_checks.teacher_checks(spec.capabilities)
    return image_checks.CHECKS[spec.kind]


def _run_check(check: Check, built: Any, spec: Spec) -> CheckResult:
    statement = statement_of(check)
    try:
        check(built)
    except (Exception, SystemExit) as e:  # whatever the plugin's code raises is the finding
        return _result_of_error(spec, statement, e)
    return CheckResult(spec.kind, spec.full_name, statement, "passed")


def _result_of_error(spec: Spec, statement: str, error: BaseException) -> CheckResult:
    detail = " ".join(str(error).split())
    if isinstance(error, DoesNotApply):
        return CheckResult(spec.kind, spec.full_name, statement, "skipped", detail)
    if not isinstance(error, DistillkitError):
        detail = f"{type(error).__name__}: {detail}"
    return CheckResult(spec.kind, spec.full_name, statement, "failed", detail)


@dataclass(frozen=True)
class ExaminedPlugin:
    """What ``distillkit plugins check`` found."""

    plugin: Plugin
    results: list[CheckResult]
    """Empty where the plugin does not load."""

    def count_failed(self) -> int:
        """Count failed checks, hooks that are misspelled, and an error of loading."""
        failed = self._count("failed") + len(self.plugin.problems)
        if self.plugin.error:
            failed += 1
        return failed

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "name": self.plugin.name,
            "distribution": self.plugin.distribution,
            "error": self.plugin.error,
            "problems": list(self.plugin.problems),
            "failed": self.count_failed(),
            "results": [asdict(result) for result in self.results],
        }

    def __str__(self) -> str:
        plugin = self.plugin
        lines = [f"{plugin.name} ({plugin.distribution})"]
        for problem in plugin.problems:
            lines.append(f"  FAILED   {problem}")
        if plugin.error:
            lines.append(f"  FAILED   loads: {plugin.error}")
            if plugin.traceback:
                lines += ["", plugin.traceback.rstrip()]
            return "\n".join(lines)
        heading = ""
        for result in self.results:
            if heading != f"  {result.kind} {result.full_name}":
                heading = f"  {result.kind} {result.full_name}"
                lines.append(heading)
            lines.append(f"    {result}")
        passed, skipped = self._count("passed"), self._count("skipped")
        lines.append(f"{passed} passed, {self.count_failed()} failed, {skipped} skipped")
        return "\n".join(lines)

    def _count(self, outcome: str) -> int:
        return sum(result.outcome == outcome for result in self.results)


def examine_plugin(name: str) -> ExaminedPlugin:
    """Check a plugin for ``distillkit plugins check``, also one that does not load.

    Args:
        name: A plugin, or a full name.

    Raises:
        PluginError: No such plugin, or no such name in it.
    """
    plugin = _find_plugin(name, load_plugins())
    if plugin.error:
        return ExaminedPlugin(plugin, [])
    return ExaminedPlugin(plugin, check_plugin(name))


def contract_tests(name: str, options: OptionsByName | None = None) -> Callable[..., None]:
    """Create a pytest function with one case for each thing that a plugin offers.

    Assign it to a name that begins with ``test``.

    Args:
        name: A plugin, or a full name.
        options: Recipe options to build with, by full name.
    """
    import pytest

    specs = _find_specs(name, load_plugins())
    cases = [pytest.param(spec, id=f"{spec.kind}-{spec.full_name}") for spec in specs]

    @pytest.mark.parametrize("spec", cases)
    def test_contract(spec: Spec) -> None:
        results = check_spec(spec, _options_of(spec, options))
        failed = [str(result) for result in results if result.outcome == "failed"]
        if failed:
            pytest.fail("\n".join(failed), pytrace=False)
        if results[0].outcome == "skipped":
            pytest.skip(results[0].detail)

    return test_contract


def _options_of(spec: Spec, options: OptionsByName | None) -> Mapping[str, Any]:
    return (options or {}).get(spec.full_name, {})


def _find_plugin(name: str, plugins: Plugins) -> Plugin:
    owner = name.partition("/")[0]
    for plugin in plugins:
        if plugin.name == owner:
            return plugin
    raise PluginError(say_not_installed(owner, [plugin.name for plugin in plugins]))


def _find_specs(name: str, plugins: Plugins) -> list[Spec]:
    """Find what a plugin offers, or the one thing of a full name."""
    plugin = _find_plugin(name, plugins)
    if plugin.error:
        raise PluginError(plugin.complaint)
    if "/" not in name:
        return list(plugin.specs)
    named = [spec for spec in plugin.specs if spec.full_name == name]
    if not named:
        suggestion = did_you_mean(name, [spec.full_name for spec in plugin.specs])
        raise PluginError(f'{plugin} offers no "{name}"{suggestion}')
    return named
