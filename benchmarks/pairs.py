"""Write the pairs that ``distillkit degrade`` made as two folders of images.

``python benchmarks/pairs.py PAIRS FOLDER`` writes FOLDER/gt and FOLDER/lq, for ``distillkit
restore`` and ``distillkit compare``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as parquet


def unpack(pairs: Path, folder: Path) -> int:
    """Write the images of all parquet files under a folder; return the number of pairs."""
    for kind in ("gt", "lq"):
        (folder / kind).mkdir(parents=True)
    number = 0
    for file in sorted(pairs.rglob("*.parquet")):
        for row in parquet.read_table(file).to_pylist():
            for kind in ("gt", "lq"):
                (folder / kind / f"{number:04}.png").write_bytes(row[kind]["bytes"])
            number += 1
    return number


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path, metavar="PAIRS")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    print(f"{unpack(arguments.pairs, arguments.folder)} pairs")


if __name__ == "__main__":
    main()
