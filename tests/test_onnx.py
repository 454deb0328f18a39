"""ONNX graphs give the student's images at all sizes and tradeoffs.

A graph that gives other images never appears.
"""

import logging

import numpy as np
import pytest
import torch

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe
from distillkit.cli import main as cli
from distillkit.export.onnx import export_onnx

REASON = "pip install 'distillkit[onnx]' to test ONNX exports"
pytest.importorskip("onnxscript", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)


@pytest.fixture(autouse=True)
def no_trace_of_every_operator(monkeypatch):
    """Torch writes one to whoever listens to all logs, as pytest does."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(5))


def make_run(recipe, tmp_path, *overrides):
    run_recipe(load_recipe(recipe, ["data.eval=[]", *overrides]), tmp_path / "run")
    return tmp_path / "run"


def open_graph(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def restore(session, image, **inputs):
    values = {"image": image.numpy()}
    for name, value in inputs.items():
        values[name] = np.array(value, np.float32)
    assert {node.name for node in session.get_inputs()} == values.keys()
    (restored,) = session.run(["restored"], values)
    return torch.from_numpy(restored)


def test_the_tradeoff_is_an_input_of_the_graph(recipe, tmp_path, image, monkeypatch, capfd):
    run = make_run(recipe, tmp_path)
    file = tmp_path / "graph.onnx"
    monkeypatch.setattr("sys.argv", ["distillkit", "export", str(run), "--onnx", str(file)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "onnxruntime: largest difference from the original" in capfd.readouterr().out
    expected = Restorer.from_pretrained(run, "cpu")(image, [0.0, 0.45, 1.0])
    assert (expected[0] - expected[2]).abs().max() > 1e-2
    graph = open_graph(file)
    # The graph clamps tradeoffs: -1 is 0.
    for tradeoff, original in zip((-1.0, 0.45, 1.0), expected, strict=True):
        restored = restore(graph, image, tradeoff=tradeoff)
        assert torch.allclose(restored, original, atol=1e-5)
    metadata = graph.get_modelmeta().custom_metadata_map
    assert metadata["scale"] == "2"
    assert metadata["size_multiple"] == "1"
    assert metadata["recipe"] == "toy"
    assert "student: unknown" in metadata["licenses"]
    with pytest.raises(DistillkitError, match=r"graph.onnx - exists; name a new file"):
        export_onnx(run, file)


@pytest.mark.parametrize(("overrides", "tradeoff"), [([], 0.6), (["stage2.steps=0"], None)])
def test_a_graph_at_one_tradeoff_has_one_input(recipe, tmp_path, image, overrides, tradeoff):
    run = make_run(recipe, tmp_path, *overrides)
    file = tmp_path / "graph.onnx"
    export_onnx(run, file, tradeoff=tradeoff)
    restored = restore(open_graph(file), image)
    expected = Restorer.from_pretrained(run, "cpu")(image, tradeoff)
    assert torch.allclose(restored, expected, atol=1e-5)


def test_variants_that_evaluate_the_network_twice_are_refused(recipe, tmp_path):
    run = make_run(recipe, tmp_path, "stage2.variant='oftsr'")
    with pytest.raises(DistillkitError, match="Oftsr evaluates the network twice"):
        export_onnx(run, tmp_path / "graph.onnx", tradeoff=0.6)


def test_a_graph_that_gives_other_images_does_not_appear(recipe, tmp_path, monkeypatch):
    from toy_models import ToyModel

    run = make_run(recipe, tmp_path)
    generate = ToyModel.generate

    def generate_noisily(self, condition, generator=None):
        return generate(self, condition) + 0.1 * torch.randn_like(condition.y)

    monkeypatch.setattr(ToyModel, "generate", generate_noisily)
    with pytest.raises(DistillkitError, match="on an input of 17x23 pixels the graph differs by"):
        export_onnx(run, tmp_path / "graph.onnx", tradeoff=0.5)
    assert not [path for path in tmp_path.iterdir() if "graph" in path.name]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    def find_spec(name):
        return None if name == "onnxscript" else name

    monkeypatch.setattr("distillkit.export.onnx.find_spec", find_spec)
    message = r"ONNX export needs onnxscript: pip install 'distillkit\[onnx\]'"
    with pytest.raises(DistillkitError, match=message):
        export_onnx(tmp_path, tmp_path / "graph.onnx")
