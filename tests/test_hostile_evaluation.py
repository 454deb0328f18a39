"""Strangers' files in an evaluation: each is read, or named in an error."""

import sys

import pytest
import torch
from hostile_images import COUNT, hostile_files
from toy_plugin import Halve

from distillkit.cli import main as cli
from distillkit.data.evaluation_pairs import evaluation_pairs
from distillkit.data.opening import open_source
from distillkit.data.sources import BadImageError
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe


@pytest.fixture
def folder(tmp_path):
    """Write the hostile files, a folder each: names differ by suffix alone."""
    for name, content in hostile_files().items():
        path = tmp_path / "hostile" / name.replace(".", "_") / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return tmp_path / "hostile"


def file_name(name):
    return name.rpartition("/")[2]


def read_usable(planned, reasons):
    """Read what can be read; the other images' reasons are added."""
    pairs = []
    for pair in planned:
        try:
            pairs.append(pair.read())
        except BadImageError as error:
            reasons[error.id] = error.reason
    return pairs


def test_each_file_is_a_pair_or_named_with_its_reason(folder):
    source = open_source(imagefolder=folder)
    assert len(source) == COUNT
    reasons = {}
    pairs = evaluation_pairs(
        source,
        Halve(),
        crop=None,
        scale=2,
        seed=0,
        max_bad_fraction=1,
        on_bad=reasons.__setitem__,
    )
    planned = len(pairs)
    assert planned + len(reasons) == COUNT
    pairs = read_usable(pairs, reasons)
    assert 100 < len(reasons) < 260
    for name, reason in reasons.items():
        assert 5 < len(reason) < 400, name
        assert "Traceback" not in reason, name
        if file_name(name).startswith("ok-"):
            assert "smaller than" in reason, name
    for pair in pairs:
        assert not file_name(pair.name).startswith("bad-")
        assert torch.isfinite(pair.gt).all()
        assert torch.isfinite(pair.lq).all()


def test_the_command_names_them_and_leaves_the_old_evaluation(
    folder, recipe, tmp_path, monkeypatch, capfd
):
    run = tmp_path / "run"
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), run)
    before = read_files(run)
    hostile_data = f'data.eval=[{{imagefolder="{folder}"}}]'
    monkeypatch.setattr(sys, "argv", ["distillkit", "evaluate", str(run), "--set", hostile_data])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    err = capfd.readouterr().err
    assert "repair or remove them" in err
    assert "Traceback" not in err
    assert read_files(run) == before


def read_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
