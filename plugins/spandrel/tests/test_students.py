"""Students of spandrel's architectures: built, trained, and opened again by spandrel's loader."""

import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader
from spandrel.architectures import PLKSR, SPAN, Compact, SeemoRe
from torch import nn

from distillkit import ModelInput, PluginError, WeightsError
from distillkit.adapters import add_adapter
from distillkit.errors import DistillkitError
from distillkit.export.folder import export_folder
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import load_student
from distillkit.recipe.build import build_named_model
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit_spandrel.architectures import PRESETS, construct
from distillkit_spandrel.checkpoint import ExpectedNetwork, write_checkpoint
from distillkit_spandrel.recognition import recognize
from distillkit_spandrel.student import Student
from distillkit_spandrel.trainable import check_gradient, expand_merged, make_trainable

SMALL = {
    "Compact": {"num_feat": 8, "num_conv": 2},
    "SPAN": {"feature_channels": 8},
    "PLKSR": {"dim": 8, "n_blocks": 2, "kernel_size": 5},
    "RealPLKSR": {"dim": 8, "n_blocks": 2, "kernel_size": 5},
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
}
"""What makes a preset small enough for a test; the rest is the preset's own."""
PRESET_SCALES = [(name, scale) for name, scales in PRESETS.items() for scale in scales]


def build_student(**options):
    return build_named_model("spandrel/student", options, "cpu")


def small_student(name, scale=4, **options):
    return build_student(architecture=name, scale=scale, parameters=SMALL[name], **options)


def random_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) * 2 - 1


def spandrel_restore(path, lq):
    """Restore images in [-1, 1] by spandrel's own file reader and its own call."""
    descriptor = ModelLoader().load_from_file(path).eval()
    restored = [descriptor(image.clone()) for image in (lq * 0.5 + 0.5).split(1)]
    return torch.cat(restored) * 2 - 1


