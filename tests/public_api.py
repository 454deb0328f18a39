"""Lists the public names of ``distillkit`` with their signatures, as its source has them.

``python tests/public_api.py`` rewrites ``public_api.txt`` after a change that is meant.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import distillkit

PACKAGE = Path(distillkit.__file__).parent
LISTED = Path(__file__).with_name("public_api.txt")
HOOKS = "plugins.hookspecs"
TESTING = ("testing.contract", ["check_plugin", "contract_tests"])

Definition = ast.FunctionDef | ast.ClassDef


def public_api() -> str:
    """Write one line for each name, and for each public attribute and method of a class."""
    lines = [f"API_VERSION {distillkit.API_VERSION}", ""]
    homes = sorted([*distillkit._HOME.items(), TESTING])
    for module, names in homes:
        for name in sorted(names):
            lines += describe(module, name)
    for hook in ast.parse(source(HOOKS)).body:
        if isinstance(hook, ast.FunctionDef):
            lines.append(f"hook {hook.name}{signature(hook)}")
    return "\n".join(lines) + "\n"


def describe(module: str, name: str) -> Iterator[str]:
    for node in ast.parse(source(module)).body:
        if isinstance(node, Definition) and node.name == name:
            yield from describe_definition(module, node)
            return
    # A constant: its value may change.
    yield f"{module}.{name}"


def describe_definition(module: str, node: Definition) -> Iterator[str]:
    prefix = f"{module}.{node.name}"
    if isinstance(node, ast.FunctionDef):
        yield f"{prefix}{signature(node)}"
        return
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"{prefix} class({bases})"
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and is_public(member.name):
            decorators = "".join(f"@{ast.unparse(entry)} " for entry in member.decorator_list)
            yield f"{prefix}.{decorators}{member.name}{signature(member)}"
        elif isinstance(member, ast.AnnAssign) and is_public(ast.unparse(member.target)):
            yield f"{prefix}.{ast.unparse(member)}"


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def signature(node: ast.FunctionDef) -> str:
    returned = ast.unparse(node.returns) if node.returns else "None"
    return f"({ast.unparse(node.args)}) -> {returned}"


def source(module: str) -> str:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")


if __name__ == "__main__":
    LISTED.write_text(public_api(), encoding="utf-8")
