"""Checks of what a plugin offers.

A plugin's own test file needs two lines::

    from distillkit.testing import contract_tests

    test_contract = contract_tests("example")
"""

from distillkit.testing.contract import CheckResult, check_plugin, contract_tests

__all__ = ["CheckResult", "check_plugin", "contract_tests"]
