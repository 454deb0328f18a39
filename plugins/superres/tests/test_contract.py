"""Everything this plugin offers keeps what the engine relies on, at toy size."""

from distillkit.testing import contract_tests

TINY = ("resshift", "sinsr", "osediff", "sd21-base")

test_contract = contract_tests("superres", {f"superres/{name}": {"size": "tiny"} for name in TINY})
