"""The folder of a comparison: what it may not touch, what it keeps, how it resumes."""

import json

import numpy as np
import pytest
from PIL import Image
from test_folders import NAMES, compare, folders, read_results, save

from distillkit import console
from distillkit.errors import DiskError
from distillkit.evaluation.measurement_file import MeasurementFile
from distillkit.files.atomic import check_writable
from distillkit.metrics import distortion

__all__ = ["compare", "folders"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out", ["gt", "lq", "sharp", "sharp/inside/deep", "link"])
def test_results_are_never_written_into_the_inputs(distillkit, folders, out):
    (folders / "link").symlink_to(folders / "soft")
    before = contents(folders)
    outcome = distillkit(
        "compare",
        *("--gt", folders / "gt"),
        *("--lq", folders / "lq"),
        *("--method", f"sharp={folders / 'sharp'}"),
        *("--method", f"soft={folders / 'soft'}"),
        *("--out", folders / out),
    )
    assert outcome.code == 2
    assert "results would be written into the images of" in outcome.err
    assert contents(folders) == before


def test_a_folder_that_holds_anything_else_is_refused(compare, folders):
    (folders / "out").mkdir()
    (folders / "out" / "radar.png").write_bytes(b"my own picture")
    (folders / "out" / ".DS_Store").write_bytes(b"")
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert "holds what no comparison wrote: radar.png; choose" in outcome.err
    (folders / "out" / "radar.png").unlink()
    assert compare("--metrics", "psnr").code == 0
    # A comparison writes over an earlier one, but not beside other files.
    assert compare("--metrics", "psnr").code == 0
    (folders / "out" / "notes.txt").write_text("mine")
    before = contents(folders / "out")
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert "holds what no comparison wrote: notes.txt" in outcome.err
    assert contents(folders / "out") == before


def test_a_folder_that_holds_the_inputs_is_refused(distillkit, folders):
    before = contents(folders)
    outcome = distillkit(
        "compare",
        *("--gt", folders / "gt"),
        *("--method", f"soft={folders / 'soft'}"),
        *("--out", folders),
    )
    assert outcome.code == 2
    assert "holds what no comparison wrote: gt, lq, " in outcome.err
    assert contents(folders) == before


def test_a_runs_evaluation_is_not_written_into_the_images_it_reads(distillkit, recipe, tmp_path):
    run = tmp_path / "run"
    assert distillkit("run", recipe, "--out", run).code == 0
    images = run / "evaluation" / "theirs"
    save(images / "test0.png", np.zeros((40, 48, 3), np.uint8))
    before = contents(run)
    outcome = distillkit("evaluate", run, "--method", f"theirs={run / 'evaluation'}")
    assert outcome.code == 2
    assert "results would be written into the images of theirs" in outcome.err
    assert contents(run) == before


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    compare, folders, monkeypatch
):
    (folders / "out").write_text("a file")
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 2
    assert f"{folders / 'out'} - cannot be written: Not a directory" in outcome.err
    assert "reading" not in outcome.err
    check_writable(folders / "new" / "folder")
    assert not (folders / "new").exists()

    def read_only(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(DiskError, match="new - cannot be written: Read-only file system"):
        check_writable(folders / "new")


def test_progress_is_shown_with_the_time_that_remains(compare, monkeypatch):
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0)
    err = compare("--metrics", "psnr").err
    assert "reading the ground truth: 4 images" in err
    assert "reading soft: 4 images" in err
    lines = [line for line in err.splitlines() if line.startswith("measuring")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("s each  ETA 0:00:0" in line for line in lines)


def test_no_metric_is_held_out_unless_training_is_known(compare, folders):
    options = ("--metrics", "psnr,stlpips-alex")
    assert compare(*options).code == 0
    files = ("evaluation/table.md", "table.md", "report.html")
    written = [folders / "out" / name for name in files if (folders / "out" / name).exists()]
    assert len(written) >= 2
    for path in written:
        assert "held out" not in path.read_text()
    assert compare(*options, "--trained", "soft:stlpips-alex").code == 0
    for path in written:
        assert "soft trained against it" in path.read_text()
    outcome = compare(*options, "--trained", "sof:stlpips-alex")
    assert outcome.code == 2
    assert "--trained sof - no such method" in outcome.err
    outcome = compare(*options, "--trained", "soft:fid")
    assert outcome.code == 2
    assert "--trained soft:fid - a metric that is not among --metrics" in outcome.err


def without_times(results):
    return [{**row, "seconds": None} for row in results.rows()]


class Calls:
    """Counts the images that PSNR measures, and may act at one of them."""

    def __init__(self, monkeypatch):
        self.images = 0
        self.stop_at = None
        measure = distortion._psnr_of_colors

        def counting(restored, gt):
            self.images += 1
            if self.images == self.stop_at:
                raise KeyboardInterrupt
            return measure(restored, gt)

        monkeypatch.setattr(distortion, "_psnr_of_colors", counting)


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def after_probe(images):
    """Add the one image by which a metric shows that it can measure this size."""
    return images + 1


def test_an_interrupted_comparison_continues_where_it_stopped(compare, folders, calls):
    arguments = ("--metrics", "psnr,ssim", "--combine", "soft,sharp")
    calls.stop_at = after_probe(3)
    outcome = compare(*arguments)
    assert outcome.code == 130
    assert "interrupted; the same command continues" in outcome.err
    manifest = json.loads((folders / "out" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    lines = (folders / "out" / "measurements.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == NAMES[:2]

    calls.images, calls.stop_at = 0, None
    assert compare(*arguments).code == 0
    assert calls.images == after_probe(2)
    resumed = read_results(folders / "out")
    (folders / "out").rename(folders / "resumed")
    assert compare(*arguments).code == 0
    assert without_times(resumed) == without_times(read_results(folders / "out"))


def test_only_what_has_changed_is_measured_again(compare, folders, calls):
    assert compare("--metrics", "psnr,ssim").code == 0
    calls.images = 0
    assert compare("--metrics", "psnr,ssim").code == 0
    assert calls.images == after_probe(0)
    save(folders / "soft" / "photo1.bmp", np.full((40, 48, 3), 9, np.uint8))
    calls.images = 0
    assert compare("--metrics", "psnr,ssim").code == 0
    assert calls.images == after_probe(1)
    calls.images = 0
    assert compare("--metrics", "psnr,ssim", "--combine", "soft,sharp").code == 0
    assert calls.images == after_probe(4)
    calls.images = 0
    assert compare("--metrics", "psnr,ssim", "--combine", "sharp,soft").code == 0
    assert calls.images == after_probe(4)
    calls.images = 0
    assert compare("--metrics", "psnr", methods=["soft"]).code == 0
    assert calls.images == after_probe(4)


def test_other_versions_or_options_are_measured_again(compare, folders, calls, monkeypatch):
    assert compare("--metrics", "psnr").code == 0
    monkeypatch.setattr("distillkit.runs.compare.describe_versions", lambda: {"torch": "99"})
    calls.images = 0
    assert compare("--metrics", "psnr").code == 0
    assert calls.images == after_probe(4)
    parameters = folders / "pristine.npz"
    np.savez(parameters, mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
    calls.images = 0
    for name in NAMES:
        for folder, suffix in (("gt", "png"), ("soft", "bmp")):
            noise = np.random.default_rng(0).integers(0, 255, (96, 192, 3)).astype(np.uint8)
            save(folders / folder / f"{name}.{suffix}", noise)
    options = ("--metrics", "psnr,niqe", "--set", f"niqe.parameters='{parameters}'")
    assert compare(*options, methods=["soft"]).code == 0
    calls.images = 0
    np.savez(parameters, mu_pris_param=np.ones((1, 36)), cov_pris_param=np.eye(36))
    assert compare(*options, methods=["soft"]).code == 0
    assert calls.images == after_probe(4)


def test_a_line_that_a_kill_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "measurements.jsonl"
    store = MeasurementFile(path, key_of=str.upper)
    store.add("a", {"psnr": {"ours": 1.5}})
    store.add("b", {"psnr": {"ours": 2.5}})
    text = path.read_text()
    path.write_text(text[:-5])
    again = MeasurementFile(path, key_of=str.upper)
    assert again.find("a") == {"psnr": {"ours": 1.5}}
    assert again.find("b") == {}
    again.add("b", {"psnr": {"ours": 2.5}})
    assert path.read_text() == text
    # The values of other inputs are not these.
    assert MeasurementFile(path, key_of=lambda item: "other").find("a") == {}


def test_an_image_too_small_for_a_metric_costs_its_cells(compare, folders):
    for folder, suffix in (("gt", "png"), ("sharp", "png"), ("soft", "bmp")):
        save(folders / folder / f"photo2.{suffix}", np.zeros((8, 9, 3), np.uint8))
    outcome = compare("--metrics", "psnr,ssim")
    assert outcome.code == 0, outcome.err
    sentence = "an image of 9x8 px is too small for ssim; it takes 11 px a side or more"
    assert f"not measured: ssim on photo2 (all methods): {sentence}" in outcome.err
    results = read_results(folders / "out")
    assert results.count("soft", "psnr") == 4
    assert results.count("soft", "ssim") == 3
    assert np.isnan(results.values["soft", "ssim"]).tolist() == [False, False, True, False]
    table = (folders / "out" / "table.md").read_text()
    assert "3 of 4 images" in table
    assert sentence in table
    assert sentence in (folders / "out" / "report.html").read_text()


def test_images_that_are_all_too_small_are_refused_before_the_work(compare, folders):
    for name in NAMES:
        for folder, suffix in (("gt", "png"), ("sharp", "png"), ("soft", "bmp")):
            save(folders / folder / f"{name}.{suffix}", np.zeros((8, 8, 3), np.uint8))
    outcome = compare("--metrics", "psnr,ssim-y,stlpips-alex")
    assert outcome.code == 2
    for name, side in (("ssim-y", 11), ("stlpips-alex", 21)):
        needed = f"is too small for {name}; it takes {side} px a side or more"
        assert f"photo0 - an image of 8x8 px {needed}" in outcome.err
    assert not (folders / "out").exists()


def test_a_metric_that_fails_costs_its_cells(compare, folders, monkeypatch):
    def broken(restored, gt):
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(distortion, "_ssim_of_colors", broken)
    outcome = compare("--metrics", "psnr,ssim")
    assert outcome.code == 0, outcome.err
    assert "ssim on photo0 (all methods): RuntimeError: no kernel for this card" in outcome.err
    assert "not measured" in (folders / "out" / "table.md").read_text()
    # The next command tries it again, and measures nothing else.
    monkeypatch.undo()
    assert compare("--metrics", "psnr,ssim").code == 0
    assert read_results(folders / "out").count("soft", "ssim") == 4


def test_a_metric_that_fails_costs_its_cells_in_a_run(distillkit, recipe, tmp_path, monkeypatch):
    def broken(restored, gt):
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(distortion, "_ssim_of_colors", broken)
    run = tmp_path / "run"
    outcome = distillkit("run", recipe, "--out", run)
    assert outcome.code == 0, outcome.err
    assert "not measured: ssim on test0 (all methods): RuntimeError: no kernel" in outcome.err
    assert "evaluating 3/3" in outcome.err
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    results = read_results(run / "evaluation")
    assert results.count("student@0", "psnr") == 3
    assert results.count("student@0", "ssim") == 0

    def unbuildable(options):
        raise RuntimeError("no such card")

    monkeypatch.setattr("distillkit.metrics.build.ssim", unbuildable)
    outcome = distillkit("evaluate", run)
    assert outcome.code == 0, outcome.err
    assert "ssim could not be built: RuntimeError: no such card" in outcome.err
    assert "| failed |" in (run / "evaluation" / "table.md").read_text()


def test_the_manifest_has_the_times_of_the_command(compare, folders, monkeypatch):
    starts = ["the first start", "the second start"]
    monkeypatch.setattr("distillkit.runs.compare.timestamp", iter(starts).__next__)
    for start in starts:
        assert compare("--metrics", "psnr").code == 0
        manifest = json.loads((folders / "out" / "manifest.json").read_text())
        assert manifest["started"] == start
        assert manifest["ended"] != start
        assert manifest["status"] == "finished"
        assert manifest["comparison"]["soft"] == str(folders / "soft")


def test_lost_colors_and_transparency_are_warned_of(compare, folders):
    for name in NAMES[:2]:
        Image.open(folders / "soft" / f"{name}.bmp").convert("L").save(
            folders / "soft" / f"{name}.bmp"
        )
    picture = Image.open(folders / "gt" / "photo3.png").convert("RGBA")
    picture.putpixel((3, 3), (9, 9, 9, 0))
    picture.save(folders / "gt" / "photo3.png")
    # An alpha channel that lets nothing through changes no number.
    opaque = Image.open(folders / "gt" / "photo2.png").convert("RGBA")
    opaque.save(folders / "gt" / "photo2.png")
    outcome = compare("--metrics", "psnr")
    assert outcome.code == 0, outcome.err
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning")]
    lost = "opaque, the ground truth is transparent (laid on white): photo3"
    assert warnings == [
        f"warning: sharp: 1 of 4 images are {lost}",
        "warning: soft: 2 of 4 images are gray, the ground truth has colors: photo0, photo1",
        f"warning: soft: 1 of 4 images are {lost}",
    ]
