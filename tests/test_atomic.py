"""Files and folders appear complete or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from distillkit.errors import DiskError
from distillkit.files import atomic
from distillkit.files.atomic import atomic_dir, atomic_file, name_temporary, scratch_folder


def content_of(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_file_keeps_its_old_content_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert content_of(tmp_path) == {"a.txt": "new"}


@pytest.mark.skipif(os.name == "nt", reason="has no umask")
def test_files_are_as_readable_as_any_that_are_new(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_file(tmp_path / "file") as file:
        save_file({"zero": np.zeros(1)}, file)
    with atomic_dir(tmp_path / "folder") as folder:
        (folder / "below").mkdir()
        save_file({"zero": np.zeros(1)}, folder / "below/file")
        (folder / "program").touch(0o700)
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "file").stat().st_mode == usual
    assert (tmp_path / "folder/below/file").stat().st_mode == usual
    assert (tmp_path / "folder/program").stat().st_mode == usual | 0o700


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_the_old_folder(tmp_path, raised):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").write_text("old")
    (tmp_path / "b").write_text("old")
    before = content_of(tmp_path)
    with pytest.raises(raised), atomic_dir(tmp_path / "folder", replace=True) as temporary:
        (temporary / "a").write_text("new")
        raise raised
    with pytest.raises(raised), atomic_file(tmp_path / "b") as temporary:
        temporary.write_text("new")
        raise raised
    assert content_of(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "folder"]


def test_a_folder_is_replaced_only_if_asked_or_empty(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with atomic_dir(folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub/a").write_text("first")
    with (
        pytest.raises(DiskError, match="folder - cannot be written: Directory not empty"),
        atomic_dir(folder) as temporary,
    ):
        (temporary / "b").write_text("second")
    assert content_of(tmp_path) == {"folder/sub/a": "first"}
    with atomic_dir(folder, replace=True) as temporary:
        (temporary / "b").write_text("second")
    assert content_of(tmp_path) == {"folder/b": "second"}


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say whether a process is alive")
def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    script = f"""
import os
from pathlib import Path
from distillkit.files.atomic import atomic_dir, atomic_file
folder = Path({str(tmp_path)!r})
with atomic_dir(folder / "kept") as one, atomic_file(folder / "file.txt") as two:
    (one / "stale").write_text("stale")
    two.write_text("stale")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    stale = list(tmp_path.iterdir())
    assert len(stale) == 2
    own = name_temporary(tmp_path / "of_this_process")
    own.write_text("being written")
    atomic._clear_leftovers.cache_clear()
    with atomic_dir(tmp_path / "another") as temporary:
        (temporary / "a").write_text("new")
    assert content_of(tmp_path) == {"another/a": "new", own.name: "being written"}


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say whether a process is alive")
def test_scratch_folders_of_killed_processes_are_cleared_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = """
import os
from distillkit import scratch_folder
with scratch_folder() as folder:
    (folder / "stale").write_text("stale")
    os.kill(os.getpid(), 9)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    atomic._clear_leftovers.cache_clear()
    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())
