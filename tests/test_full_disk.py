"""On a full disk no file is half written, it is named, and the run continues later."""

import json
import pkgutil
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
from interruption import weights_of
from safetensors import SafetensorError
from small_disk import PAGE, fill
from test_checkpoint import save

from distillkit.cli import main as cli
from distillkit.errors import CheckpointError, DiskError
from distillkit.files.atomic import append_text, atomic_dir, explain_disk_errors, write_file
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.checkpoint import Checkpoints
from distillkit.training.feature_store import FeatureStore

SMALL = [
    "evaluation={tradeoffs=[0.0], metrics=['psnr'], max_images=1}",
    "training.validation_steps=3",
    "training.logging_steps=1",
]


@contextmanager
def filled_at(monkeypatch, disk, where, call):
    """Fill the disk at the ``call``-th call of ``where``, and empty it after the block."""
    calls = []
    real = pkgutil.resolve_name(where)

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            fill(disk)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        yield
    assert len(calls) >= call
    (disk / "ballast").unlink()


def distill(monkeypatch, capfd, *arguments):
    """Call ``distillkit run ...``; give the exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["distillkit", "run", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as e:
        return e.code or 0, capfd.readouterr().err
    return 0, capfd.readouterr().err


def unfinished(out):
    return [p for p in out.rglob("*") if p.name.startswith(".") or p.suffix in (".tmp", ".part")]


def settings(sets):
    return [word for text in sets for word in ("--set", text)]


VICTIMS = {
    "checkpoints/step-00000004": ("distillkit.training.checkpoint.Checkpoints.save", 2),
    "samples/step-00000006.png": ("distillkit.training.samples.write_image", 2),
    "student": ("distillkit.runs.distill.save_student", 1),
    "evaluation/per_image.json": ("distillkit.runs.evaluate.write_evaluation", 1),
    "manifest.json": ("distillkit.runs.manifest.Manifest.write", 5),
}
UNINTERRUPTED = {}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_full_disk_is_named_and_the_run_continues_when_there_is_space(
    disk, recipe, tmp_path, monkeypatch, capfd, victim
):
    out = disk / "run"
    arguments = [recipe, *settings(SMALL), "--out", out]
    with filled_at(monkeypatch, disk, *VICTIMS[victim]):
        code, errors = distill(monkeypatch, capfd, *arguments)
    assert code == 2
    assert f"error: {out / victim} - cannot be written: No space left on device" in errors
    assert "free space, then" in errors and "--resume" in errors
    assert unfinished(out) == []
    # "failed" found no space.
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    assert all(json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    code, errors = distill(monkeypatch, capfd, *arguments, "--resume")
    assert code == 0, errors
    if not UNINTERRUPTED:
        run_recipe(load_recipe(recipe, SMALL), tmp_path / "uninterrupted")
        UNINTERRUPTED.update(weights_of(tmp_path / "uninterrupted"))
    resumed = weights_of(out)
    assert resumed.keys() == UNINTERRUPTED.keys()
    assert all(torch.equal(resumed[k], UNINTERRUPTED[k]) for k in resumed)


@pytest.mark.filterwarnings("ignore:Exception in thread")
def test_a_full_disk_that_another_package_meets_is_named(disk, recipe, monkeypatch, capfd):
    """TensorBoard's file, which has room in its last page for some steps more."""
    monkeypatch.setattr("distillkit.training.tracking.append_text", lambda path, text: None)
    sets = [
        *SMALL,
        "stage1.steps=20",
        "training={log_with=['tensorboard'], logging_steps=1, validation_steps=0}",
    ]
    out = disk / "run"
    with filled_at(monkeypatch, disk, "accelerate.Accelerator.log", 1):
        code, errors = distill(monkeypatch, capfd, recipe, *settings(sets), "--out", out)
    assert code == 2
    assert f"error: {out} - cannot be written: No space left on device; " in errors


