"""What strangers' files do to ``distillkit eval``: each is read or named, and the old report stays where not all are read."""

import sys

import pytest
import torch
from hostile_images import COUNT, hostile_files
from toy_plugin import Halve

from distillkit.cli import main as cli
from distillkit.data.evaluation_pairs import evaluation_pairs
from distillkit.data.sources import open_source
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe


@pytest.fixture
def folder(tmp_path):
    for (
        name,
        content,
    ) in hostile_files().items():  # a folder each: names that differ by their suffix alone
        place = tmp_path / "hostile" / name.replace(".", "_") / name
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    return tmp_path / "hostile"


def test_each_file_is_a_pair_or_named_with_its_reason(folder):
    source = open_source(imagefolder=folder)
    assert len(source) == COUNT
    reasons = {}
    pairs = evaluation_pairs(
        source, Halve(), crop=None, scale=2, seed=0, max_bad_fraction=1, on_bad=reasons.__setitem__
    )
    assert len(pairs) + len(reasons) == COUNT and 100 < len(reasons) < 260
    for name, reason in reasons.items():
        assert 5 < len(reason) < 400 and "Traceback" not in reason, name
        stem = name.rpartition("/")[2]
        assert not stem.startswith("ok-") or "smaller than" in reason, (name, reason)
    assert not [name for name, *_ in pairs if name.rpartition("/")[2].startswith("bad-")]
    assert all(
        bool(torch.isfinite(gt).all()) and bool(torch.isfinite(lq).all()) for _, lq, gt, *_ in pairs
    )


def test_the_command_names_them_and_leaves_the_old_evaluation(
    folder, recipe, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "run"
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    monkeypatch.setattr(
        sys,
        "argv",
        ["distillkit", "eval", str(out), "--set", f'data.eval=[{{imagefolder="{folder}"}}]'],
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capfd.readouterr().err
    assert stopped.value.code == 2 and "mend or remove them" in told and "Traceback" not in told
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
