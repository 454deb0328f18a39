import pytest
import torch
from toy_models import ToyModel

from distillkit import DistillkitError, ModelInput
from distillkit.adapters import add_adapter

kinds = pytest.mark.parametrize("kind", ["lora", "full"])


def trained(kind, **options):
    """A model whose adapter no longer is zero, its frozen twin, and an input."""
    model, frozen = ToyModel(seed=3), ToyModel(seed=3)
    adapter = add_adapter(model.network, kind, rank=2, **options)
    with torch.no_grad():
        for p in adapter.tensors().values():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7)))
    condition = model.condition(ModelInput(torch.rand(2, 3, 6, 6) * 2 - 1))
    return model, frozen, adapter, condition


@kinds
def test_new_adapter_changes_nothing_and_alone_is_trainable(kind):
    model, frozen = ToyModel(seed=3), ToyModel(seed=3)
    adapter = add_adapter(model.network, kind, rank=2)
    condition = model.condition(ModelInput(torch.rand(1, 3, 6, 6)))
    assert torch.equal(model.generate(condition), frozen.generate(condition))
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.tensors().values()} and trainable


@kinds
def test_scale_zero_is_the_frozen_network_bit_for_bit(kind):
    model, frozen, adapter, condition = trained(kind)
    with adapter.at_scale(0.0):
        assert torch.equal(model.generate(condition), frozen.generate(condition))
    assert not torch.allclose(model.generate(condition), frozen.generate(condition))


@kinds
def test_scale_is_absolute_and_restored_after_an_error(kind):
    model, _, adapter, condition = trained(kind)
    full = model.generate(condition)
    for scale in (0.5, 0.5, 0.0, 1.0):
        adapter.set_scale(scale)
    assert torch.equal(model.generate(condition), full)
    with pytest.raises(ZeroDivisionError), adapter.at_scale(0.25):
        _ = 1 / 0
    assert adapter.scale == 1.0 and torch.equal(model.generate(condition), full)


@kinds
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_merging_keeps_the_output_and_leaves_plain_layers(kind, scale):
    model, frozen, adapter, condition = trained(kind)
    adapter.set_scale(scale)
    before = model.generate(condition)
    adapter.merge()
    assert torch.allclose(model.generate(condition), before, atol=1e-5)
    assert model.network.state_dict().keys() == frozen.network.state_dict().keys()
    add_adapter(model.network, "lora", rank=2)  # and there is room for the next one
    assert torch.allclose(model.generate(condition), before, atol=1e-5)


@kinds
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_merging_for_a_block_is_the_same_network_and_leaves_everything_as_it_was(kind, scale):
    model, frozen, adapter, condition = trained(kind)
    with adapter.at_scale(scale):
        expected = model.generate(condition)
    before, names = model.generate(condition), dict(adapter.tensors())
    with pytest.raises(ZeroDivisionError), adapter.merged_at(scale):
        with adapter.merged_at(scale):
            merged = model.generate(condition)
        assert torch.equal(merged, model.generate(condition)) and not merged.isnan().any()
        _ = 1 / 0
    assert torch.allclose(merged, expected, atol=1e-5) and (
        scale > 0 or torch.equal(merged, frozen.generate(condition))
    )
    assert torch.equal(model.generate(condition), before) and adapter.scale == 1.0
    assert all(tensor is names[name] for name, tensor in adapter.tensors().items())
    assert model.generate(condition).requires_grad


def test_merged_lora_is_made_of_plain_layers_and_of_one_scale():
    model, frozen, adapter, _ = trained("lora")
    with adapter.merged_at(0.5):
        assert model.network.state_dict().keys() == frozen.network.state_dict().keys()
        with (
            pytest.raises(ValueError, match="merged at 0.5: they cannot be at 0.25"),
            adapter.merged_at(0.25),
        ):
            pass


@kinds
def test_gradient_is_scaled_by_the_scale_of_the_forward_pass(kind):
    """The scale at backward does not matter: only the one the output was made with."""
    model, _, adapter, condition = trained(kind)
    grads = []
    for after in (0.5, 0.0):
        adapter.set_scale(0.5)
        loss = model.generate(condition).square().mean()
        adapter.set_scale(after)
        grads.append(torch.autograd.grad(loss, list(adapter.tensors().values())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert any(g.abs().sum() > 0 for g in grads[0])


def test_alpha_scales_lora():
    outputs = [trained("lora", alpha=a) for a in (2.0, 4.0)]
    (m1, f1, *_), (m2, *_) = outputs
    base = f1.network.first(torch.ones(1, 6, 4, 4))
    one, two = (m.network.first(torch.ones(1, 6, 4, 4)) - base for m in (m1, m2))
    assert torch.allclose(two, 2 * one, atol=1e-5)


def test_targets_choose_layers_and_nonsense_is_refused():
    adapter = add_adapter(ToyModel().network, "lora", targets=["last"])
    assert all(name.startswith("last.") for name in adapter.tensors())
    with pytest.raises(
        DistillkitError,
        match="no Linear or Conv2d layer of ToyNetwork ends in one of \\['middle'\\]",
    ):
        add_adapter(ToyModel().network, "lora", targets=["middle"])


def test_lora_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    a = add_adapter(ToyModel().network, "lora", seed=5).tensors()
    torch.manual_seed(2)
    b = add_adapter(ToyModel().network, "lora", seed=5).tensors()
    assert all(torch.equal(a[k], b[k]) for k in a)
