"""Frozen weights sharded over processes: the same results in less memory, or a refusal."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from test_processes import AT_CALL, losses_of, manifest_of, weights_of
from torch.distributed.device_mesh import init_device_mesh
from toy_models import ToyModel

from distillkit import Condition, DistillkitError, ModelInput
from distillkit.adapters import add_adapter
from distillkit.errors import PluginError
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.blocks import compile_blocks, gradient_checkpointing
from distillkit.training.distributed import create_accelerator, distributed_errors
from distillkit.training.sharding import count_weight_bytes, shard_models

DEEP = [
    "student.blocks=2",
    "teachers.fidelity.blocks=2",
    "teachers.realness.blocks=2",
    "teachers.realness.seed=2",
]
"""The realistic teacher is what the student starts from."""
SHARDED = 'training.sharding="full"'
CPU = torch.device("cpu")


@pytest.fixture
def mesh():
    """The mesh of this process alone: its shard of a weight is the full one, all else is alike."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def frozen(seed: int) -> ToyModel:
    return ToyModel(seed=seed, blocks=2).requires_grad_(False)


def draw_condition(model: ToyModel):
    generator = torch.Generator().manual_seed(0)
    return model.condition(ModelInput(torch.rand(1, 3, 6, 6, generator=generator)))


def bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def samples_of(out):
    samples = {}
    for path in sorted((out / "samples").glob("*.png")):
        samples[path.name] = np.asarray(Image.open(path)).astype(int)
    return samples


def means_of(out):
    rows = json.loads((out / "evaluation" / "metrics.json").read_text())
    return [row["mean"] for row in rows]


def test_two_processes_of_half_the_weights_make_the_run_of_one(fork_server, recipe, tmp_path):
    """Through a cut in stage 2, a resume, both merges, samples and the evaluation."""
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe(load_recipe(recipe, [*DEEP, "training.gradient_accumulation_steps=2"]), one)
    saving = ["training.gradient_checkpointing=true", "training.per_term_backward=true"]
    command = ["run", recipe, "--out", two]
    for setting in (*DEEP, SHARDED, *saving):
        command += ["--set", setting]
    # after three held-out images, stage 1, and two steps
    cut = AT_CALL.format(n=3 + 6 + 2, what="os.kill(os.getpid(), signal.SIGTERM)")
    ended = fork_server(*command, processes=2, setup=cut)
    assert ended["codes"] == [130, 130], ended
    assert "stopped after stage2" in ended["outputs"][0]
    ended = fork_server(*command, "--resume", processes=2)
    assert ended["codes"] == [0, 0], ended

    a, b = weights_of(one), weights_of(two)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    assert means_of(two) == pytest.approx(means_of(one), abs=1e-3)
    samples, other_samples = samples_of(one), samples_of(two)
    assert samples.keys() == other_samples.keys()
    assert len(samples) > 2
    for name, image in samples.items():
        assert np.abs(image - other_samples[name]).max() <= 1

    # The student and its twin are stored once, the faithful teacher beside them.
    full = 2 * bytes_of(frozen(2))
    in_blocks = 2 * bytes_of(frozen(2).network.middle)
    kept = full - in_blocks // 2
    assert manifest_of(two)["sharding"] == {"kept_bytes": [kept, kept], "whole_bytes": full}


def test_one_process_keeps_all_and_says_so(recipe, tmp_path, capsys):
    sharded, plain = tmp_path / "sharded", tmp_path / "plain"
    run_recipe(load_recipe(recipe, [*DEEP, SHARDED, "data.eval=[]"]), sharded)
    message = "sharding: of 0.0 MiB of frozen weights each process keeps 0.0 or less"
    assert message in capsys.readouterr().err
    run_recipe(load_recipe(recipe, [*DEEP, "data.eval=[]"]), plain)
    a, b = weights_of(sharded), weights_of(plain)
    assert all(torch.equal(a[name], b[name]) for name in b)


def train_and_merge(model: ToyModel, *, checkpointing: bool):
    """Train an adapter for two steps and merge it; return the outputs before and after."""
    adapter = add_adapter(model.network, "lora", rank=2)
    optimizer = torch.optim.AdamW(adapter.tensors().values(), lr=0.1)
    condition = draw_condition(model)
    before = model.generate(condition).detach()
    models = [model] if checkpointing else []
    with gradient_checkpointing(models, adapter):
        for _ in range(2):
            # Each block runs twice before the backward pass.
            output = model.generate(condition) + model.generate(condition).roll(1)
            output.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    adapter.merge()
    return before, model.generate(condition)