def random_span(**options):
    """A network of SPAN in the form in which it is trained elsewhere, none of it an identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, **options)
    with torch.no_grad():
        # Random weights on a range of 255 give images far out of range.
        network.upsampler[0].weight.mul_(0.01)
    return network.eval()


@pytest.mark.parametrize(("name", "scale"), PRESET_SCALES)
def test_every_preset_is_written_as_spandrel_reads_it(tmp_path, name, scale):
    student = small_student(name, scale)
    lq = random_images(2, 3, 12, 20)
    student.save_checkpoint(tmp_path / "x.safetensors", {"recipe": "test"})
    found = ModelLoader().load_from_file(tmp_path / "x.safetensors")
    assert found.scale == student.scale == scale
    assert student.nfe == 1
    restored = student.restore(ModelInput(lq))
    assert restored.shape == (2, 3, 12 * scale, 20 * scale)
    expected = spandrel_restore(tmp_path / "x.safetensors", lq)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = file.metadata()
    architecture = name.removeprefix("Real")
    assert about == {"recipe": "test", "architecture": architecture, "scale": str(scale)}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("Compact", 0.62), ("SPAN", 0.43), ("ESRGAN", 5.0), ("RealPLKSR", 2.8), ("PLKSR", 2.4)],
)
def test_presets_are_small(name, millions):
    network = construct(name, {}, 4, seed=0)
    make_trainable(network)
    count = sum(weight.numel() for weight in network.parameters())
    assert math.isclose(count / 1e6, millions, rel_tol=0.05)


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    one, again, other = (small_student("SPAN", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [list(student.network.parameters()) for student in (one, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize("norm", [True, False])
def test_a_student_from_a_span_checkpoint_is_made_of_plain_convolutions(tmp_path, norm):
    original = random_span(norm=norm)
    save_file(original.state_dict(), tmp_path / "x.safetensors")
    student = build_student(weights=tmp_path / "x.safetensors", scale=4)
    lq = random_images(2, 3, 9, 13)
    expected = spandrel_restore(tmp_path / "x.safetensors", lq)
    torch.testing.assert_close(student.restore(ModelInput(lq)), expected, atol=1e-5, rtol=0)
    shapes = {tuple(weight.shape[2:]) for weight in student.network.parameters()}
    assert shapes == {(), (3, 3), (1, 1)}
    assert isinstance(student.network.block_3.c2_r, nn.Conv2d)
    assert len(list(student.network.parameters())) == 2 * 22


def merged_span(folder):
    """Write a checkpoint of SPAN; return its path and the tensors of its merged convolutions."""
    small_student("SPAN").save_checkpoint(folder / "full.safetensors", {})
    full = load_file(folder / "full.safetensors")
    names = ("conv.0", "conv.1", "conv.2", "sk")
    merged = {
        name: value
        for name, value in full.items()
        if not any(f".{inner}." in name for inner in names)
    }
    assert sum(map(torch.numel, merged.values())) * 4 < sum(map(torch.numel, full.values()))
    return folder / "full.safetensors", merged


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_span_of_merged_kernels_alone_is_read(tmp_path, wrapped):
    full, merged = merged_span(tmp_path)
    torch.save({"params_ema": merged} if wrapped else merged, tmp_path / "merged.pth")
    lq = random_images(1, 3, 9, 13)
    student = build_student(weights=tmp_path / "merged.pth", scale=4)
    expected = spandrel_restore(full, lq)
    torch.testing.assert_close(student.restore(ModelInput(lq)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lacks", ["conv.1.weight", "sk.bias"])
def test_a_span_that_lacks_a_tensor_beside_merged_kernels_is_refused(tmp_path, lacks):
    """Its merged kernels may be older than the rest."""
    full, _ = merged_span(tmp_path)
    state = load_file(full)
    del state[f"block_1.c2_r.{lacks}"]
    with pytest.raises(WeightsError, match=rf"block_1\.c2_r\.{lacks}"):
        recognize(state, "damaged.pth")


def test_merged_kernels_of_other_shapes_or_without_bias_stay_as_they_are():
    others = {
        "a.eval_conv.weight": torch.zeros(2, 2),
        "b.eval_conv.weight": torch.zeros(2, 2, 1, 1),
        "b.eval_conv.bias": torch.zeros(2),
        "c.eval_conv.weight": torch.zeros(2, 2, 3, 3),
        "d.eval_conv.weight_orig": torch.zeros(2, 2, 3, 3),
    }
    assert expand_merged(others) == others


def test_its_merged_kernels_are_written_back_in_every_form(tmp_path):
    """spandrel's training form, its evaluation form and the student agree to the last digit."""
    student = small_student("SPAN")
    student.save_checkpoint(tmp_path / "x.safetensors", {})
    network = ModelLoader().load_from_file(tmp_path / "x.safetensors").model
    written = load_file(tmp_path / "x.safetensors")
    block = network.block_1.c1_r
    block.update_params()
    own = student.network.block_1.c1_r
    for name in ("weight", "bias"):
        assert torch.equal(getattr(block.eval_conv, name), getattr(own, name))
        assert torch.equal(written[f"block_1.c1_r.eval_conv.{name}"], getattr(own, name))
    image = random_images(1, 3, 9, 9)
    torch.testing.assert_close(network.train()(image), network.eval()(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_checkpoints_of_two_tradeoffs_interpolate_to_the_third(tmp_path, name):
    files = []
    for tradeoff in (0.0, 1.0, 0.3):
        student = small_student(name)
        adapter = add_adapter(student.network, "full")
        adapter.interpolate_toward(small_student(name, seed=1).network)
        adapter.set_scale(tradeoff)
        adapter.merge()
        student.save_checkpoint(tmp_path / f"{tradeoff}.safetensors", {})
        files.append(load_file(tmp_path / f"{tradeoff}.safetensors"))
    zero, one, middle = files
    assert any(not torch.equal(zero[key], one[key]) for key in zero)
    for key in zero:
        blend = 0.7 * zero[key] + 0.3 * one[key]
        torch.testing.assert_close(blend, middle[key], atol=1e-6, rtol=0)


def train(student, adapter, steps=4):
    """Train an adapter towards a gray image; return the losses."""
    optimizer = torch.optim.Adam(adapter.tensors().values(), lr=1e-2)
    lq = random_images(2, 3, 8, 12)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        image = student.generate(student.condition(ModelInput(lq)))
        loss = image.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", SMALL)
def test_adapters_train_and_are_written_merged(tmp_path, name, kind):
    student = small_student(name)
    student.requires_grad_(False)
    inputs = ModelInput(random_images(1, 3, 9, 13))
    start = student.restore(inputs)
    adapter = add_adapter(student.network, kind)
    assert torch.equal(student.restore(inputs), start)
    losses = train(student, adapter)
    assert losses[-1] < 0.99 * losses[0]
    with torch.no_grad():
        trained = student.restore(inputs)
        adapter.set_scale(0)
        assert torch.equal(student.restore(inputs), start)
        adapter.set_scale(1)
    with pytest.raises(PluginError, match="merge it at a tradeoff first"):
        student.save_checkpoint(tmp_path / "x.safetensors", {})
    adapter.merge()
    student.save_checkpoint(tmp_path / "x.safetensors", {})
    expected = spandrel_restore(tmp_path / "x.safetensors", inputs.lq)
    torch.testing.assert_close(trained, expected, atol=1e-4, rtol=0)


def test_the_student_of_a_teachers_checkpoint_restores_as_the_teacher_does(tmp_path):
    save_file(random_span().state_dict(), tmp_path / "x.safetensors")
    options = {"weights": tmp_path / "x.safetensors", "license": "MIT"}
    student = build_student(**options)
    teacher = build_named_model("spandrel/checkpoint", options, "cpu")
    inputs = ModelInput(random_images(2, 3, 10, 14))
    restored = student.restore(inputs)
    torch.testing.assert_close(restored, teacher.restore(inputs), atol=1e-5, rtol=0)


def test_a_network_that_takes_one_image_at_a_time_trains_on_batches():
    student = build_student(
        architecture="SeemoRe",
        parameters={"num_experts": 2, "num_layers": 1, "embedding_dim": 8, "scale": 2},
    )
    assert not student.takes_batches
    lq = random_images(2, 3, 16, 18)
    together = student.generate(student.condition(ModelInput(lq)))
    second = student.generate(student.condition(ModelInput(lq[1:])))
    torch.testing.assert_close(together[1:], second)
    assert small_student("Compact").takes_batches


def test_images_below_the_least_size_are_padded_as_spandrel_does(tmp_path):
    parameters = {"img_size": 16, "window_size": 4, "embed_dim": 12, "depths": [1]}
    parameters |= {"num_heads": [2], "upscale": 2, "upsampler": "pixelshuffle"}
    student = build_student(architecture="SwinIR", parameters=parameters)
    student.save_checkpoint(tmp_path / "x.safetensors", {})
    lq = random_images(1, 3, 6, 20)
    expected = spandrel_restore(tmp_path / "x.safetensors", lq)
    torch.testing.assert_close(student.restore(ModelInput(lq)), expected, atol=1e-5, rtol=0)


def test_half_precision_is_written_and_compared(tmp_path):
    student = small_student("SPAN")
    student.save_checkpoint(tmp_path / "x.safetensors", {}, torch.float16)
    assert {value.dtype for value in load_file(tmp_path / "x.safetensors").values()} == {
        torch.float16
    }
    lq = random_images(1, 3, 9, 13)
    restored = build_student(weights=tmp_path / "x.safetensors").restore(ModelInput(lq))
    torch.testing.assert_close(restored, student.restore(ModelInput(lq)), atol=2e-2, rtol=0)


def test_weights_too_large_for_half_precision_are_refused(tmp_path):
    student = small_student("Compact")
    with torch.no_grad():
        student.network.body[0].weight.mul_(1e6)
    with pytest.raises(WeightsError, match="another image"):
        student.save_checkpoint(tmp_path / "x.safetensors", {}, torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scale": 2}, "reads Compact of scale 4 from it, not Compact of scale 2"),
        ({"architecture": "SPAN"}, "not SPAN of scale 4"),
        ({"restored": torch.zeros(1, 3, 64, 64)}, "another image"),
        ({"restored": torch.zeros(1, 3, 8, 8)}, r"instead of \(1, 3, 8, 8\)"),
    ],
)
def test_a_file_that_spandrel_reads_otherwise_does_not_appear(tmp_path, changes, why):
    network = Compact.Compact(num_feat=4, num_conv=1).eval()
    image = torch.rand(1, 3, 16, 16)
    expected = network(image).clamp(0, 1).detach()
    facts = {"architecture": "Compact", "scale": 4, "image": image, "restored": expected}
    path = tmp_path / "x.safetensors"
    path.write_text("what was here before")
    with pytest.raises(WeightsError, match=why):
        write_checkpoint(path, network.state_dict(), {}, ExpectedNetwork(**(facts | changes)))
    assert path.read_text() == "what was here before"
    assert list(tmp_path.iterdir()) == [path]
    write_checkpoint(path, network.state_dict(), {}, ExpectedNetwork(**facts))
    assert ModelLoader().load_from_file(path).scale == 4


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("x.pth", {}), "must end in .safetensors"),
        (("x.safetensors", {"tradeoff": 0.3}), "metadata are texts, and tradeoff is 0.3"),
        (("x.safetensors", {}, torch.bfloat16), "float32 or float16"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused(tmp_path, arguments, why):
    name, *others = arguments
    with pytest.raises(PluginError, match=why):
        small_student("Compact").save_checkpoint(tmp_path / name, *others)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"architecture": "Spun"}, 'no architecture "Spun"; did you mean "SPAN"'),
        ({"architecture": "realplksr"}, 'did you mean "RealPLKSR"'),
        ({"architecture": "my own"}, "known: ATD, .*Uformer"),
        ({"architecture": "SPAN"}, "num_in_ch, num_out_ch; or give scale, for a small preset"),
        (
            {"architecture": "Compact", "parameters": {"num_feet": 8}},
            'no parameter "num_feet"; did you mean "num_feat"',
        ),
        ({"architecture": "Compact", "parameters": {"zzz": 8}}, "it takes num_in_ch, .*act_type"),
        (
            {"architecture": "Compact", "parameters": {"upscale": "four"}},
            "cannot be constructed with upscale = 'four': TypeError",
        ),
        (
            {"architecture": "DCTLSA", "parameters": {"num_modules": 1}},
            "with these parameters cannot restore an image: .*channels",
        ),
        ({"architecture": "ESRGAN", "scale": 3}, "no preset of scale 3, only of 1, 2, 4"),
        ({"architecture": "SAFMN", "scale": 2, "parameters": {"dim": 8}}, "scale is 4, not 2"),
        ({"architecture": "LaMa"}, "only restorers of whole single images"),
        (
            {"architecture": "Compact", "parameters": {"num_in_ch": 1, "num_out_ch": 1}},
            "takes 1 channels and gives 1; only 3 and 3, can be used",
        ),
        ({"architecture": "Compact", "weights": "x.pth"}, "give either weights"),
        ({}, "give either weights"),
        ({"weights": "x.pth", "parameters": {"upscale": 4}}, "parameters belong to an arch"),
    ],
)
def test_what_makes_no_student_is_refused_with_a_sentence(options, why):
    with pytest.raises(DistillkitError, match=why) as refused:
        build_student(**options)
    assert "\n" not in str(refused.value).strip()


