"""Wheels, installed in a fresh environment, give someone without a clone recipes to run.

Packages that are not of this repository come from the environment of the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = ["mini", "lowlight", "spandrel", "superres"]
BUILD_TOOLS = ["hatchling>=1.26", "hatch-fancy-pypi-readme>=24.1"]
RUNS_ON_A_CPU = "mini/quickstart_sr4x"

TINY = [
    *("stage1.steps=2", "stage2.steps=1", "data.crop_size=32", "stage2.faithful_check_images=1"),
    *("training.logging_steps=1", "training.validation_steps=2", "training.checkpointing_steps=2"),
    *("evaluation.max_images=1", "evaluation.crop_size=64", "evaluation.alphas=[]"),
    *("evaluation.tradeoffs=[0.0, 1.0]", 'evaluation.metrics=["psnr"]'),
]

Call = Callable[..., subprocess.CompletedProcess[str]]


def pip(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "-q", *map(str, arguments)]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build the wheels of the engine and of the plugins that have recipes."""
    tools = tmp_path_factory.mktemp("tools")
    fetched = pip("install", "--target", tools, *BUILD_TOOLS)
    if fetched.returncode:
        pytest.skip(f"NO WHEELS ARE TESTED: no build tools from the index: {fetched.stderr[-300:]}")
    folder = tmp_path_factory.mktemp("wheels")
    projects = [ROOT, *(ROOT / "plugins" / name for name in PLUGINS)]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    built = pip("wheel", *options, *projects, PYTHONPATH=str(tools))
    assert built.returncode == 0, built.stderr
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def call(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Run ``distillkit`` of a fresh environment in an empty folder outside the clone."""
    environment = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(environment, with_pip=False)
    installed = environment / "installed"
    done = pip("install", "--no-deps", "--no-index", "--target", installed, *wheels)
    assert done.returncode == 0, done.stderr
    work = tmp_path_factory.mktemp("work")
    # Ahead of them, the wheels hide the editable installs of the tests' own environment, whose
    # .pth files are not read here.
    paths = os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])
    variables = os.environ | {
        "PYTHONPATH": paths,
        "DISTILLKIT_PLUGINS": ",".join(PLUGINS),
        "OMP_NUM_THREADS": "1",
    }
    python = environment / "bin" / "python"
    if os.name == "nt":
        python = environment / "Scripts" / "python.exe"

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "distillkit", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=work, env=variables
        )
        assert str(ROOT) not in done.stdout + done.stderr
        return done

    return call


def test_no_link_of_a_package_page_is_relative(wheels: list[Path]) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            page = archive.read(name).decode()
        assert len(page) > 1000
        targets = re.findall(r"\]\(([^)]*)\)", page)
        relative = [target for target in targets if not target.startswith(("https://", "#"))]
        assert relative == [], wheel.name


def test_all_recipes_of_the_clone_are_there_and_run_from_anywhere(call: Call) -> None:
    recipes = json.loads(call("recipe", "list", "--json").stdout)
    names = {recipe["name"] for recipe in recipes}
    in_clone = {
        f"{plugin}/{path.relative_to(folder).with_suffix('').as_posix()}"
        for plugin in PLUGINS
        for folder in [ROOT / f"plugins/{plugin}/distillkit_{plugin}/recipes"]
        for path in folder.rglob("*.toml")
    }
    assert names == in_clone
    assert all("installed" in Path(recipe["file"]).parts for recipe in recipes)
    assert {RUNS_ON_A_CPU, "superres/ctsr_sr4x", "lowlight/lle_gsad"} < names
    for name in (RUNS_ON_A_CPU, "superres/ctsr_sr4x", "lowlight/lle_gsad", "spandrel/two_models"):
        done = call("recipe", "validate", name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name} is valid")


def test_a_recipe_by_name_runs_to_a_report(call: Call) -> None:
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = call("run", RUNS_ON_A_CPU, *settings)
    assert done.returncode == 0, done.stderr
    assert "runs/quickstart_sr4x" in done.stdout.replace(os.sep, "/")


def test_without_weights_a_recipe_by_name_says_how_to_get_them(call: Call) -> None:
    done = call("run", "superres/ctsr_sr4x")
    assert done.returncode == 2
    assert "distillkit fetch superres/ctsr_sr4x" in done.stderr
