import json
import os
import shutil
import signal

import pytest
import torch
import toy_plugin
from safetensors.torch import load_file
from toy_fixtures import install_plugins

from distillkit import DistillkitError, ModelInput, Restorer, __version__
from distillkit.errors import DiskError, Interrupted
from distillkit.evaluation.results import Results
from distillkit.export.folder import export_folder
from distillkit.inference.student import load_student
from distillkit.metrics.distortion import psnr
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.build import build, open_evaluation_sets
from distillkit.recipe.load import load_recipe
from distillkit.runs.evaluate import evaluate_run
from distillkit.runs.folder import lock_folder
from distillkit.runs.run import dry_run, run_recipe
from distillkit.training.distributed import create_accelerator
from distillkit.training.loop import Stage, Trainer
from distillkit.training.tracking import RunLog


def weights_of(out):
    return {f.stem: load_file(f) for f in sorted((out / "student").glob("*.safetensors"))}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for stage in a:
        assert a[stage].keys() == b[stage].keys() and all(
            torch.equal(a[stage][k], b[stage][k]) for k in a[stage]
        )


@pytest.fixture
def photos(trained_photos):
    """Those of the finished run, which a recipe of theirs resumes."""
    return trained_photos


@pytest.fixture
def finished(toys, finished_run):
    return finished_run()


def test_a_run_leaves_the_promised_folder(finished):
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert {
        "recipe.toml",
        "manifest.json",
        "metrics.jsonl",
        "report.html",
        "samples/step-00000005.png",
        "samples/step-00000010.png",
        "checkpoints/step-00000010/manifest.json",
        "student/distillkit.json",
        "evaluation/metrics.json",
        "evaluation/metrics.csv",
        "evaluation/table.md",
        "evaluation/comparison.png",
    } <= names
    # No perceptual metric is measured, so there is nothing to draw PSNR over.
    assert "evaluation/tradeoff.png" not in names
    rows = json.loads((finished / "evaluation/metrics.json").read_text())
    promised = {"method", "tradeoff", "dataset", "metric", "protocol", "mean", "sem", "n", "nfe"}
    assert all(promised <= r.keys() for r in rows)
    methods = {(r["method"], r["tradeoff"]) for r in rows}
    assert {
        ("student", 0.0),
        ("student", 0.5),
        ("student", 1.0),
        ("fidelity", None),
        ("realness", None),
        ("bicubic", None),
    } <= methods
    assert ("linear:0.5", None) in methods
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in lines] == [
        ("stage1", 2),
        ("stage1", 4),
        ("stage1", 6),
        ("stage2", 8),
        ("stage2", 10),
    ]
    assert {
        "loss",
        "l2",
        "fidelity/imitate",
        "fidelity/anchor",
        "realness/imitate",
        "lr",
        "grad_norm",
    } <= lines[0].keys()
    manifest = json.loads((finished / "manifest.json").read_text())
    assert (
        manifest["status"] == "finished"
        and manifest["packages"]["torch"] != "absent"
        and manifest["bad_images"] == {}
    )


def test_the_same_recipe_gives_the_same_student(finished, recipe, tmp_path):
    run_recipe(load_recipe(recipe), tmp_path / "again")
    assert_same(weights_of(finished), weights_of(tmp_path / "again"))


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7, 9])
def test_interrupted_and_resumed_equals_uninterrupted(finished, recipe, tmp_path, monkeypatch, at):
    """10 steps = ``at`` + the rest, bit for bit, wherever the signal falls in either stage."""
    out = tmp_path / "cut"
    held_out = 3  # the degradation first makes the three held-out inputs
    monkeypatch.setattr(toy_plugin.Halve, "calls", 0)
    strike = staticmethod(
        lambda n: os.kill(os.getpid(), signal.SIGTERM) if n == held_out + at else None
    )
    monkeypatch.setattr(toy_plugin.Halve, "on_call", strike)
    with pytest.raises(Interrupted, match="SIGTERM: stopped after stage"):
        run_recipe(load_recipe(recipe), out)
    assert (
        json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
        and not (out / "student").exists()
    )
    monkeypatch.setattr(toy_plugin.Halve, "on_call", staticmethod(lambda n: None))
    run_recipe(load_recipe(recipe), out, resume=True)
    assert_same(weights_of(finished), weights_of(out))
    assert (out / "metrics.jsonl").read_text().count("\n") == (
        finished / "metrics.jsonl"
    ).read_text().count("\n")


