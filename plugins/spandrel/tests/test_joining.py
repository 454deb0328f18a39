"""Checkpoints of one size become a wider one that gives the mean of their images."""

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader
from typer.testing import CliRunner

from distillkit.errors import PluginError, WeightsError
from distillkit_spandrel import distillkit_commands
from distillkit_spandrel.architectures import construct
from distillkit_spandrel.joining import join_networks

PARAMETERS = {
    "SPAN": {"norm": True},
    "SPAN without mean": {"norm": False},
    "Compact": {"num_conv": 2},
    "ESRGAN": {"num_blocks": 1},
}
WIDTHS = {"SPAN": "feature_channels", "Compact": "num_feat", "ESRGAN": "num_filters"}


@pytest.fixture
def write(tmp_path):
    """Write a checkpoint with random weights."""

    def _write(name, seed, width=8):
        architecture = name.split()[0]
        parameters = {**PARAMETERS[name], WIDTHS[architecture]: width}
        network = construct(architecture, parameters, 4, seed)
        file = tmp_path / f"{seed}.safetensors"
        save_file(network.state_dict(), file)
        return file

    return _write


def restore(file, image):
    with torch.no_grad():
        return ModelLoader().load_from_file(file).model(image)


@pytest.mark.parametrize("name", ["SPAN", "SPAN without mean", "Compact"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_joined_network_gives_the_mean(tmp_path, write, name, count):
    files = [write(name, seed) for seed in range(count)]
    out = tmp_path / "joined.safetensors"
    said = join_networks(files, out)
    assert f"as wide as {count} networks" in said
    image = torch.rand(1, 3, 13, 17)
    images = [restore(file, image) for file in files]
    torch.testing.assert_close(restore(out, image), torch.stack(images).mean(0))
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_all_that_is_joined_can_be_trained(tmp_path, write):
    """Weights from one network to the other are 0, and a gradient reaches them."""
    out = tmp_path / "joined.safetensors"
    join_networks([write("Compact", 0), write("Compact", 1)], out)
    network = ModelLoader().load_from_file(out).model
    kernel = network.body[2].weight
    assert kernel[:8, 8:].abs().max() == 0
    network(torch.rand(1, 3, 9, 9)).square().mean().backward()
    assert kernel.grad[:8, 8:].abs().max() > 0


def test_what_has_another_size_is_refused(tmp_path, write):
    narrow, wide = write("SPAN", 0), write("SPAN", 1, width=12)
    out = tmp_path / "joined.safetensors"
    with pytest.raises(WeightsError, match=r"1\.safetensors - a SPAN of other layers .*0\."):
        join_networks([narrow, wide], out)
    with pytest.raises(WeightsError, match=r"a Compact of other layers"):
        join_networks([narrow, write("Compact", 2)], out)
    with pytest.raises(WeightsError, match=r"other layers"):
        join_networks([narrow, write("SPAN without mean", 3)], out)
    assert not out.exists()


def test_what_cannot_be_kept_apart_is_refused(tmp_path, write):
    with pytest.raises(WeightsError, match="only networks of Compact and SPAN can be joined"):
        join_networks([write("ESRGAN", 0)] * 2, tmp_path / "joined.safetensors")


def test_the_command(tmp_path, write):
    app = typer.Typer()
    distillkit_commands(app)
    files = [str(write("Compact", seed)) for seed in (0, 1)]
    out = tmp_path / "joined.safetensors"
    result = CliRunner().invoke(app, ["join-networks", *files, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert load_file(out)["body.0.weight"].shape == (16, 3, 3, 3)
    alone = CliRunner().invoke(app, ["join-networks", files[0], "-o", str(out)])
    assert alone.exit_code == 2
    assert "two checkpoints or more" in alone.output
    with pytest.raises(PluginError, match=r"must end in \.safetensors"):
        join_networks([tmp_path / "0.safetensors"] * 2, tmp_path / "joined.pth")
