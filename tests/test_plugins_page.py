"""The page on plugins is true: its code is what ``plugins new`` writes, its names are public."""

from __future__ import annotations

import re
from pathlib import Path

import distillkit
import distillkit.testing
from distillkit.plugins import hookspecs, scaffold

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "how-to"
PAGE = (FOLDER / "plugins.md").read_text(encoding="utf-8")


def test_its_code_is_what_plugins_new_writes():
    quote = r"\[`([^`]+)`\]\((\.\./[^)]+\.template)\):\n\n```\w+\n(.*?)```"
    quotes = re.findall(quote, PAGE, flags=re.DOTALL)
    assert len(quotes) == 7
    for name, link, code in quotes:
        template = (FOLDER / link).resolve()
        assert scaffold._fill_in(template.name, "mine") == f"{Path(name).name}.template"
        assert code in scaffold._fill_in(template.read_text(encoding="utf-8"), "mine")


def test_it_lists_every_kind():
    assert re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, flags=re.MULTILINE) == list(scaffold.KINDS)


def test_it_lists_every_public_name_once():
    table = PAGE[PAGE.index("| for | names |") : PAGE.index("`distillkit.testing` has")]
    names = re.findall(r"`(\w+)`", table)
    assert len(names) == len(set(names))
    assert {*names, "__version__"} == set(distillkit.__all__)


def test_it_lists_the_names_for_tests():
    listed = PAGE[PAGE.index("`distillkit.testing` has") :]
    assert {*re.findall(r"`(\w+)`", listed)} == set(distillkit.testing.__all__)


def test_it_states_the_version_of_the_api():
    assert f"`DISTILLKIT_API = {hookspecs.API_VERSION}`" in PAGE


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^):#]+)\)", PAGE):
        assert (FOLDER / target).exists(), target