def test_resuming_from_an_older_checkpoint_repeats_the_same_steps(finished, recipe, tmp_path):
    out = tmp_path / "older"
    run_recipe(load_recipe(recipe), out)
    newest = sorted((out / "checkpoints").iterdir())[-1]
    (newest / "trained.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        run_recipe(load_recipe(recipe), out, resume=True)
    assert_same(weights_of(finished), weights_of(out))


def test_an_existing_run_is_never_overwritten_and_another_recipe_never_resumed(finished, recipe):
    before = weights_of(finished)
    with pytest.raises(DistillkitError, match="holds a run already; continue it with --resume"):
        run_recipe(load_recipe(recipe), finished)
    with pytest.raises(
        DistillkitError,
        match=r"(?s)stands at stage2 step 10, .*stage1\.learning_rate: 0\.01 -> 0\.5",
    ):
        run_recipe(load_recipe(recipe, ["stage1.learning_rate=0.5"]), finished, resume=True)
    assert_same(before, weights_of(finished))


@pytest.mark.parametrize("space", ["pixels", "unshuffle"])
@pytest.mark.parametrize(
    "stage2",
    [
        "variant='adapter_scaling'",
        "target='teacher'",
        "variant='ctsr_eq8'",
        "variant='ctsr_alg2'",
        "variant='oftsr'",
    ],
)
def test_every_variant_runs_and_its_exported_student_starts_at_stage_1(
    recipe, tmp_path, stage2, space
):
    out = tmp_path / "out"
    # Each variant is evaluated once.
    evaluation = "evaluation.max_images=1" if space == "pixels" else "data.eval=[]"
    sets = [f"stage2.{stage2}", f"teachers.fidelity.space='{space}'", evaluation]
    run_recipe(load_recipe(recipe, sets), out)
    student = load_student(out)
    lq = torch.rand(1, 3, 8, 8) * 2 - 1
    knobless = load_student_without_stage_2(out, tmp_path)
    inputs = ModelInput(lq)
    assert torch.equal(student.restore(inputs, 0.0), knobless.restore(inputs))
    assert not torch.equal(student.restore(inputs, 1.0), student.restore(inputs, 0.0))
    assert student.nfe == (1 if "adapter_scaling" in stage2 or "teacher" in stage2 else 2)


def load_student_without_stage_2(out, tmp_path):
    copy = tmp_path / "stage1-only"
    shutil.copytree(out / "student", copy)
    about = json.loads((copy / "distillkit.json").read_text())
    (copy / "distillkit.json").write_text(json.dumps(about | {"stage2": None}))
    return load_student(copy)


def test_without_stage_2_the_tradeoff_is_fixed(recipe, tmp_path):
    run_recipe(load_recipe(recipe, ["stage2.steps=0"]), tmp_path / "out")
    student = load_student(tmp_path / "out")
    with pytest.raises(DistillkitError, match="has a fixed tradeoff, 0"):
        student.restore(ModelInput(torch.zeros(1, 3, 8, 8)), 0.5)
    rows = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    assert {r["tradeoff"] for r in rows if r["method"] == "student"} == {0.0}


def test_an_output_teacher_takes_part_by_output_distillation(recipe, tmp_path):
    sets = [
        "teachers.fidelity={use='toy/restorer'}",
        "stage1.teachers.fidelity.term='output'",
        "stage2.target='teacher'",
    ]
    run_recipe(load_recipe(recipe, sets), tmp_path / "out")
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    assert "fidelity/output" in first and "fidelity/anchor" not in first


def test_training_without_teachers(recipe, tmp_path):
    text = "\n".join(
        line for line in recipe.read_text().splitlines() if not line.startswith("teachers.")
    )
    recipe.write_text(text)
    run_recipe(
        load_recipe(
            recipe, ["stage1.teachers.fidelity.weight=0", "stage1.teachers.realness.weight=0"]
        ),
        tmp_path / "out",
    )
    methods = {
        r["method"] for r in json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    }
    assert methods == {"student", "bicubic"}


def test_a_faithful_endpoint_that_is_not_is_said_before_stage_2(recipe, tmp_path, capfd):
    run_recipe(
        load_recipe(recipe, ["stage2.target='teacher'", "stage1.steps=60", "stage2.steps=1"]),
        tmp_path / "out",
    )
    assert "is no more faithful than the stage-1 student" in capfd.readouterr().err
    guard = json.loads((tmp_path / "out/manifest.json").read_text())["faithful_check"]
    assert guard["target_psnr"] <= guard["student_psnr"] and guard["crops"] == 16


@pytest.mark.parametrize("fused", [False, True])
def test_non_finite_losses_are_written_down_skipped_and_stop_the_run(
    recipe, tmp_path, monkeypatch, fused
):
    """``fused`` is the case of a GPU: the optimizer skips the step, which shows one step later."""
    monkeypatch.setattr(
        Trainer, "fused", property(lambda self: fused, lambda self, value: None), raising=False
    )

    real = ReconstructionLoss.__call__
    calls = []

    def sometimes_nan(self, *args, **kwargs):
        calls.append(1)
        bad = len(calls) == 2 or len(calls) > 4
        losses = real(self, *args, **kwargs)
        return {name: loss * float("nan") if bad else loss for name, loss in losses.items()}

    monkeypatch.setattr(ReconstructionLoss, "__call__", sometimes_nan)
    with pytest.raises(DistillkitError, match="2 non-finite losses in a row"):
        run_recipe(load_recipe(recipe, ["training.max_nonfinite_steps=2"]), tmp_path / "out")
    lines = [
        json.loads(line) for line in (tmp_path / "out/nonfinite.jsonl").read_text().splitlines()
    ]
    assert (
        [line["step"] for line in lines] == [2, 5, 6]
        and lines[0]["terms"]["l2"] == "nan"
        and len(lines[0]["ids"]) == 2
    )
    newest = load_file(sorted((tmp_path / "out/checkpoints").iterdir())[-1] / "trained.safetensors")
    assert all(torch.isfinite(v).all() for v in newest.values())


def test_skipped_steps_in_a_row_are_counted_on_by_a_resumed_run(recipe, tmp_path, monkeypatch):
    steps = []

    def nan(self, x_0, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)
        return {"l2": x_0.mean() * float("nan")}

    monkeypatch.setattr(ReconstructionLoss, "__call__", nan)
    resolved = load_recipe(recipe, ["training.max_nonfinite_steps=3", "stage1.steps=6"])
    with pytest.raises(Interrupted, match="stopped after stage1 step 2"):
        run_recipe(resolved, tmp_path / "out")
    with pytest.raises(DistillkitError, match="step 3 - 3 non-finite losses in a row"):
        run_recipe(resolved, tmp_path / "out", resume=True)


def test_a_line_without_a_finite_step_has_no_loss(recipe, tmp_path, monkeypatch):
    def nan(self, x_0, *args, **kwargs):
        return {"l2": x_0.mean() * float("nan")}

    monkeypatch.setattr(ReconstructionLoss, "__call__", nan)
    run_recipe(
        load_recipe(recipe, ["training.logging_steps=1", "stage1.steps=1", "stage2.steps=0"]),
        tmp_path / "out",
    )
    line = json.loads((tmp_path / "out/metrics.jsonl").read_text())
    assert "loss" not in line and "l2" not in line and line["seconds"] > 0


def test_dry_run_touches_everything_and_leaves_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    dry_run(load_recipe(recipe), tmp_path / "runs/new")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ([], ["stage1", "stage2"]),
        (["stage1.steps=0"], ["stage2"]),
        (["stage2.steps=0"], ["stage1"]),
        (
            ["stage1.pretraining_steps=3", "stage2.faithful_steps=2"],
            ["pretraining", "stage1", "stage2", "stage2"],
        ),
        (["stage1.pretraining_steps=6"], ["pretraining", "stage2"]),
    ],
)
def test_a_dry_run_takes_a_step_of_everything_that_is_trained(
    recipe, tmp_path, monkeypatch, settings, steps
):
    taken = []

    def note(self, step, values):
        taken.append("pretraining" if "pretraining" in values else self._stage)

    monkeypatch.setattr(RunLog, "write", note)
    dry_run(load_recipe(recipe, settings), tmp_path / "run")
    assert taken == steps


