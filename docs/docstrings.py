"""Write pages of the reference from docstrings: the public API, hooks and descriptors."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from reference import NOTE, escape

import distillkit

PACKAGE = Path(distillkit.__file__).parent
HOOKS = "plugins.hookspecs"
DESCRIPTORS = "plugins.descriptors"
TESTING = ("testing.contract", ["check_plugin", "contract_tests"])

ROLE = re.compile(r":\w+:`~?(?:distillkit\.[\w.]*\.)?([^`]+)`")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
ENTRY = re.compile(r"^    (\*{0,2}[\w.]+): (.*)$")

Definition = ast.FunctionDef | ast.ClassDef


def api_page() -> str:
    """Write the page of the public names."""
    page = f"{NOTE}# Public API\n\n"
    page += "Every name can be imported from `distillkit`; those of `distillkit.testing` from "
    page += "there. [What a plugin may rely on]"
    page += "(../how-to/plugins.md#what-a-plugin-may-rely-on) says what is promised.\n"
    for module, names in sorted(distillkit._HOME.items()):
        if module == DESCRIPTORS:
            continue
        page += "".join(_describe_names(module, names, f"distillkit.{module}"))
    page += "".join(_describe_names(*TESTING, "distillkit.testing"))
    return page


def hooks_page() -> str:
    """Write the page of the hooks and of what they return."""
    page = f"{NOTE}# Hooks and descriptors\n\n"
    page += "[Write a plugin](../how-to/plugins.md) shows them at work. A hook is a function of "
    page += "the plugin's module, marked by `@distillkit.hookimpl`.\n\n## Hooks\n"
    for node in _parse(HOOKS):
        if isinstance(node, ast.FunctionDef):
            page += "".join(_describe_function(node, "###"))
    page += "\n## Descriptors\n"
    names = ["Spec", *distillkit._HOME[DESCRIPTORS]]
    for node in _parse(DESCRIPTORS):
        if isinstance(node, ast.ClassDef) and node.name in names:
            page += "".join(_describe_class(node, "###"))
    return page


def _describe_names(module: str, names: list[str], title: str) -> Iterator[str]:
    """Describe the public names of a module."""
    yield f"\n## {title}\n"
    body = _parse(module)
    for name in names:
        found = [node for node in body if isinstance(node, Definition) and node.name == name]
        if not found:
            yield f"\n### `{name}`\n\n{markdown(_text_below(body, name))}\n"
        elif isinstance(found[0], ast.ClassDef):
            yield from _describe_class(found[0], "###")
        else:
            yield from _describe_function(found[0], "###")


def _describe_function(node: ast.FunctionDef, heading: str) -> Iterator[str]:
    returned = ast.unparse(node.returns) if node.returns else "None"
    yield f"\n{heading} `{node.name}`\n"
    yield f"\n```python\n{node.name}({ast.unparse(node.args)}) -> {returned}\n```\n"
    yield _docstring(node)


def _describe_class(node: ast.ClassDef, heading: str) -> Iterator[str]:
    """Describe a class: its attributes and properties, then its methods."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"\n{heading} `{node.name}`\n"
    yield f"\n```python\nclass {node.name}({bases})\n```\n"
    yield _docstring(node)
    yield from _describe_attributes(node)
    yield "\n"
    functions = [member for member in node.body if isinstance(member, ast.FunctionDef)]
    for function in functions:
        if _is_public(function.name) and not _is_property(function):
            yield from _describe_function(function, f"{heading}#")


def _describe_attributes(node: ast.ClassDef) -> Iterator[str]:
    """Describe the public attributes and properties of a class, in its order."""
    for member in node.body:
        if isinstance(member, ast.AnnAssign):
            name = ast.unparse(member.target)
            declared = ast.unparse(member)
            about = _text_below(node.body, name)
        elif isinstance(member, ast.FunctionDef) and _is_property(member):
            assert member.returns
            name = member.name
            declared = f"{name}: {ast.unparse(member.returns)}"
            about = ast.get_docstring(member) or ""
        else:
            continue
        if _is_public(name):
            yield _describe_attribute(declared, about)


def _describe_attribute(declared: str, about: str) -> str:
    entry = f"\n- `{declared}`"
    if about:
        entry += "  \n" + textwrap.indent(markdown(about), "  ")
    return entry


def _is_property(node: ast.FunctionDef) -> bool:
    return "property" in [ast.unparse(decorator) for decorator in node.decorator_list]


def _docstring(node: Definition) -> str:
    text = ast.get_docstring(node)
    return f"\n{markdown(text)}\n" if text else ""


def _text_below(body: list[ast.stmt], name: str) -> str:
    """Return the text that stands below the assignment of a name."""
    for above, below in pairwise(body):
        if isinstance(above, ast.Assign):
            targets = [ast.unparse(target) for target in above.targets]
        elif isinstance(above, ast.AnnAssign):
            targets = [ast.unparse(above.target)]
        else:
            continue
        if name in targets and isinstance(below, ast.Expr):
            return inspect.cleandoc(ast.literal_eval(below.value))
    return ""


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def _parse(module: str) -> list[ast.stmt]:
    file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")).body


def markdown(docstring: str) -> str:
    """Turn a docstring of Google's style into Markdown."""
    text = ROLE.sub(r"`\1`", docstring)
    lines = []
    in_section = False
    for line in text.replace("``", "`").splitlines():
        if SECTION.match(line):
            in_section = True
            lines += [line, ""]
            continue
        if in_section and line.startswith("    "):
            line = ENTRY.sub(r"- `\1`: \2", line)
            line = re.sub(r"^ {8}", "  ", line)
            line = line.strip() if line.startswith("    ") else line
        lines.append(line)
    return escape("\n".join(lines))
