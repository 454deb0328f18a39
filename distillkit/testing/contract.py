"""Builds everything a plugin offers and checks that it keeps what the engine relies on. Torch is imported when a check runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from distillkit.errors import DistillkitError, PluginError, did_you_mean
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import Kind, Plugin, Plugins, load_plugins
from distillkit.recipe.errors import explain

Options = Mapping[str, Mapping[str, Any]]
"""Options to build with instead of the defaults, by full name."""


class DoesNotApply(Exception):
    """Raised by a check of a promise that this thing does not make."""


@dataclass(frozen=True)
class CheckResult:
    """One promise of one thing that a plugin offers, tested."""

    kind: Kind
    full_name: str
    promise: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""
    """Why it failed or was skipped."""

    def __str__(self) -> str:
        mark = self.outcome if self.outcome == "passed" else self.outcome.upper()
        return f"{mark:<8} {self.promise}" + (f": {self.detail}" if self.detail else "")


def check_plugin(
    name: str, options: Options | None = None, plugins: Plugins | None = None
) -> list[CheckResult]:
    """Check what a plugin offers.

    Args:
        name: a plugin (``"example"``), or one thing of it by full name (``"example/sharpen"``).
        options: recipe options to build with, by full name, where the defaults are too large or need weights.
        plugins: where to find it; default: the installed plugins.

    Raises:
        PluginError: no such plugin, a broken one, or no such name in it.
    """
    return [
        r
        for kind, full, spec in _offers(name, plugins)
        for r in check_spec(kind, full, spec, (options or {}).get(full, {}))
    ]


def check_spec(
    kind: Kind, full_name: str, spec: Spec, options: Mapping[str, Any]
) -> Iterator[CheckResult]:
    """Build one thing and check it; a single skipped result where it cannot be built here."""
    try:
        config = spec.config(**options)
    except ValidationError as e:
        needed = "; ".join(
            ": ".join([*map(str, error["loc"]), explain(error)]) for error in e.errors()
        )
        yield CheckResult(
            kind, full_name, "builds", "skipped", f"its options have no usable defaults: {needed}"
        )
        return
    try:
        missing = [file.name for file in config.weight_files() if file.find() is None]
        if missing:
            yield CheckResult(
                kind,
                full_name,
                "builds",
                "skipped",
                f"needs weights that are not here: {', '.join(missing)}",
            )
            return
        thing = spec.create(config)
    except Exception as e:
        yield CheckResult(kind, full_name, "builds", "failed", _in_one_line(e))
        return
    yield CheckResult(kind, full_name, "builds", "passed")
    for number, promise in enumerate(_promises(kind, spec)):
        result = _keep(promise, thing, kind, full_name)
        yield result
        if number == 0 and result.outcome == "failed":  # the others build on it
            return


def report(name: str) -> tuple[str, bool]:
    """What ``distillkit plugins check`` prints, and whether nothing failed.

    Raises:
        PluginError: no such plugin, or no such name in it.
    """
    plugin = _plugin(name, load_plugins())
    lines = [
        f"{plugin.name} ({plugin.distribution})",
        *(f"  FAILED   {problem}" for problem in plugin.problems),
    ]
    if plugin.error:
        return "\n".join(
            [*lines, f"  FAILED   loads: {plugin.error}", "", plugin.traceback or ""]
        ).rstrip(), False
    results = check_plugin(name)
    for heading in dict.fromkeys((r.kind, r.full_name) for r in results):
        lines.append(f"  {heading[0][:-1]} {heading[1]}")
        lines += [f"    {r}" for r in results if (r.kind, r.full_name) == heading]
    counts = {
        outcome: sum(r.outcome == outcome for r in results)
        for outcome in ("passed", "failed", "skipped")
    }
    counts["failed"] += len(plugin.problems)
    lines.append(", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    return "\n".join(lines), counts["failed"] == 0


def contract_tests(name: str, options: Options | None = None) -> Callable[..., None]:
    """A pytest function with one case for each thing that the plugin offers; assign it to a name that begins with ``test``."""
    import pytest

    cases = [
        pytest.param(kind, full, spec, id=f"{kind[:-1]}-{full}")
        for kind, full, spec in _offers(name, None)
    ]

    @pytest.mark.parametrize(("kind", "full_name", "spec"), cases)
    def test_contract(kind: Kind, full_name: str, spec: Spec) -> None:
        results = list(check_spec(kind, full_name, spec, (options or {}).get(full_name, {})))
        failed = [str(r) for r in results if r.outcome == "failed"]
        if failed:
            pytest.fail("\n".join(failed), pytrace=False)
        if results[0].outcome == "skipped":
            pytest.skip(results[0].detail)

    return test_contract


def _plugin(name: str, plugins: Plugins) -> Plugin:
    owner = name.partition("/")[0]
    for plugin in plugins:
        if plugin.name == owner:
            return plugin
    raise PluginError(
        f'no plugin is called "{owner}"{did_you_mean(owner, [p.name for p in plugins])}'
    )


def _offers(name: str, plugins: Plugins | None) -> list[tuple[Kind, str, Spec]]:
    plugin = _plugin(name, plugins or load_plugins())
    if plugin.error:
        raise PluginError(f"{plugin} is broken: {plugin.error}")
    offers = [
        (kind, f"{plugin.name}/{short}", spec)
        for kind, specs in plugin.specs.items()
        for short, spec in specs.items()
    ]
    chosen = [offer for offer in offers if name in (plugin.name, offer[1])]
    if not chosen and "/" in name:
        raise PluginError(
            f'{plugin} offers no "{name}"{did_you_mean(name, [full for _, full, _ in offers])}'
        )
    return chosen


def _promises(kind: Kind, spec: Spec) -> list[Callable[[Any], None]]:
    if kind in ("teachers", "students"):
        from distillkit.testing import model_checks

        return model_checks.promises(spec)
    from distillkit.testing import image_checks

    return image_checks.PROMISES[kind]


def _keep(promise: Callable[[Any], None], thing: Any, kind: Kind, full_name: str) -> CheckResult:
    words = (promise.__doc__ or promise.__name__).strip().rstrip(".")
    try:
        promise(thing)
    except DoesNotApply as e:
        return CheckResult(kind, full_name, words, "skipped", str(e))
    except Exception as e:  # whatever goes wrong in the plugin's code is the finding
        return CheckResult(kind, full_name, words, "failed", _in_one_line(e))
    return CheckResult(kind, full_name, words, "passed")


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, DistillkitError) else f"{type(error).__name__}: {text}"