def test_a_dry_run_refuses_a_folder_that_the_run_could_not_write(recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DistillkitError, match="file/run"):
        dry_run(load_recipe(recipe), tmp_path / "file/run")


def test_a_dry_run_whose_step_was_skipped_is_no_success(recipe, tmp_path, monkeypatch):
    def nan(self, x_0, *args, **kwargs):
        return {"l2": x_0.mean() * float("nan")}

    monkeypatch.setattr(ReconstructionLoss, "__call__", nan)
    message = r"^dry run: step 1 was skipped, .* not finite; .*l2 = nan.*; images toy/photos"
    with pytest.raises(DistillkitError, match=message):
        dry_run(load_recipe(recipe), tmp_path / "run")


def test_every_plugin_used_is_on_record(finished):
    for file in ("manifest.json", "student/distillkit.json"):
        found = json.loads((finished / file).read_text())["plugins"]
        assert found["toy"] == "toy_plugin"
        assert found["distillkit"] == f"distillkit {__version__}"


def test_a_student_whose_plugin_is_absent_says_what_to_install(finished, monkeypatch):
    about = finished / "student/distillkit.json"
    changed = json.loads(about.read_text())
    changed["plugins"]["toy"] = "distillkit-toy 1.2"
    about.write_text(json.dumps(changed))
    install_plugins(monkeypatch)
    message = (
        r"plugin \"toy\", which is not installed; it was trained with distillkit-toy 1.2: "
        "install it from where its author offers it$"
    )
    with pytest.raises(DistillkitError, match=message):
        load_student(finished)


