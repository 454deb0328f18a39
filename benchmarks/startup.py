"""Measure what the command line takes to start with many plugins installed.

``python benchmarks/startup.py [--plugins 30] [--rounds 5]``

Writes plugins with one command each into a folder on Python's path, beside those that are
installed, and prints the median of CPU seconds and of seconds of ``distillkit --help`` and
``distillkit plugins`` without and with them. Then one of them takes long to import: the line that
names it is printed as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

MODULE = '''"""A plugin with one command."""

import typer

import distillkit


@distillkit.hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    @app.command("{name}")
    def command(number: int = 1) -> None:
        """Do the work of {name}."""
'''
SLOW = "import time\n\ntime.sleep(1.2)\n"
METADATA = """Metadata-Version: 2.4
Name: distillkit-{name}
Version: 0.1.0
Requires-Dist: distillkit>=0.1
"""


class Cost(NamedTuple):
    """What one command took."""

    cpu_seconds: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plugins", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = write_plugins(Path(folder), options.plugins)
        print(f"{'':28}{'CPU s':>8}{'seconds':>9}")
        for command in ("--help", "plugins"):
            for label, path in (("", ""), (f", {options.plugins} more", folder)):
                cost = measure(command, path, options.rounds)
                print(f"{command + label:28}{cost.cpu_seconds:8.2f}{cost.seconds:9.2f}")
        slow = Path(folder, f"distillkit_{names[0]}.py")
        slow.write_text(slow.read_text() + SLOW)
        listing = run("plugins", folder).stdout
        print(*[line for line in listing.splitlines() if "to import" in line], sep="\n")


def write_plugins(folder: Path, count: int) -> list[str]:
    """Write plugins as if they were installed in a folder of Python's path; return their names."""
    names = [f"many{number:02}" for number in range(count)]
    for name in names:
        (folder / f"distillkit_{name}.py").write_text(MODULE.format(name=name))
        info = folder / f"distillkit_{name}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA.format(name=name))
        (info / "entry_points.txt").write_text(f"[distillkit]\n{name} = distillkit_{name}\n")
    return names


def measure(command: str, path: str, rounds: int) -> Cost:
    """Run a command several times, once before to fill caches; return the medians."""
    run(command, path)
    costs = []
    for _ in range(rounds):
        cpu_before = cpu_seconds()
        started = time.perf_counter()
        run(command, path)
        seconds = time.perf_counter() - started
        costs.append(Cost(cpu_seconds() - cpu_before, seconds))
    return Cost(median(c.cpu_seconds for c in costs), median(c.seconds for c in costs))


def run(command: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run ``distillkit`` with a folder on Python's path."""
    paths = [path, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, "-m", "distillkit", command],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )


def cpu_seconds() -> float:
    """Return the CPU time of the processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