@pytest.mark.parametrize(
    ("name", "parameters", "why"),
    [
        ("SPAN", {"norm": True, "img_range": 1.0}, "img_range is 1.0, read back as 255.0"),
        ("RealPLKSR", {"norm_groups": 2}, "norm_groups is 2, read back as 4"),
        ("Compact", {"act_type": "relu"}, "knows no architecture"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(name, parameters, why):
    """A SPAN of another range, trained for hours, would open as garbage everywhere."""
    parameters = SMALL[name] | parameters
    with pytest.raises(DistillkitError, match=why):
        build_student(architecture=name, scale=4, parameters=parameters)


class WithoutGradient(nn.Conv2d):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class HalfDetached(nn.Module):
    """Its second convolution gets a gradient, its first one does not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x).detach())


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: WithoutGradient(3, 3, 3, padding=1), "evaluation mode: "),
        (HalfDetached, "does not follow the gradient"),
        (random_span, "does not follow the gradient"),
        (lambda: PLKSR.RealPLKSR(dim=8, n_blocks=1, kernel_size=3), "modified by an inplace"),
    ],
)
def test_a_network_that_no_gradient_trains_is_refused(network, why):
    image = random_images(1, 3, 8, 8)
    with pytest.raises(PluginError, match=f"Some network cannot be trained.*{why}"):
        check_gradient(network().eval(), lambda trial: trial(image), "Some network")


def test_a_network_that_draws_is_no_student(monkeypatch):
    descriptor = ModelLoader().load_from_state_dict(Compact.Compact(num_conv=1).state_dict())
    descriptor._call_fn = lambda network, image: network(image) + torch.rand(())
    with pytest.raises(PluginError, match="another image each time"):
        Student(descriptor.eval())


def test_a_network_with_unused_experts_passes_the_gradients_check():
    network = SeemoRe.SeemoRe(num_experts=4, num_layers=1, embedding_dim=8, scale=2).eval()
    image = random_images(1, 3, 16, 16)
    check_gradient(network, lambda trial: trial(image), "SeemoRe")


def write_recipe(file, student, photos, teacher):
    """Write a recipe of a few steps of both stages.

    Args:
        file: Of the recipe.
        student: The lines of the student's table.
        photos: A folder of images.
        teacher: A checkpoint that is both teachers.
    """
    teacher = f'{{ use = "spandrel/checkpoint", weights = "{teacher}" }}'
    source = f'imagefolder = "{photos}"'
    file.write_text(
        f"""
        name = "a_run"
        degradation.use = "mini/camera"
        evaluation = {{ crop_size = 32, metrics = ["psnr"] }}
        [student]
        use = "spandrel/student"
        {student}
        [teachers]
        fidelity = {teacher}
        realness = {teacher}
        [stage1]
        steps = 3
        learning_rate = 1e-3
        adapter.kind = "full"
        reconstruction.perceptual_weight = 0
        teachers.fidelity.term = "output"
        teachers.realness.term = "output"
        [stage2]
        steps = 2
        target = "line"
        adapter.kind = "full"
        line.perceptual_weight = 0
        [data]
        crop_size = 32
        batch_size = 2
        train = [{{ {source} }}]
        eval = [{{ {source} }}]
        """
    )


def test_an_exported_student_brings_the_checkpoint_that_it_started_from(tmp_path, photos):
    start = tmp_path / "start.safetensors"
    small_student("Compact").save_checkpoint(start, {})
    write_recipe(tmp_path / "recipe.toml", f'weights = "{start}"', photos, start)
    run = tmp_path / "run"
    run_recipe(load_recipe(tmp_path / "recipe.toml"), run)
    restorer = Restorer.from_pretrained(run)
    image = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(1))
    expected = restorer(image, 0.5)
    for source, out in [(run, "first"), (tmp_path / "first", "second")]:
        export_folder(source, tmp_path / out)
    export_folder(run, tmp_path / "merged", merge_at=0.5)
    start.unlink()
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "first")
    assert torch.equal(Restorer.from_pretrained(tmp_path / "second")(image, 0.5), expected)
    assert torch.equal(Restorer.from_pretrained(tmp_path / "merged")(image), expected)
    about = (tmp_path / "second" / "student" / "distillkit.json").read_text()
    assert str(tmp_path) not in about


def test_an_architecture_without_a_preset_trains_without_a_line_of_code(tmp_path, photos):
    """The recipe names a class of spandrel's that this plugin has never heard of."""
    teacher = tmp_path / "teacher.safetensors"
    save_file(random_span().state_dict(), teacher)
    student = """
        architecture = "SAFMN"
        parameters = { dim = 8, n_blocks = 1 }
        seed = 3"""
    write_recipe(tmp_path / "recipe.toml", student, photos, teacher)
    assert "SAFMN" not in PRESETS
    run_recipe(load_recipe(tmp_path / "recipe.toml"), tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert logged[0]["realness/output"] > 0
    student = load_student(tmp_path / "run")
    lq = random_images(1, 3, 16, 24)
    start = build_student(
        architecture="SAFMN", parameters={"dim": 8, "n_blocks": 1}, seed=3
    ).restore(ModelInput(lq))
    realistic, faithful = student.restore_each(ModelInput(lq), [0.0, 1.0])
    assert not torch.equal(realistic, start)
    assert not torch.equal(realistic, faithful)
    student.variant.adapter.merge()
    student.model.save_checkpoint(tmp_path / "x.safetensors", {"tradeoff": "1"})
    expected = spandrel_restore(tmp_path / "x.safetensors", lq)
    torch.testing.assert_close(faithful, expected, atol=1e-5, rtol=0)
