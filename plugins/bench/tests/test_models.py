"""What the models of a recipe take, counted by shapes alone."""

import pytest
import torch

from distillkit import DistillkitError, ModelInput, load_recipe, prepare_stages
from distillkit_bench.models import _count_flops, count_models
from distillkit_bench.train import make_flop_counter

CROP = 16


def flops_of_restoring(model):
    """Count while the model really restores."""
    lq = torch.zeros(1, 3, CROP // model.scale, CROP // model.scale)
    with make_flop_counter() as counter, torch.no_grad():
        model.restore(ModelInput(lq), torch.Generator())
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_models_are_counted_as_they_restore(recipe, kind):
    prepared = next(prepare_stages(load_recipe(recipe, [f'stage1.adapter.kind="{kind}"'])))
    costs = count_models(prepared, CROP)
    assert list(costs) == ["student", *prepared.models.teachers]
    for name, teacher in prepared.models.teachers.items():
        weights = list(teacher.parameters())
        assert costs[name].parameters == sum(p.numel() for p in weights)
        assert costs[name].bytes >= sum(p.nbytes for p in weights)
        assert costs[name].flops == flops_of_restoring(teacher) > 0
    # The toy student is as large as its teachers; its adapter does not count.
    assert costs["student"].parameters == costs["realness"].parameters
    assert costs["student"].flops == costs["realness"].flops
    assert prepared.models.student.network is not None
    assert all(p.device.type == "cpu" for p in prepared.models.student.parameters())


def test_operations_of_a_model_that_restores_nothing_are_unknown():
    class ScoreOnly(torch.nn.Module):
        scale = 2

        def restore(self, inputs, generator=None):
            raise DistillkitError("offers a score only")

    assert _count_flops(ScoreOnly(), CROP) is None
