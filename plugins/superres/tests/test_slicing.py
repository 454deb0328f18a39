"""Students that are slices of their teacher: which channels and layers they keep."""

import pytest
import torch
from pydantic import ValidationError

from distillkit import ModelInput
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.build import build_adapter
from distillkit.recipe.schema import AdapterConfig
from distillkit.testing.contract import check_spec
from distillkit_superres.osediff.architecture import make_unet, make_vae
from distillkit_superres.osediff.build import build_osediff, build_student
from distillkit_superres.osediff.options import OSEDiffOptions, OSEDiffStudentOptions
from distillkit_superres.osediff.sizes import ARCHITECTURES
from distillkit_superres.osediff.slicing import kept_channels, slice_decoder, slice_unet

TINY = ARCHITECTURES["tiny"]
DEEP = TINY.unet | {"layers_per_block": 2}
THIN = {"size": "tiny", "width": 0.5, "decoder_width": 0.5}


@pytest.fixture
def z():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prompt():
    return torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))


def make(make_network, config):
    torch.manual_seed(0)
    network = make_network(config).requires_grad_(False).eval()
    # Biases and norms are not the zeros and ones that any slice of them would be.
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def let_dropped_channels_say_nothing_new(network):
    """Make every odd channel a copy of the one before it, and let no layer listen to it.

    Norms then have the same mean and spread as without it. Of attention heads, the second half is
    not listened to.
    """
    for name, parameter in network.named_parameters():
        if "time_embedding" in name:
            continue
        in_heads = ".to_q." in name or ".to_k." in name or ".to_v." in name
        outer = name in ("conv_out.weight", "conv_out.bias")
        if not in_heads and not outer:
            parameter[1::2] = parameter[::2]
        if parameter.ndim == 1 or name == "conv_in.weight":
            continue
        if ".to_out.0." in name:
            parameter[:, parameter.shape[1] // 2 :] = 0
        elif "time_emb_proj" not in name and not listens_to_the_prompt(name):
            parameter[:, 1::2] = 0


def listens_to_the_prompt(name):
    return ".attn2.to_k." in name or ".attn2.to_v." in name


def test_kept_channels_are_the_first_of_each_period():
    assert kept_channels(10, 4, 5).tolist() == [0, 1, 5, 6]
    assert kept_channels(10, 4, 10).tolist() == [0, 1, 2, 3]
    assert kept_channels(6, 6, 2).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("config", [TINY.unet, DEEP], ids=["one layer", "two layers"])
def test_a_unet_whose_dropped_channels_say_nothing_is_its_slice(config, z, prompt):
    """Through norms, attention, and the concatenated halves of skip connections."""
    full = make(make_unet, config)
    let_dropped_channels_say_nothing_new(full)
    thin = slice_unet(full, config, 0.5)
    t = torch.tensor([3, 999])
    expected = full(z, t, prompt).sample
    torch.testing.assert_close(thin(z, t, prompt).sample, expected, atol=1e-5, rtol=1e-5)
    assert thin.config.block_out_channels == [8, 16]
    assert thin.config.attention_head_dim == [1, 2]
    weights = sum(p.numel() for p in thin.parameters())
    assert weights < 0.5 * sum(p.numel() for p in full.parameters())


def test_a_decoder_whose_dropped_channels_say_nothing_is_its_slice(z):
    full = make(make_vae, TINY.vae).get_submodule("decoder")
    let_dropped_channels_say_nothing_new(full)
    with torch.no_grad():
        # Its one attention head cannot be dropped: all look at all alike.
        full.get_parameter("mid_block.attentions.0.to_q.weight").zero_()
        full.get_parameter("mid_block.attentions.0.to_q.bias").zero_()
    thin = slice_decoder(full, TINY.vae, 0.5)
    torch.testing.assert_close(thin(z), full(z), atol=1e-5, rtol=1e-5)


def test_each_sliced_layer_is_the_teachers_where_dropped_inputs_are_zero():
    full = make(make_unet, TINY.unet)
    thin = slice_unet(full, TINY.unet, 0.5)
    compared = 0
    for name, layer in thin.named_modules():
        whole = full.get_submodule(name)
        if not isinstance(layer, torch.nn.Conv2d) or name == "conv_in":
            continue
        x = torch.randn(1, layer.in_channels, 8, 8)
        # Even channels are those that are kept at this width.
        x_of_whole = torch.stack([x, torch.zeros_like(x)], dim=2).flatten(1, 2)
        expected = whole(x_of_whole)
        if name != "conv_out":
            expected = expected[:, ::2]
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        compared += 1
    assert compared > 10


def test_at_width_1_a_slice_is_the_whole(z, prompt):
    unet = make(make_unet, DEEP)
    decoder = make(make_vae, TINY.vae).get_submodule("decoder")
    t = torch.tensor([3, 999])
    with torch.no_grad():
        whole_unet = slice_unet(unet, DEEP, 1.0).eval()
        assert whole_unet(z, t, prompt).sample.equal(unet(z, t, prompt).sample)
        assert slice_decoder(decoder, TINY.vae, 1.0).eval()(z).equal(decoder(z))


@torch.no_grad()
def test_layers_that_do_nothing_can_be_left_out(z, prompt):
    """The second layer on the way down, and the middle one on the way up."""
    full = make(make_unet, DEEP)
    for block in full.down_blocks:
        silence(block.resnets[1])
        for attention in getattr(block, "attentions", [])[1:]:
            silence(attention)
    thin = slice_unet(full, DEEP, 1.0, layers_per_block=1)
    names = {name for name, _ in thin.named_parameters()}
    assert "down_blocks.0.resnets.1.conv1.weight" not in names
    for number, block in enumerate(full.up_blocks):
        kept = thin.up_blocks[number]
        assert len(kept.resnets) == 2
        for own, theirs in ((0, 0), (1, 2)):
            weight = block.resnets[theirs].conv1.weight
            assert kept.resnets[own].conv1.weight.equal(weight)
    # What the two give on the way down is the same.
    t = torch.tensor([3, 999])
    middle = {}
    for name, unet in (("full", full), ("thin", thin)):
        unet.mid_block.register_forward_pre_hook(
            lambda module, inputs, name=name: middle.update({name: inputs[0]})
        )
        unet(z, t, prompt)
    torch.testing.assert_close(middle["thin"], middle["full"])


def silence(layer):
    """Let a residual layer add nothing."""
    last = layer.conv2 if hasattr(layer, "conv2") else layer.proj_out
    last.weight.zero_()
    last.bias.zero_()


def test_a_thin_student_is_a_slice_of_the_teacher_and_shares_its_encoders():
    teacher = build_osediff(OSEDiffOptions(size="tiny"))
    student = build_student(OSEDiffStudentOptions(**THIN))
    expected = slice_unet(teacher.network, TINY.unet, 0.5)
    for name, tensor in expected.state_dict().items():
        assert student.network.state_dict()[name].equal(tensor)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert student.codec.encode(image).equal(teacher.codec.encode(image))
    assert student.space == teacher.space
    lq = torch.rand(1, 3, 16, 16) * 2 - 1
    latents = [m.condition(ModelInput(lq)).extra["latent"]() for m in (student, teacher)]
    assert latents[0].equal(latents[1])


def test_the_decoder_is_trained_with_the_unet():
    student = build_student(OSEDiffStudentOptions(**THIN)).requires_grad_(False)
    adapter = build_adapter(student.stage1_network, AdapterConfig(kind="full"), 0)
    student.restore(ModelInput(torch.zeros(1, 3, 16, 16))).square().mean().backward()
    trained = {name.split(".")[0]: p for name, p in adapter.tensors().items() if p.grad is not None}
    assert trained.keys() == {"unet", "decoder"}


def test_a_thin_student_keeps_the_contract():
    spec = load_plugins().find("students", "superres/osediff")
    results = check_spec(spec, THIN)
    assert [result for result in results if result.outcome == "failed"] == []
    assert results[0].outcome == "passed"


def test_without_options_the_student_is_the_teacher():
    teacher = build_osediff(OSEDiffOptions(size="tiny"))
    student = build_student(OSEDiffStudentOptions(size="tiny"))
    assert student.state_dict().keys() == teacher.state_dict().keys()
    for name, tensor in teacher.state_dict().items():
        assert student.state_dict()[name].equal(tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"width = 0\.5 would split .* 5 equal parts; nearest: 0\.4 and 0\.6"),
        ({"width": 0.1}, r"width = 0\.1 would split .*; nearest: 0\.2 "),
        ({"size": "tiny", "width": 0.8}, r"2 equal parts; nearest: 0\.5 and 1"),
        ({"decoder_width": 0.6}, r"decoder_width = 0\.6 .* 4 equal parts; nearest: 0\.5 and 0\.75"),
        ({"layers_per_block": 3}, "layers_per_block = 3: the teacher's blocks have 2"),
        ({"size": "tiny", "layers_per_block": 2}, "blocks have 1"),
        ({"width": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_sliced_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        OSEDiffStudentOptions(**options)


@pytest.mark.parametrize("width", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_valid_widths_are_taken(width):
    OSEDiffStudentOptions(width=width)