def test_an_adapter_trains_and_merges_on_sharded_weights(mesh):
    student = frozen(3)
    shard_models([student], mesh, CPU)
    before, after = train_and_merge(student, checkpointing=True)
    plain_before, plain_after = train_and_merge(frozen(3), checkpointing=False)
    assert torch.equal(before, plain_before)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plain_after, rtol=1e-6, atol=1e-6)


def test_equal_shards_are_stored_once_until_the_student_is_merged(mesh):
    student, teacher, other = frozen(3), frozen(3), frozen(4)
    before = count_weight_bytes([student, other])
    shard_models([student, teacher, other], mesh, CPU)
    assert count_weight_bytes([student, teacher, other]) == before

    output, _ = train_and_merge(student, checkpointing=True)
    assert torch.equal(teacher.generate(draw_condition(teacher)), output)
    # The merged weights, those of all layers, are now the student's own.
    merged = sum(m.weight.nbytes for m in frozen(3).modules() if hasattr(m, "weight"))
    kept, _ = count_weight_bytes([student, teacher])
    assert kept == bytes_of(frozen(3)) + merged


def test_sharded_blocks_can_be_compiled(mesh):
    student = frozen(3)
    shard_models([student], mesh, CPU)
    adapter = add_adapter(student.network, "lora", rank=2)
    condition = draw_condition(student)

    def run():
        latent = student.generate(condition)
        gradients = torch.autograd.grad(latent.square().sum(), list(adapter.tensors().values()))
        return [latent, *gradients]

    expected = run()
    with compile_blocks([student], backend="eager"):
        compiled = run()
    for a, b in zip(expected, compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_weights_that_are_used_outside_their_block_are_named_as_the_reason(mesh, tmp_path, recipe):
    class Peeking(ToyModel):
        def condition(self, inputs):
            bias = self.network.middle[0].last.bias
            condition = super().condition(inputs)
            return Condition(y=condition.y + torch.ones(8) @ bias)

    model = Peeking(seed=3, blocks=2).requires_grad_(False)
    shard_models([model], mesh, CPU)
    accelerator = create_accelerator(load_recipe(recipe, []).recipe.training, tmp_path)
    with (
        pytest.raises(PluginError, match='cannot be sharded; set training.sharding = "none"'),
        distributed_errors(accelerator),
    ):
        model.condition(ModelInput(torch.rand(1, 3, 6, 6)))


def test_weights_of_a_kind_that_torch_does_not_shard_are_refused(mesh):
    model = frozen(3).to(memory_format=torch.channels_last)
    with pytest.raises(PluginError, match="ToyModel cannot be sharded .*non-contiguous"):
        shard_models([model], mesh, CPU)


@pytest.mark.parametrize(
    ("setting", "key", "why"),
    [
        ('stage1.adapter.kind="full"', "stage1.adapter.kind", 'take "lora"'),
        ('stage2.adapter.kind="full"', "stage2.adapter.kind", 'take "lora"'),
        ('stage2.variant="oftsr"', "stage2.variant", 'take "adapter_scaling"'),
        (
            'stage1.teachers.fidelity.term="output";stage1.teachers.fidelity.output_input="full_image"',
            "stage1.teachers.fidelity.output_input",
            'take "crop"',
        ),
        ("training.cache_gib=1", "training.cache_gib", "set it to 0"),
        ("training.channels_last=true", "training.channels_last", "set it to false"),
        (
            'training.mixed_precision="bf16";training.recast_weights=true',
            "training.recast_weights",
            "set it to false",
        ),
    ],
)
def test_what_cannot_be_had_with_sharded_weights_is_refused(recipe, setting, key, why):
    with pytest.raises(
        DistillkitError, match=rf"{key} - not with training.sharding = .full.: .*{why}"
    ):
        load_recipe(recipe, [SHARDED, *setting.split(";")])
    load_recipe(recipe, setting.split(";"))
    if key.startswith("stage2"):
        load_recipe(recipe, [SHARDED, setting, "stage2.steps=0"])
