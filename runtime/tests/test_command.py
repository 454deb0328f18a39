"""What ``distillkit-restore`` writes, refuses and says."""

import ast
import os
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import numpy as np
import pytest
from exported_toys import picture
from packaging.requirements import Requirement
from PIL import Image
from small_disk import PAGE, disk, fill

from distillkit_runtime import Restorer, command

__all__ = ["disk"]

ROOT = Path(__file__).parents[1]
NEEDED = {"numpy", "onnxruntime", "PIL"}
DISTRIBUTIONS = ["numpy", "onnxruntime", "pillow"]


@pytest.fixture
def restore(toys, capfd):
    """``restore(...)`` -> exit code and standard error of ``distillkit-restore``."""

    def call(*arguments, model="input"):
        options = ["--model", str(toys.graphs.get(model, model))]
        with pytest.raises(SystemExit) as stopped:
            command.main([*map(str, arguments), *options])
        return stopped.value.code, capfd.readouterr().err

    return call


@pytest.fixture
def photo(tmp_path):
    picture(37, 50, 3).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    picture(9, 8, 3).save(tmp_path / "in/a.jpg")
    picture(8, 9, 1).save(tmp_path / "in/deep/b.TIF", format="TIFF")
    (tmp_path / "in/._a.jpg").write_bytes(b"attributes")
    (tmp_path / "in/notes.txt").write_text("none")
    return tmp_path / "in"


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_picture_becomes_the_restorers(restore, toys, photo):
    out = photo.with_name("out.png")
    assert restore(photo, "-o", out, "--tradeoff", "0.3", "--tile", "24") == (0, "")
    expected = Restorer(toys.graphs["input"], 24)(photo, 0.3)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected))
    mask = Image.new("L", (50, 37))
    mask.paste(255, (20, 0, 50, 37))
    mask.save(photo.with_name("mask.png"))
    by_map = photo.with_name("map.png")
    done = restore(photo, "-o", by_map, "--tradeoff-map", photo.with_name("mask.png"))
    assert done == (0, "")
    expected = Restorer(toys.graphs["input"])(photo, mask)
    assert np.array_equal(np.asarray(Image.open(by_map)), np.asarray(expected))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_stays_gray_in_every_format(restore, tmp_path, suffix, dtype):
    picture(20, 30, 1, dtype).save(tmp_path / "gray.png")
    assert restore(tmp_path / "gray.png", "-o", tmp_path / f"out{suffix}") == (0, "")
    restored = Image.open(tmp_path / f"out{suffix}")
    assert restored.size == (60, 40)
    stays_deep = dtype == np.uint16 and suffix in (".png", ".tif")
    depth = 16 if stays_deep else 8
    assert np.asarray(restored).max() > 2 ** (depth - 2)
    expected = mean_level(tmp_path / "gray.png")
    assert abs(np.asarray(restored).mean() / 2**depth - expected) < 0.1


def mean_level(path):
    array = np.asarray(Image.open(path), float)
    return array.mean() / (2**16 if array.max() > 255 else 2**8)


def test_a_folder_is_mirrored_and_gone_on_with(restore, folder, tmp_path):
    out = tmp_path / "out"
    assert restore(folder, "-o", out) == (0, "")
    assert files(out) == ["a.png", "deep/b.png"]
    (out / "a.png").unlink()
    before = (out / "deep/b.png").stat().st_mtime_ns
    code, message = restore(folder, "-o", out)
    assert code == 2
    assert "deep/b.png - exists; pass --overwrite to replace it, or --skip-existing" in message
    assert restore(folder, "-o", out, "--skip-existing") == (0, "")
    assert files(out) == ["a.png", "deep/b.png"]
    assert (out / "deep/b.png").stat().st_mtime_ns == before
    assert restore(folder, "-o", out, "--overwrite") == (0, "")
    assert (out / "deep/b.png").stat().st_mtime_ns > before


def test_results_below_the_folder_are_no_inputs(restore, folder):
    for _ in range(2):
        assert restore(folder, "-o", folder / "restored", "--overwrite") == (0, "")
    assert files(folder / "restored") == ["a.png", "deep/b.png"]


def test_what_fails_in_a_folder_is_named_and_the_rest_restored(restore, folder, tmp_path):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    code, message = restore(folder, "-o", tmp_path / "out")
    assert code == 3
    assert message.startswith(f"not restored: {folder / 'bad.png'} - ")
    assert files(tmp_path / "out") == ["a.png", "deep/b.png"]


