#!/bin/sh
# What a GPU makes of distillkit: right, how fast, how much memory. At most ten minutes; ends with FOLDER/gpu.json.
#
#   benchmarks/gpu.sh [FOLDER] [--rehearse]
#
# FOLDER is $OUT or gpu-results by default. Takes this clone, an environment with its distributions (PYTHON, or that of `make setup`),
# and 7 GB of disk for random weights. --rehearse runs every part on the CPU at toy size.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
fi
exec "$PYTHON" "$root/benchmarks/gpu.py" "$@"
