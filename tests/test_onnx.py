"""ONNX graphs give the student's images in onnxruntime, at sizes and tradeoffs not traced; what differs never appears."""

import logging

import numpy as np
import pytest
import torch

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe
from distillkit.cli import main as cli
from distillkit.export.onnx import export_onnx

pytest.importorskip("onnxscript", reason="pip install 'distillkit[onnx]' to test ONNX exports")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="pip install 'distillkit[onnx]' to test ONNX exports"
)


@pytest.fixture(autouse=True)
def no_trace_of_every_operator(monkeypatch):
    """Torch writes one to whoever listens to all logs, as pytest does."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(5))


def make_run(recipe, tmp_path, *sets):
    run_recipe(load_recipe(recipe, ["data.eval=[]", *sets]), tmp_path / "run")
    return tmp_path / "run"


def restored(file, image, **inputs):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    values = {"image": image.numpy()} | {k: np.array(v, np.float32) for k, v in inputs.items()}
    assert {node.name for node in session.get_inputs()} == values.keys()
    return torch.from_numpy(
        session.run(["restored"], values)[0]
    ), session.get_modelmeta().custom_metadata_map


def test_the_trade_off_is_an_input_of_the_graph(recipe, tmp_path, image, monkeypatch, capfd):
    run = make_run(recipe, tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["distillkit", "export", str(run), "--onnx", str(tmp_path / "graph.onnx")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (
        not stopped.value.code
        and "onnxruntime: largest difference from the original" in capfd.readouterr().out
    )
    restorer = Restorer.from_pretrained(run, "cpu")
    wanted = restorer(image, [0.0, 0.45, 1.0])
    assert (wanted[0] - wanted[2]).abs().max() > 1e-2
    for tradeoff, one in zip((-1.0, 0.45, 1.0), wanted, strict=True):  # clamped like the restorer's
        made, about = restored(tmp_path / "graph.onnx", image, tradeoff=tradeoff)
        assert torch.allclose(made, one, atol=1e-5)
    assert (
        about["scale"] == "2"
        and about["size_multiple"] == "1"
        and "student: unknown" in about["licenses"]
    )
    with pytest.raises(DistillkitError, match=r"graph.onnx - exists; name a new file"):
        export_onnx(run, tmp_path / "graph.onnx")


@pytest.mark.parametrize("sets", [[], ["stage2.steps=0"]])
def test_a_graph_at_one_trade_off_has_one_input(recipe, tmp_path, image, sets):
    run = make_run(recipe, tmp_path, *sets)
    tradeoff = None if sets else 0.6
    export_onnx(run, tmp_path / "graph.onnx", tradeoff=tradeoff)
    made, _ = restored(tmp_path / "graph.onnx", image)
    assert torch.allclose(made, Restorer.from_pretrained(run, "cpu")(image, tradeoff), atol=1e-5)


def test_variants_of_two_passes_are_refused(recipe, tmp_path):
    with pytest.raises(DistillkitError, match="Oftsr evaluates the network twice"):
        export_onnx(
            make_run(recipe, tmp_path, "stage2.variant='oftsr'"),
            tmp_path / "graph.onnx",
            tradeoff=0.6,
        )


def test_a_graph_that_gives_other_images_does_not_appear(recipe, tmp_path, monkeypatch):
    from toy_models import ToyModel

    run, generate = make_run(recipe, tmp_path), ToyModel.generate
    noisy = lambda self, condition, generator=None: (
        generate(self, condition) + 0.1 * torch.randn_like(condition.y)
    )
    monkeypatch.setattr(ToyModel, "generate", noisy)
    with pytest.raises(DistillkitError, match="on an input of 17x23 pixels the graph differs by"):
        export_onnx(run, tmp_path / "graph.onnx", tradeoff=0.5)
    assert not [p for p in tmp_path.iterdir() if "graph" in p.name]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "distillkit.export.onnx.find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(
        DistillkitError, match=r"ONNX export needs onnxscript: pip install 'distillkit\[onnx\]'"
    ):
        export_onnx(tmp_path, tmp_path / "graph.onnx")
