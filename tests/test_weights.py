"""Weight files are found, verified and read without running anything in them."""

import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from distillkit import WeightsError
from distillkit.files.download import sha256_of
from distillkit.files.weights import WeightFile, load_exactly, read_state_dict


def test_both_formats_read_back(tmp_path):
    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"params": state, "rank": 4}, tmp_path / "w.pth")
    assert torch.equal(read_state_dict(tmp_path / "w.safetensors")["a"], state["a"])
    assert torch.equal(read_state_dict(tmp_path / "w.pth")["params"]["a"], state["a"])


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_random_and_truncated_bytes_are_refused(tmp_path, name):
    good = tmp_path / f"good-{name}"
    save = save_file if name.endswith("safetensors") else torch.save
    save({"a": torch.zeros(100)}, good)
    for content in (b"\x00\x01random bytes" * 9, good.read_bytes()[:-40], b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read_state_dict(tmp_path / name)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": Bomb()}))
    torch.save({"a": Bomb()}, tmp_path / "b.pth")
    reasons = {
        "a.pth": "its bytes are no torch checkpoint",
        "b.pth": "it holds exec, and loading that could run code",
    }
    for name, reason in reasons.items():
        message = f"{name} - refused: not a plain file of tensors: {reason}"
        with pytest.raises(WeightsError, match=message) as refusal:
            read_state_dict(tmp_path / name)
        # torch's own text would tell how to load it all the same.
        assert "weights_only" not in str(refusal.value)


def test_missing_file_and_wrong_architecture_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth - no such weight file"):
        read_state_dict(tmp_path / "nowhere.pth")
    with pytest.raises(
        WeightsError,
        match="x.pth - weights of another architecture than Linear: missing weight; unexpected w",
    ):
        load_exactly(torch.nn.Linear(2, 2), {"w": torch.zeros(1), "bias": torch.zeros(2)}, "x.pth")
    with pytest.raises(WeightsError, match=r"bias is \(3,\), expected \(2,\)"):
        load_exactly(
            torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, "x.pth"
        )


def test_a_local_weight_file_is_found_and_its_hash_checked(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"weights")
    assert WeightFile(path=path, sha256=sha256_of(path)).fetch() == path
    assert WeightFile(path=path, sha256=sha256_of(path)[:8]).fetch() == path
    with pytest.raises(
        WeightsError,
        match=f"its sha256 is {sha256_of(path)}, not 00000000 as the recipe or its plugin has it",
    ):
        WeightFile(path=path, sha256="00000000").fetch()
    assert WeightFile(path=tmp_path / "none").find() is None


def test_a_file_is_held_against_the_hash_beside_it_whenever_it_is_read(tmp_path):
    path = tmp_path / "w.pth"
    record = tmp_path / "w.pth.sha256"
    torch.save({"a": torch.zeros(3)}, path)
    record.write_text(f"{sha256_of(path)}  w.pth\n")
    assert read_state_dict(path).keys() == {"a"} and WeightFile(path=path).fetch() == path
    torch.save({"a": torch.ones(300)}, path)
    for read in (lambda: read_state_dict(path), WeightFile(path=path).fetch):
        with pytest.raises(
            WeightsError, match=r"w\.pth - its sha256 is .* as w\.pth\.sha256 has it: it is damaged"
        ):
            read()
    record.write_text("no hash")
    with pytest.raises(WeightsError, match=r"w\.pth\.sha256 - no sha256 in it"):
        read_state_dict(path)
    record.unlink()
    assert read_state_dict(path)["a"].shape == (300,)


def test_a_file_of_the_hubs_cache_is_held_against_its_name(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    torch.save({"a": torch.zeros(3)}, blobs / "new")
    blob = (blobs / "new").rename(blobs / sha256_of(blobs / "new"))
    link = tmp_path / "w.pth"
    link.symlink_to(blob)
    assert read_state_dict(link).keys() == {"a"}
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=f"not {blob.name} as the Hub has it"):
        read_state_dict(link)


def test_a_weight_file_in_a_recipe_is_a_path_or_a_table():
    assert WeightFile.model_validate("models/x.pth") == WeightFile(path=Path("models/x.pth"))
    assert WeightFile.model_validate({"repo": "owner/name", "filename": "x"}).revision == "main"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"repo": "owner/name"},
        {"filename": "x.pth"},
        {"path": "x.pth", "filename": "x.pth"},
        {"path": "x.pth", "repo": "owner/name", "filename": "x.pth"},
    ],
)
def test_a_weight_file_is_in_one_place(given):
    with pytest.raises(ValidationError, match="give either a path, or repo and filename"):
        WeightFile.model_validate(given)
