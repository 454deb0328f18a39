"""A student whose stages changed it visibly, without training."""

import torch

from distillkit.inference.student import save_student
from distillkit.recipe.build import build, build_adapter, build_variant


def save_changed_student(run, resolved):
    """Save the student of a recipe into a run's folder, with random weights of both stages."""
    recipe = resolved.recipe
    model = build(resolved.student, "cpu")
    adapter = build_adapter(model.stage1_network, recipe.stage1.adapter, recipe.seed)
    tensors = {"stage1": adapter.tensors()}
    adapter.merge()
    tensors["stage2"] = build_variant(model, recipe.stage2, recipe.seed).tensors()
    generator = torch.Generator().manual_seed(0)
    changes = {}
    for stage, of_stage in tensors.items():
        changes[stage] = {}
        for name, tensor in of_stage.items():
            changes[stage][name] = 0.05 * torch.randn(tensor.shape, generator=generator)
    save_student(run / "student", resolved, changes)
