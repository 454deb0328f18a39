"""Checkpoints read back exactly; damaged ones are named and never used."""

import json
import random
import shutil

import pytest
import torch

from distillkit import DistillkitError, WeightsError
from distillkit.errors import CheckpointError
from distillkit.files.weights import load_tensors
from distillkit.training.checkpoint import Checkpoints, read_checkpoint


def save(checkpoints, step, value=1.0, *, final=False, stage="stage1"):
    tensors = {"w": torch.full((3,), value)}
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return checkpoints.save(
        stage, step, final=final, tensors=tensors, average=tensors, optimizer=optimizer.state_dict()
    )


def test_a_checkpoint_reads_back_exactly(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 7, value=1 / 3)
    newest = checkpoints.newest()
    assert (newest.stage, newest.step, newest.final) == ("stage1", 7, False)
    assert torch.equal(newest.tensors()["w"], torch.full((3,), 1 / 3))
    assert newest.average().keys() == {"w"}
    assert float(newest.optimizer()["state"][0]["step"]) == 1


def test_old_ones_go_but_the_end_of_a_stage_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step, final=step == 2)
    save(checkpoints, 4, stage="stage2")
    save(checkpoints, 5, stage="stage2")
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    newest = checkpoints.newest()
    assert newest.step == 5 and newest.stage1_end.step == 2 and newest.stage1_end.final


FILES = ["trained.safetensors", "average.safetensors", "optimizer.pt", "manifest.json"]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def empty(path):
    for file in path.parent.iterdir():
        file.unlink()


HARMS = {
    "the first bit flipped": lambda victim: flip(victim, 0),
    "the last bit flipped": lambda victim: flip(victim, -1),
    "cut by a little": lambda victim: cut(victim, 0.95),
    "cut in half": lambda victim: cut(victim, 0.5),
    "cut to nothing": lambda victim: cut(victim, 0),
    "missing": lambda victim: victim.unlink(),
    "an empty directory": empty,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, name, harm):
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    path = save(checkpoints, 2)
    HARMS[harm](path / name)
    damaged = "manifest" if "empty" in harm else name
    with pytest.raises(CheckpointError, match=f"step-00000002 - damaged checkpoint: .*{damaged}"):
        read_checkpoint(path)
    with pytest.warns(
        UserWarning, match="step-00000002 - damaged checkpoint.*using the one before it"
    ):
        assert checkpoints.newest().step == 1


@pytest.mark.parametrize("name", FILES)
def test_a_bit_flipped_anywhere_is_noticed(tmp_path, name):
    victim = save(Checkpoints(tmp_path, keep=3), 1) / name
    intact = victim.read_bytes()
    for bit in random.Random(name).sample(range(8 * len(intact)), 200):
        flip(victim, bit)
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            read_checkpoint(victim.parent)
        victim.write_bytes(intact)
    assert read_checkpoint(victim.parent).step == 1


def test_where_no_checkpoint_is_good_a_run_does_not_start_from_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest() is None
    for step in (1, 2):
        flip(save(checkpoints, step) / "trained.safetensors", -1)
    with (
        pytest.warns(UserWarning, match="damaged checkpoint"),
        pytest.raises(
            CheckpointError,
            match="no checkpoint here can be used, step-00000002 to .* are damaged; .*delete",
        ),
    ):
        checkpoints.newest()


@pytest.mark.filterwarnings("ignore:.*step-00000002 - damaged checkpoint")
@pytest.mark.parametrize("name", FILES)
def test_stage_2_cannot_continue_without_the_end_of_stage_1(tmp_path, name):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    end = save(checkpoints, 2, final=True)
    save(checkpoints, 3, stage="stage2")
    flip(end / name, 77)
    with (
        pytest.warns(
            UserWarning,
            match="step-00000003 - cannot be used without the end of stage 1: .*(damaged|missing)",
        ),
        pytest.raises(CheckpointError, match="no checkpoint here can be used"),
    ):
        checkpoints.newest()
    # With a larger ``keep`` the step before the end of stage 1 would still be there.
    save(checkpoints, 1)
    save(checkpoints, 3, stage="stage2")
    flip(save(checkpoints, 2, final=True) / name, 77)
    with pytest.warns(UserWarning, match="step-00000002 - damaged checkpoint"):
        assert checkpoints.newest().step == 1


def test_going_back_over_damaged_checkpoints_loses_no_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (2, 4, 6):
        save(checkpoints, step)
    flip(tmp_path / "step-00000006" / "manifest.json", 9)
    # The run makes step 5 next, from step 4 on.
    save(checkpoints, 5)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000004", "step-00000005"]
    assert checkpoints.newest().step == 5


def test_a_half_written_checkpoint_is_never_seen_and_is_cleared_away(tmp_path):
    save(Checkpoints(tmp_path, keep=2), 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest().step == 1 and not (tmp_path / ".step-00000002").exists()


def test_a_write_that_fails_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distillkit.training.checkpoint.torch.save", full_disk)
    with pytest.raises(
        DistillkitError, match="No space left on device.*earlier checkpoints are intact"
    ):
        save(checkpoints, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.newest().step == 1


@pytest.mark.parametrize("format", [1, 99])
def test_another_format_is_refused_and_not_passed_over(tmp_path, format, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    monkeypatch.setattr("distillkit.training.checkpoint.FORMAT", format)
    path = save(checkpoints, 2)
    monkeypatch.undo()
    if format == 1:
        # Those had no hash of the manifest.
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["sha256"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DistillkitError,
        match=f"checkpoint format {format}, this version reads 2; continue with the version",
    ):
        checkpoints.newest()


def test_tensors_of_another_student_are_refused():
    with pytest.raises(WeightsError, match="here - holds other tensors"):
        load_tensors({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "here")
    with pytest.raises(WeightsError, match="holds other tensors"):
        load_tensors({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, "here")
