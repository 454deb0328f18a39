"""Frozen weights shared out over processes: the same results, half the memory; what cannot be had is refused."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from test_processes import AT_CALL, weights_of
from torch.distributed.device_mesh import init_device_mesh
from toy_models import ToyModel

from distillkit import DistillkitError, ModelInput
from distillkit.adapters import add_adapter
from distillkit.errors import PluginError
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.blocks import compile_blocks, gradient_checkpointing
from distillkit.training.distributed import (
    count_weight_bytes,
    create_accelerator,
    distributed_errors,
    shard_models,
)

DEEP = [
    "student.blocks=2",
    "teachers.fidelity.blocks=2",
    "teachers.realness.blocks=2",
    "teachers.realness.seed=2",
]
"""The realistic teacher is what the student starts from."""
SHARDED = 'training.sharding="full"'


@pytest.fixture
def mesh():
    """Of this process alone: its part of a weight is the whole of it, but all else goes as it does with many."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def frozen(seed: int) -> ToyModel:
    return ToyModel(seed=seed, blocks=2).requires_grad_(False)


def images(folder):
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted(folder.glob("*.png"))}


def test_two_processes_of_half_the_weights_make_the_run_of_one(fork_server, recipe, tmp_path):
    """Through a cut in stage 2, a resume, both merges, samples and the evaluation."""
    run_recipe(
        load_recipe(recipe, [*DEEP, "training.gradient_accumulation_steps=2"]), tmp_path / "one"
    )
    sets = [
        x
        for s in (
            *DEEP,
            SHARDED,
            "training.gradient_checkpointing=true",
            "training.per_term_backward=true",
        )
        for x in ("--set", s)
    ]
    two = tmp_path / "two"
    cut = AT_CALL.format(
        n=3 + 6 + 2, what="os.kill(os.getpid(), signal.SIGTERM)"
    )  # after three held-out images and stage 1
    ended = fork_server("run", recipe, "--out", two, *sets, processes=2, first=cut)
    assert ended["codes"] == [130, 130] and "stopped after stage2" in ended["said"][0], ended
    ended = fork_server("run", recipe, "--out", two, *sets, "--resume", processes=2)
    assert ended["codes"] == [0, 0], ended

    a, b = weights_of(tmp_path / "one"), weights_of(two)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    losses = [
        [json.loads(x)["loss"] for x in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "one", two)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    one, other = images(tmp_path / "one" / "samples"), images(two / "samples")
    assert one.keys() == other.keys() and len(one) > 2
    assert all(np.abs(one[name] - other[name]).max() <= 1 for name in one)
    rows = [
        json.loads((run / "evaluation" / "metrics.json").read_text())
        for run in (tmp_path / "one", two)
    ]
    assert [r["mean"] for r in rows[1]] == pytest.approx([r["mean"] for r in rows[0]], abs=1e-3)

    sharding = json.loads((two / "manifest.json").read_text())["sharding"]
    whole = 2 * sum(
        p.nbytes for p in frozen(2).parameters()
    )  # of the student and its twin, and of the faithful teacher
    in_blocks = 2 * sum(p.nbytes for p in frozen(2).network.middle.parameters())
    assert sharding == {"kept_bytes": [whole - in_blocks // 2] * 2, "whole_bytes": whole}


def test_one_process_keeps_all_and_says_so(recipe, tmp_path, capsys):
    run_recipe(load_recipe(recipe, [*DEEP, SHARDED, "data.eval=[]"]), tmp_path / "sharded")
    run_recipe(load_recipe(recipe, [*DEEP, "data.eval=[]"]), tmp_path / "plain")
    a, b = weights_of(tmp_path / "sharded"), weights_of(tmp_path / "plain")
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert (
        "sharding: of 0.0 MiB of frozen weights each process keeps 0.0 or less"
        in capsys.readouterr().err
    )


def test_an_adapter_trains_and_merges_on_sharded_weights_and_the_teacher_stays_what_it_was(mesh):
    plain, condition, found = frozen(3), None, []
    student, teacher, other = frozen(3), frozen(3), frozen(4)
    before = count_weight_bytes([student, other])
    shard_models([student, teacher, other], mesh, torch.device("cpu"))
    assert count_weight_bytes([student, teacher, other]) == before  # equal parts are stored once
    for model in (plain, student):
        adapter = add_adapter(model.network, "lora", rank=2)
        optimizer = torch.optim.AdamW(adapter.tensors().values(), lr=0.1)
        condition = model.condition(
            ModelInput(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
        )
        start = model.generate(condition).detach()
        with gradient_checkpointing([model] if model is student else [], adapter):
            for _ in range(2):
                (
                    model.generate(condition) + model.generate(condition).roll(1)
                ).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        adapter.merge()
        found.append((start, model.generate(condition)))
    (start, end), (start_sharded, end_sharded) = found
    assert torch.equal(start, start_sharded) and not torch.allclose(start, end)
    torch.testing.assert_close(end, end_sharded, rtol=1e-6, atol=1e-6)
    assert torch.equal(teacher.generate(condition), start)
    whole = sum(p.nbytes for p in frozen(3).parameters())
    convolutions = sum(m.weight.nbytes for m in frozen(3).modules() if hasattr(m, "weight"))
    assert (
        count_weight_bytes([student, teacher])[0] == whole + convolutions
    )  # what was merged is the student's own


def test_sharded_blocks_can_be_compiled(mesh):
    student = frozen(3)
    shard_models([student], mesh, torch.device("cpu"))
    adapter = add_adapter(student.network, "lora", rank=2)
    condition = student.condition(ModelInput(torch.rand(1, 3, 8, 8)))

    def outcome():
        latent = student.generate(condition)
        return latent, *torch.autograd.grad(latent.square().sum(), list(adapter.tensors().values()))

    expected = outcome()
    with compile_blocks([student], backend="eager"):
        found = outcome()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_weights_that_are_used_outside_their_block_are_named_as_the_reason(mesh, tmp_path, recipe):
    class Peeking(ToyModel):
        def condition(self, lq):
            found = super().condition(lq)
            return type(found)(y=found.y + torch.ones(8) @ self.network.middle[0].last.bias)

    model = Peeking(seed=3, blocks=2).requires_grad_(False)
    shard_models([model], mesh, torch.device("cpu"))
    accelerator = create_accelerator(load_recipe(recipe, []).recipe.training, tmp_path)
    with (
        pytest.raises(PluginError, match='cannot be sharded; set training.sharding = "none"'),
        distributed_errors(accelerator),
    ):
        model.condition(ModelInput(torch.rand(1, 3, 6, 6)))


def test_weights_of_a_kind_that_torch_does_not_shard_are_refused(mesh):
    model = frozen(3).to(memory_format=torch.channels_last)
    with pytest.raises(PluginError, match="ToyModel cannot be sharded .*non-contiguous"):
        shard_models([model], mesh, torch.device("cpu"))


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
