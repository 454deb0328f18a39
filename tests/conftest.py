import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkit.plugins import manager


@pytest.fixture
def toys(monkeypatch):
    """The toy plugin and the engine's own, as if they were what is installed."""
    own = [p for p in entry_points(group=manager.GROUP) if p.name == "distillkit"]
    plugins = manager.load_plugins([*own, EntryPoint("toy", "toy_plugin", manager.GROUP)])
    assert not plugins.broken
    monkeypatch.setattr(manager, "_installed", lambda: plugins)
    return plugins


@pytest.fixture
def photos(tmp_path):
    """A folder with ``train`` and ``test`` images: smooth random fields with edges."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            small = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
            image = np.array(Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC))
            image[10:20, 8:30] = rng.integers(0, 255, 3)
            Image.fromarray(image).save(tmp_path / "photos" / split / f"{split}{i}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def installed_toys(tmp_path_factory):
    """The environment of a process in which the toy plugin is installed; what FIRST holds is run when it is loaded."""
    site = tmp_path_factory.mktemp("site")
    info = site / "distillkit_toy-1.0.dist-info"
    info.mkdir()
    (site / "toy_site.py").write_text(
        "import os\nfrom toy_plugin import *\nexec(os.environ.get('FIRST', ''), {})\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distillkit-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distillkit]\ntoy = toy_site\n")
    paths = [str(site), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def fork_server(installed_toys):
    """``fork_server(*arguments, processes=1, first="")``: ``distillkit`` in processes of their own; see ``fork_server.py``."""
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=installed_toys
    ) as process:

        def bear(*arguments, processes=1, first=""):
            job = {"arguments": [str(a) for a in arguments], "processes": processes, "first": first}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield bear
        process.stdin.close()


@pytest.fixture
def recipe(tmp_path, photos, toys):
    """A recipe of the toys, on disk; 6 + 4 steps."""
    path = tmp_path / "toy.toml"
    path.write_text(
        f"""
name = "toy"
student = {{ use = "toy/student", seed = 2 }}
teachers.fidelity = {{ use = "toy/faithful", seed = 3 }}
teachers.realness = {{ use = "toy/realistic", seed = 4 }}
degradation = {{ use = "toy/halve" }}
[data]
crop = 16
batch_size = 2
train = [{{ use = "toy/photos", folder = "{photos}" }}]
eval = [{{ use = "toy/photos", folder = "{photos}", split = "test" }}]
[stage1]
steps = 6
learning_rate = 1e-2
perceptual_shift = 0
adapter = {{ rank = 2 }}
weights = {{ perceptual = 0.0 }}
[stage2]
steps = 4
learning_rate = 1e-2
[training]
checkpointing_steps = 2
logging_steps = 2
validation_steps = 5
ema_decay = 0.9
log_with = []
[evaluation]
tradeoffs = [0.0, 0.5, 1.0]
metrics = ["psnr", "ssim"]
"""
    )
    return path
