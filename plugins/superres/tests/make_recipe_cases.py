"""Make the golden cases ``*_recipe`` of ``tests/golden``: ``python tests/make_recipe_cases.py``.

Their weights follow from a seed (:func:`distillkit.testing.golden.fill_by_name`), so the files stay
small. Their outputs are this implementation's, recorded when it reproduced the published code's own
cases (see golden/README.md). Run this again only when it does.
"""

import json

import torch
from conftest import SHIPPED, SuperResCase
from safetensors.torch import save_file

from distillkit import ModelInput
from distillkit_superres.resshift.schedule import ancestral, deterministic
from distillkit_superres.resshift.sinsr import SinSR

UNET = {
    "image_size": 16,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": [1, 1],
    "attention_resolutions": [16, 8],
    "channel_mult": [1, 2],
    "num_head_channels": 32,
    "swin_depth": 2,
    "swin_embed_dim": 64,
    "window_size": 8,
    "mlp_ratio": 2,
    "cond_lq": True,
    "lq_size": 16,
}
OTHER_UNET = UNET | {
    "num_res_blocks": [2, 1, 1],
    "attention_resolutions": [16, 4],
    "channel_mult": [1, 1, 1],
    "num_head_channels": 16,
    "swin_depth": 3,
    "swin_embed_dim": 32,
    "window_size": 4,
    "lq_size": 64,
}
VQ = {
    "embed_dim": 3,
    "n_embed": 64,
    "ddconfig": {
        "double_z": False,
        "z_channels": 3,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
    },
}
DIFFUSION = {
    "sf": 4,
    "schedule_name": "exponential",
    "schedule_kwargs": {"power": 0.3},
    "etas_end": 0.99,
    "steps": 4,
    "min_noise_level": 0.2,
    "kappa": 2.0,
    "weighted_mse": False,
    "predict_type": "xstart",
    "timestep_respacing": None,
    "scale_factor": 1.0,
    "normalize_input": True,
    "latent_flag": True,
}
NETWORKS = {
    "unet_from": "resshift_unet_small_recipe_a.safetensors",
    "vq_from": "vqf4_small_recipe.safetensors",
}


def declare(name, **info):
    """Write a case's json."""
    path = SHIPPED / f"{name}.json"
    content = {"source": "this implementation, see README.md", **info}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return SuperResCase(path)


def record(case, **tensors):
    """Write a case's tensors."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, case.path.with_suffix(".safetensors"))


def unet_case(name, seed, kwargs, sizes, times):
    case = declare(
        name, kwargs=kwargs, recipe_seed=seed, cases=[{"index": i} for i in range(len(sizes))]
    )
    save_file({}, case.path.with_suffix(".safetensors"))
    network, tensors = case.load_into(case.unet()), {}
    factor = kwargs["lq_size"] // kwargs["image_size"]
    for i, ((h, w), t) in enumerate(zip(sizes, times, strict=True)):
        one = {
            "x": torch.randn(len(t), 3, h, w),
            "t": torch.tensor(t),
            "lq": torch.randn(len(t), 3, factor * h, factor * w),
        }
        tensors |= {f"case{i}.{k}": v for k, v in (one | {"out": network(**one)}).items()}
    record(case, **tensors)


def vq_case():
    case = declare("vqf4_small_recipe", kwargs=VQ, recipe_seed=3)
    save_file({}, case.path.with_suffix(".safetensors"))
    network, x = case.load_into(case.autoencoder()), torch.randn(2, 3, 32, 48)
    z = network.encode(x)
    distance = (
        torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), network.quantize.embedding.weight)
        .square()
        .sort(1)
        .values
    )
    print("smallest gap between two codes", (distance[:, 1] - distance[:, 0]).min())
    outputs = {"zq": network.quantize(z), "indices": network.quantize.nearest(z).flatten()}
    outputs |= {"dec": network.decode(z), "dec_noquant": network.decode(z, force_not_quantize=True)}
    record(case, **{f"case0.{k}": v for k, v in {"x": x, "z": z, **outputs}.items()})


def loop_case():
    case = declare("resshift_loop_s4_recipe", diffusion=DIFFUSION, **NETWORKS)
    model, y = case.resshift(ancestral), torch.rand(1, 3, 16, 16) * 2 - 1
    condition, noise = model.condition(ModelInput(y)), torch.randn(5, 1, 3, 16, 16)
    samples, clean = (
        torch.stack(v) for v in zip(*model.chain(condition, iter(noise)), strict=True)
    )
    noquant = model.codec.network.decode(samples[-1], force_not_quantize=True)
    decoded = model.codec.decode(samples[-1])
    chain = {"y": y, "z_y": condition.y, "noise": noise, "samples": samples, "pred_xstart": clean}
    record(case, **chain, decoded=decoded, decoded_noquant=noquant, final=decoded.clamp(-1, 1))


def sinsr_case():
    case = declare(
        "sinsr_recipe", diffusion=DIFFUSION | {"steps": 15, "min_noise_level": 0.04}, **NETWORKS
    )
    model, y, noise = (
        case.resshift(deterministic),
        torch.rand(1, 3, 16, 16) * 2 - 1,
        torch.randn(1, 3, 16, 16),
    )
    condition, gt = model.condition(ModelInput(y)), torch.rand(1, 3, 64, 64) * 2 - 1
    x_t = model.prior(condition, noise)
    samples, clean = (
        torch.stack(v) for v in zip(*model.chain(condition, iter([noise] * 16)), strict=True)
    )
    latent = SinSR(model).one_step(condition, noise)
    last, first, z = torch.tensor([14]), torch.tensor([0]), model.codec.encode(gt)
    mse = (latent - samples[-1]).square().mean()
    mse_xt = (model.network(model.scale_input(samples[-1], last), first, y) - x_t).square().mean()
    start = model.network(model.scale_input(z, last), first, y)
    mse_gt = (model(start, last, condition) - z).square().mean()
    losses = {"mse": mse, "mse_xT": mse_xt, "mse_gt": mse_gt, "loss": mse + mse_xt + mse_gt}
    tables = {
        "ddim.kmj": torch.stack(model.reverse[:3], 1).float(),
        "sqrt_etas": model.process.table[1].sqrt().float(),
    }
    chain = {
        "y": y,
        "noise": noise,
        "gt": gt,
        "z_y": condition.y,
        "x_T": x_t,
        "ddim.samples": samples,
        "ddim.pred_xstart": clean,
    }
    one = {"one_step.latent": latent, "one_step.image": model.codec.decode(latent)}
    record(case, **tables, **chain, **one, **{f"distill.{k}": v[None] for k, v in losses.items()})


if __name__ == "__main__":
    torch.manual_seed(20)
    with torch.no_grad():
        unet_case(
            "resshift_unet_small_recipe_a",
            1,
            UNET,
            [(16, 16), (16, 32), (32, 16)],
            [[0, 14], [7], [3]],
        )
        unet_case("resshift_unet_small_recipe_b", 2, OTHER_UNET, [(16, 16)], [[2]])
        vq_case()
        loop_case()
        sinsr_case()