def test_evaluation_can_be_repeated(finished):
    before = json.loads((finished / "evaluation/metrics.json").read_text())
    evaluate_run(
        load_recipe(finished / "recipe.toml", ["evaluation.tradeoffs=[0.0,0.25]"]), finished, "cpu"
    )
    after = json.loads((finished / "evaluation/metrics.json").read_text())
    old, new = (
        {(r["method"], r["tradeoff"], r["metric"]): r["mean"] for r in rows}
        for rows in (before, after)
    )
    assert ("student", 0.25, "psnr") in new and new["student", 0.0, "psnr"] == old[
        "student", 0.0, "psnr"
    ]


def test_an_evaluation_that_cannot_be_written_is_refused_before_any_work(finished):
    shutil.rmtree(finished / "evaluation")
    (finished / "evaluation").touch()
    # It is not even looked for.
    shutil.rmtree(finished / "student")
    with pytest.raises(DiskError, match=r"evaluation - cannot be written: Not a directory"):
        evaluate_run(load_recipe(finished / "recipe.toml"), finished, "cpu")


def test_a_student_restores_with_the_color_fix_it_was_judged_with(recipe, tmp_path):
    run = tmp_path / "adain"
    resolved = load_recipe(recipe, ['evaluation.color_fix="adain"'])
    run_recipe(resolved, run)
    results = read_results(run)
    restorer = Restorer.from_pretrained(run, device="cpu")
    assert restorer.color_fix == "adain"
    degradation = build(resolved.degradation, "cpu")
    sets = open_evaluation_sets(resolved, degradation, restorer.scale)
    pair = sets[resolved.recipe.name][0].read()
    values = {}
    for fix in (None, "none"):
        restorer = Restorer.from_pretrained(run, device="cpu", color_fix=fix)
        restored = restorer(pair.lq * 0.5 + 0.5, 0.0) * 2 - 1
        values[fix] = psnr()(restored, pair.gt).item()
    judged = results.values["student@0", "psnr"][0]
    assert values[None] == pytest.approx(judged, abs=0.05)
    assert values["none"] != pytest.approx(judged, abs=0.2)
    export_folder(run, tmp_path / "out")
    assert Restorer.from_pretrained(tmp_path / "out", device="cpu").color_fix == "adain"


