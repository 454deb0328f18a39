"""The borders that keep the engine general: who may import whom, which words the engine may say, and what stays cheap to import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distillkit

ROOT = Path(__file__).parents[1]
ENGINE = sorted((ROOT / "distillkit").rglob("*.py"))
PLUGIN_FILES = sorted(p for p in (ROOT / "plugins").rglob("*.py") if "tests" not in p.parts)

FLOORS = (
    "errors",
    "environment",
    "tradeoff",
    "files",
    "plugins",
    "data",
    "adapters",
    "diffusion",
    "objectives",
    "recipe",
    "metrics",
    "inference",
    "evaluation",
    "report",
    "export",
    "training",
    "runs",
    "bench",
    "testing",
    "cli",
    "__main__",
)
"""From the ground up: a module imports from its own floor and from those below."""

FOREIGN_WORDS = re.compile(
    r"resshift|osediff|sinsr|gsad|reti-?diff|real-?esrgan|pi-?sa-?sr|stable.diffusion|super-?res|low-?light|\blol\b|\bsd-?2",
    re.IGNORECASE,
)


def imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Line, module and name of everything a file imports, function bodies and TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def engine_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, below ``distillkit``, of the engine modules a file imports."""
    for line, module, name in imports(path):
        full = module if name is None else f"{module}.{name}"
        if module.startswith("."):
            yield line, full
        elif full.startswith("distillkit.") and full != "distillkit.__version__":
            below = full.removeprefix("distillkit.")
            yield line, distillkit._MODULE_OF.get(below, below)


def floor(module: str) -> int:
    top = module.partition(".")[0]
    assert top in FLOORS, f"distillkit/{top} is new: give it a floor in this test's FLOORS"
    return FLOORS.index(top)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_engine_imports_point_down() -> None:
    wrong = []
    for path in ENGINE:
        relative = path.relative_to(ROOT / "distillkit")
        if str(relative) in ("__init__.py", "_torchvision.py"):
            continue
        own = floor(relative.parts[0].removesuffix(".py"))
        for line, module in engine_modules(path):
            if module.startswith(".") or floor(module) > own:
                wrong.append(f"{where(path, line)} imports {module}")
    assert wrong == []


def test_the_front_door_imports_only_for_type_checkers_and_its_own_shim() -> None:
    tree = ast.parse((ROOT / "distillkit" / "__init__.py").read_text())
    at_once = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert at_once == {"annotations", "importlib", "TYPE_CHECKING", "Any", "_torchvision"}


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda p: str(p.relative_to(ROOT / "plugins")))
def test_plugins_import_public_names_only(path: Path) -> None:
    wrong = [
        f"{where(path, line)} imports {module}{f'.{name}' if name else ''}"
        for line, module, name in imports(path)
        if (module.startswith("distillkit."))
        or (module == "distillkit" and name is not None and name not in distillkit.__all__)
    ]
    assert wrong == []


def test_the_engine_names_no_task_and_no_model() -> None:
    texts = [*ENGINE, *(ROOT / "distillkit").rglob("templates/*")]
    lines = [
        (path, n, line)
        for path in texts
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert [
        f"{where(path, n)} says {word[0]}"
        for path, n, line in lines
        if (word := FOREIGN_WORDS.search(line))
    ] == []


@pytest.mark.parametrize("name", distillkit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(distillkit, name) is not None


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((ROOT / "distillkit" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {
        (f"distillkit.{module}", name)
        for module, names in distillkit._HOME.items()
        for name in names
    }


HEAVY = (
    "torch",
    "torchvision",
    "diffusers",
    "datasets",
    "transformers",
    "peft",
    "accelerate",
    "matplotlib",
    "gradio",
    "av",
)


@pytest.mark.parametrize(
    "code",
    [
        "import distillkit",
        "import distillkit.recipe.load",
        "import distillkit.recipe.json_schema",
        "import distillkit.testing",
        "from distillkit.plugins.manager import load_plugins; load_plugins()",
        "import sys; sys.argv = ['distillkit', '--help']; from distillkit.cli.main import main; main()",
        "import sys; sys.argv = ['distillkit', 'plugins']; from distillkit.cli.main import main; main()",
    ],
)
def test_light_things_import_nothing_heavy(code: str) -> None:
    """Plugins' modules are among the light things: their descriptors import heavy code in ``build`` only."""
    program = f"import atexit, sys; atexit.register(lambda: print('heavy:', sorted(set({HEAVY}) & set(sys.modules)))); {code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
