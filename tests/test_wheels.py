"""Wheels, installed in a fresh environment, give someone without a clone recipes to run.

Packages that are not of this repository come from the environment of the tests; for the runtime,
which is installed alone, from the index.
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
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
import release
from PIL import Image

ROOT = Path(__file__).parents[1]
PLUGINS = ["mini", "lowlight", "spandrel", "superres"]
BUILD_TOOLS = ["hatchling>=1.26", "hatch-fancy-pypi-readme>=24.1"]
RUNS_ON_A_CPU = "mini/paper_sr4x"

TINY = [
    *("stage1.steps=2", "stage2.steps=1", "data.crop_size=32", "stage2.faithful_check_images=1"),
    *("training.logging_steps=1", "training.validation_steps=2", "training.checkpointing_steps=2"),
    *("evaluation.max_images=1", "evaluation.crop_size=64", "evaluation.alphas=[]"),
    *("evaluation.tradeoffs=[0.0, 1.0]", 'evaluation.metrics=["psnr"]'),
]

Build = Callable[..., list[Path]]
Call = Callable[..., subprocess.CompletedProcess[str]]


def pip(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "-q", *map(str, arguments)]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build wheels of projects into a folder; return them."""
    tools = tmp_path_factory.mktemp("tools")
    fetched = pip("install", "--target", tools, *BUILD_TOOLS)
    if fetched.returncode:
        pytest.skip(f"NO WHEELS ARE TESTED: no build tools from the index: {fetched.stderr[-300:]}")

    def build(folder: Path, *projects: Path) -> list[Path]:
        options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
        built = pip("wheel", *options, *projects, PYTHONPATH=str(tools))
        assert built.returncode == 0, built.stderr
        return sorted(folder.glob("*.whl"))

    return build


@pytest.fixture(scope="module")
def wheels(build: Build, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build the wheels of the engine and of the plugins that have recipes."""
    projects = [ROOT, *(ROOT / "plugins" / name for name in PLUGINS)]
    return build(tmp_path_factory.mktemp("wheels"), *projects)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder outside the clone."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of installed packages, in a fresh environment."""
    environment = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(environment, with_pip=False)
    installed = environment / "installed"
    install(installed, *wheels)
    return installed


def install(folder: Path, *wheels: Path) -> None:
    done = pip("install", "--no-deps", "--no-index", "--target", folder, *wheels)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def call(installed: Path, work: Path) -> Call:
    """Run a module of Python, such as ``distillkit``, in the fresh environment."""
    # Ahead of them, the wheels hide the editable installs of the tests' own environment, whose
    # .pth files are not read here.
    paths = os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])
    variables = os.environ | {
        "PYTHONPATH": paths,
        "DISTILLKIT_PLUGINS": ",".join([*PLUGINS, "mine"]),
        "OMP_NUM_THREADS": "1",
    }
    python = installed.parent / "bin" / "python"
    if os.name == "nt":
        python = installed.parent / "Scripts" / "python.exe"

    def call(
        *arguments: str, module: str = "distillkit", cwd: Path = work
    ) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", module, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, env=variables
        )
        assert str(ROOT) not in done.stdout + done.stderr
        return done

    return call


def test_every_wheel_that_is_published_passes_the_checks_of_a_release(
    build: Build, tmp_path: Path
) -> None:
    projects = release.find_projects()
    build(tmp_path, *projects)
    for project in projects:
        (wheel,) = tmp_path.glob(f"{release.wheel_name(project)}-*.whl")
        assert list(release.check_wheel(wheel, project)) == [], wheel.name


def test_the_photographs_of_mini_are_in_its_wheel(wheels: list[Path]) -> None:
    folder = ROOT / "plugins" / "mini"
    (wheel,) = (wheel for wheel in wheels if wheel.name.startswith("distillkit_mini-"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = sorted((folder / "distillkit_mini" / "photographs").rglob("*.*"))
    assert len(files) > 50
    assert {path.relative_to(folder).as_posix() for path in files} <= names


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


@pytest.fixture(scope="module")
def trained(call: Call) -> subprocess.CompletedProcess[str]:
    """Run a recipe by its name; what the command printed."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = call("run", RUNS_ON_A_CPU, *settings)
    assert done.returncode == 0, done.stderr
    return done


def test_a_recipe_by_name_runs_to_a_report(trained: subprocess.CompletedProcess[str]) -> None:
    assert "runs/paper_sr4x" in trained.stdout.replace(os.sep, "/")


def test_the_runtime_restores_a_photo_where_torch_is_not(
    call: Call,
    build: Build,
    trained: subprocess.CompletedProcess[str],
    work: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'distillkit[onnx]' to export a student")
    done = call("export", "runs/paper_sr4x", "--onnx", "student.onnx")
    assert done.returncode == 0, done.stderr
    levels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    photo = Image.fromarray(levels).resize((60, 45), Image.Resampling.BICUBIC)
    photo.save(work / "photo.png")
    done = call("restore", "photo.png", "-o", "expected.png", "--run", "runs/paper_sr4x")
    assert done.returncode == 0, done.stderr

    command = install_runtime(build, tmp_path)
    words = ["photo.png", "-o", "restored.png", "--model", "student.onnx"]
    done = subprocess.run(
        [str(command), *words], capture_output=True, text=True, check=False, cwd=work
    )
    assert (done.returncode, done.stderr) == (0, "")
    restored, expected = (
        np.asarray(Image.open(work / name)).astype(int) for name in ("restored.png", "expected.png")
    )
    assert restored.shape == (180, 240, 3)
    assert np.abs(restored - expected).max() <= 1


def install_runtime(build: Build, folder: Path) -> Path:
    """Install the wheel of the runtime, and what it needs, alone; return its command."""
    (wheel,) = build(folder, ROOT / "runtime")
    environment = folder / "env"
    venv.create(environment, with_pip=False)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    options = ["--python", programs / "python", "install", "-c", ROOT / "constraints.txt"]
    done = pip(*options, wheel)
    assert done.returncode == 0, done.stderr
    (packages,) = environment.rglob("site-packages")
    names = {found.name for found in distributions(path=[str(packages)])}
    assert {"distillkit-runtime", "numpy", "onnxruntime", "pillow"} <= names
    assert not {"torch", "distillkit", "onnx"} & names
    return programs / "distillkit-restore"


def test_without_weights_a_recipe_by_name_says_how_to_get_them(call: Call) -> None:
    done = call("run", "superres/ctsr_sr4x")
    assert done.returncode == 2
    assert "distillkit fetch superres/ctsr_sr4x" in done.stderr


def test_a_plugin_is_begun_built_installed_tested_and_run(
    call: Call, build: Build, installed: Path, work: Path, tmp_path: Path
) -> None:
    done = call("plugins", "new", "mine", "--kind", "degradation")
    assert done.returncode == 0, done.stderr
    project = work / "distillkit-mine"
    assert (project / ".github" / "workflows" / "test.yml").is_file()
    install(installed, *build(tmp_path, project))
    done = call("-q", "-p", "no:cacheprovider", "tests", module="pytest", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = call("run", "mine/first", *settings)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((work / "runs" / "mine_first" / "manifest.json").read_text())
    assert manifest["plugins"]["mine"] == "distillkit-mine 0.1.0"
