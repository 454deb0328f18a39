"""The engine and what measures it are importable where Python lacks the modules of Unix."""

import subprocess
import sys

PROGRAM = """
import builtins, importlib

UNIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
real_import = builtins.__import__

def import_as_on_windows(name, globals=None, *arguments, **options):
    # Other packages choose by the platform, so they may import what this machine has.
    importer = (globals or {}).get("__name__", "")
    if name in UNIX_ONLY and importer.startswith("distillkit"):
        raise ImportError(f"{importer} imports {name}, which Windows does not have")
    return real_import(name, globals, *arguments, **options)

builtins.__import__ = import_as_on_windows

for module in (
    "distillkit.runs.run",
    "distillkit.runs.evaluate",
    "distillkit.cli.main",
    "distillkit_bench.device",
):
    importlib.import_module(module)

from distillkit.environment import peak_memory
assert peak_memory() is None
"""


def test_a_run_needs_no_module_that_windows_lacks():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
