"""Models made of the same weights keep them once, and never change each other."""

import copy

import pytest
import torch
from toy_models import ToyModel

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.adapters.shared_storage import share_storage


def frozen(seed: int) -> ToyModel:
    return ToyModel(seed=seed).requires_grad_(False)


def storages(model: torch.nn.Module) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


def test_equal_weights_are_stored_once():
    student, teacher = frozen(3), frozen(3)
    size = sum(p.nbytes for p in teacher.parameters())
    assert share_storage(teacher, student) == size
    assert storages(teacher) == storages(student)
    assert share_storage(teacher, student) == 0


def test_different_weights_and_trainable_ones_stay_apart():
    student = frozen(3)
    different = frozen(4)
    trainable = frozen(3).requires_grad_(True)
    for other in (different, trainable):
        assert share_storage(other, student) == 0
        assert not storages(other) & storages(student)


def test_tensors_that_only_begin_alike_stay_apart():
    student, teacher = frozen(3), frozen(3)
    with torch.no_grad():
        teacher.network.first.weight.view(-1)[-1] += 1e-7
    share_storage(teacher, student)
    ours, theirs = student.network, teacher.network
    assert theirs.first.weight.data_ptr() != ours.first.weight.data_ptr()
    assert theirs.last.weight.data_ptr() == ours.last.weight.data_ptr()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_training_and_merging_the_student_leave_the_teacher_as_it_was(kind):
    student, teacher = frozen(3), frozen(3)
    before = copy.deepcopy(teacher.state_dict())
    share_storage(teacher, student)
    adapter = add_adapter(student.network, kind, rank=2)
    optimizer = torch.optim.AdamW(adapter.tensors().values(), lr=0.1)
    condition = student.condition(ModelInput(torch.rand(1, 3, 6, 6)))
    start = student.generate(condition).detach()
    for _ in range(2):
        student.generate(condition).square().mean().backward()
        optimizer.step()
    adapter.merge()
    assert not torch.allclose(student.generate(condition), start)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(teacher.generate(condition), start)