def test_interpolated_weights_of_two_stage_1_students_are_a_baseline(finished, recipe, tmp_path):
    out, another = tmp_path / "out", f"evaluation.interpolate_with='{finished}'"
    with pytest.raises(DistillkitError, match="no student here"):
        run_recipe(load_recipe(recipe, [f"evaluation.interpolate_with='{tmp_path}'"]), out)
    assert not (out / "recipe.toml").exists()
    run_recipe(
        load_recipe(recipe, ["stage1.reconstruction.l2_weight=20", "stage2.steps=0", another]), out
    )
    rows = {
        (r["method"], r["tradeoff"]): r["mean"]
        for r in json.loads((out / "evaluation/metrics.json").read_text())
        if r["metric"] == "psnr"
    }
    ends = rows["interpolated", 0.0], rows["interpolated", 1.0]
    assert ends[0] == rows["student", 0.0] and ends[0] != ends[1] and ("interpolated", 0.5) in rows
    other = {
        (r["method"], r["tradeoff"]): r["mean"]
        for r in json.loads((finished / "evaluation/metrics.json").read_text())
        if r["metric"] == "psnr"
    }
    assert ends[1] == pytest.approx(other["student", 1.0], abs=1e-3)


def read_results(run):
    return Results.from_json((run / "evaluation/per_image.json").read_text())


def test_every_run_is_compared_with_the_mix_of_its_stage_1_student_and_names_its_start(finished):
    results = read_results(finished)
    assert results.combined["linear-stage1"] == ("fidelity", "student@0")
    assert "linear-stage1" in results.baselines()
    assert "weights" not in results.baselines()  # they are the student itself
    assert results.start.startswith("toy/")
    assert "steps" in results.start
    table = (finished / "evaluation/table.md").read_text()
    assert f"The student started from {results.start}" in table


def test_weights_of_a_variant_of_two_passes_are_a_baseline_of_one(recipe, tmp_path):
    run = tmp_path / "eq8"
    run_recipe(load_recipe(recipe, ['stage2.variant="ctsr_eq8"']), run)
    results = read_results(run)
    assert "weights" in results.baselines()
    assert results.method("weights@1").nfe == results.method("student@1").nfe - 1
    means = {label: results.mean(label, "psnr") for label in ("weights@0", "student@0")}
    assert means["weights@0"] == means["student@0"]
    assert results.mean("weights@1", "psnr") != results.mean("student@1", "psnr")


def test_restorer_takes_and_gives_every_kind_of_image(finished):
    import numpy as np
    from PIL import Image

    restorer = Restorer.from_pretrained(finished, device="cpu")
    array = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    by_array = restorer(array, tradeoff=0.5)
    assert by_array.shape == (20, 24, 3) and by_array.dtype == np.uint8
    by_pil = restorer(Image.fromarray(array), tradeoff=0.5)
    assert by_pil.size == (24, 20) and np.array_equal(np.asarray(by_pil), by_array)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    by_tensor = restorer(tensor, tradeoff=0.5)
    assert by_tensor.shape == (3, 20, 24)
    assert np.abs((by_tensor * 255).round().permute(1, 2, 0).numpy() - by_array).max() <= 1
    assert torch.equal(restorer(torch.stack([tensor, tensor]), 0.5)[1], by_tensor)
    assert restorer(array[..., 0]).shape == (20, 24)
    for bad, what in (
        (tensor * float("nan"), "not finite"),
        (tensor[:2], "expected a tensor"),
        (array[..., :2], "expected an array"),
    ):
        with pytest.raises(DistillkitError, match=what):
            restorer(bad)


def test_learning_rate_is_a_function_of_the_step(toys):
    from distillkit.recipe.schema import TrainingConfig

    stage = Stage("s", None, steps=100, learning_rate=1.0)
    options = TrainingConfig(lr_warmup_steps=10, lr_decay_fraction=0.25)
    assert [round(stage.lr_at(s, options), 3) for s in (0, 4, 9, 50, 75, 85, 99)] == [
        0.1,
        0.5,
        1.0,
        1.0,
        1.0,
        0.6,
        0.04,
    ]


