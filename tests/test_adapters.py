"""Adapters: zero at first, exact at scale 0, scaled absolutely, and merged without a trace."""

from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from toy_models import ToyModel

from distillkit import Condition, DistillkitError, ModelInput
from distillkit.adapters import Adapter, add_adapter

kinds = pytest.mark.parametrize("kind", ["lora", "full"])


@dataclass
class Trained:
    """A model whose adapter is no longer zero, and its frozen twin."""

    model: ToyModel
    frozen: ToyModel
    adapter: Adapter
    condition: Condition

    def generate(self):
        return self.model.generate(self.condition)

    def generate_frozen(self):
        return self.frozen.generate(self.condition)


def trained(kind, **options):
    model, frozen = ToyModel(seed=3), ToyModel(seed=3)
    adapter = add_adapter(model.network, kind, rank=2, **options)
    with torch.no_grad():
        for parameter in adapter.tensors().values():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
            parameter.add_(0.1 * noise)
    condition = model.condition(ModelInput(torch.rand(2, 3, 6, 6) * 2 - 1))
    return Trained(model, frozen, adapter, condition)


@kinds
def test_a_new_adapter_changes_nothing_and_alone_is_trainable(kind):
    model, frozen = ToyModel(seed=3), ToyModel(seed=3)
    adapter = add_adapter(model.network, kind, rank=2)
    condition = model.condition(ModelInput(torch.rand(1, 3, 6, 6)))
    assert torch.equal(model.generate(condition), frozen.generate(condition))
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable
    assert trainable == {id(p) for p in adapter.tensors().values()}


@kinds
def test_scale_zero_is_the_frozen_network_bit_for_bit(kind):
    toy = trained(kind)
    with toy.adapter.at_scale(0.0):
        assert torch.equal(toy.generate(), toy.generate_frozen())
    assert not torch.allclose(toy.generate(), toy.generate_frozen())


@kinds
def test_the_scale_is_absolute_and_restored_after_an_error(kind):
    toy = trained(kind)
    full = toy.generate()
    for scale in (0.5, 0.5, 0.0, 1.0):
        toy.adapter.set_scale(scale)
    assert torch.equal(toy.generate(), full)
    with pytest.raises(ZeroDivisionError), toy.adapter.at_scale(0.25):
        _ = 1 / 0
    assert toy.adapter.scale == 1.0
    assert torch.equal(toy.generate(), full)


@kinds
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_merging_keeps_the_output_and_leaves_plain_layers(kind, scale):
    toy = trained(kind)
    toy.adapter.set_scale(scale)
    before = toy.generate()
    toy.adapter.merge()
    assert torch.allclose(toy.generate(), before, atol=1e-5)
    assert toy.model.network.state_dict().keys() == toy.frozen.network.state_dict().keys()
    # There is room for the next one.
    add_adapter(toy.model.network, "lora", rank=2)
    assert torch.allclose(toy.generate(), before, atol=1e-5)


@kinds
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_merged_at_a_scale_it_is_the_network_of_that_scale(kind, scale):
    toy = trained(kind)
    with toy.adapter.at_scale(scale):
        expected = toy.generate()
    with toy.adapter.merged_at(scale):
        with toy.adapter.merged_at(scale):
            merged = toy.generate()
        assert torch.equal(merged, toy.generate())
    assert torch.allclose(merged, expected, atol=1e-5)
    if scale == 0:
        assert torch.equal(merged, toy.generate_frozen())


@kinds
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_merging_at_a_scale_leaves_everything_as_it_was(kind, scale):
    toy = trained(kind)
    before = toy.generate()
    tensors = toy.adapter.tensors()
    with pytest.raises(ZeroDivisionError), toy.adapter.merged_at(scale):
        with toy.adapter.merged_at(scale):
            toy.generate()
        _ = 1 / 0
    assert torch.equal(toy.generate(), before)
    assert toy.generate().requires_grad
    assert toy.adapter.scale == 1.0
    for name, tensor in toy.adapter.tensors().items():
        assert tensor is tensors[name]


