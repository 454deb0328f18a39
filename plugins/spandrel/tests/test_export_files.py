"""Students of spandrel's architectures as checkpoints and as ONNX graphs."""

import pytest
import torch
from small_disk import PAGE, fill

from distillkit import Restorer
from distillkit.export.onnx import GraphForm, export_onnx

FORMS = {
    "fixed": GraphForm(0.3),
    "input": GraphForm(),
    "plane": GraphForm(plane=True),
    "half": GraphForm(0.3, half=True),
}


@pytest.mark.parametrize("pages", range(4))
def test_checkpoints_onto_a_full_disk_are_one_line_and_leave_nothing(
    make_student, disk, distillkit, pages
):
    """Wherever in them space ends."""
    run = make_student("Compact")
    fill(disk, leave=pages * PAGE)
    outcome = distillkit("export", run, "--spandrel", disk / "out")
    assert outcome.code in (1, 2)
    assert "Traceback" not in outcome.err
    problems = [line for line in outcome.err.splitlines() if "cannot be written" in line]
    assert len(problems) == 1, outcome.err
    assert "cannot be written: No space left on device; nothing is half" in problems[0]
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    (disk / "ballast").unlink()
    assert not distillkit("export", run, "--spandrel", disk / "out").code


@pytest.mark.parametrize(
    ("architecture", "scale", "form"),
    [
        ("ESRGAN", 1, "input"),
        ("ESRGAN", 2, "plane"),
        ("RealPLKSR", 4, "fixed"),
        ("RealPLKSR", 4, "half"),
        ("RealPLKSR", 4, "plane"),
    ],
)
def test_a_graph_restores_as_the_student_does(make_student, tmp_path, architecture, scale, form):
    """Sides are multiples of 4, as ESRGAN at scale 1 takes them."""
    pytest.importorskip("onnxscript", reason="pip install 'distillkit[onnx]' to test this")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needed to run graphs")
    run = make_student(architecture, scale)
    export_onnx(run, tmp_path / "graph.onnx", FORMS[form])
    image = torch.rand(1, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    values = {"image": image.numpy()}
    if form == "input":
        values["tradeoff"] = torch.tensor([0.3]).numpy()
    if form == "plane":
        values["image"] = torch.cat([image, torch.full((1, 1, 20, 28), 0.3)], 1).numpy()
    if form == "half":
        values["image"] = image.half().numpy()
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    (restored,) = session.run(["restored"], values)
    assert restored.shape == (1, 3, 20 * scale, 28 * scale)
    expected = Restorer.from_pretrained(run, "cpu")(image[0], 0.3)
    tolerance = 8e-3 if form == "half" else 1e-4
    difference = (torch.from_numpy(restored[0]).float().clamp(0, 1) - expected).abs().max()
    assert difference < tolerance
