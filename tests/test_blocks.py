"""Gradient checkpointing, weight re-casting and compilation: the same gradients, less memory."""

import gc
from contextlib import ExitStack

import pytest
import torch
from torch import nn
from toy_models import ToyModel, unshuffled

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.adapters.shared_storage import share_storage
from distillkit.objectives.adapter_scaling import (
    AdapterScaling,
    ReconstructionObjective,
    TeacherObjective,
)
from distillkit.objectives.controllability import Stage2Batch
from distillkit.objectives.ctsr import CtsrAlg2, CtsrEq8
from distillkit.objectives.dual_teacher import StudentOutput, score_distillation
from distillkit.objectives.oftsr import Oftsr
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.training.blocks import (
    blocks_of,
    compile_blocks,
    gradient_checkpointing,
    recast_weights,
)


def frozen_toy(make=ToyModel):
    return make(seed=3).requires_grad_(False)


def add_trained_adapter(network, kind="lora"):
    """Put an adapter on a network that is no longer zero."""
    adapter = add_adapter(network, kind, rank=2)
    with torch.no_grad():
        for parameter in adapter.tensors().values():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
            parameter.add_(0.3 * noise)
    return adapter


def draw_images():
    """Draw low-quality and clean images."""
    draws = torch.Generator().manual_seed(1)
    lq = torch.rand(2, 3, 8, 8, generator=draws) * 2 - 1
    gt = torch.rand(2, 3, 16, 16, generator=draws) * 2 - 1
    return lq, gt


def assert_close(gradients, others, tolerance=1e-6):
    for a, b in zip(gradients, others, strict=True):
        assert torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def total_of(gradients):
    return sum(float(gradient.abs().sum()) for gradient in gradients)


def student_gradients(kind, gradient, make, *, checkpointing=False, teacher_pass=None):
    """Compute the gradients of a student's trained tensors.

    Args:
        kind: the adapter's.
        gradient: "full", through the teacher, or "sds".
        make: makes student and teacher, which share their weights.
        checkpointing: whether both are checkpointed.
        teacher_pass: "before" or "after" the losses the teacher makes one more pass.
    """
    student, teacher = frozen_toy(make), frozen_toy(make)
    share_storage(teacher, student)
    adapter = add_trained_adapter(student.network, kind)
    lq, gt = draw_images()
    inputs = ModelInput(lq)

    def make_teacher_pass():
        with torch.set_grad_enabled(gradient == "full"):
            teacher.generate(teacher.condition(inputs)).sum()

    models = [student, teacher] if checkpointing else []
    with gradient_checkpointing(models, adapter):
        if teacher_pass == "before":
            make_teacher_pass()
        condition = student.condition(inputs)
        latent = student.generate(condition)
        output = StudentOutput(condition, latent, student.codec.decode(latent))
        draws = torch.Generator().manual_seed(2)
        terms = score_distillation(teacher, student, output, inputs, gt, draws, gradient=gradient)
        loss = (output.image - gt).square().mean() + sum(terms)
        if teacher_pass == "after":
            make_teacher_pass()
        loss.backward()
    return [parameter.grad for parameter in adapter.tensors().values()]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("gradient", ["full", "sds"])
@pytest.mark.parametrize("make", [ToyModel, unshuffled])
def test_student_gradient_is_the_same_with_and_without_everything(kind, gradient, make):
    plain = student_gradients(kind, gradient, make)
    assert total_of(plain) > 1e-3
    for checkpointing in (False, True):
        for teacher_pass in ("before", "after", None):
            other = student_gradients(
                kind, gradient, make, checkpointing=checkpointing, teacher_pass=teacher_pass
            )
            assert_close(plain, other)


def make_variant(name):
    model = frozen_toy()
    if name == "oftsr":
        return Oftsr(model)
    adapter = add_trained_adapter(model.network)
    if name == "teacher":
        return AdapterScaling(model, adapter, TeacherObjective())
    if name == "reconstruction":
        objective = ReconstructionObjective(model, ReconstructionLoss(), 40.0)
        return AdapterScaling(model, adapter, objective)
    return {"eq8": CtsrEq8, "alg2": CtsrAlg2}[name](model, adapter)