def test_merged_lora_has_plain_layers_of_one_scale():
    toy = trained("lora")
    with toy.adapter.merged_at(0.5):
        assert toy.model.network.state_dict().keys() == toy.frozen.network.state_dict().keys()
        other = toy.adapter.merged_at(0.25)
        with pytest.raises(DistillkitError, match="merged at 0.5: they cannot be at 0.25"), other:
            pass


@kinds
def test_the_gradient_is_that_of_the_scale_of_the_forward_pass(kind):
    toy = trained(kind)
    gradients = []
    for scale_at_backward in (0.5, 0.0):
        toy.adapter.set_scale(0.5)
        loss = toy.generate().square().mean()
        toy.adapter.set_scale(scale_at_backward)
        gradients.append(torch.autograd.grad(loss, list(toy.adapter.tensors().values())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_alpha_scales_lora():
    image = torch.ones(1, 6, 4, 4)
    changes = []
    for alpha in (2.0, 4.0):
        toy = trained("lora", alpha=alpha)
        changes.append(toy.model.network.first(image) - toy.frozen.network.first(image))
    assert torch.allclose(changes[1], 2 * changes[0], atol=1e-5)


def test_targets_choose_layers_and_nonsense_is_refused():
    adapter = add_adapter(ToyModel().network, "lora", targets=["last"])
    assert all(name.startswith("last.") for name in adapter.tensors())
    message = r"no Linear or Conv2d layer of ToyNetwork ends in one of \['middle'\]"
    with pytest.raises(DistillkitError, match=message):
        add_adapter(ToyModel().network, "lora", targets=["middle"])


def test_lora_needs_layers_inside_a_network():
    with pytest.raises(DistillkitError, match=r'^the network is itself a Conv2d, .*kind = "full"'):
        add_adapter(torch.nn.Conv2d(3, 3, 1), "lora")
    with pytest.raises(DistillkitError, match=r"^GroupNorm has no Linear, nor Conv2d without"):
        add_adapter(torch.nn.GroupNorm(1, 3), "lora")


def test_lora_leaves_convolutions_in_groups_as_they_are():
    """B A would mix the groups."""
    for groups in (2, 8):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        )
        adapter = add_adapter(network, "lora")
        assert {name.partition(".")[0] for name in adapter.tensors()} == {"0"}
        for tensor in adapter.tensors().values():
            torch.nn.init.normal_(tensor)
        image = torch.rand(1, 3, 5, 6)
        expected = network(image)
        adapter.merge()
        torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-4)
        message = rf"no convolution in groups, and 1 of Sequential has {groups}; leave it out of"
        with pytest.raises(DistillkitError, match=message):
            add_adapter(network, "lora", targets=["1"])


def test_the_start_of_lora_depends_on_the_seed_alone():
    torch.manual_seed(1)
    a = add_adapter(ToyModel().network, "lora", seed=5).tensors()
    torch.manual_seed(2)
    b = add_adapter(ToyModel().network, "lora", seed=5).tensors()
    assert all(torch.equal(a[name], b[name]) for name in a)


def _mixed_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 1),
        torch.nn.Linear(8, 5),
    )


def test_lora_is_that_of_peft_bit_for_bit():
    """Its start, what it computes, and the weights that it amounts to; and the tensors' names."""
    ours, theirs = _mixed_network(), _mixed_network()
    adapter = add_adapter(ours, "lora", rank=2, alpha=3.0, seed=5)
    torch.manual_seed(5)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0", "1", "2"])
    inject_adapter_in_model(config, theirs, "distillkit")
    expected = dict(theirs.named_parameters())
    assert dict(ours.named_parameters()).keys() == expected.keys()
    for name, tensor in adapter.tensors().items():
        assert torch.equal(tensor, expected[name])
        if "lora_B" in name:
            torch.nn.init.normal_(tensor)
            expected[name].data.copy_(tensor.data)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(ours(image), theirs(image))
    for layer, of_peft in zip(ours, theirs, strict=True):
        assert torch.equal(layer.weight_change(), of_peft.get_delta_weight("distillkit"))


def test_lora_takes_a_dilated_convolution():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=2, dilation=2))
    adapter = add_adapter(network, "lora", rank=2)
    for tensor in adapter.tensors().values():
        torch.nn.init.normal_(tensor)
    image = torch.rand(1, 3, 9, 9)
    expected = network(image)
    adapter.merge()
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-4)
