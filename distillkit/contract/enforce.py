"""The checks that a run makes, once, of the models it has just built.

They find what would otherwise end a run with a traceback, or show as a bad result only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distillkit.contract import image_checks, model_checks
from distillkit.contract.results import Check, DoesNotApply, name_of, statement_of
from distillkit.diffusion.model import ModelInput
from distillkit.errors import DistillkitError, PluginError
from distillkit.plugins.descriptors import StudentSpec, TeacherSpec
from distillkit.recipe.build import build_distance
from distillkit.recipe.key_paths import dotted
from distillkit.recipe.load import Component, ResolvedRecipe

DEGRADATION_CHECKS: Sequence[Check] = (image_checks.check_degraded_images,)
METRIC_CHECKS: Sequence[Check] = (
    image_checks.check_metric_values,
    image_checks.check_metric_gradient,
)


def enforce_contract(
    resolved: ResolvedRecipe, models: Mapping[str, Any], degradation: Any, device: torch.device
) -> None:
    """Check what the plugins of a recipe built, and the metrics that it trains against.

    Args:
        resolved: The recipe.
        models: Its student and teachers, by the recipe's names.
        degradation: Its degradation, None where it has none.
        device: The device of the run.

    Raises:
        PluginError: Something breaks the contract. It names recipe key, plugin and finding.
    """
    # Random draws of the checks must not change those of the run.
    with torch.random.fork_rng():
        for component in (resolved.student, *resolved.teachers.values()):
            _require_model(component, models[str(component.key[-1])], device)
        if resolved.degradation is not None:
            _require(resolved.degradation, _OnDevice(degradation, device), DEGRADATION_CHECKS)
        for component in resolved.training_metrics:
            metric = build_distance(resolved, component, device)
            _require(component, _OnDevice(metric, device), METRIC_CHECKS)


def _require_model(component: Component, model: Any, device: torch.device) -> None:
    spec = component.spec
    if isinstance(spec, StudentSpec):
        _require(component, model, model_checks.student_checks_of_run(spec.capabilities))
        return
    assert isinstance(spec, TeacherSpec)
    checks = model_checks.teacher_checks_of_run(spec.capabilities)
    if "score" not in spec.capabilities:
        # It need not be a module, so it may not say where its weights are.
        model = _OnDevice(model, device)
    _require(component, model, checks)


def _require(component: Component, built: Any, checks: Sequence[Check]) -> None:
    """Raise PluginError where something that was built fails a check."""
    for check in checks:
        if name_of(check) in component.spec.exempt:
            continue
        try:
            check(built)
        except DoesNotApply:
            continue
        except (Exception, SystemExit) as e:  # whatever the plugin's code raises is the finding
            finding = " ".join(str(e).split())
            if not isinstance(e, DistillkitError):
                finding = f"{type(e).__name__}: {finding}"
            name = component.full_name
            raise PluginError(
                f"{dotted(component.key)} - {name} ({component.spec.distribution}) fails the "
                f'check "{statement_of(check)}": {finding}; all of its checks: '
                f"distillkit plugins check {name}"
            ) from e


class _OnDevice:
    """A component that is called with tensors of a device, so that its checks stay on the CPU."""

    def __init__(self, built: Any, device: torch.device) -> None:
        self._built = built
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._built, name)

    def __call__(self, images: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor):
            other = other.to(self._device)
        return _on_cpu(self._built(images.to(self._device), other))

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Any:
        moved = replace(inputs, lq=inputs.lq.to(self._device))
        return _on_cpu(self._built.restore(moved, generator))


def _on_cpu(result: Any) -> Any:
    """Move a tensor to the CPU; leave to the checks what is none."""
    return result.cpu() if isinstance(result, Tensor) else result
