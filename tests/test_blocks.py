"""Gradient checkpointing, the traps of sharing one base, and that the student's gradient is the same through all of them."""

import gc
import itertools

import pytest
import torch
from toy_models import ToyModel, unshuffled

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.adapters.sharing import share_storage
from distillkit.objectives.controllability import (
    AdapterScaling,
    Stage2Batch,
)
from distillkit.objectives.dual_teacher import StudentOutput, score_distillation
from distillkit.objectives.oftsr import Oftsr
from distillkit.objectives.paper import CtsrAlg2, CtsrEq8
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.training.blocks import (
    blocks_of,
    compile_blocks,
    gradient_checkpointing,
    recast_weights,
)


def randomised(adapter):
    with torch.no_grad():
        for p in adapter.tensors().values():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7)))
    return adapter


def gradients(kind, checkpointing, teacher_pass, through, make=ToyModel):
    """Gradients of the student's trained tensors, the teacher being of the same base weights and asked before, after or not."""
    student, teacher = (make(seed=3).requires_grad_(False) for _ in range(2))
    share_storage(teacher, student)
    adapter = randomised(add_adapter(student.network, kind, rank=2))
    draws = torch.Generator().manual_seed(1)
    lq, gt = (
        torch.rand(2, 3, 8, 8, generator=draws) * 2 - 1,
        torch.rand(2, 3, 16, 16, generator=draws) * 2 - 1,
    )

    def aside():
        with torch.set_grad_enabled(through):
            teacher.generate(teacher.condition(ModelInput(lq))).sum()

    with gradient_checkpointing([student, teacher] if checkpointing else [], adapter):
        if teacher_pass == "before":
            aside()
        condition = student.condition(ModelInput(lq))
        latent = student.generate(condition)
        sample = StudentOutput(condition, latent, student.codec.decode(latent))
        gradient = "full" if through else "sds"
        terms = score_distillation(
            teacher,
            student,
            sample,
            ModelInput(lq),
            gt,
            torch.Generator().manual_seed(2),
            gradient=gradient,
        )
        loss = (sample.image - gt).square().mean() + sum(terms)
        if teacher_pass == "after":
            aside()
        loss.backward()
    return [p.grad for p in adapter.tensors().values()]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("make", [ToyModel, unshuffled])
def test_student_gradient_is_the_same_with_and_without_everything(kind, through, make):
    plain = gradients(kind, False, "none", through, make)
    assert sum(float(g.abs().sum()) for g in plain) > 1e-3
    for checkpointing, teacher_pass in itertools.product(
        [False, True], ["before", "after", "none"]
    ):
        other = gradients(kind, checkpointing, teacher_pass, through, make)
        assert all(
            torch.allclose(a, b, atol=1e-6, rtol=1e-6) for a, b in zip(plain, other, strict=True)
        )


def variants(model):
    adapter = add_adapter(model.network, "lora", rank=2)
    return {
        "teacher": lambda: AdapterScaling(model, randomised(adapter)),
        "reconstruction": lambda: AdapterScaling(model, randomised(adapter), ReconstructionLoss()),
        "eq8": lambda: CtsrEq8(model, randomised(adapter)),
        "alg2": lambda: CtsrAlg2(model, randomised(adapter)),
    }


def stage2_batch(variant, lq, gt, times):
    condition = variant.student.condition(ModelInput(lq))

    @torch.no_grad()
    def start():
        return variant.generate(condition, 0.0, torch.Generator())

    return Stage2Batch(
        condition=condition,
        gt=gt,
        start=start,
        faithful_target=lambda: gt,
        generator=times,
        student_generator=torch.Generator,
        step=0,
        averaged_weights=torch.no_grad,
    )


@pytest.mark.parametrize("name", ["teacher", "reconstruction", "eq8", "alg2", "oftsr"])
def test_blocks_are_made_again_under_the_scale_they_were_made_with(name):
    """Stage 2 changes the adapter's scale between the passes and before the backward pass."""
    found = []
    for checkpointing in (False, True):
        model = ToyModel(seed=3).requires_grad_(False)
        variant = Oftsr(model) if name == "oftsr" else variants(model)[name]()
        draws = torch.Generator().manual_seed(1)
        lq, gt = (
            torch.rand(2, 3, 8, 8, generator=draws) * 2 - 1,
            torch.rand(2, 3, 16, 16, generator=draws) * 2 - 1,
        )
        times = torch.Generator().manual_seed(5)
        with gradient_checkpointing(variant.models if checkpointing else [], variant.adapter):
            batch = stage2_batch(variant, lq, gt, times)
            sum(variant.losses(batch).values()).backward()
        assert variant.adapter is None or variant.adapter.scale == 1.0
        found.append([p.grad for p in variant.tensors().values() if p.grad is not None])
    plain, other = found
    assert plain and sum(float(g.abs().sum()) for g in plain) > 1e-4
    assert all(
        torch.allclose(a, b, atol=1e-6, rtol=1e-6) for a, b in zip(plain, other, strict=True)
    )


def test_without_recalling_the_scale_the_gradient_would_be_wrong():
    """The trap is real: forgetting the adapter in ``gradient_checkpointing`` changes the gradient, or is refused."""
    model = ToyModel(seed=3).requires_grad_(False)
    adapter = randomised(add_adapter(model.network, "lora", rank=2))
    condition = model.condition(ModelInput(torch.rand(1, 3, 8, 8)))
    found = []
    for known in (adapter, None):
        with gradient_checkpointing([model], known), adapter.at_scale(0.25):
            loss = model.generate(condition).square().sum()
        found.append(torch.autograd.grad(loss, list(adapter.tensors().values())))
    right, wrong = found
    assert not all(torch.allclose(a, b) for a, b in zip(right, wrong, strict=True))


