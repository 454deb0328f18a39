import json
import shutil

import pytest
import torch

from distillkit import DistillkitError, WeightsError
from distillkit.training.checkpoint import Checkpoints, read_checkpoint
from distillkit.weights import load_tensors


def save(checkpoints, step, value=1.0, *, final=False, stage="stage1"):
    tensors = {"w": torch.full((3,), value)}
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return checkpoints.save(stage, step, final=final, tensors=tensors, average=tensors, optimizer=optimizer.state_dict())


def test_a_checkpoint_reads_back_exactly(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 7, value=1 / 3)
    newest = checkpoints.newest()
    assert (newest.stage, newest.step, newest.final) == ("stage1", 7, False)
    assert torch.equal(newest.tensors()["w"], torch.full((3,), 1 / 3)) and newest.average().keys() == {"w"}
    assert float(newest.optimizer()["state"][0]["step"]) == 1


def test_old_ones_go_but_the_end_of_a_stage_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step, final=step == 2)
    save(checkpoints, 4, stage="stage2")
    save(checkpoints, 5, stage="stage2")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000004", "step-00000005"]
    assert checkpoints.final("stage1").step == 2 and checkpoints.final("stage2") is None


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "no manifest", "garbage manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    path = save(checkpoints, 2)
    victim = path / "trained.safetensors"
    if harm == "flip":
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    elif harm == "truncate":
        victim.write_bytes(victim.read_bytes()[:-5])
    elif harm == "remove":
        victim.unlink()
    else:
        manifest = path / "manifest.json"
        manifest.unlink() if harm == "no manifest" else manifest.write_text("[")
    with pytest.raises(DistillkitError, match="step-00000002 - damaged checkpoint"):
        read_checkpoint(path)
    with pytest.warns(UserWarning, match="step-00000002 - damaged checkpoint.*using the one before it"):
        assert checkpoints.newest().step == 1


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
    with pytest.raises(DistillkitError, match="No space left on device.*earlier checkpoints are intact"):
        save(checkpoints, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"] and checkpoints.newest().step == 1


def test_a_newer_format_is_refused(tmp_path):
    path = save(Checkpoints(tmp_path, keep=2), 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DistillkitError, match="checkpoint format 99, this version reads 1"):
        read_checkpoint(path)


def test_tensors_of_another_student_are_refused():
    with pytest.raises(WeightsError, match="here - holds other tensors"):
        load_tensors({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "here")
    with pytest.raises(WeightsError, match="holds other tensors"):
        load_tensors({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, "here")
