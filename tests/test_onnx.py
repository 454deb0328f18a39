"""ONNX graphs give the student's images at all sizes and tradeoffs.

A graph that gives other images never appears.
"""

import logging
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from distillkit import DistillkitError, Restorer
from distillkit.cli import main as cli
from distillkit.export.folder import export_folder
from distillkit.export.onnx import GraphForm, export_onnx

ENLARGER = (
    "student={use='toy/enlarger'}",
    "stage1.teachers.fidelity.term='output'",
    "stage1.teachers.realness.term='output'",
)
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


@pytest.fixture
def make_run(toys, finished_run):
    return partial(finished_run, "data.eval=[]")


def open_graph(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def restore(session, image, **inputs):
    values = {"image": image.numpy()}
    for name, value in inputs.items():
        values[name] = np.array(value, np.float32)
    assert {node.name for node in session.get_inputs()} == values.keys()
    (restored,) = session.run(["restored"], values)
    return torch.from_numpy(restored)


def test_the_tradeoff_is_an_input_of_the_graph(make_run, tmp_path, image, monkeypatch, capfd):
    run = make_run()
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
    assert metadata["color_fix"] == "none"
    assert metadata["recipe"] == "toy"
    assert "student: unknown" in metadata["licenses"]
    with pytest.raises(DistillkitError, match=r"graph.onnx - exists; name a new file"):
        export_onnx(run, file)


@pytest.mark.parametrize(("overrides", "tradeoff"), [([], 0.6), (["stage2.steps=0"], None)])
def test_a_graph_at_one_tradeoff_has_one_input(make_run, tmp_path, image, overrides, tradeoff):
    run = make_run(*overrides)
    file = tmp_path / "graph.onnx"
    export_onnx(run, file, GraphForm(tradeoff))
    restored = restore(open_graph(file), image)
    expected = Restorer.from_pretrained(run, "cpu")(image, tradeoff)
    assert torch.allclose(restored, expected, atol=1e-5)


def test_variants_that_evaluate_the_network_twice_are_refused(make_run, tmp_path):
    run = make_run("stage2.variant='oftsr'")
    with pytest.raises(DistillkitError, match="Oftsr evaluates the network twice"):
        export_onnx(run, tmp_path / "graph.onnx", GraphForm(0.6))


def test_a_graph_that_gives_other_images_does_not_appear(make_run, tmp_path, monkeypatch):
    from toy_models import ToyModel

    run = make_run()
    generate = ToyModel.generate

    def generate_otherwise_in_a_graph(self, condition, generator=None):
        offset = 0.1 if torch.compiler.is_exporting() else 0.0
        return generate(self, condition) + offset

    monkeypatch.setattr(ToyModel, "generate", generate_otherwise_in_a_graph)
    with pytest.raises(
        DistillkitError, match="on an input of 17x23 pixels the graph differs by"
    ) as e:
        export_onnx(run, tmp_path / "graph.onnx", GraphForm(0.5))
    assert str(e.value).endswith("a graph of one size may work: --size WIDTHxHEIGHT")
    assert not [path for path in tmp_path.iterdir() if "graph" in path.name]


def test_graphs_are_compared_on_images_as_smooth_as_photographs(make_run, tmp_path, monkeypatch):
    from toy_models import ToyModel

    run = make_run()
    generate = ToyModel.generate

    def round_otherwise_on_noise(self, condition, generator=None):
        restored = generate(self, condition)
        if not torch.compiler.is_exporting():
            return restored
        # Neighbors differ by up to 2 in noise.
        return restored + 0.1 * (restored.diff(dim=-1).abs().max() > 1.5)

    monkeypatch.setattr(ToyModel, "generate", round_otherwise_on_noise)
    export_onnx(run, tmp_path / "graph.onnx", GraphForm(0.5))


def test_a_student_that_draws_has_no_graph(make_run, tmp_path, monkeypatch):
    from toy_models import ToyModel

    run = make_run()
    generate = ToyModel.generate

    def generate_noisily(self, condition, generator=None):
        noise = torch.randn(condition.y.shape, generator=generator)
        return generate(self, condition) + 0.1 * noise

    monkeypatch.setattr(ToyModel, "generate", generate_noisily)
    with pytest.raises(DistillkitError, match=r"^ToyModel draws random numbers .* has no graph"):
        export_onnx(run, tmp_path / "graph.onnx")
    assert not [path for path in tmp_path.iterdir() if "graph" in path.name]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    def find_spec(name):
        return None if name == "onnxscript" else name

    monkeypatch.setattr("distillkit.export.onnx.find_spec", find_spec)
    message = r"ONNX export needs onnxscript: pip install 'distillkit\[onnx\]'"
    with pytest.raises(DistillkitError, match=message):
        export_onnx(tmp_path, tmp_path / "graph.onnx")


def check_as_a_host(file, channels=3, dtype="float"):
    """Check what hosts of upscaling networks ask for, as vs-mlrt and chaiNNer do.

    One input and one output, four axes, a whole scale that shape inference finds for any size.
    """
    import onnx

    session = open_graph(file)
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert source.type == result.type == f"tensor({dtype})"
    assert source.shape[:2] == [1, channels]
    assert len(source.shape) == len(result.shape) == 4
    scales = set()
    for side in (16, 64, 256, 512):
        model = onnx.load(file)
        sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
        for axis in sides:
            axis.dim_value = side
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        height, width = inferred.graph.output[0].type.tensor_type.shape.dim[2:]
        assert height.dim_value == width.dim_value
        assert height.dim_value % side == 0
        scales.add(height.dim_value // side)
    assert len(scales) == 1
    return session


def test_a_graph_with_a_second_input_is_none_for_a_host(make_run, tmp_path):
    """Why there are the two other forms; the check must notice."""
    run = make_run(*ENLARGER)
    export_onnx(run, tmp_path / "graph.onnx", GraphForm())
    with pytest.raises(ValueError, match="too many values to unpack"):
        check_as_a_host(tmp_path / "graph.onnx")


@pytest.mark.parametrize("half", [False, True])
def test_the_tradeoff_of_each_pixel_is_a_fourth_plane(make_run, tmp_path, image, half):
    run = make_run(*ENLARGER)
    file = tmp_path / "graph.onnx"
    export_onnx(run, file, GraphForm(plane=True, half=half))
    session = check_as_a_host(file, channels=4, dtype="float16" if half else "float")
    plane = torch.zeros(1, 1, 20, 31)
    plane[..., 15:] = 1
    planes = torch.cat([image, plane], 1)
    values = {"image": (planes.half() if half else planes).numpy()}
    (restored,) = session.run(["restored"], values)
    expected = Restorer.from_pretrained(run, "cpu")(image[0], plane[0, 0])
    difference = (torch.from_numpy(restored[0]).float() - expected).abs().max()
    assert difference < (4e-3 if half else 1e-5)
    assert session.get_modelmeta().custom_metadata_map["tradeoff"] == "plane"


def test_sides_are_named_and_a_fixed_tradeoff_is_what_a_host_takes(make_run, tmp_path):
    run = make_run(*ENLARGER)
    export_onnx(run, tmp_path / "graph.onnx", GraphForm(0.3))
    session = check_as_a_host(tmp_path / "graph.onnx")
    assert session.get_inputs()[0].shape == [1, 3, "height", "width"]
    assert session.get_outputs()[0].shape == [1, 3, "2*height", "2*width"]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_an_input_for_the_tradeoff_costs_no_second_layer(make_run, tmp_path, image, adapter):
    """The change is added to the weights inside the graph."""
    import onnx

    run = make_run(*ENLARGER, f"stage2.adapter.kind='{adapter}'")
    counts = {}
    for name, tradeoff in (("fixed", 0.3), ("input", None)):
        file = tmp_path / f"{name}.onnx"
        export_onnx(run, file, GraphForm(tradeoff))
        nodes = onnx.load(file).graph.node
        counts[name] = sum(node.op_type == "Conv" for node in nodes)
    assert counts["fixed"] == counts["input"] == 2
    expected = Restorer.from_pretrained(run, "cpu")(image, 0.45)
    restored = restore(open_graph(tmp_path / "input.onnx"), image, tradeoff=0.45)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)


def test_a_graph_of_one_size(make_run, tmp_path, monkeypatch, capfd):
    run = make_run(*ENLARGER)
    file = tmp_path / "graph.onnx"
    command = ["distillkit", "export", str(run), "--onnx", str(file), "--tradeoff", "0.3"]
    monkeypatch.setattr("sys.argv", [*command, "--size", "24x16", "--half"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    session = open_graph(file)
    assert session.get_inputs()[0].shape == [1, 3, 16, 24]
    assert session.get_outputs()[0].shape == [1, 3, 32, 48]
    assert session.get_inputs()[0].type == "tensor(float16)"


def test_a_model_that_computes_in_float32_has_no_graph_in_float16(make_run, tmp_path):
    run = make_run()
    with pytest.raises(DistillkitError, match="ToyModel cannot be exported to ONNX in float16"):
        export_onnx(run, tmp_path / "graph.onnx", GraphForm(half=True))


def test_a_network_with_layers_that_are_not_over_images_has_no_plane(make_run, trained, tmp_path):
    run = make_run()
    with pytest.raises(DistillkitError, match="no tradeoff plane: ToyModel has adapted layers"):
        export_onnx(run, tmp_path / "graph.onnx", GraphForm(plane=True))
    fixed = trained("data.eval=[]", "stage2.steps=0")
    with pytest.raises(DistillkitError, match="a student with a fixed tradeoff has none"):
        export_onnx(fixed, tmp_path / "graph.onnx", GraphForm(plane=True))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--size", "24"], "--size 24 - expected WIDTHxHEIGHT"),
        (["--tradeoff", "0.3", "--tradeoff-plane"], "either --tradeoff or --tradeoff-plane"),
    ],
)
def test_options_that_do_not_fit_are_refused(distillkit, tmp_path, options, why):
    outcome = distillkit("export", tmp_path, "--onnx", tmp_path / "graph.onnx", *options)
    assert outcome.code
    assert why in outcome.err


def test_the_lines_of_the_page_about_hosts_run(make_run, tmp_path, monkeypatch):
    run = make_run(*ENLARGER)
    export_onnx(run, tmp_path / "student.onnx")
    export_onnx(run, tmp_path / "plane.onnx", GraphForm(plane=True))
    page = (Path(__file__).parents[1] / "docs/how-to/hosts.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    image = torch.from_numpy(names["image"][0])
    restorer = Restorer.from_pretrained(run, "cpu")
    for name, tradeoff in (("restored", 0.3), ("by_pixel", torch.from_numpy(names["plane"][0, 0]))):
        restored = torch.from_numpy(names[name][0])
        torch.testing.assert_close(restored, restorer(image, tradeoff), atol=1e-5, rtol=0)


def test_the_commands_of_the_model_card_run(make_run, tmp_path, distillkit, monkeypatch):
    run = make_run(*ENLARGER)
    export_folder(run, tmp_path / "this/folder")
    card = (tmp_path / "this/folder/README.md").read_text()
    commands = re.findall(r"^- `distillkit (export .*?)`", card, flags=re.MULTILINE)
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    for command in commands:
        outcome = distillkit(*command.split())
        assert not outcome.code, outcome.err
    assert len(open_graph(tmp_path / "student.onnx").get_inputs()) == 2
    assert len(open_graph(tmp_path / "fixed.onnx").get_inputs()) == 1


def test_a_card_offers_what_the_student_has(make_run, trained, tmp_path, monkeypatch):
    from toy_models import Enlarger

    run = make_run(*ENLARGER, "stage2.steps=0")
    monkeypatch.setattr(Enlarger, "save_checkpoint", None, raising=False)
    export_folder(run, tmp_path / "fixed")
    card = (tmp_path / "fixed/README.md").read_text()
    assert "--spandrel checkpoints" in card
    assert "--tradeoff" not in card
    export_folder(trained("data.eval=[]", "stage2.variant='oftsr'"), tmp_path / "two_passes")
    assert "In other tools" not in (tmp_path / "two_passes/README.md").read_text()
