"""The U-Net against numbers of the published code, and reading weight files."""

import pickle
import random
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from distillkit import WeightsError
from distillkit_lowlight.build import TINY_UNET
from distillkit_lowlight.gsad.unet import UNet, UNetConfig
from distillkit_lowlight.gsad.weights import load_unet
from distillkit_lowlight.schedule import TABLE_NAMES, make_betas, make_tables


@pytest.mark.golden("gsad_unet_small*")
def test_outputs_and_input_gradient(case):
    network = case.unet()
    x = case["in.x"].requires_grad_()
    level = case["in.noise_level"][:, 0]
    encoded = network.noise_level_mlp[0](level)
    assert_close(encoded, case["mid.positional_encoding"].flatten(1), atol=1e-6, rtol=0)
    assert_close(
        network.noise_level_mlp(level), case["mid.noise_embed"].flatten(1), atol=1e-5, rtol=0
    )
    noise, uncertainty = network.with_uncertainty(x, level)
    assert_close(noise, case["out.eps"], atol=3e-5, rtol=0)
    assert_close(uncertainty, case["out.var"], atol=3e-5, rtol=0)
    assert torch.equal(network(x, level), noise)
    (gradient,) = torch.autograd.grad(noise.square().mean(), x)
    assert_close(gradient, case["out.grad_x_of_mean_eps2"], atol=1e-8, rtol=1e-4)


@pytest.mark.golden("gsad_unet_small*")
def test_images_of_a_batch_do_not_mix(case):
    network = case.unet()
    x = case["in.x"]
    level = case["in.noise_level"][:, 0]
    assert_close(network(x[1:], level[1:]), case["out.eps"][1:], atol=3e-5, rtol=0)


@pytest.mark.golden("gsad_unet_full_recipe*")
def test_full_size(case):
    network = case.unet()
    probed = dict(network.named_parameters())
    for name, values in case.info.get("probe", {}).items():
        assert probed[name].flatten()[: len(values)].tolist() == values
    noise, uncertainty = network.with_uncertainty(case["in.x"], case["in.noise_level"][:, 0])
    assert_close(noise, case["out.eps"], atol=3e-5, rtol=0)
    assert_close(uncertainty, case["out.var"], atol=3e-5, rtol=0)


@pytest.mark.golden("gsad_keys_full*")
def test_published_key_map(case):
    with torch.device("meta"):
        network = UNet(UNetConfig(**case.info["config"]))
    own = {f"denoise_fn.{k}": list(v.shape) for k, v in network.state_dict().items()}
    buffers = {name: [500] for name in TABLE_NAMES}
    assert own | buffers == case.info["keys"]
    assert len(case.info["keys"]) == case.info["n_keys"]
    totals = case.info["totals"]
    assert sum(p.numel() for p in network.parameters()) == totals["unet_parameters"]
    dead = sum(p.numel() for name, p in network.named_parameters() if ".mlp." in name)
    assert dead == totals["res_block.mlp (never called, dead)"]


def test_published_size():
    with torch.device("meta"):
        network = UNet(UNetConfig())
    assert sum(p.numel() for p in network.parameters()) == 17_434_182
    assert len(network.state_dict()) + len(TABLE_NAMES) == 432


@pytest.fixture
def tiny():
    return UNet(TINY_UNET)


def _published(network, prefix=""):
    """The network as the training program saves it.

    It is under ``denoise_fn.``, beside the tables of its schedule.
    """
    state = {}
    for name, tensor in network.state_dict().items():
        state[f"{prefix}denoise_fn.{name}"] = tensor.clone()
    for name, table in make_tables(make_betas("linear", 500)).items():
        state[f"{prefix}{name}"] = table
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_published_files(tmp_path, tiny, prefix):
    torch.save(_published(tiny, prefix), tmp_path / "gen.pth")
    other = UNet(TINY_UNET)
    load_unet(other, tmp_path / "gen.pth")
    assert all(
        torch.equal(a, b)
        for a, b in zip(tiny.state_dict().values(), other.state_dict().values(), strict=True)
    )


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _write_bad(kind, path, network):
    good = path.with_suffix(".good")
    torch.save(_published(network), good)
    if kind == "random bytes":
        path.write_bytes(random.Random(0).randbytes(5000))
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "code":
        torch.save({"denoise_fn.x": _Trap(path.with_suffix(".ran"))}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(_Trap(path.with_suffix(".ran"))))
    elif kind == "optimizer":
        torch.save({"epoch": 3, "optimizer": {"state": {}}}, path)
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "other architecture":
        torch.save(_published(UNet(replace(TINY_UNET, res_blocks=2))), path)
    elif kind == "other width":
        torch.save(_published(UNet(replace(TINY_UNET, inner_channel=8))), path)
    else:
        assert kind == "missing"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "kind",
    [
        "random bytes",
        "truncated",
        "code",
        "plain pickle",
        "optimizer",
        "a tensor",
        "other architecture",
        "other width",
        "missing",
    ],
)
def test_refuses_other_files(tmp_path, tiny, kind):
    path = tmp_path / "gen.pth"
    _write_bad(kind, path, tiny)
    with pytest.raises(WeightsError, match=r"gen\.pth"):
        load_unet(tiny, path)
    assert not path.with_suffix(".ran").exists()
