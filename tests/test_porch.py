"""What the project promises at its door: workflows name what exists, SECURITY.md is kept."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import release
import yaml
from packaging.dependency_groups import resolve_dependency_groups
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ENGINE = release.read_project(ROOT)
WORKSPACE = ENGINE["tool"]["uv"]["workspace"]["members"]
MEMBERS = [path.parent for member in WORKSPACE for path in ROOT.glob(f"{member}/pyproject.toml")]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CODE = [
    path
    for folder in ("distillkit", "plugins", "runtime")
    for path in (ROOT / folder).rglob("*.py")
    if "tests" not in path.parts
]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def jobs() -> list[dict]:
    return list(yaml.safe_load(WORKFLOW.read_text())["jobs"].values())


def commands() -> list[str]:
    return [step["run"] for job in jobs() for step in job["steps"] if "run" in step]


def make_targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_the_files_of_github_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_names_targets_and_paths_that_exist():
    named = [word for command in commands() for word in re.findall(r"\bmake (\w+)", command)]
    assert set(named) == {"check", "test", "dist", "setup"}
    assert set(named) <= make_targets()
    words = " ".join(commands()).split()
    words += [step.get("working-directory", ".") for job in jobs() for step in job["steps"]]
    paths = {
        word for word in words if re.fullmatch(r"(\./)?(tests|plugins|runtime)\b[\w/.]*", word)
    }
    paths |= {word for word in words if word.endswith((".txt", ".py"))}
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_workflow_uses_only_what_its_matrix_has():
    expressions = re.findall(r"\$\{\{ (.+?) \}\}", WORKFLOW.read_text())
    assert {name for name in expressions if not name.startswith("matrix.")} == {"github.ref"}
    for job in jobs():
        matrix = job.get("strategy", {}).get("matrix", {})
        used = re.findall(r"\$\{\{ matrix\.(\w+) \}\}", json.dumps(job))
        assert set(used) == set(matrix)


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


def test_the_citation_is_of_this_version_and_of_the_paper_that_packages_link_to():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == release.read_version(ROOT)
    (paper,) = citation["references"]
    assert paper["url"] == ENGINE["project"]["urls"]["Paper"]


@pytest.mark.parametrize("project", MEMBERS, ids=lambda path: path.name)
def test_every_distribution_has_license_and_links_of_the_engine(project):
    table = release.read_project(project)["project"]
    for key in ("requires-python", "urls"):
        assert table[key] == ENGINE["project"][key]
    # Weights and photographs that a distribution carries may have a license of their own, after the
    # code's.
    code, *others = table["license"].split(" AND ")
    assert code == ENGINE["project"]["license"]
    assert table["license-files"][0] == "LICENSE"
    assert len(table["license-files"]) == 1 + len(others)
    assert (project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_nodes_have_the_links_of_the_engine():
    nodes = release.read_project(ROOT / "integrations" / "comfyui")["project"]
    assert nodes["urls"] == ENGINE["project"]["urls"]


def test_the_workspace_is_every_distribution_and_setup_installs_it():
    # Two levels down at most, so that environments are not searched.
    files = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")]
    distributions = {file.parent for file in files if "build-system" in file.read_text()}
    assert distributions == set(MEMBERS)
    (line,) = re.findall(r"^PROJECTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    patterns = re.sub(r"\$\(wildcard (.*?)\)", r"\1", line).split()
    assert patterns == [f"{member}/pyproject.toml" for member in WORKSPACE]


def test_what_distributions_require_of_each_other_is_of_the_workspace():
    own = {release.read_project(project)["project"]["name"] for project in [ROOT, *MEMBERS]}
    required = {
        Requirement(text).name
        for project in [ROOT, *MEMBERS]
        for text in requirements(release.read_project(project)["project"])
    }
    sources = ENGINE["tool"]["uv"]["sources"]
    assert set(sources) == own & required
    assert all(source == {"workspace": True} for source in sources.values())


def requirements(table: dict) -> Iterator[str]:
    yield from table["dependencies"]
    for extra in table.get("optional-dependencies", {}).values():
        yield from extra


def test_dependency_groups_resolve_to_what_is_pinned():
    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    groups = ENGINE["dependency-groups"]
    assert {"dev", "test", "docs"} <= set(groups)
    for name in ("dev", "test", "docs"):
        needs = {Requirement(text).name for text in resolve_dependency_groups(groups, name)}
        assert needs - pins == set()
    published = {Requirement(text).name for text in requirements(ENGINE["project"])}
    assert (
        published & {Requirement(text).name for text in resolve_dependency_groups(groups, "dev")}
        == set()
    )


def test_the_groups_and_extras_that_are_named_exist():
    files = ["Makefile", "CONTRIBUTING.md", "docs/build_site.py", "tools/release.py"]
    text = "\n".join((ROOT / file).read_text() for file in files) + WORKFLOW.read_text()
    groups = set(re.findall(r"--group (\w+)", text))
    assert groups == {"dev", "test", "docs", "release"}
    assert groups <= set(ENGINE["dependency-groups"])
    extras = {extra for found in re.findall(r"\.\[([\w,]+)\]'", text) for extra in found.split(",")}
    assert extras
    assert extras <= set(ENGINE["project"]["optional-dependencies"])


def dockerfile() -> list[str]:
    """Read the lines of the Dockerfile, continued ones joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


