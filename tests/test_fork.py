"""A changed recipe is judged key by key: a run continues, forks, or is refused."""

import json
import os
import shlex
import signal
import sys
import tomllib

import pytest
import torch
import toy_plugin
from interruption import weights_of

from distillkit import DistillkitError
from distillkit.cli import main as cli
from distillkit.errors import Interrupted
from distillkit.recipe.load import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.runs.recipe_changes import RULES, RunProgress, compare_recipes
from distillkit.runs.run import run_recipe

FAST = ["data.eval=[]"]


@pytest.fixture
def cut(recipe, tmp_path, monkeypatch):
    """``cut(step)`` runs until a signal stops it after that step; stage 2 begins with step 7."""

    def cut(step, *sets):
        monkeypatch.setattr(toy_plugin.Halve, "calls", 0)
        strike = staticmethod(lambda n: os.kill(os.getpid(), signal.SIGTERM) if n == step else None)
        with monkeypatch.context() as patch:
            patch.setattr(toy_plugin.Halve, "on_call", strike)
            with pytest.raises(Interrupted):
                run_recipe(load_recipe(recipe, [*FAST, *sets]), tmp_path / "cut")
        return tmp_path / "cut"

    return cut


def uninterrupted(recipe, tmp_path, *sets):
    """Run a recipe at once, and give the weights."""
    out = tmp_path / "uninterrupted"
    run_recipe(load_recipe(recipe, [*FAST, *sets]), out)
    return weights_of(out)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


SAFE = {
    "name": '"other"',
    "data.eval": "[]",
    "data.num_workers": "1",
    "data.image_cache_mb": "1",
    "data.max_bad_fraction": "0.5",
    "stage2.faithful_check_images": "2",
    "training.checkpointing_steps": "3",
    "training.checkpoints_total_limit": "5",
    "training.validation_steps": "0",
    "training.logging_steps": "1",
    "training.log_with": "['tensorboard']",
    "training.cache_gib": "0.1",
    "training.cache_dir": "'cache'",
    "training.max_nonfinite_steps": "9",
    "evaluation": "{tradeoffs=[0.0]}",
}
ROUNDING = {
    f"training.{key}"
    for key in (
        "gradient_checkpointing",
        "recast_weights",
        "per_term_backward",
        "sharding",
        "channels_last",
        "compile",
    )
}


def test_what_is_called_safe_leaves_the_weights_as_they_are_bit_for_bit(
    recipe, tmp_path, cut, capfd
):
    assert SAFE.keys() | ROUNDING == {
        key for key, (compatibility, _) in RULES.items() if compatibility == "safe"
    }
    out = cut(3)
    run_recipe(
        load_recipe(recipe, [f"{key}={value}" for key, value in SAFE.items()]), out, resume=True
    )
    errors = capfd.readouterr().err
    assert "continues with another recipe; its steps are the same:" in errors
    assert "training.logging_steps: 2 -> 1" in errors
    assert same(weights_of(out), uninterrupted(recipe, tmp_path))
    (entry,) = json.loads((out / "manifest.json").read_text())["history"]
    assert entry["changes"]["training.logging_steps"] == [2, 1]
    assert entry["changes"]["name"] == ["toy", "other"]
    assert entry["time"]
    assert tomllib.loads((out / "recipe.toml").read_text())["name"] == "other"


def test_a_recipe_written_in_another_way_is_the_same(recipe, tmp_path, cut):
    out = cut(3)
    text = (out / "recipe.toml").read_text()
    rewritten = text.replace("learning_rate = 0.01", "learning_rate = 10e-3  # the same")
    assert rewritten != text
    (out / "recipe.toml").write_text(rewritten)
    run_recipe(load_recipe(recipe, FAST), out, resume=True)
    assert "history" not in json.loads((out / "manifest.json").read_text())


def test_more_steps_of_a_stage_that_goes_on_end_as_they_would_have(recipe, tmp_path, cut):
    out = cut(3)
    run_recipe(load_recipe(recipe, [*FAST, "stage1.steps=8"]), out, resume=True)
    assert same(weights_of(out), uninterrupted(recipe, tmp_path, "stage1.steps=8"))