@pytest.mark.parametrize("pages", range(5))
def test_a_checkpoint_that_finds_no_space_leaves_the_earlier_one(disk, pages):
    """Wherever in it space ends: at one of its tensors' files, the optimizer's or the manifest."""
    checkpoints = Checkpoints(disk, keep=1)
    save(checkpoints, 1)
    fill(disk, leave=pages * PAGE)
    if pages < 4:
        with pytest.raises(
            CheckpointError,
            match="step-00000002 - cannot be written: No space left on device; earlier .* intact",
        ):
            save(checkpoints, 2)
        assert sorted(p.name for p in disk.iterdir()) == ["ballast", "step-00000001"]
        assert checkpoints.newest().step == 1
        (disk / "ballast").unlink()
    assert save(checkpoints, 2) and checkpoints.newest().step == 2


def test_lines_are_added_completely_or_not_at_all(disk):
    path = disk / "metrics.jsonl"
    line = "x" * 2999 + "\n"
    append_text(path, line)
    fill(disk)
    with pytest.raises(
        DiskError,
        match=r"metrics\.jsonl - cannot be written: No space left on device; .*free space",
    ):
        append_text(path, line)
    assert path.read_text() == line
    (disk / "ballast").unlink()
    append_text(path, line)
    assert path.read_text() == 2 * line


def test_a_file_is_replaced_completely_or_not_at_all(disk):
    path = disk / "recipe.toml"
    write_file(path, "old")
    fill(disk)
    with pytest.raises(
        DiskError, match=r"recipe\.toml - cannot be written: No space left on device; .*free space"
    ):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert sorted(p.name for p in disk.iterdir()) == ["ballast", "recipe.toml"]


def test_the_cache_does_without_and_leaves_nothing_half_written(disk):
    store = FeatureStore(disk / "cache", 1 << 30)
    store.write("ab" * 32, b"x" * 10)
    fill(disk, leave=2 * PAGE)
    with pytest.warns(
        UserWarning,
        match=r"cache - the cache cannot be written \(No space left on device\); going on without",
    ):
        store.write("cd" * 32, bytes(5 * PAGE))
    assert store.full and [p.stem for p in (disk / "cache").glob("??/*")] == ["ab" * 32]


EXPORTS = {
    "folder": ["export", "RUN", "-o", "DISK/result"],
    "merged": ["export", "RUN", "--merge", "--tradeoff", "0.3", "-o", "DISK/result"],
    "onnx": ["export", "RUN", "--onnx", "DISK/result.onnx"],
    "restored": ["restore", "PHOTO", "--run", "RUN", "--overwrite", "-o", "DISK/result.png"],
}


@pytest.fixture
def finished(toys, finished_run):
    return finished_run("data.eval=[]")


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_onto_a_full_disk_is_one_line_and_leaves_what_was_there(
    disk, finished, photos, distillkit, kind
):
    """Wherever in it space ends."""
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="pip install 'distillkit[onnx]' to test this")
    (disk / "result.png").write_bytes(b"old")
    places = {"RUN": str(finished), "PHOTO": str(photos / "test/test0.png")}
    arguments = []
    for word in EXPORTS[kind]:
        arguments.append(places.get(word, word.replace("DISK", str(disk))))
    for pages in (0, 1):
        fill(disk, leave=pages * PAGE)
        outcome = distillkit(*arguments)
        assert outcome.code in (1, 2)
        assert "Traceback" not in outcome.err
        problems = [line for line in outcome.err.splitlines() if "cannot be written" in line]
        assert len(problems) == 1, outcome.err
        assert "cannot be written: No space left on device; nothing is half" in problems[0]
        assert sorted(p.name for p in disk.iterdir()) == ["ballast", "result.png"]
        assert (disk / "result.png").read_bytes() == b"old"
        (disk / "ballast").unlink()


@pytest.mark.parametrize(
    "error",
    [
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognized_by_the_words_of_other_packages(tmp_path, error):
    """There is room again as soon as what was written is removed."""
    expected = "x - cannot be written: No space left on device; nothing is half written"
    with pytest.raises(DiskError, match=expected), explain_disk_errors(tmp_path / "x"):
        raise error


def test_a_file_that_finds_no_space_in_a_new_folder_is_named_by_the_folder(disk):
    fill(disk)
    expected = f"^{disk / 'new'} - cannot be written: No space left on device"
    with pytest.raises(DiskError, match=expected), atomic_dir(disk / "new") as folder:
        write_file(folder / "network.safetensors", b"weights")
    assert [p.name for p in disk.iterdir()] == ["ballast"]