def is_copied(path: str) -> bool:
    """Tell whether .dockerignore lets a path at the root through."""
    return f"!{path}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_what_the_dockerfile_installs_exists_and_is_copied():
    (projects,) = [line for line in dockerfile() if line.startswith("ARG PROJECTS=")]
    folders = projects.split('"')[1].split()
    assert folders[0] == "."
    for folder in folders:
        assert (ROOT / folder / "pyproject.toml").is_file()
    for path in ("plugins", "distillkit", "pyproject.toml", "constraints.txt"):
        assert is_copied(path)
    # Read by the build of the engine's wheel.
    (readme,) = ENGINE["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    assert is_copied(readme["path"])
    assert all(is_copied(path) for path in ENGINE["project"]["license-files"])
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def test_the_container_runs_the_command_and_not_as_root():
    lines = dockerfile()
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    (entry,) = [line for line in lines[last:] if line.startswith("ENTRYPOINT ")]
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in ENGINE["project"]["scripts"]
    (user,) = [line.split()[1] for line in lines[last:] if line.startswith("USER ")]
    assert any(re.search(rf"useradd .*\b{user}\b", line) for line in lines[last:])
    (python,) = [line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON=")]
    assert f"Programming Language :: Python :: {python}" in ENGINE["project"]["classifiers"]


def test_a_stage_of_the_dockerfile_is_the_runtime_alone():
    lines = dockerfile()
    first = next(i for i, line in enumerate(lines) if line.endswith(" AS runtime"))
    last = next(i for i in range(first + 1, len(lines)) if lines[i].startswith("FROM "))
    stage = lines[first:last]
    copied = [line.split()[1] for line in stage if line.startswith("COPY ")]
    assert copied == ["constraints.txt", "runtime"]
    assert all(is_copied(path) for path in copied)
    runtime = tomllib.loads((ROOT / "runtime/pyproject.toml").read_text())["project"]
    (entry,) = [line for line in stage if line.startswith("ENTRYPOINT ")]
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in runtime["scripts"]
    assert "USER distillkit" in stage
    page = (ROOT / "docs" / "how-to" / "container.md").read_text()
    assert "--target runtime" in page


def test_the_page_on_containers_names_arguments_that_the_dockerfile_has():
    page = (ROOT / "docs" / "how-to" / "container.md").read_text()
    arguments = {line.split()[1].partition("=")[0] for line in dockerfile() if "ARG " in line}
    assert set(re.findall(r"--build-arg (\w+)=", page)) == arguments


def test_the_development_container_is_a_stage_of_the_dockerfile():
    folder = ROOT / ".devcontainer"
    config = json.loads((folder / "devcontainer.json").read_text())
    build = config["build"]
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    (stage,) = [i for i, line in enumerate(dockerfile()) if line.endswith(f" AS {build['target']}")]
    assert f"USER {config['remoteUser']}" in dockerfile()[stage:]
    assert config["postCreateCommand"].removeprefix("make ") in make_targets()


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