def test_activations_are_not_kept():
    def kept(checkpointing):
        model = ToyModel(seed=3).requires_grad_(False)
        adapter = randomised(add_adapter(model.network, "lora", rank=2))
        sizes = []
        save = lambda x: sizes.append(x.nbytes) or x
        with (
            gradient_checkpointing([model] if checkpointing else [], adapter),
            torch.autograd.graph.saved_tensors_hooks(save, lambda x: x),
        ):
            model.generate(model.condition(ModelInput(torch.rand(1, 3, 32, 32))))
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


class Layers(torch.nn.Module):
    """One of each kind whose weight autocast copies; a product keeps it transposed, a convolution as it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.middle = torch.nn.Linear(8, 8)
        self.last = torch.nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, x):
        x = self.middle(self.first(x).movedim(1, -1)).relu().movedim(-1, 1)
        return self.last(self.middle(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("kind", ["lora", "full", None])
def test_copies_of_weights_are_made_again_and_nothing_else_changes(kind, monkeypatch):
    x, found, packed = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), [], []

    class Seen(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pack, unpack):
            super().__init__(lambda t: packed.append(pack(t)) or packed[-1], unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", Seen)
    for again in (False, True):
        model = Layers().requires_grad_(False)
        trained = randomised(add_adapter(model, kind, rank=2)).tensors().values() if kind else ()
        inputs = [*trained, x.clone().requires_grad_()]
        with recast_weights([model] if again else []), torch.autocast("cpu", torch.bfloat16):
            loss = model(inputs[-1]).float().square().sum()
        alive = [
            t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16
        ]
        found.append([loss, *torch.autograd.grad(loss, inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    kept, shapes = (
        [t for t in packed if isinstance(t, torch.Tensor)],
        {(8, 3, 3, 3), (8, 8), (3, 8, 1, 1)},
    )
    views = len(packed) - len(kept)
    assert not any(tuple(t.shape) in shapes for t in alive)
    assert not any(tuple(t.shape) in shapes for t in kept) and views == (
        0 if kind == "full" else 4
    )  # "full" trains its weights


def test_without_autocast_or_gradient_frozen_weights_are_used_as_they_are():
    model, x = Layers().requires_grad_(False), torch.rand(1, 3, 8, 8)
    plain = model(x)
    with recast_weights([model]):
        assert torch.equal(model(x.requires_grad_()), plain)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
    assert "forward" not in vars(model.first)


class Attention(torch.nn.Module):
    """Like those of diffusers: a list of layers inside a block."""

    def __init__(self):
        super().__init__()
        self.to_q = torch.nn.Linear(4, 4)
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Dropout(0.0)])


@pytest.mark.parametrize("kind", ["lora", "full", None])
def test_a_block_is_the_smallest_part_that_is_repeated_and_no_layer(kind):
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU(), torch.nn.Linear(4, 4))
    levels = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Sequential(Attention(), inner)])
    model = torch.nn.ModuleDict(
        {"network": torch.nn.ModuleDict({"first": torch.nn.Linear(4, 4), "levels": levels})}
    )
    if kind:
        add_adapter(model["network"], kind, rank=2)
    assert list(blocks_of([model])) == [levels[1][0], inner]
    alone = torch.nn.ModuleDict({"network": Attention()})
    assert list(blocks_of([alone])) == [alone["network"]]


def test_afterwards_the_modules_are_as_they_were():
    model = ToyModel(seed=3)
    with pytest.raises(ZeroDivisionError), gradient_checkpointing([model], None):
        assert "forward" in vars(model.network)
        _ = 1 / 0
    assert "forward" not in vars(model.network)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_compiled_blocks_have_a_graph_for_each_size_and_one_for_all_scales(kind):
    """Code for any size is slower, and the compiler of torch 2.13 fails at some; a graph for each tradeoff would never end."""
    model = ToyModel(seed=3).requires_grad_(False)
    adapter = randomised(add_adapter(model.network, kind, rank=2))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compile_blocks([model], backend="eager"):
        for side in (8, 16, 24):
            for scale in (1.0, 0.25, 0.5, 0.75):
                with adapter.at_scale(scale):
                    model.generate(model.condition(ModelInput(torch.rand(1, 3, side, side))))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4, (
        "one for the first scale, then one for each size"
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_the_same_at_every_scale(checkpointing):
    """Traced as for a GPU, run without code generation: that takes minutes here."""
    model = ToyModel(seed=3).requires_grad_(False)
    adapter = randomised(add_adapter(model.network, "lora", rank=2))
    condition = model.condition(ModelInput(torch.rand(1, 3, 8, 8)))

    def outcome(scale):
        with adapter.at_scale(scale):
            latent = model.generate(condition)
        return latent, *torch.autograd.grad(latent.square().sum(), list(adapter.tensors().values()))

    scales = (1.0, 0.25, 0.5, 0.0)
    expected = [outcome(scale) for scale in scales]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with (
        compile_blocks([model], backend="aot_eager"),
        gradient_checkpointing([model] if checkpointing else [], adapter),
    ):
        found = [outcome(scale) for scale in scales]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3, (
            "one for a first scale, one for any"
        )
    assert "forward" not in vars(model.network)
    for a, b in zip(expected, found, strict=True):
        assert all(torch.allclose(x, y, atol=1e-5, rtol=1e-5) for x, y in zip(a, b, strict=True))