@pytest.mark.parametrize("setting", ["gradient_checkpointing", "channels_last"])
def test_cheaper_passes_train_the_same_student(finished, recipe, tmp_path, setting):
    out = tmp_path / "saving"
    run_recipe(load_recipe(recipe, [f"training.{setting}=true"]), out)
    plain, saving = weights_of(finished), weights_of(out)
    assert all(
        torch.allclose(plain[s][k], saving[s][k], atol=1e-6) for s in plain for k in plain[s]
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_cast_again_train_the_same_student_bit_for_bit(recipe, tmp_path, precision):
    sets = [
        f"training.mixed_precision='{precision}'",
        "training.per_term_backward=true",
        "data.eval=[]",
    ]
    run_recipe(load_recipe(recipe, sets), tmp_path / "kept")
    run_recipe(load_recipe(recipe, [*sets, "training.recast_weights=true"]), tmp_path / "again")
    kept, again = weights_of(tmp_path / "kept"), weights_of(tmp_path / "again")
    assert all(torch.equal(kept[s][k], again[s][k]) for s in kept for k in kept[s])


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([], r'needs training\.mixed_precision = "bf16" or "fp16"'),
        (
            ["training.mixed_precision='bf16'", "training.compile=true"],
            r"does not work with training\.compile = true",
        ),
        (
            ["training.mixed_precision='bf16'", "training.gradient_checkpointing=true"],
            r"adds nothing to training\.gradient_checkpointing = true",
        ),
    ],
)
def test_weights_are_cast_again_only_where_they_are_cast(recipe, others, why):
    with pytest.raises(DistillkitError, match=rf"training\.recast_weights - .*{why}"):
        load_recipe(recipe, ["training.recast_weights=true", *others])


def test_a_loss_far_above_the_first_ones_is_told_once_a_stage(recipe, tmp_path, capfd):
    sets = [
        "stage1.steps=24",
        "training.lr_warmup_steps=24",
        "training.logging_steps=1",
        "data.eval=[]",
        "stage2.steps=0",
        "training.max_grad_norm=1e9",
    ]
    run_recipe(load_recipe(recipe, [*sets, "stage1.learning_rate=0.5"]), tmp_path / "wild")
    said = capfd.readouterr().err
    assert (
        said.count("probably diverged; lower stage1.learning_rate") == 1
        and "times what it began with" in said
    )
    run_recipe(load_recipe(recipe, sets), tmp_path / "tame")
    assert "diverged" not in capfd.readouterr().err


def test_one_line_that_is_small_or_large_by_chance_warns_of_nothing(recipe, tmp_path, capsys):
    options = load_recipe(recipe, ["training.log_with=[]"]).recipe.training
    log = RunLog(
        tmp_path / "metrics.jsonl", create_accelerator(options, tmp_path), lambda *_, **__: None
    )
    log.begin("stage1", 0, 12)
    for step, loss in enumerate([0.001, 0.3, 0.2, 0.4, 0.3, 0.3, 2.0, 3.0, 0.3, 3.0], 1):
        log.write(step, {"loss": loss})
    assert "diverged" not in capsys.readouterr().err
    log.write(11, {"loss": 4.0})
    assert "is 4, 16.7 times what it began with (0.24), after a line" in capsys.readouterr().err
    log.write(12, {"loss": 5.0})
    assert "diverged" not in capsys.readouterr().err


def test_a_second_process_in_the_folder_of_a_run_is_refused(finished, recipe):
    resolved = load_recipe(recipe)
    before = (finished / "metrics.jsonl").read_text()
    owner = rf"another process \(pid {os.getpid()} on .+\) is at work here"
    with lock_folder(finished), pytest.raises(DistillkitError, match=f"finished - {owner}"):
        run_recipe(resolved, finished, resume=True)
    assert (finished / "metrics.jsonl").read_text() == before
    run_recipe(resolved, finished, resume=True)
    assert not (finished / "run.pid").exists()


