"""What the project promises at its door: workflows name what exists, SECURITY.md is kept."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CODE = [
    path
    for folder in ("distillkit", "plugins", "runtime")
    for path in (ROOT / folder).rglob("*.py")
    if "tests" not in path.parts
]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def commands() -> list[str]:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_the_files_of_github_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_names_targets_and_tests_that_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = [word for command in commands() for word in re.findall(r"\bmake (\w+)", command)]
    assert set(named) == {"check", "test", "dist", "setup"}
    assert set(named) <= set(targets)
    tests = re.findall(r"tests/\w+\.py", " ".join(commands()))
    assert len(tests) > 5
    assert [path for path in tests if not (ROOT / path).is_file()] == []


def test_the_workflow_tests_every_version_from_the_oldest_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(11, 11 + len(versions))]


def test_the_hooks_before_a_commit_are_those_of_make_check():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    assert {*hooks} == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert all(f"\t{tool}" in makefile for tool in hooks)


def test_the_citation_has_what_readers_of_the_format_require():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["SECURITY", "CODE_OF_CONDUCT", "RELEASING", "CONTRIBUTING"])
def test_links_of_a_page_at_the_door_lead_somewhere(name):
    text = (ROOT / f"{name}.md").read_text()
    targets = re.findall(r"\]\(([^):#]+)\)", text) + re.findall(r"`((?:docs|tests)/[\w./]+)`", text)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_no_code_of_ours_unpickles():
    """SECURITY.md: weights are data."""
    loads = 0
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not UNSAFE_MODULES & {alias.name for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in UNSAFE_MODULES, path
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                safe = options.get("weights_only") == "True"
                safe |= options.get("allow_pickle") == "False"
                assert safe, f"{path}:{node.lineno}"
                loads += 1
    assert loads >= 2
