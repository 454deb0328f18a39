"""The lines for VapourSynth of the page about hosts, run by VapourSynth and vs-mlrt themselves.

Their wheels are for newer Pythons than ours may be: VAPOURSYNTH_PYTHON names one that has them.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_onnx import ENLARGER

from distillkit import Restorer
from distillkit.export.onnx import GraphForm, export_onnx

PYTHON = os.environ.get("VAPOURSYNTH_PYTHON", sys.executable)
IMPORTS = "import numpy, vapoursynth; vapoursynth.core.ort"
REASON = (
    f"{PYTHON} lacks VapourSynth with vs-mlrt: pip install vapoursynth vapoursynth-mlrt-ort numpy, "
    "for a Python that VAPOURSYNTH_PYTHON names"
)
HOSTS = Path(__file__).parents[1] / "docs/how-to/hosts.md"
OPEN_IMAGE = """
import numpy as np
import vapoursynth as vs
from vapoursynth import core

image = np.load("image.npy")
blank = core.std.BlankClip(
    format=vs.RGBS, width=image.shape[2], height=image.shape[1], length=1, keep=True
)


def fill(n, f):
    frame = f.copy()
    for plane in range(3):
        np.asarray(frame[plane])[:] = image[plane]
    return frame


rgb = core.std.ModifyFrame(blank, blank, fill)
results = []
"""
KEEP = "results.append(np.stack([np.asarray(restored.get_frame(0)[i]) for i in range(3)]))\n"


@pytest.fixture(scope="module")
def has_vapoursynth():
    if subprocess.run([PYTHON, "-c", IMPORTS], capture_output=True, check=False).returncode:
        pytest.skip(REASON)


def test_the_lines_for_vapoursynth_restore_as_the_restorer_does(
    has_vapoursynth, toys, finished_run, tmp_path, monkeypatch
):
    # Torch writes a trace of every operator to whoever listens to all logs, as pytest does.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    run = finished_run("data.eval=[]", *ENLARGER)
    export_onnx(run, tmp_path / "student.onnx", GraphForm(0.3))
    export_onnx(run, tmp_path / "plane.onnx", GraphForm(plane=True))
    image = np.random.default_rng(0).random((3, 270, 300), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    (lines,) = re.findall(r"```\n(restored = core.*?)```", HOSTS.read_text("utf-8"), re.DOTALL)
    code = re.sub(r"^restored = .*\n", lambda line: line[0] + KEEP, lines, flags=re.MULTILINE)
    script = f"{OPEN_IMAGE}{code}np.save('results.npy', np.stack(results))\n"
    done = subprocess.run(
        [PYTHON, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = Restorer.from_pretrained(run, "cpu")(torch.from_numpy(image), 0.3).numpy()
    results = np.load(tmp_path / "results.npy")
    assert len(results) == 3
    assert np.abs(results - expected).max() < 1e-5
