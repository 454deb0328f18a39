"""Golden cases: ``NAME.json`` (constructor arguments) beside ``NAME.safetensors`` (inputs, weights and outputs).

They are read from the folder named by ``DISTILLKIT_GOLDEN``, by default the copies in ``tests/golden``. A test marked
``@pytest.mark.golden("prefix_*")`` runs once for every case of that name pattern, its argument ``case`` a :class:`Golden`.
"""

import json
import os
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import distillkit  # noqa: F401  # before diffusers: mends a torchvision without its compiled part

SHIPPED = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("DISTILLKIT_GOLDEN", SHIPPED))


class Golden:
    """One golden case. The methods build the product's objects for the constructor arguments in its json."""

    def __init__(self, path):
        self.path = path
        self.info = json.loads(path.read_text())

    @cached_property
    def tensors(self):
        return load_file(self.path.with_suffix(".safetensors"))

    def load_into(self, module):
        """Give ``module`` the case's weights, key for key: the stored ``sd.*``, or those of the seeded recipe in the json."""
        state = {k.removeprefix("sd."): v for k, v in self.tensors.items() if k.startswith("sd.")}
        if state:
            module.load_state_dict(state, strict=True)
        else:
            recipe_weights(module, self.info["recipe_seed"])
        return module.eval().requires_grad_(False)

    def unet(self):
        """The Swin UNet, without the case's weights."""
        from distillkit_superres.resshift.unet import UNetModelSwin

        fixed = {
            "conv_resample": True,
            "dims": 2,
            "use_fp16": False,
            "use_scale_shift_norm": True,
            "resblock_updown": False,
        }
        kwargs = without(self.info["kwargs"], **fixed, cond_lq=True)
        kwargs.pop("dropout", None)
        kwargs["num_res_blocks"] = per_level(kwargs["num_res_blocks"], kwargs["channel_mult"])
        if (
            "lq_size" not in kwargs
        ):  # SinSR counts the three channels of the low-quality image as input channels
            kwargs |= {"lq_size": kwargs["image_size"], "in_channels": kwargs["in_channels"] - 3}
        kwargs["lq_channels"] = 3 + kwargs.pop("cond_mask", False)
        return UNetModelSwin(**kwargs)

    def autoencoder(self):
        """The VQ autoencoder, without the case's weights."""
        from distillkit_superres.resshift.autoencoder import VQModel

        dd = without(self.info["kwargs"]["ddconfig"], double_z=False, attn_resolutions=[])
        return VQModel(
            embed_dim=self.info["kwargs"]["embed_dim"],
            n_embed=self.info["kwargs"]["n_embed"],
            z_channels=dd["z_channels"],
            channels=dd["ch"],
            channel_mult=dd["ch_mult"],
            num_res_blocks=per_level(dd["num_res_blocks"], dd["ch_mult"]),
            in_channels=dd["in_channels"],
            out_channels=dd["out_ch"],
        )

    def process(self):
        """The forward process of ``diffusion`` (or ``kwargs``) in the json."""
        from distillkit import ResidualShifting
        from distillkit_superres.resshift.schedule import SINSR_MAX_START, sqrt_eta

        d = self.info.get("diffusion") or self.info["kwargs"]
        fixed = {"schedule_name": "exponential", "predict_type": "xstart", "weighted_mse": False}
        d = without(d, **fixed, scale_factor=1.0, normalize_input=True, latent_flag=True)
        assert d["timestep_respacing"] in (None, d["steps"])
        start = SINSR_MAX_START if self.path.stem.startswith("sinsr_") else 1.0
        table = sqrt_eta(
            d["steps"],
            d["min_noise_level"],
            d["kappa"],
            d["etas_end"],
            d["schedule_kwargs"]["power"],
            start,
        )
        return ResidualShifting(table, d["kappa"])

    def resshift(self, step):
        """The whole model, with the weights of the cases that the json names; ``step`` makes its reverse step."""
        from distillkit_superres.resshift.model import ResShift

        unet, vq = (
            Golden((self.path.parent / self.info[k]).with_suffix(".json"))
            for k in ("unet_from", "vq_from")
        )
        process = self.process()
        return ResShift(
            unet.load_into(unet.unet()),
            vq.load_into(vq.autoencoder()),
            process,
            scale=self.info["diffusion"]["sf"],
            reverse=step(process),
        )


def without(kwargs, **fixed):
    """``kwargs`` less those that have one value in every published model, and that the product therefore has no option for."""
    for name, value in fixed.items():
        assert kwargs.get(name, value) == value, f"{name} = {kwargs[name]} is in no published model"
    return {k: v for k, v in kwargs.items() if k not in fixed}


def per_level(number, levels):
    return [number] * len(levels) if isinstance(number, int) else number


def recipe_weights(module, seed):
    """Weights that depend on nothing but each parameter's name and the seed, so that a case need not store them.

    n ~ RandomState(crc32(name) xor seed): matrices and kernels n / sqrt(fan in), scales of norms 1 + 0.1 n, all else 0.1 n.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            n = np.random.RandomState(
                (zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF
            ).standard_normal(tuple(parameter.shape))
            n = (
                n / np.sqrt(np.prod(parameter.shape[1:]))
                if parameter.ndim >= 2
                else 0.1 * n + name.endswith("weight")
            )
            parameter.copy_(torch.from_numpy(n))


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(pattern): run once for every golden case of this name pattern"
    )


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    (pattern,) = marker.args
    cases = [pytest.param(Golden(p), id=p.stem) for p in sorted(FOLDER.glob(f"{pattern}.json"))]
    missing = pytest.param(
        None,
        id="none",
        marks=pytest.mark.skip(f"no case {pattern} in {FOLDER}; set DISTILLKIT_GOLDEN"),
    )
    metafunc.parametrize("case", cases or [missing])