def test_with_a_cycle_crops_and_degradations_come_again_but_times_do_not(recipe, tmp_path):
    """With frozen weights, losses of the data alone repeat, and those of drawn timesteps do not."""
    still = [
        "stage1.learning_rate=1e-12",
        "stage2.steps=0",
        "data.cycle_steps=2",
        "training.logging_steps=1",
    ]
    run_recipe(load_recipe(recipe, still), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    for term, kinds in (("l2", 2), ("realness/imitate", 6)):
        assert len({round(line[term], 7) for line in lines}) == kinds


def test_a_distance_without_gradient_is_refused(recipe, tmp_path):
    message = (
        r"stage1\.reconstruction\.perceptual_metric - "
        "psnr is higher where images are closer: nothing"
    )
    with pytest.raises(DistillkitError, match=message):
        run_recipe(
            load_recipe(
                recipe,
                [
                    "stage1.reconstruction.perceptual_weight=1",
                    "stage1.reconstruction.perceptual_metric='psnr'",
                ],
            ),
            tmp_path / "out",
        )


def test_an_anchor_beside_a_score_is_refused_at_validation(recipe):
    with pytest.raises(
        DistillkitError,
        match=r"realness\.anchor_metric - is for an output teacher, but "
        r'stage1\.teachers\.realness\.term = "score"',
    ):
        load_recipe(recipe, ["stage1.teachers.realness.anchor_metric='stlpips-alex'"])
    with pytest.raises(
        DistillkitError, match=r"realness\.output_metric - is for an output teacher"
    ):
        load_recipe(recipe, ["stage1.teachers.realness.output_metric='stlpips-alex'"])


def test_a_metric_anchors_an_output_teacher(recipe, tmp_path):
    sets = [
        "teachers.realness={use='toy/restorer'}",
        "stage1.teachers.realness.term='output'",
        "stage1.teachers.realness.output_loss='denoised'",
    ]
    sets += [
        "stage1.teachers.realness.anchor_metric='stlpips-alex'",
        "data.crop_size=32",
        "stage1.decode_crop_size=24",
        "data.eval=[]",
    ]
    run_recipe(load_recipe(recipe, sets), tmp_path / "out")
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    assert {"realness/output", "realness/metric_anchor"} <= first.keys() and first[
        "realness/metric_anchor"
    ] > 0


def test_what_each_teacher_is_asked_for_is_said_and_written_down(recipe, tmp_path, capfd):
    def told(name, *sets):
        run_recipe(
            load_recipe(recipe, ["stage1.steps=1", "stage2.steps=0", "data.eval=[]", *sets]),
            tmp_path / name,
        )
        found, said = (
            json.loads((tmp_path / name / "manifest.json").read_text())["teaching"],
            capfd.readouterr().err,
        )
        assert all(f"{role}: {how}\n" in said for role, how in found.items())
        return found

    score = "score distillation; clipped weighting, full gradient"
    assert told("a") == {
        "fidelity": f"toy/faithful: {score}",
        "realness": f"toy/realistic: {score}",
    }
    outputs = [
        "teachers.realness={use='toy/restorer'}",
        "stage1.teachers.realness.term='output'",
        "data.crop_size=32",
    ]
    found = told(
        "b",
        *outputs,
        "stage1.teachers.realness.output_input='full_image'",
        "stage1.teachers.realness.output_metric='stlpips-alex'",
        "stage1.teachers.realness.anchor_metric='stlpips-alex'",
    )["realness"]
    assert found.startswith(
        "toy/restorer: output distillation, images against its results for full images, "
        "cut to the crops, also in distillkit/stlpips-alex; "
    )
    assert found.endswith("anchored by distillkit/stlpips-alex")
    found = told(
        "c",
        *outputs,
        "stage1.teachers.realness.output_loss='denoised'",
        "teachers.fidelity.space='unshuffle'",
    )
    assert found["realness"].endswith("clean latents against its results for crops; no anchor")
    assert "score distillation, in the space " in found["fidelity"]
    assert set(told("d", "stage1.teachers.realness.weight=0")) == {"fidelity"}
