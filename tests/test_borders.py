"""The borders that keep the engine general.

Who may import whom, which words the engine may say, and what stays cheap to import.
"""

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
PLUGIN_FILES = sorted(
    path
    for folder in ("plugins", "integrations")
    for path in (ROOT / folder).rglob("*.py")
    if "tests" not in path.parts
)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FRONT_DOOR = ast.parse((ROOT / "distillkit" / "__init__.py").read_text(encoding="utf-8"))

FLOORS = (
    "errors",
    "console",
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
    "contract",
    "training",
    "runs",
    "testing",
    "cli",
    "__main__",
)
"""From the ground up: a module imports from its own floor and from those below."""

FOREIGN_WORDS = re.compile(
    r"resshift|osediff|sinsr|gsad|reti-?diff|real-?esrgan|pi-?sa-?sr|stable.diffusion|super-?res"
    r"|low-?light|\blol\b|\bsd-?2",
    re.IGNORECASE,
)

HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "datasets",
    "transformers",
    "peft",
    "accelerate",
    "matplotlib",
    "starlette",
    "uvicorn",
    "av",
}


def imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Line, module and name of every import, those inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, module, alias.name


def engine_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, below ``distillkit``, of the engine modules that a file imports."""
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


def test_the_contributors_page_lists_the_same_floors() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, flags=re.MULTILINE)
    assert listed == list(FLOORS)


def test_the_contributors_page_names_files_that_exist() -> None:
    folders = "distillkit|plugins|runtime|integrations|tests|benchmarks|docs|recipes"
    named = re.findall(rf"`((?:{folders})/[\w./]*)`", CONTRIBUTING)
    linked = re.findall(r"\]\(([^):#]+)\)", CONTRIBUTING)
    assert len(named) > 10
    assert [path for path in [*named, *linked] if not (ROOT / path).exists()] == []


def test_the_front_door_imports_only_for_type_checkers_and_its_own_shim() -> None:
    at_once = {
        alias.name
        for node in FRONT_DOOR.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert at_once == {"annotations", "importlib", "TYPE_CHECKING", "Any", "_torchvision"}


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_import_public_names_only(path: Path) -> None:
    wrong = []
    for line, module, name in imports(path):
        private = name is not None and name not in distillkit.__all__
        if module.startswith("distillkit.") or (module == "distillkit" and private):
            wrong.append(f"{where(path, line)} imports {name} from {module}")
    assert wrong == []


def test_the_engine_names_no_task_and_no_model() -> None:
    found = []
    templates = [path for path in (ROOT / "distillkit").rglob("templates/**/*") if path.is_file()]
    for path in [*ENGINE, *templates]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for word in FOREIGN_WORDS.findall(line):
                found.append(f"{where(path, number)} says {word}")
    assert found == []


@pytest.mark.parametrize("name", distillkit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(distillkit, name) is not None


def test_type_checkers_see_the_public_names() -> None:
    (block,) = (node for node in FRONT_DOOR.body if isinstance(node, ast.If))
    seen = set()
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            seen |= {(node.module, alias.asname) for alias in node.names}
    offered = set()
    for module, names in distillkit._HOME.items():
        offered |= {(f"distillkit.{module}", name) for name in names}
    assert seen == offered


def imported_by(code: str) -> set[str]:
    """The modules that are there when a program of this code ends."""
    report = "import atexit, sys; atexit.register(lambda: print(' '.join(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{report}; {code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def command(*arguments: str) -> str:
    line = ["distillkit", *arguments]
    return f"import sys; sys.argv = {line}; from distillkit.cli.main import main; main()"


LOAD_PLUGINS = "from distillkit.plugins.manager import load_plugins; load_plugins()"


@pytest.mark.parametrize(
    "code",
    [
        "import distillkit",
        "import distillkit.recipe.load",
        "import distillkit.recipe.json_schema",
        "import distillkit.testing",
        LOAD_PLUGINS,
        command("--help"),
        command("plugins"),
    ],
)
def test_light_things_import_nothing_heavy(code: str) -> None:
    """The modules of plugins are among them: what is heavy is named by text and imported later."""
    assert imported_by(code) & HEAVY == set()


def test_plugins_are_loaded_without_their_options() -> None:
    """Else the help of the command line, which asks them for commands, waits for pydantic."""
    assert "pydantic" not in imported_by(LOAD_PLUGINS)


ADD_LORA = (
    "import torch; from distillkit.adapters import add_adapter; "
    "add_adapter(torch.nn.Sequential(torch.nn.Linear(2, 2)), 'lora')"
)


def test_training_imports_only_torch_and_accelerate() -> None:
    """What opens sources, shards weights or draws figures is imported when it is due."""
    loaded = imported_by(f"import distillkit.runs.run; {ADD_LORA}")
    assert loaded & HEAVY == {"torch", "accelerate"}
    assert loaded & {"torch.distributed.fsdp", "torch._dynamo", "pandas"} == set()


def test_restoring_imports_only_torch() -> None:
    """What opens sources, and what trains, is imported by who does."""
    loaded = imported_by(f"import distillkit.inference.restorer; {ADD_LORA}")
    assert loaded & HEAVY == {"torch"}
    assert loaded & {"torch.distributed.tensor", "torch._dynamo", "pandas"} == set()
