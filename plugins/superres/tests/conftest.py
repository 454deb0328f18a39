"""Golden cases of the super-resolution models; see :mod:`distillkit.testing.golden`."""

from pathlib import Path

import distillkit  # noqa: F401  # before diffusers: mends a torchvision without its compiled part
from distillkit.testing.golden import GoldenCase, fill_by_name, parametrize_golden

SHIPPED = Path(__file__).parent / "golden"


class SuperResCase(GoldenCase):
    """Builds the networks for the constructor arguments in a case's json."""

    def load_into(self, module):
        """Give a network the case's weights: those stored under ``sd.``, or those of its seed."""
        weights = self.tensors_under("sd.")
        if weights:
            module.load_state_dict(weights, strict=True)
        else:
            fill_by_name(module.named_parameters(), self.info["recipe_seed"])
        return module.eval().requires_grad_(False)

    def unet(self):
        """The Swin UNet, without the case's weights."""
        from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

        sizes = without(
            self.info["kwargs"],
            conv_resample=True,
            dims=2,
            use_fp16=False,
            use_scale_shift_norm=True,
            resblock_updown=False,
            cond_lq=True,
        )
        sizes.pop("dropout", None)
        sizes["num_res_blocks"] = per_level(sizes["num_res_blocks"], sizes["channel_mult"])
        if "lq_size" not in sizes:
            # SinSR counts the three channels of the low-quality image as input channels.
            sizes["lq_size"] = sizes["image_size"]
            sizes["in_channels"] -= 3
        sizes["lq_channels"] = 3 + sizes.pop("cond_mask", False)
        return SwinUNet(SwinUNetConfig(**sizes))

    def autoencoder(self):
        """The VQ autoencoder, without the case's weights."""
        from distillkit_superres.resshift.autoencoder import VQConfig, VQModel

        sizes = without(self.info["kwargs"]["ddconfig"], double_z=False, attn_resolutions=[])
        config = VQConfig(
            embed_dim=self.info["kwargs"]["embed_dim"],
            n_embed=self.info["kwargs"]["n_embed"],
            z_channels=sizes["z_channels"],
            channels=sizes["ch"],
            channel_mult=sizes["ch_mult"],
            num_res_blocks=per_level(sizes["num_res_blocks"], sizes["ch_mult"]),
            in_channels=sizes["in_channels"],
            out_channels=sizes["out_ch"],
        )
        return VQModel(config)

    def process(self):
        """The forward process of ``diffusion`` (or ``kwargs``) in the json."""
        from distillkit import ResidualShifting
        from distillkit_superres.resshift.schedule import SINSR_MAX_START, make_sqrt_eta

        options = without(
            self.info.get("diffusion") or self.info["kwargs"],
            schedule_name="exponential",
            predict_type="xstart",
            weighted_mse=False,
            scale_factor=1.0,
            normalize_input=True,
            latent_flag=True,
        )
        assert options["timestep_respacing"] in (None, options["steps"])
        table = make_sqrt_eta(
            options["steps"],
            options["min_noise_level"],
            options["kappa"],
            options["etas_end"],
            options["schedule_kwargs"]["power"],
            SINSR_MAX_START if self.path.stem.startswith("sinsr_") else 1.0,
        )
        return ResidualShifting(table, options["kappa"])

    def resshift(self, step):
        """The model with the weights of the cases that the json names.

        Args:
            step: Makes its reverse step.
        """
        from distillkit_superres.resshift.model import ResShift

        unet_case = self.other(self.info["unet_from"])
        autoencoder_case = self.other(self.info["vq_from"])
        process = self.process()
        return ResShift(
            unet_case.load_into(unet_case.unet()),
            autoencoder_case.load_into(autoencoder_case.autoencoder()),
            process,
            scale=self.info["diffusion"]["sf"],
            reverse=step(process),
        )


def without(options, **fixed):
    """Leave out the options that have one value in every published model.

    The product has no option for them.
    """
    for name, value in fixed.items():
        assert options.get(name, value) == value, (
            f"{name} = {options[name]} is in no published model"
        )
    return {name: value for name, value in options.items() if name not in fixed}


def per_level(number, levels):
    return [number] * len(levels) if isinstance(number, int) else number


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(pattern): run once for every golden case of this name pattern"
    )


def pytest_generate_tests(metafunc):
    parametrize_golden(metafunc, SHIPPED, SuperResCase)
