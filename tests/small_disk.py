"""A small file system, for the tests of full disks."""

import subprocess

import pytest

PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        reason = mounted.stderr.strip()
        pytest.skip(f"NOT TESTED: full disks; only root may mount a small one ({reason})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, leave=0):
    """Take all space but ``leave`` bytes."""
    with (disk / "ballast").open("ab", buffering=0) as f:
        try:
            while f.write(bytes(PAGE)) == PAGE:
                pass
        except OSError:
            pass
        f.truncate(f.tell() - leave)