def test_frames_that_are_not_restored_are_counted(restore, tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, message = restore(tmp_path / "a.gif", "-o", tmp_path / "out")
    assert code == 0
    assert message == f"{tmp_path / 'a.gif'} - 3 frames; the first is restored\n"


def test_photos_that_no_folder_gives_are_counted(restore, folder, tmp_path):
    for name in ("deep/c.HEIC", "d.nef", "._e.heic", "notes.txt"):
        (folder / name).write_bytes(b"x")
    code, message = restore(folder, "-o", tmp_path / "out")
    assert code == 0
    assert message.startswith(
        "left out: 2 in formats that are not read (HEIC, JPEG XL, camera RAW)"
    )
    assert f"such as {folder / 'd.nef'}; convert them" in message
    assert files(tmp_path / "out") == ["a.png", "deep/b.png"]


def test_results_have_a_place_of_their_own(restore, photo, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        picture(9, 8, 3).save(tmp_path / "in" / name)
    for arguments, why in (
        ((photo, "-o", photo, "--overwrite"), "is an input, which a result would replace"),
        ((tmp_path / "in", "-o", tmp_path / "out"), "two results would be written there, of"),
        ((tmp_path / "in", "-o", tmp_path / "out.png"), "is one file, but"),
        ((photo, "-o", tmp_path / "out.gif"), "cannot write .gif; use one of .bmp, .jfif"),
        ((tmp_path / "none.png", "-o", tmp_path / "out.png"), "none.png - no such file or folder"),
    ):
        code, message = restore(*arguments)
        assert code == 2
        assert message.startswith("error: ")
        assert why in message
    assert files(tmp_path) == ["in/a.jpg", "in/a.png", "photo.png"]


def test_a_format_without_transparency_is_refused_before_the_work(restore, tmp_path):
    Image.new("RGBA", (9, 9), (9, 9, 9, 100)).save(tmp_path / "a.png")
    code, message = restore(tmp_path / "a.png", "-o", tmp_path / "out.jpg")
    assert code == 2
    assert "out.jpg - .jpg has no transparency; use .png, .webp or .tif" in message


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--tradeoff", "2"], "a tradeoff is a number from 0 to 1, not 2"),
        (["--tradeoff-map", "none.png"], "none.png - No such file or directory"),
        (["--tile", "3"], "a tile of 3 pixels"),
    ],
)
def test_options_that_are_wrong_are_refused(restore, photo, options, why):
    code, message = restore(photo, "-o", photo.with_name("out.png"), *options)
    assert code == 2
    assert why in message
    assert not photo.with_name("out.png").exists()


def test_a_model_that_is_none_is_named_with_the_way_out(restore, photo, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    sides = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    result = helper.make_tensor_value_info("restored", TensorProto.FLOAT, [1, 3, "h", "w"])
    node = helper.make_node("Identity", ["image"], ["restored"])
    graph = helper.make_graph([node], "foreign", [sides], [result])
    opset = helper.make_opsetid("", 18)
    foreign = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    for model, why in (
        (tmp_path / "none.onnx", "none.onnx - no such file; `distillkit export RUN --onnx"),
        (tmp_path / "foreign.onnx", "foreign.onnx - is no student of distillkit"),
        (tmp_path / "damaged.onnx", "damaged.onnx - onnxruntime cannot open it"),
        (photo, "photo.png - onnxruntime cannot open it"),
        ("one_size", "takes 24 x 16 pixels only"),
    ):
        code, message = restore(photo, "-o", tmp_path / "out.png", model=model)
        assert code == 2
        assert message.count("\n") == 1, message
        assert why in message
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("pages", [0, 1])
def test_a_full_disk_leaves_what_was_there(restore, photo, disk, pages):
    out = disk / "out.png"
    out.write_bytes(b"old")
    fill(disk, leave=pages * PAGE)
    code, message = restore(photo, "-o", out, "--overwrite")
    assert code == 2
    assert f"{out} - cannot be written: No space left on device; nothing is half" in message
    assert sorted(p.name for p in disk.iterdir()) == ["ballast", "out.png"]
    assert out.read_bytes() == b"old"


def test_an_interruption_leaves_nothing_half_written(restore, photo, tmp_path, monkeypatch):
    def interrupt(file):
        raise KeyboardInterrupt

    # By then the file is written, under another name.
    monkeypatch.setattr(os, "fsync", interrupt)
    code, message = restore(photo, "-o", tmp_path / "out.png")
    assert code == 130
    assert message == "interrupted; the finished results are there\n"
    assert files(tmp_path) == ["photo.png"]


def test_an_error_that_nobody_foresaw_has_a_code_of_its_own(restore, photo, monkeypatch):
    monkeypatch.setattr(command, "plan_jobs", lambda *arguments: 1 / 0)
    code, message = restore(photo, "-o", photo.with_name("out.png"))
    assert code == 70
    assert "Traceback" in message
    assert "ZeroDivisionError" in message


def test_it_imports_what_it_declares_and_nothing_of_the_engine():
    imported = set()
    for path in sorted((ROOT / "distillkit_runtime").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {*NEEDED, "distillkit_runtime"}


def test_it_restores_where_nothing_else_can_be_imported(toys, photo, tmp_path):
    """In a Python that sees the runtime, its three packages and what these need."""
    site = tmp_path / "site"
    site.mkdir()
    for name in needed_distributions(DISTRIBUTIONS):
        link_packages(name, site)
    (site / "distillkit_runtime").symlink_to(ROOT / "distillkit_runtime")
    program = (
        "import importlib.util as u, runpy\n"
        "assert not [m for m in ('torch', 'distillkit', 'onnx', 'typer') if u.find_spec(m)]\n"
        "runpy.run_module('distillkit_runtime', run_name='__main__')"
    )
    out = tmp_path / "out.png"
    words = [photo, "-o", out, "--model", toys.graphs["input"], "--tradeoff", "0.3"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *map(str, words)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = Restorer(toys.graphs["input"])(photo, 0.3)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def needed_distributions(names):
    """Names of distributions and of all that they need."""
    found = set()
    remaining = list(names)
    while remaining:
        name = remaining.pop()
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                remaining.append(requirement.name)
    return sorted(found)


def link_packages(name, site):
    """Link the top-level files and folders of an installed distribution."""
    installed = distribution(name)
    tops = {file.parts[0] for file in installed.files}
    for top in tops - {"..", "__pycache__"}:
        link = site / top
        if not link.exists():
            link.symlink_to(installed.locate_file(top))
