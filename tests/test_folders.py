"""Comparing methods by folders of their images."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from distillkit.evaluation.results import Results

NAMES = [f"photo{i}" for i in range(4)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read_array(path):
    return np.array(Image.open(path)).astype(float)


def read_results(folder):
    return Results.from_json((folder / "per_image.json").read_text())


@pytest.fixture
def folders(tmp_path):
    """Make ``gt``, ``lq`` at half its size, and a noisy and a cleaner method."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        small = rng.uniform(0, 255, (5, 6, 3)).astype(np.uint8)
        gt = np.array(Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC))
        lq = np.array(Image.fromarray(gt).resize((24, 20), Image.Resampling.BOX))
        save(tmp_path / "gt" / f"{name}.png", gt)
        save(tmp_path / "lq" / f"{name}.png", lq)
        for method, noise, suffix in (("sharp", 20, "png"), ("soft", 4, "bmp")):
            noisy = np.clip(gt + rng.normal(0, noise, gt.shape), 0, 255).astype(np.uint8)
            save(tmp_path / method / f"{name}.{suffix}", noisy)
    return tmp_path


@pytest.fixture
def compare(distillkit, folders):
    """Compare methods with ``gt``: names of folders, or NAME=DIR."""

    def call(*arguments, methods=("sharp", "soft")):
        options = []
        for method in methods:
            if "=" not in method:
                method = f"{method}={folders / method}"
            options += ["--method", method]
        gt = folders / "gt"
        return distillkit("compare", "--gt", gt, *options, "--out", folders / "out", *arguments)

    return call


def test_two_folders_their_combinations_and_bicubic(compare, folders):
    outcome = compare(
        *("--lq", folders / "lq"),
        *("--metrics", "psnr-y,ssim-y"),
        *("--combine", "soft,sharp"),
        *("--alphas", "0.25,0.75"),
    )
    assert outcome.code == 0, outcome.err
    assert f"open {folders / 'out' / 'report.html'}" in outcome.out
    results = read_results(folders / "out")
    labels = ["sharp", "soft", "bicubic", "linear:0.25", "linear:0.75"]
    assert [method.label for method in results.methods] == labels
    assert list(results.items) == NAMES
    assert results.reference == "sharp"
    page = (folders / "out" / "report.html").read_text()
    assert "Differences from sharp" in page
    assert "<summary>Recipe" not in page
    assert "soft teacher" not in page


def test_a_folder_is_measured_as_its_files_are(compare, folders):
    outcome = compare("--metrics", "psnr-y")
    assert outcome.code == 0, outcome.err
    rows = json.loads((folders / "out" / "metrics.json").read_text())
    (soft_row,) = [row for row in rows if row["method"] == "soft"]
    assert soft_row["difference_low"] > 5
    gt = read_array(folders / "gt" / "photo0.png")
    soft = read_array(folders / "soft" / "photo0.bmp")
    luma_weights = np.array([65.481, 128.553, 24.966]) / 255
    error = np.mean(((gt - soft) @ luma_weights) ** 2)
    psnr = 10 * np.log10(255**2 / error)
    measured = read_results(folders / "out").values["soft", "psnr-y"]
    assert measured[0] == pytest.approx(psnr, abs=1e-3)


def test_folders_by_tradeoff_make_a_curve_without_inputs(compare, folders):
    methods = [
        f"student@0={folders / 'sharp'}",
        f"student@1={folders / 'soft'}",
        f"theirs={folders / 'sharp'}",
    ]
    outcome = compare(
        *("--metrics", "psnr,ssim"),
        *("--reference", "theirs"),
        *("--only", "photo[0-2]"),
        methods=methods,
    )
    assert outcome.code == 0, outcome.err
    assert "the tradeoff spans more than" in outcome.err
    assert "3 photographs, at least 20 are needed" in outcome.err
    results = read_results(folders / "out")
    assert [method.tradeoff for method in results.sweep()] == [0, 1]
    assert len(results.items) == 3
    for method in results.methods:
        assert method.seconds is None
        assert method.nfe is None


