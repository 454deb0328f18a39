"""The estimate of the cache that a run uses, and the commands that look after it."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distillkit.cli.main import app
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import dry_run, open_batches, run_recipe
from distillkit.training.cache_estimate import describe_cache, estimate_cache
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.feature_store import FeatureStore
from distillkit.training.models import build_models

CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "sets",
    [
        ["stage2.target='teacher'", "stage2.faithful_check_images=3"],
        ["stage2.variant='ctsr_eq8'", "stage1.teachers.realness.term='output'"],
    ],
)
def test_the_estimated_size_is_the_size_it_takes(
    recipe: Path, tmp_path: Path, sets: list[str], capfd: Capture
) -> None:
    folder = tmp_path / "cache"
    cached = [
        "training.cache_gib=1",
        f"training.cache_dir='{folder}'",
        "data.cycle_steps=3",
        "data.eval=[]",
        "data.crop_size=32",
    ]
    resolved = load_recipe(recipe, [*sets, *cached])
    cast = build_models(resolved, CPU)
    estimate = estimate_cache(resolved.recipe, cast, open_batches(resolved, cast.student.scale, 1))
    dry_run(resolved, tmp_path / "out")
    before = capfd.readouterr().err
    assert f"cache: {folder} holds 0.0 MiB of at most 1.00 GiB; this run can use" in before
    assert not folder.exists()
    assert all(f"{f.entries} {f.kind}" in before for f in estimate)
    run_recipe(resolved, tmp_path / "out")
    features = list(FeatureStore(folder, 0).features())
    assert {f.kind: f.entries for f in estimate} == Counter(f.kind for f in features)
    assert sum(f.size for f in estimate) == pytest.approx(sum(f.size for f in features), rel=0.02)


def test_a_run_that_cannot_gain_or_will_not_fit_says_so(recipe: Path) -> None:
    def description(*sets: str) -> str:
        resolved = load_recipe(recipe, ["stage2.target='teacher'", "training.cache_gib=1", *sets])
        cast = build_models(resolved, CPU)
        return describe_cache(resolved.recipe, cast, open_batches(resolved, cast.student.scale, 1))

    assert "no batch repeats within it (data.cycle_steps = 0)" in description()
    assert "no batch" not in description("data.cycle_steps=2")
    too_small = description("training.cache_gib=1e-5")
    assert re.search(r"only about \d+% of it will be kept", too_small)
    useless = description("stage2.target='reconstruction'", "data.cycle_steps=2")
    assert "it has nothing to keep" in useless


def test_ls_verify_and_prune(tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["cache", *arguments, "--dir", str(tmp_path)])
        return result.exit_code, result.output

    cache = FeatureCache(FeatureStore(tmp_path, 2**30), CPU)
    for part in "abc":
        cache.get("kind", part, [], partial(torch.zeros, 100))
    first, second, _ = sorted(tmp_path.rglob("*.safetensors"))
    os.utime(second, (0, 0))
    code, text = call("ls")
    assert code == 0 and re.search(r"kind +3 +0\.0  2", text) and str(tmp_path) in text
    assert call("verify") == (0, "3 of 3 entries are whole\n")
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    assert call("verify") == (1, f"damaged: {first}\n2 of 3 entries are whole\n")
    assert call("prune")[0] == 1 and first.exists()
    (first.parent / "half.part").write_text("")
    assert "removed 1 entries" in call("prune", "--damaged")[1]
    assert not first.exists() and not (first.parent / "half.part").exists()
    assert "removed 1 entries" in call("prune", "--days", "2")[1]
    assert not second.exists()
    assert "removed 1 entries" in call("prune", "--all")[1]
    assert not list(tmp_path.rglob("*.safetensors"))
