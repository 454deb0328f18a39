"""Students of spandrel's architectures as ncnn networks."""

import numpy as np
import pytest
import torch
from spandrel import ModelLoader

from distillkit import DistillkitError, Restorer
from distillkit.export.ncnn import export_ncnn
from distillkit_spandrel.convert import convert_ncnn

REASON = "pip install 'distillkit[ncnn]' to test ncnn exports"
pytest.importorskip("pnnx", reason=REASON)
ncnn = pytest.importorskip("ncnn", reason=REASON)


def restore(network, image):
    net = ncnn.Net()
    assert net.load_param(f"{network}.param") == 0
    assert net.load_model(f"{network}.bin") == 0
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(image.numpy()).clone())
    code, restored = extractor.extract("output")
    assert code == 0
    return torch.from_numpy(np.array(restored)).clamp(0, 1)


@pytest.mark.parametrize("architecture", ["Compact", "SPAN", "ESRGAN"])
def test_ncnn_restores_as_the_student_does(make_student, tmp_path, architecture):
    run = make_student(architecture)
    export_ncnn(run, tmp_path / "out", [0.3])
    image = torch.rand(3, 15, 22, generator=torch.Generator().manual_seed(1))
    expected = Restorer.from_pretrained(run, "cpu")(image, [0.0, 0.3, 1.0])
    assert (expected[0] - expected[2]).abs().max() > 1e-2
    for tradeoff, original in zip(("0", "0.30", "1"), expected, strict=True):
        restored = restore(tmp_path / "out" / f"paper_sr4x_x4_t{tradeoff}", image)
        torch.testing.assert_close(restored, original, atol=4e-3, rtol=0)


@pytest.mark.parametrize("architecture", ["Compact", "SPAN", "ESRGAN"])
def test_an_exported_network_is_converted_back(make_student, tmp_path, architecture):
    """What pnnx writes is read as well, not only what older converters wrote."""
    run = make_student(architecture)
    export_ncnn(run, tmp_path / "out", [0.3])
    param = tmp_path / "out/paper_sr4x_x4_t0.30.param"
    convert_ncnn(param, param.with_suffix(".bin"), tmp_path / "x.safetensors")
    image = torch.rand(1, 3, 15, 22, generator=torch.Generator().manual_seed(1))
    restored = ModelLoader().load_from_file(tmp_path / "x.safetensors").eval()(image.clone())
    expected = Restorer.from_pretrained(run, "cpu")(image[0], 0.3)
    torch.testing.assert_close(restored[0], expected, atol=1e-4, rtol=0)


def test_an_architecture_that_ncnn_lacks_layers_for_is_refused(make_student, tmp_path):
    with pytest.raises(DistillkitError, match="layer torch.repeat_interleave not exists"):
        export_ncnn(make_student("PLKSR"), tmp_path / "out")
