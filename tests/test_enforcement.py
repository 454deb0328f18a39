"""A run checks once what the plugins built, and names plugin, recipe key and finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_plugin
from torch import Tensor

from distillkit import DistillkitError, load_recipe
from distillkit.recipe.load import ResolvedRecipe
from distillkit.training.models import build_models

CPU = torch.device("cpu")
FAITHFUL_SEED = 3
STUDENT_SEED = 2


@pytest.fixture
def resolved(recipe: Path) -> ResolvedRecipe:
    return load_recipe(recipe)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spoil the toy model of a seed: what the recipe builds as student or faithful teacher."""
    build = toy_plugin.model

    def spoil(change: Callable[[Any], None], seed: int = FAITHFUL_SEED) -> None:
        def spoiled(options: toy_plugin.Options) -> Any:
            model = build(options)
            if options.seed == seed:
                change(model)
            return model

        monkeypatch.setattr(toy_plugin, "model", spoiled)

    return spoil


def predict_velocity(model: Any) -> None:
    model.prediction_type = "velocity"


def scale_of_half(model: Any) -> None:
    model.scale = 1.5


def be_nan(model: Any) -> None:
    model.network.last.weight.data.fill_(float("nan"))


def change_shape(model: Any) -> None:
    model.forward = lambda z_t, t, condition: torch.cat([z_t, z_t])


def raise_error(model: Any) -> None:
    def forward(z_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        raise RuntimeError("no luck")

    model.forward = forward


def exit_program(model: Any) -> None:
    def forward(z_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        raise SystemExit(3)

    model.forward = forward


def cut_gradient(model: Any) -> None:
    model.forward = torch.no_grad()(model.forward)


def cut_generate(model: Any) -> None:
    model.generate = torch.no_grad()(model.generate)


def brighten(model: Any) -> None:
    restore = model.restore
    model.restore = lambda inputs, generator: restore(inputs, generator) + 3


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (predict_velocity, "prediction_type is 'velocity', expected one of"),
        (scale_of_half, "scale is 1.5, expected a positive integer"),
        (be_nan, "the network's output holds NaN or infinity"),
        (change_shape, "the network's output has shape (4, 3, "),
        (raise_error, "RuntimeError: no luck"),
        (exit_program, "SystemExit: 3"),
        (cut_gradient, "forward cuts the gradient"),
        (brighten, "expected [-1, 1]"),
    ],
)
def test_a_teacher_that_breaks_the_contract_is_refused(
    resolved: ResolvedRecipe,
    spoil: Callable[..., None],
    change: Callable[[Any], None],
    finding: str,
) -> None:
    spoil(change)
    with pytest.raises(DistillkitError) as caught:
        build_models(resolved, CPU)
    said = str(caught.value)
    assert said.startswith("teachers.fidelity - toy/faithful (toy_plugin) fails the check ")
    assert finding in said
    assert said.endswith("distillkit plugins check toy/faithful")


@pytest.mark.parametrize(
    ("change", "finding"),
    [(be_nan, "NaN"), (cut_generate, "generate cuts the gradient")],
)
def test_a_student_that_breaks_the_contract_is_refused(
    resolved: ResolvedRecipe,
    spoil: Callable[..., None],
    change: Callable[[Any], None],
    finding: str,
) -> None:
    spoil(change, STUDENT_SEED)
    with pytest.raises(DistillkitError) as caught:
        build_models(resolved, CPU)
    said = str(caught.value)
    assert said.startswith("student - toy/student (toy_plugin) fails the check ")
    assert finding in said


def test_an_output_teacher_that_restores_to_another_size_is_refused(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_plugin.Restorer, "restore", lambda self, inputs, generator: inputs.lq)
    resolved = load_recipe(
        recipe, ["teachers.fidelity.use='toy/restorer'", "stage1.teachers.fidelity.term='output'"]
    )
    with pytest.raises(DistillkitError, match=r"^teachers\.fidelity - toy/restorer .* has shape"):
        build_models(resolved, CPU)


def test_a_degradation_that_does_not_round_is_refused(
    resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve(self: Any, gt: Tensor, generator: torch.Generator) -> Tensor:
        return gt[:, :, ::2, ::2] / 3

    monkeypatch.setattr(toy_plugin.Halve, "__call__", halve)
    with pytest.raises(DistillkitError, match=r"^degradation - toy/halve .* not rounded to 8 bits"):
        build_models(resolved, CPU)


def test_an_exempt_check_is_left_out(
    resolved: ResolvedRecipe, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(brighten)
    reason = {"restore": "its images are brighter on purpose"}
    object.__setattr__(resolved.teachers["fidelity"].spec, "exempt", reason)
    assert build_models(resolved, CPU).student is not None


def test_the_checks_leave_the_global_random_draws_alone(resolved: ResolvedRecipe) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_models(resolved, CPU)
    assert torch.equal(torch.rand(3), expected)
