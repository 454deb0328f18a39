"""Student and realness teacher are made of the same files: one base in memory, the gradient unharmed."""

from pathlib import Path

import pytest
import torch

from distillkit.data.pairs import Batch
from distillkit.inference.student import stage1_adapter
from distillkit.recipe.load import load_recipe
from distillkit.training.blocks import recomputed
from distillkit.training.cast import build_cast
from distillkit.training.step import Stage1Step

RECIPE = Path(__file__).parents[3] / "recipes" / "tiny" / "ctsr_sr4x.toml"
CPU = torch.device("cpu")


def storages(module):
    return {p.untyped_storage().data_ptr() for p in module.parameters()}


def test_every_weight_of_the_realness_teacher_is_the_students():
    cast = build_cast(load_recipe(RECIPE), CPU)
    assert storages(cast.teachers["realness"]) <= storages(cast.student)
    shared = storages(cast.teachers["fidelity"]) & storages(cast.student)
    weights = list(cast.teachers["fidelity"].parameters())
    both = sum(p.nbytes for p in weights if p.untyped_storage().data_ptr() in shared)
    assert both < 0.02 * sum(p.nbytes for p in weights), "no more than the zeros and ones of biases and norms"


def test_teacher_of_another_unet_still_shares_the_autoencoder():
    cast = build_cast(load_recipe(RECIPE, ['teachers.realness.use="superres/sd21-base"']), CPU)
    teacher = cast.teachers["realness"]
    assert storages(teacher.codec) <= storages(cast.student)
    assert storages(teacher.network) - storages(cast.student), "OSEDiff's adapters changed the student's network"


@pytest.mark.parametrize("gradient", ["full", "score"])
def test_checkpointing_keeps_terms_and_gradient(gradient):
    resolved = load_recipe(RECIPE, [f'stage1.gradient="{gradient}"'])
    gt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for checkpointing in (False, True):
        cast = build_cast(resolved, CPU)
        adapter = stage1_adapter(cast.student, resolved.recipe.stage1.adapter, seed=0)
        step = Stage1Step(cast, adapter, resolved.recipe.stage1, None, seed=0)
        with recomputed(cast.models if checkpointing else [], adapter):
            terms = step(Batch(gt, None, ["a"]), 0)
            sum(terms.values()).backward()
        found.append(({k: v.detach() for k, v in terms.items()}, [p.grad for p in adapter.tensors().values()]))
    (terms, plain), (again, other) = found
    assert terms == again
    scale = max(float(g.abs().max()) for g in plain)
    assert scale > 0
    assert all(torch.allclose(a, b, atol=1e-6 * scale) for a, b in zip(plain, other, strict=True))