def stage2_batch(variant, lq, gt):
    condition = variant.student.condition(ModelInput(lq))

    @torch.no_grad()
    def start():
        return variant.generate(condition, 0.0, torch.Generator())

    return Stage2Batch(
        condition=condition,
        gt=gt,
        stage1_latent=start,
        faithful_target=lambda: gt,
        realistic_image=lambda: gt,
        faithful_image=lambda: gt,
        generator=torch.Generator().manual_seed(5),
        student_generator=torch.Generator,
        step=0,
        averaged_weights=torch.no_grad,
    )


def variant_gradients(name, *, checkpointing):
    variant = make_variant(name)
    models = variant.models if checkpointing else []
    with gradient_checkpointing(models, variant.adapter):
        batch = stage2_batch(variant, *draw_images())
        sum(variant.losses(batch).values()).backward()
    if variant.adapter is not None:
        assert variant.adapter.scale == 1.0
    gradients = [parameter.grad for parameter in variant.tensors().values()]
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("name", ["teacher", "reconstruction", "eq8", "alg2", "oftsr"])
def test_blocks_are_recomputed_at_the_scale_of_their_first_computation(name):
    """Stage 2 changes the adapter's scale between the passes and before the backward pass."""
    plain = variant_gradients(name, checkpointing=False)
    assert total_of(plain) > 1e-4
    assert_close(plain, variant_gradients(name, checkpointing=True))


def test_without_the_adapter_the_gradient_would_be_wrong():
    """The trap is real: blocks would be recomputed at the scale of the backward pass."""
    model = frozen_toy()
    adapter = add_trained_adapter(model.network)
    condition = model.condition(ModelInput(torch.rand(1, 3, 8, 8)))
    results = []
    for known in (adapter, None):
        with gradient_checkpointing([model], known), adapter.at_scale(0.25):
            loss = model.generate(condition).square().sum()
        results.append(torch.autograd.grad(loss, list(adapter.tensors().values())))
    right, wrong = results
    assert not all(torch.allclose(a, b) for a, b in zip(right, wrong, strict=True))


def test_activations_are_not_kept():
    def kept_bytes(models):
        sizes = []

        def note(tensor):
            sizes.append(tensor.nbytes)
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with gradient_checkpointing(models, adapter), hooks:
            model.generate(condition)
        return sum(sizes)

    model = frozen_toy()
    adapter = add_trained_adapter(model.network)
    condition = model.condition(ModelInput(torch.rand(1, 3, 32, 32)))
    assert kept_bytes([model]) < 0.5 * kept_bytes([])


class Layers(nn.Module):
    """One of each kind of layer whose weight autocast copies.

    A matrix product keeps the copy transposed, a convolution as it is.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.middle = nn.Linear(8, 8)
        self.last = nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, x):
        x = self.middle(self.first(x).movedim(1, -1)).relu().movedim(-1, 1)
        return self.last(self.middle(x.movedim(1, -1)).movedim(-1, 1))


WEIGHT_SHAPES = {(8, 3, 3, 3), (8, 8), (3, 8, 1, 1)}
"""Shapes of the weights of ``Layers``."""


def living_bfloat16_shapes():
    """List the shapes of the tensors that anything still refers to."""
    shapes = []
    for thing in gc.get_objects():
        # by its type: what is left of a dead weak reference raises at isinstance
        if issubclass(type(thing), torch.Tensor) and thing.dtype == torch.bfloat16:
            shapes.append(tuple(thing.shape))
    return shapes


@pytest.mark.parametrize("kind", ["lora", "full", None])
def test_copies_of_weights_are_not_kept_and_nothing_else_changes(kind, monkeypatch):
    packed = []

    class NotingHooks(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pack, unpack):
            def pack_and_note(tensor):
                packed.append(pack(tensor))
                return packed[-1]

            super().__init__(pack_and_note, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", NotingHooks)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    results = []
    for recasting in (False, True):
        model = Layers().requires_grad_(False)
        inputs = [x.clone().requires_grad_()]
        if kind is not None:
            inputs += add_trained_adapter(model, kind).tensors().values()
        with ExitStack() as stack:
            if recasting:
                stack.enter_context(recast_weights([model]))
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            loss = model(inputs[0]).float().square().sum()
        alive = living_bfloat16_shapes()
        results.append([loss, *torch.autograd.grad(loss, inputs)])
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain, other)
    assert not WEIGHT_SHAPES.intersection(alive)
    kept = [tuple(value.shape) for value in packed if isinstance(value, torch.Tensor)]
    assert not WEIGHT_SHAPES.intersection(kept)
    # A full adapter trains all weights: none is frozen, and so none is cast again.
    expected = 0 if kind == "full" else 4
    assert len(packed) - len(kept) == expected


def test_without_autocast_or_gradient_frozen_weights_are_used_as_they_are():
    model = Layers().requires_grad_(False)
    x = torch.rand(1, 3, 8, 8)
    plain = model(x)
    with recast_weights([model]):
        assert torch.equal(model(x.requires_grad_()), plain)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
    assert "forward" not in vars(model.first)


class Attention(nn.Module):
    """Like those of diffusers: a list of layers inside a block."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        self.to_out = nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.0)])


