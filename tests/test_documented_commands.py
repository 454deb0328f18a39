"""The commands that README and docs show exist, with their options, arguments and recipes."""

from __future__ import annotations

import pytest
from documented_commands import Shown, find_problems, shown_commands, split
from pages import ROOT

PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("benchmarks/*.md"),
    *ROOT.glob("plugins/*/README.md"),
    *ROOT.glob("integrations/*/README.md"),
]


def commands_of(page) -> list[Shown]:
    text = page.read_text(encoding="utf-8")
    return list(shown_commands(page.relative_to(ROOT).as_posix(), text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_exist(page):
    problems = [
        f"{command.place}: {command.text} - {problem}"
        for command in commands_of(page)
        for problem in find_problems(split(command.text))
    ]
    assert problems == []


def test_there_are_commands():
    assert len(commands_of(ROOT / "README.md")) > 20
    assert len([command for page in PAGES for command in commands_of(page)]) > 100


def test_commands_are_found_in_blocks_of_code():
    text = "distillkit a\n```\ndistillkit run \\\n  x  # why\n```\n\n    distillkit b\n"
    found = list(shown_commands("page.md", text))
    assert [command.place for command in found] == ["page.md:4", "page.md:7"]
    assert split(found[0].text) == ["run", "x"]
    assert split("OMP=1 torchrun -m distillkit run RECIPE [--out DIR] [--resume | --fork RUN]") == [
        *("run", "RECIPE", "--out", "DIR", "--resume", "--fork", "RUN")
    ]
    assert split("distillkit plugins --json | head") == ["plugins", "--json"]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("distillkit rum RECIPE", "no command rum"),
        ("distillkit recipe list|cpy", "no command cpy"),
        ("distillkit run RECIPE --steps 3", "--steps"),
        ("distillkit run RECIPE --out", "--out"),
        ("distillkit run", "without RECIPE"),
        ("distillkit run mini/quickstart", "no recipe mini/quickstart"),
        ("distillkit run recipes/none.toml", "no recipe recipes/none.toml"),
        ("distillkit recipe copy mini/none", "no recipe mini/none"),
        ("distillkit doctor a b", "left over: b"),
    ],
)
def test_what_does_not_exist_is_noticed(command, problem):
    (found,) = find_problems(split(command))
    assert problem in found


@pytest.mark.parametrize(
    "command",
    [
        "distillkit run mini/paper_sr4x --set 'data.eval=[1]'",
        "distillkit --plugin mine.py run mine.toml -v",
        "distillkit recipe list|copy|validate",
        "distillkit restore a b -o out --run runs/x",
        "distillkit --version",
    ],
)
def test_what_exists_is_no_problem(command):
    assert find_problems(split(command)) == []
