"""What the plugin says it offers, its options, and reading weight files."""

import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import distillkit_superres
from distillkit import WeightFile, WeightsError
from distillkit_superres.resshift.autoencoder import VQModel
from distillkit_superres.resshift.build import TINY_AUTOENCODER, TINY_UNET, load_checkpoint
from distillkit_superres.resshift.options import ResShiftOptions, SinSROptions
from distillkit_superres.resshift.unet import SwinUNet

TEACHERS = {spec.name: spec for spec in distillkit_superres.distillkit_teachers()}
RESSHIFT = TEACHERS["resshift"]
SINSR = TEACHERS["sinsr"]


def test_the_hooks_offer_both_teachers():
    assert RESSHIFT.capabilities == {"score", "output"}
    assert SINSR.capabilities == {"output"}


def test_describing_the_plugin_imports_no_torch():
    code = """
import sys
import distillkit_superres

distillkit_superres.distillkit_teachers()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("spec", "config", "name"),
    [
        (RESSHIFT, ResShiftOptions(version="v1"), "resshift_realsrx4_s15_v1.pth"),
        (RESSHIFT, ResShiftOptions(version="v2"), "resshift_realsrx4_s15_v2.pth"),
        (RESSHIFT, ResShiftOptions(), "resshift_realsrx4_s4_v3.pth"),
        (SINSR, SinSROptions(), "SinSR_v1.pth"),
        (SINSR, SinSROptions(version="v2"), "SinSR_v2.pth"),
    ],
)
def test_the_published_files_are_named_with_their_license(spec, config, name):
    network, autoencoder = config.weight_files()
    assert (network.path.name, autoencoder.path.name) == (name, "autoencoder_vq_f4.pth")
    assert network.license == spec.license
    assert network.size > autoencoder.size > 200e6
    assert network.url.endswith(f"/{name}")
    assert (
        autoencoder.url
        == "https://github.com/zsyOAOA/ResShift/releases/download/v2.0/autoencoder_vq_f4.pth"
    )


def test_weights_may_be_a_path_or_on_the_hub(tmp_path):
    hub = {"repo": "owner/name", "filename": "x.pth", "sha256": "0" * 64}
    config = ResShiftOptions(weights=str(tmp_path / "x.pth"), autoencoder=hub)
    network, autoencoder = config.weight_files()
    assert network.path == tmp_path / "x.pth" and not network.fetchable
    assert (autoencoder.repo, autoencoder.filename, autoencoder.sha256) == (
        "owner/name",
        "x.pth",
        "0" * 64,
    )
    assert WeightFile(**hub).revision == "main"
    (tmp_path / "x.pth").write_bytes(b"not it")
    with pytest.raises(
        WeightsError,
        match=r"x\.pth - its sha256 is .*, not 0{64} as the recipe or its plugin has it",
    ):
        RESSHIFT.create(
            ResShiftOptions(weights={"path": str(tmp_path / "x.pth"), "sha256": "0" * 64})
        )
    with pytest.raises(ValidationError, match="sha256"):
        ResShiftOptions(weights={"path": "x.pth", "sha256": "abc"})
    with pytest.raises(ValidationError, match="filname"):
        ResShiftOptions(weights={"repo": "owner/name", "filname": "x.pth"})
    assert ResShiftOptions(size="tiny").weight_files() == ()


def test_a_missing_file_is_named_with_where_it_is_published(tmp_path):
    with pytest.raises(
        WeightsError,
        match=r"nowhere\.pth - no such weight file; get it from .*SinSR/.*/v1\.0/SinSR_v1\.pth",
    ):
        SINSR.create(SinSROptions(weights=tmp_path / "nowhere.pth"))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return SwinUNet(TINY_UNET), VQModel(TINY_AUTOENCODER)


PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.module._orig_mod.module.",
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_chain_of_wrapper_prefixes_is_taken_off(networks, tmp_path, prefix, nested):
    for network, sizes in zip(networks, (TINY_UNET, TINY_AUTOENCODER), strict=True):
        state = {prefix + k: v for k, v in network.state_dict().items()}
        torch.save({"state_dict": state} if nested else state, tmp_path / "x.pth")
        other = type(network)(sizes)
        load_checkpoint(other, tmp_path / "x.pth")
        assert all(v.equal(network.state_dict()[k]) for k, v in other.state_dict().items())


def test_another_architecture_is_refused(networks, tmp_path):
    unet, vq = networks
    torch.save(vq.state_dict(), tmp_path / "vq.pth")
    with pytest.raises(WeightsError, match="another architecture than SwinUNet"):
        load_checkpoint(unet, tmp_path / "vq.pth")
    wider = SwinUNet(replace(TINY_UNET, swin_embed_dim=64))
    torch.save(unet.state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(WeightsError, match=r"is \(.*expected \("):
        load_checkpoint(wider, tmp_path / "narrow.pth")
    state = unet.state_dict()
    del state["input_blocks.1.1.blocks.1.attn_mask"]
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(WeightsError, match=r"missing input_blocks\.1\.1\.blocks\.1\.attn_mask"):
        load_checkpoint(unet, tmp_path / "lacking.pth")


CREATED = Path(tempfile.gettempdir(), f"created-by-a-pickle-{os.getpid()}")


class _RunsCode:
    def __reduce__(self):
        return open, (CREATED, "w")


def _random_bytes(path, state):
    path.write_bytes(random.Random(0).randbytes(4096))


def _truncated(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _hostile(path, state):
    torch.save(state | {"x": _RunsCode()}, path)


def _no_tensors(path, state):
    torch.save({"state_dict": {"epoch": 3}}, path)


def _a_list(path, state):
    torch.save(list(state.values()), path)


@pytest.mark.parametrize("damage", [_random_bytes, _truncated, _hostile, _no_tensors, _a_list])
def test_a_file_that_is_no_state_dict_is_refused(networks, tmp_path, damage):
    network, _ = networks
    damage(tmp_path / "x.pth", network.state_dict())
    with pytest.raises(WeightsError, match=r"x\.pth - "):
        load_checkpoint(network, tmp_path / "x.pth")
    assert not CREATED.exists()
