"""Comparing methods by folders of their images."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from distillkit.cli import main as cli
from distillkit.evaluation.results import Results

NAMES = [f"photo{i}" for i in range(4)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path):
    """``gt``, ``lq`` at half its size, and the outputs of two methods with little and much noise."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        small = rng.uniform(0, 255, (5, 6, 3)).astype(np.uint8)
        gt = np.array(Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC))
        save(tmp_path / "gt" / f"{name}.png", gt)
        save(
            tmp_path / "lq" / f"{name}.png",
            np.array(Image.fromarray(gt).resize((24, 20), Image.Resampling.BOX)),
        )
        for method, noise in (("sharp", 20), ("soft", 4)):
            noisy = np.clip(gt + rng.normal(0, noise, gt.shape), 0, 255).astype(np.uint8)
            save(tmp_path / method / f"{name}.{'bmp' if method == 'soft' else 'png'}", noisy)
    return tmp_path


@pytest.fixture
def compare(monkeypatch, capfd, folders):
    """``compare("--metrics", ...)`` of the two methods -> exit code, standard output, standard error."""

    def call(*arguments, methods=("sharp", "soft")):
        given = [x for m in methods for x in ("--method", m if "=" in m else f"{m}={folders / m}")]
        line = [
            "distillkit",
            "eval",
            "--gt",
            folders / "gt",
            *given,
            "--out",
            folders / "out",
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", [*map(str, line)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return call


def test_two_folders_their_combinations_and_bicubic(compare, folders):
    options = (
        "--lq",
        folders / "lq",
        "--metrics",
        "psnr-y,ssim-y",
        "--combine",
        "soft,sharp",
        "--alphas",
        "0.25,0.75",
    )
    code, said, told = compare(*options)
    assert code == 0 and f"open {folders / 'out' / 'report.html'}" in said, told
    results = Results.from_json((folders / "out" / "per_image.json").read_text())
    assert [e.label for e in results.methods] == [
        "sharp",
        "soft",
        "bicubic",
        "linear:0.25",
        "linear:0.75",
    ]
    assert list(results.items) == NAMES and results.reference == "sharp"
    rows = {
        (r["method"], r["metric"]): r
        for r in json.loads((folders / "out" / "metrics.json").read_text())
    }
    assert rows["soft", "psnr-y"]["difference_low"] > 5
    gt, soft = (
        np.array(Image.open(folders / f)).astype(float)
        for f in ("gt/photo0.png", "soft/photo0.bmp")
    )
    weights = np.array([65.481, 128.553, 24.966]) / 255
    expected = 10 * np.log10(255**2 / np.mean(((gt - soft) @ weights) ** 2))
    assert results.values["soft", "psnr-y"][0] == pytest.approx(expected, abs=1e-3)
    page = (folders / "out" / "report.html").read_text()
    assert (
        "<summary>Recipe" not in page
        and "soft teacher" not in page
        and "Differences from sharp" in page
    )


def test_folders_by_tradeoff_make_a_curve_without_inputs(compare, folders):
    methods = [
        f"student@0={folders / 'sharp'}",
        f"student@1={folders / 'soft'}",
        f"theirs={folders / 'sharp'}",
    ]
    code, _, told = compare(
        "--metrics", "psnr,ssim", "--reference", "theirs", "--only", "photo[0-2]", methods=methods
    )
    assert code == 0, told
    results = Results.from_json((folders / "out" / "per_image.json").read_text())
    assert [e.tradeoff for e in results.sweep()] == [0, 1] and len(results.items) == 3
    assert "the tradeoff spans at least" in told
    assert all(e.seconds is None and e.nfe is None for e in results.methods)


def test_options_of_a_metric_and_weights_that_are_absent(compare, folders):
    code, _, told = compare(
        "--metrics", "psnr,niqe", "--set", f"niqe.parameters='{folders / 'none.npz'}'"
    )
    assert code == 0 and "not measured: niqe" in told and "none.npz" in told
    assert "weights absent" in (folders / "out" / "table.md").read_text()


def test_everything_that_does_not_fit_together_is_told_at_once(compare, folders):
    (folders / "sharp" / "photo0.png").unlink()
    (folders / "sharp" / "photo1.png").write_bytes(b"no picture")
    save(folders / "sharp" / "extra.png", np.zeros((4, 4, 3), np.uint8))
    save(folders / "soft" / "photo2.bmp", np.zeros((4, 5, 3), np.uint8))
    code, said, told = compare("--metrics", "psnr")
    assert code == 2 and said == "" and "Traceback" not in told
    for line in (
        "missing: photo0",
        "left over: extra",
        "photo1.png - ",
        "photo2.bmp - 5 x 4 pixels, the ground truth 48 x 40",
    ):
        assert line in told
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "methods", "says"),
    [
        ((), ["nowhere=/nowhere"], "/nowhere - no such folder"),
        (("--only", "x*"), ["sharp"], "holds no images called x*"),
        (("--metrics", "psnrr"), ["sharp"], 'did you mean "psnr"'),
        (
            ("--metrics", "psnr", "--set", "niqe.parameters='a'"),
            ["sharp"],
            "niqe. - options of a metric that is not among",
        ),
        (
            ("--metrics", "niqe", "--set", "niqe.file='a'"),
            ["sharp"],
            "niqe does not take these settings: file - unknown key",
        ),
        (
            ("--combine", "sharp,shrap"),
            ["sharp", "soft"],
            'no such method; there are sharp, soft; did you mean "sharp"',
        ),
        (
            ("--combine", "sharp"),
            ["sharp", "soft"],
            "--combine sharp - expected the names of two methods",
        ),
        (("--alphas", "0,2"), ["sharp"], "--alphas 0,2 - expected a number from 0 to 1"),
        (("--reference", "none"), ["sharp"], "reference none - no such method"),
        ((), ["sharp@2=."], "--method sharp@2=... - not a name"),
        ((), ["lq=."], "--method lq=... - not a name"),
        ((), ["sharp="], "expected NAME=DIR"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    compare, folders, arguments, methods, says
):
    code, _, told = compare("--metrics", "psnr", *arguments, methods=methods)
    assert code == 2 and says in told and "Traceback" not in told
    assert not (folders / "out").exists()


def test_two_files_of_one_name_and_a_runs_folder_are_refused(compare, folders):
    save(folders / "sharp" / "photo0.jpg", np.zeros((40, 48, 3), np.uint8))
    code, _, told = compare("--metrics", "psnr")
    assert code == 2 and "have the same name apart from the suffix" in told
    (folders / "out").mkdir()
    (folders / "out" / "recipe.toml").write_text("")
    code, _, told = compare("--metrics", "psnr", methods=["soft"])
    assert code == 2 and "is a run's folder" in told


def test_damaged_inputs_are_named(compare, folders):
    content = (folders / "lq" / "photo1.png").read_bytes()
    (folders / "lq" / "photo1.png").write_bytes(content[: len(content) // 2])
    (folders / "gt" / "photo3.png").write_bytes(b"")
    code, _, told = compare("--metrics", "psnr", "--lq", folders / "lq")
    assert code == 2 and "photo3.png" in told and "Traceback" not in told
    (folders / "gt" / "photo3.png").write_bytes((folders / "gt" / "photo2.png").read_bytes())
    code, _, told = compare("--metrics", "psnr", "--lq", folders / "lq")
    assert code == 2 and "photo1.png" in told and not (folders / "out").exists()


def test_a_runs_evaluation_gains_methods(recipe, photos, tmp_path, monkeypatch, capfd):
    def distillkit(*arguments):
        monkeypatch.setattr(sys, "argv", ["distillkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capfd.readouterr()

    run = tmp_path / "run"
    assert distillkit("run", recipe, "--out", run)[0] == 0
    copies = f"copies={photos / 'test'}"
    code, _, told = distillkit(
        "eval", run, "--method", copies, "--combine", "copies,bicubic", "--alphas", "0.5"
    )
    assert code == 0, told
    results = Results.from_json((run / "evaluation" / "per_image.json").read_text())
    assert results.values["copies", "psnr"].min() == 100 and results.teachers == (
        "copies",
        "bicubic",
    )
    assert results.method("linear:0.5").nfe is None and results.method("copies").seconds is None
    student = results.sweep()[0]
    assert student.parameters and student.trainable and student.seconds > 0
    stored = [sum(np.prod(t.shape) for t in load(run, f"stage{n}").values()) for n in (1, 2)]
    assert student.trainable == sum(stored)
    code, _, told = distillkit("eval", run, "--method", f"copies={photos / 'train'}")
    assert code == 2 and "missing: test0, test1, test2" in told
    code, _, told = distillkit("eval", run, "--gt", photos)
    assert code == 2 and "a run has its own" in told
    assert distillkit("eval")[0] == 2


def load(run, stage):
    from safetensors.numpy import load_file

    return load_file(run / "student" / f"{stage}.safetensors")