@pytest.mark.parametrize("kind", ["lora", "full", None])
def test_a_block_is_the_smallest_unit_that_is_repeated_and_no_layer(kind):
    attention = Attention()
    feed_forward = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
    stages = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(attention, feed_forward)])
    network = nn.ModuleDict({"first": nn.Linear(4, 4), "stages": stages})
    if kind is not None:
        add_adapter(network, kind, rank=2)
    model = nn.ModuleDict({"network": network})
    assert list(blocks_of([model])) == [attention, feed_forward]


def test_a_network_without_lists_is_one_block():
    network = Attention()
    model = nn.ModuleDict({"network": network})
    assert list(blocks_of([model])) == [network]


def test_afterwards_the_modules_are_as_they_were():
    model = ToyModel(seed=3)
    with pytest.raises(ZeroDivisionError), gradient_checkpointing([model], None):
        assert "forward" in vars(model.network)
        _ = 1 / 0
    assert "forward" not in vars(model.network)


def count_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def forget_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_compiled_blocks_have_a_graph_for_each_size_and_one_for_all_scales(kind):
    """A graph for any size is slower, and the compiler of torch 2.13 fails at some.

    A graph for each tradeoff would never end.
    """
    model = frozen_toy()
    adapter = add_trained_adapter(model.network, kind)
    forget_graphs()
    with compile_blocks([model], backend="eager"):
        for side in (8, 16, 24):
            inputs = ModelInput(torch.rand(1, 3, side, side))
            for scale in (1.0, 0.25, 0.5, 0.75):
                with adapter.at_scale(scale):
                    model.generate(model.condition(inputs))
    # one for the first scale, then one for each size
    assert count_graphs() == 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_the_same_at_every_scale(checkpointing):
    """Traced as for a GPU, run without code generation: that takes minutes here."""
    model = frozen_toy()
    adapter = add_trained_adapter(model.network)
    condition = model.condition(ModelInput(torch.rand(1, 3, 8, 8)))

    def run(scale):
        with adapter.at_scale(scale):
            latent = model.generate(condition)
        gradients = torch.autograd.grad(latent.square().sum(), list(adapter.tensors().values()))
        return [latent, *gradients]

    scales = (1.0, 0.25, 0.5, 0.0)
    expected = [run(scale) for scale in scales]
    forget_graphs()
    models = [model] if checkpointing else []
    with compile_blocks([model], backend="aot_eager"), gradient_checkpointing(models, adapter):
        compiled = [run(scale) for scale in scales]
        # one for a first scale, one for any
        assert count_graphs() <= 3
    assert "forward" not in vars(model.network)
    for plain, other in zip(expected, compiled, strict=True):
        assert_close(plain, other, tolerance=1e-5)
