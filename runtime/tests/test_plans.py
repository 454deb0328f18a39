"""Where results go, and what is refused, is what ``distillkit restore`` decides."""

import os

import pytest
from exported_toys import picture

from distillkit.errors import DistillkitError
from distillkit.files.listing import IMAGE_SUFFIXES
from distillkit.inference import files
from distillkit_runtime import RestoreError
from distillkit_runtime.plans import READABLE, UNREADABLE_PHOTOS, WRITABLE, plan_jobs


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A folder of pictures, and others that are in the way."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/deep/b.TIF", "in/._a.png", "in/c.jpe", "same/a.png", "same/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(6, 8, 3).save(tmp_path / name)
    for folder in ("empty", "dots.gif", "taken/a.png"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    picture(6, 8, 3).save(tmp_path / "elsewhere/d.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    (tmp_path / "a file").write_text("no folder")
    (tmp_path / "old.png").write_text("a result")
    (tmp_path / ("x" * 240 + ".jpg")).write_text("a name")


def plan_by_engine(source, output, existing):
    """Plan; return pairs of source and result, or what an error says."""
    try:
        jobs = files.plan_files([source], output, existing=existing)
    except DistillkitError as e:
        return str(e)
    return [(job.source, *job.targets) for job in jobs]


def plan(source, output, existing):
    """As the engine."""
    try:
        return plan_jobs(source, output, existing)
    except RestoreError as e:
        return str(e)


@pytest.mark.parametrize("existing", ["refuse", "replace", "skip"])
@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in/a.png", "out.png"),
        ("in/a.png", "out.JFIF"),
        ("in/a.png", "out"),
        ("in/a.png", "v1.2"),
        ("in/a.png", "dots.gif"),
        ("in/a.png", "out.gif"),
        ("in/a.png", "out.heic"),
        ("in/a.png", "old.png"),
        ("in/a.png", "in/a.png"),
        ("in/a.png", "in"),
        ("in/a.png", "a file"),
        ("in/a.png", "a file/out"),
        ("in/a.png", "taken"),
        ("in", "out"),
        ("in", "in/results"),
        ("in", "."),
        ("same", "out"),
        ("empty", "out"),
        ("missing", "out"),
        ("missing", "out.png"),
    ],
)
def test_plans_are_those_of_the_engine(source, output, existing, folders, tmp_path):
    arguments = (tmp_path / source, tmp_path / output, existing)
    assert plan(*arguments) == plan_by_engine(*arguments)


def test_names_that_are_too_long_are_refused(tmp_path):
    with pytest.raises(RestoreError, match="the name is too long"):
        plan_jobs(tmp_path / ("x" * 240 + ".jpg"), tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    scan = os.scandir

    # The tests may run as root, whom permissions do not stop.
    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RestoreError, match="deep - cannot be read: Permission denied"):
        plan_jobs(tmp_path / "in", tmp_path / "out")


def test_images_are_what_the_engine_takes_for_images():
    assert READABLE == IMAGE_SUFFIXES
    assert UNREADABLE_PHOTOS == files.UNREADABLE_PHOTOS
    assert files.IMAGE_FILES.writable == WRITABLE
