"""Fixtures that several test files use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_disk import disk
from toy_fixtures import (
    distillkit,
    finished_run,
    photos,
    recipe,
    toys,
    trained,
    trained_photos,
    with_command,
)

from distillkit.testing.golden import parametrize_golden

__all__ = [
    "disk",
    "distillkit",
    "finished_run",
    "photos",
    "recipe",
    "toys",
    "trained",
    "trained_photos",
    "with_command",
]

TOY_SITE = """
import os
from toy_plugin import *
exec(os.environ.get("FIRST", ""), {})
"""


def pytest_generate_tests(metafunc):
    parametrize_golden(metafunc, Path(__file__).parent / "golden")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(pattern): run once for every golden case of this name pattern"
    )


@pytest.fixture(scope="session")
def installed_toys(tmp_path_factory):
    """Create the environment of a process in which the toy plugin is installed.

    The Python code in the variable FIRST runs when the plugin is loaded.
    """
    site = tmp_path_factory.mktemp("site")
    info = site / "distillkit_toy-1.0.dist-info"
    info.mkdir()
    (site / "toy_site.py").write_text(TOY_SITE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkit-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distillkit]\ntoy = toy_site\n")
    paths = [str(site), str(Path(__file__).parent)]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def fork_server(installed_toys):
    """Start ``fork_server.py``; return a function that runs ``distillkit`` in its processes."""
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=installed_toys,
    ) as process:

        def run(*arguments, processes=1, setup=""):
            job = {
                "arguments": [str(argument) for argument in arguments],
                "processes": processes,
                "setup": setup,
            }
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