def test_options_of_a_metric_and_weights_that_are_absent(compare, folders):
    option = f"niqe.parameters='{folders / 'none.npz'}'"
    outcome = compare("--metrics", "psnr,niqe", "--set", option)
    assert outcome.code == 0, outcome.err
    assert "not measured: niqe" in outcome.err
    assert "none.npz" in outcome.err
    wanted = f"weights absent: put it at {folders / 'none.npz'} (niqe.parameters) from "
    assert wanted in (folders / "out" / "table.md").read_text()
    assert wanted in (folders / "out" / "report.html").read_text()


def test_all_images_that_do_not_fit_are_named_at_once(compare, folders):
    (folders / "sharp" / "photo0.png").unlink()
    (folders / "sharp" / "photo1.png").write_bytes(b"no picture")
    save(folders / "sharp" / "extra.png", np.zeros((4, 4, 3), np.uint8))
    save(folders / "soft" / "photo2.bmp", np.zeros((4, 5, 3), np.uint8))
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "missing: photo0" in outcome.err
    assert "left over: extra" in outcome.err
    assert "photo1.png - " in outcome.err
    assert "photo2.bmp - 5 x 4 pixels, the ground truth 48 x 40" in outcome.err
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "methods", "message"),
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
            "niqe cannot be built with these settings: file - unknown key",
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
def test_bad_arguments_are_refused_before_anything_is_written(
    compare, folders, arguments, methods, message
):
    outcome = compare("--metrics", "psnr", *arguments, methods=methods)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (folders / "out").exists()


def test_two_files_of_one_name_are_refused(compare, folders):
    save(folders / "sharp" / "photo0.jpg", np.zeros((40, 48, 3), np.uint8))
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert "have the same name apart from the suffix" in outcome.err


def test_a_runs_folder_is_refused(compare, folders):
    (folders / "out").mkdir()
    (folders / "out" / "recipe.toml").write_text("")
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert "is a run's folder" in outcome.err


def test_a_damaged_ground_truth_is_named(compare, folders):
    (folders / "gt" / "photo3.png").write_bytes(b"")
    outcome = compare("--metrics", "psnr", "--lq", folders / "lq")
    assert outcome.code == 2
    assert "photo3.png" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_damaged_input_is_named(compare, folders):
    lq = folders / "lq" / "photo1.png"
    content = lq.read_bytes()
    lq.write_bytes(content[: len(content) // 2])
    outcome = compare("--metrics", "psnr", "--lq", folders / "lq")
    assert outcome.code == 2
    assert "photo1.png" in outcome.err
    assert not (folders / "out").exists()


@pytest.fixture
def photos(trained_photos):
    """Those of the finished run, whose names an evaluation expects."""
    return trained_photos


@pytest.fixture
def run(toys, finished_run, capfd):
    """A finished run of the toy recipe; what it said is forgotten."""
    folder = finished_run()
    capfd.readouterr()
    return folder


def test_a_runs_evaluation_gains_methods(distillkit, run, photos):
    outcome = distillkit(
        "evaluate",
        run,
        *("--method", f"copies={photos / 'test'}"),
        *("--combine", "copies,bicubic"),
        *("--alphas", "0.5"),
    )
    assert outcome.code == 0, outcome.err
    results = read_results(run / "evaluation")
    assert results.values["copies", "psnr"].min() == 100
    assert results.method("copies").seconds is None
    assert results.teachers == ("copies", "bicubic")
    assert results.method("linear:0.5").nfe is None


def test_a_runs_evaluation_counts_parameters_and_time(run):
    student = read_results(run / "evaluation").sweep()[0]
    assert student.parameters > 0
    assert student.seconds > 0
    stored = 0
    for stage in ("stage1", "stage2"):
        tensors = load_file(run / "student" / f"{stage}.safetensors")
        stored += sum(tensor.size for tensor in tensors.values())
    assert student.trainable == stored


def test_a_runs_evaluation_refuses_what_does_not_fit(distillkit, run, photos):
    outcome = distillkit("evaluate", run, "--method", f"copies={photos / 'train'}")
    assert outcome.code == 2
    assert "missing: test0, test1, test2" in outcome.err
    outcome = distillkit("evaluate", run, "--gt", photos)
    assert outcome.code == 2
    assert "No such option: --gt" in outcome.err


def test_an_evaluation_without_arguments_is_refused(distillkit):
    assert distillkit("evaluate").code == 2