def test_another_recipe_is_refused_with_a_table_and_the_command_that_forks(
    recipe, tmp_path, cut, monkeypatch, capfd
):
    out = cut(3)
    before = content(out)
    sets = [
        *FAST,
        "stage1.learning_rate=0.5",
        "seed=4",
        "training.logging_steps=1",
        "training.adam_weight_decay=30.0",
    ]
    with pytest.raises(DistillkitError) as refused:
        run_recipe(load_recipe(recipe, sets), out, resume=True)
    message = str(refused.value)
    assert message.startswith(
        f"{out} - stands at stage1 step 3, and its steps are not those of {recipe}:"
    )
    assert "  stage1.learning_rate: 0.01 -> 0.5  (steps of stage 1 depend on it)" in message
    assert "  seed: 0 -> 4  (every draw depends on it)" in message
    assert "logging_steps: " not in message
    assert content(out) == before

    command = shlex.split(message.splitlines()[-1].partition(": ")[2])
    forked = tmp_path / "forked"
    assert command[:3] == ["distillkit", "run", str(recipe)]
    assert command[-4:] == ["--fork", str(out), "--out", "NEWDIR"]
    monkeypatch.setattr(sys, "argv", [*command[:-1], str(forked)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert content(out) == before
    manifest = json.loads((forked / "manifest.json").read_text())
    assert manifest["forked_from"] == {"run": str(out), "stage": "stage1", "step": 3}
    assert manifest["status"] == "finished"
    assert manifest["history"][-1]["changes"]["training.adam_weight_decay"] == [0.01, 30.0]
    logged = [
        json.loads(line)["step"] for line in (forked / "metrics.jsonl").read_text().splitlines()
    ]
    # The copied log has every second step, the fork's own lines each.
    assert logged == [2, *range(4, 11)]
    assert not list(tmp_path.glob(".*"))
    assert "forked from" in capfd.readouterr().err


def test_a_fork_goes_on_exactly_and_obeys_its_own_recipe(recipe, tmp_path, cut):
    out = cut(3)
    same_recipe = tmp_path / "same"
    decayed = tmp_path / "decayed"
    run_recipe(load_recipe(recipe, FAST), same_recipe, fork=out)
    run_recipe(load_recipe(recipe, [*FAST, "training.adam_weight_decay=30.0"]), decayed, fork=out)
    expected = uninterrupted(recipe, tmp_path)
    assert same(weights_of(same_recipe), expected)
    assert not same(weights_of(decayed), expected)
    with pytest.raises(DistillkitError, match="same - is not empty"):
        run_recipe(load_recipe(recipe, FAST), same_recipe, fork=out)
    # The same command again, with --resume.
    run_recipe(load_recipe(recipe, FAST), same_recipe, fork=out, resume=True)
    with pytest.raises(DistillkitError, match="same - holds a run that was forked from .*cut"):
        run_recipe(load_recipe(recipe, FAST), same_recipe, fork=decayed, resume=True)


@pytest.mark.parametrize(
    "change",
    ["student.seed=5", "stage1.adapter.rank=3", "stage1.adapter.kind='full'", "stage1.steps=3"],
)
def test_what_a_checkpoint_does_not_fit_is_refused_before_any_work(
    recipe, tmp_path, cut, monkeypatch, change
):
    out = cut(3)
    # Nothing is built.
    monkeypatch.setattr("distillkit.runs.run.build_models", None)
    changed = load_recipe(recipe, [*FAST, change])
    message = (
        r"(?s)cannot continue from its checkpoint \(stage1 step 3\):\n"
        r"  s.* -> .*from the first step"
    )
    with pytest.raises(DistillkitError, match=message):
        run_recipe(changed, out, resume=True)
    with pytest.raises(DistillkitError, match=message):
        run_recipe(changed, tmp_path / "new", fork=out)
    assert not (tmp_path / "new").exists()


def test_another_stage_2_forks_from_the_end_of_stage_1(recipe, tmp_path, cut):
    out, sets = cut(9), [*FAST, "stage2.adapter.rank=3", "stage2.learning_rate=1e-3"]
    with pytest.raises(
        DistillkitError,
        match=r"from the end of stage 1: distillkit run .*--fork \S+/step-00000006 --out NEWDIR",
    ):
        run_recipe(load_recipe(recipe, sets), tmp_path / "new", fork=out)
    run_recipe(
        load_recipe(recipe, sets), tmp_path / "new", fork=out / "checkpoints" / "step-00000006"
    )
    assert same(weights_of(tmp_path / "new"), uninterrupted(recipe, tmp_path, *sets))


def test_a_folder_that_has_lost_something_is_refused(recipe, cut, tmp_path):
    out = cut(3)
    (out / "recipe.toml").write_text("name = ")
    with pytest.raises(DistillkitError, match=r"recipe\.toml - damaged: .*put it back"):
        run_recipe(load_recipe(recipe, FAST), out, resume=True)
    (out / "recipe.toml").unlink()
    for resume in (False, True):
        with pytest.raises(DistillkitError, match=r"holds checkpoints but no recipe\.toml"):
            run_recipe(load_recipe(recipe, FAST), out, resume=resume)
    (out / "recipe.toml").write_text(load_recipe(recipe, FAST).to_toml())
    (out / "checkpoints").rename(tmp_path / "away")
    (out / "student").mkdir()
    with pytest.raises(
        DistillkitError,
        match="holds a student but no checkpoint to continue from; .*: distillkit evaluate",
    ):
        run_recipe(load_recipe(recipe, FAST), out, resume=True)


@pytest.mark.parametrize(
    ("change", "progress", "compatibility"),
    [
        ("stage1.steps=8", RunProgress("stage1", 3, False), "safe"),
        ("stage1.steps=5", RunProgress("stage1", 3, False), "safe"),
        ("stage1.steps=3", RunProgress("stage1", 3, False), "incompatible"),
        ("stage1.steps=8", RunProgress("stage1", 6, True), "fork"),
        ("stage1.steps=8", RunProgress("stage2", 1, False), "incompatible"),
        ("stage2.steps=9", RunProgress("stage1", 3, False), "safe"),
        ("stage2.steps=0", RunProgress("stage1", 3, False), "fork"),
        ("stage2.steps=9", RunProgress("stage2", 4, True), "fork"),
        ("stage2.adapter.rank=3", RunProgress("stage1", 3, False), "fork"),
        ("stage2.adapter.rank=3", RunProgress("stage2", 3, False), "incompatible"),
        ("stage2.variant='oftsr'", RunProgress("stage2", 3, False), "incompatible"),
        ("stage1.reconstruction.l2_weight=3.0", RunProgress("stage2", 3, False), "fork"),
        ("data.crop_size=8", RunProgress("stage1", 3, False), "fork"),
        ("teachers.fidelity.seed=9", RunProgress("stage1", 3, False), "fork"),
        ("evaluation.crop_size=8", RunProgress("stage1", 3, False), "safe"),
        ("seed=5", None, "safe"),
    ],
)
def test_each_change_is_judged(recipe, change, progress, compatibility):
    old = load_recipe(recipe).document.values
    new = load_recipe(recipe, [change]).document.values
    (judged,) = compare_recipes(old, new, progress)
    assert judged.compatibility == compatibility
    assert judged.key == change.partition("=")[0]
    assert judged.reason
    assert compare_recipes(old, old, progress) == []


def test_where_the_learning_rate_falls_towards_the_end_its_number_of_steps_is_no_detail(recipe):
    progress = RunProgress("stage1", 3, False)
    old, new = (
        load_recipe(recipe, ["training.lr_decay_fraction=0.5", s]).document.values
        for s in ("seed=0", "stage1.steps=8")
    )
    assert [c.compatibility for c in compare_recipes(old, new, progress)] == ["fork"]


@pytest.mark.parametrize(
    ("processes", "change", "progress", "expected"),
    [
        (
            (2, 1),
            "training.gradient_accumulation_steps=2",
            RunProgress("stage1", 3, False),
            ["safe", "safe"],
        ),
        (
            (2, 4),
            "training.gradient_accumulation_steps=1",
            RunProgress("stage1", 3, False),
            ["fork"],
        ),
        (
            (3, 2),
            "training.gradient_accumulation_steps=1",
            RunProgress("stage2", 3, False),
            ["fork"],
        ),
        (
            (1, 1),
            "training.gradient_accumulation_steps=2",
            RunProgress("stage1", 3, False),
            ["fork"],
        ),
        # Stage 2 is still to come.
        (
            (2, 1),
            "training.gradient_accumulation_steps=1",
            RunProgress("stage1", 3, True),
            ["fork"],
        ),
        # All steps are done, so the run is only evaluated again.
        (
            (2, 1),
            "training.gradient_accumulation_steps=1",
            RunProgress("stage2", 4, True),
            ["safe"],
        ),
    ],
)
def test_another_number_of_processes_goes_on_where_a_step_takes_as_many_batches(
    recipe, processes, change, progress, expected
):
    old, new = (load_recipe(recipe, sets).document.values for sets in ([], [change]))
    assert (
        sorted(c.compatibility for c in compare_recipes(old, new, progress, processes)) == expected
    )


def test_rules_speak_of_keys_that_exist():
    for key in RULES:
        model = Recipe
        for part in key.split("."):
            assert part in model.model_fields, key
            model = model.model_fields[part].annotation
