"""The command line with thirty plugins more; benchmarks/startup.py measures what it takes."""

from __future__ import annotations

from pathlib import Path

import startup

COUNT = 30


def test_help_has_the_command_of_every_plugin(tmp_path: Path) -> None:
    names = startup.write_plugins(tmp_path, COUNT)
    lines = startup.run("--help", str(tmp_path)).stdout.splitlines()
    for name in names:
        assert [line.split() for line in lines if f"of {name}." in line] == [
            [name, "Do", "the", "work", "of", f"{name}."]
        ]


def test_a_slow_one_is_named_among_them(tmp_path: Path) -> None:
    names = startup.write_plugins(tmp_path, COUNT)
    slow = tmp_path / f"distillkit_{names[7]}.py"
    slow.write_text(slow.read_text() + startup.SLOW)
    listing = startup.run("plugins", str(tmp_path)).stdout
    sections = {section.partition(" ")[0]: section for section in listing.split("\n\n")}
    assert set(names) <= set(sections)
    assert "s to import (distillkit_many07); import such packages" in sections[names[7]]
