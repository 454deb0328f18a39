"""Several evaluation sets in one recipe: tables, checks and pages of each."""

import json
import shutil

import pytest

from distillkit.errors import DataError, RecipeError
from distillkit.evaluation.metric_rows import read_metric_rows
from distillkit.evaluation.results import Results
from distillkit.export.folder import export_folder
from distillkit.recipe.load import load_recipe
from distillkit.runs.evaluate import evaluate_run
from distillkit.runs.run import run_recipe
from distillkit.runs.sweep import plan_sweep, run_sweep


def sets_of(photos, *sets):
    """Write `data.eval` as an override: a split of the toy photographs for each name."""
    sources = []
    for name, split in sets:
        named = f', name="{name}"' if name else ""
        sources.append(f'{{use="toy/photos", folder="{photos}", split="{split}"{named}}}')
    return f"data.eval=[{', '.join(sources)}]"


@pytest.fixture
def two_sets(photos):
    return sets_of(photos, ("First", "test"), ("Second", "train"))


@pytest.fixture
def run(recipe, tmp_path, two_sets):
    folder = tmp_path / "run"
    run_recipe(load_recipe(recipe, [two_sets]), folder)
    return folder


def read_results(folder):
    return Results.from_json((folder / "per_image.json").read_text())


def test_every_set_has_files_of_its_own_and_a_place_in_the_report(run, capfd, recipe, photos):
    evaluation = run / "evaluation"
    first = read_results(evaluation / "First")
    second = read_results(evaluation / "Second")
    assert {first.dataset, second.dataset} == {"First", "Second"}
    assert len(first.items) < len(second.items)
    assert not set(first.items) & set(second.items)
    for results in (first, second):
        folder = evaluation / results.dataset
        table = (folder / "table.md").read_text()
        assert table.startswith(f"# Evaluation on {results.dataset}\n")
        assert "## Checks" in table
        assert (folder / "comparison.png").exists()
        assert json.loads((folder / "metrics.json").read_text()) == results.rows()
    assert not (evaluation / "metrics.json").exists()
    page = (run / "report.html").read_text()
    assert '<h2 class="set">First</h2>' in page
    assert '<h2 class="set">Second</h2>' in page
    # A set is measured as if it were the only one.
    alone = load_recipe(recipe, [sets_of(photos, ("First", "test"))])
    evaluate_run(alone, run, "cpu")
    assert read_results(evaluation).values["student@0", "psnr"].tolist() == (
        first.values["student@0", "psnr"].tolist()
    )
    # What is no longer of the recipe does not stay beside it.
    assert not (evaluation / "First").exists()
    assert not (evaluation / "Second").exists()
    assert '<h2 class="set">' not in (run / "report.html").read_text()
    assert {row["dataset"] for row in read_metric_rows(run)} == {"First"}


def test_sources_of_one_name_form_a_set_and_those_without_a_name_another(recipe, tmp_path, photos):
    eval_sources = sets_of(photos, ("", "test"), ("Both", "test"), ("Both", "train"))
    resolved = load_recipe(recipe, [eval_sources, "stage1.steps=1", "stage2.steps=0"])
    folder = tmp_path / "run"
    run_recipe(resolved, folder)
    unnamed = read_results(folder / "evaluation" / resolved.recipe.name)
    both = read_results(folder / "evaluation" / "Both")
    assert len(both.items) > len(unnamed.items)
    assert both.items[0].endswith(f":{unnamed.items[0]}")


def test_images_of_other_methods_lie_in_a_folder_for_each_set(run, recipe, two_sets, tmp_path):
    evaluation = run / "evaluation"
    resolved = load_recipe(recipe, [two_sets])
    theirs = tmp_path / "theirs"
    shutil.copytree(evaluation.parents[1] / "photos" / "test", theirs / "First")
    before = read_results(evaluation / "First").to_json()
    with pytest.raises(DataError, match="Second"):
        evaluate_run(resolved, run, "cpu", method_folders={"theirs": theirs})
    # All of them were checked before anything was measured.
    assert read_results(evaluation / "First").to_json() == before
    shutil.copytree(evaluation.parents[1] / "photos" / "train", theirs / "Second")
    evaluate_run(resolved, run, "cpu", method_folders={"theirs": theirs})
    for name in ("First", "Second"):
        assert read_results(evaluation / name).values["theirs", "psnr"].min() == 100


def test_sweeps_and_model_cards_tell_sets_apart(recipe, tmp_path, two_sets):
    out = tmp_path / "sweep"
    overrides = [two_sets, "stage1.steps=1", "stage2.steps=0"]
    runs = plan_sweep(str(recipe), ["seed=0"], overrides, out)
    assert run_sweep(runs, out) == []
    summary = (out / "summary.md").read_text()
    assert "| dataset | seed | tradeoff | psnr | ssim |" in summary
    assert "\n| First | 0 |" in summary
    assert "\n| Second | 0 |" in summary
    export_folder(runs[0].folder, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| First | student |" in card
    assert "| Second | student |" in card


def test_names_are_of_evaluation_sets_and_become_folders(recipe, photos):
    with pytest.raises(RecipeError, match="name is of data.eval alone"):
        load_recipe(recipe, [f'data.train=[{{use="toy/photos", folder="{photos}", name="First"}}]'])
    with pytest.raises(RecipeError, match=r"data\.eval"):
        load_recipe(recipe, [sets_of(photos, ("../elsewhere", "test"))])
