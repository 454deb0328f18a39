"""OSEDiff against numbers of the published code, and its key maps against the listed ones."""

from types import SimpleNamespace

import pytest
import torch

from distillkit import Condition, load_exactly
from distillkit_superres.osediff.architecture import (
    Networks,
    make_empty,
    make_text,
    make_unet,
    make_vae,
)
from distillkit_superres.osediff.build import apply_osediff
from distillkit_superres.osediff.checkpoints import OSEDiffCheckpoint, rename_text
from distillkit_superres.osediff.lora import ALPHA, unet_layout, vae_layout
from distillkit_superres.osediff.model import KLAutoencoder, OSEDiff, StableDiffusion
from distillkit_superres.osediff.sizes import ARCHITECTURES, LATENT_SCALE
from distillkit_superres.osediff.text import FixedPrompt
from distillkit_superres.osediff.tiling import denoise_tiled, tile_weight

FULL = ARCHITECTURES["full"]


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def part(case, prefix):
    return {k.removeprefix(prefix): v for k, v in case.tensors.items() if k.startswith(prefix)}


def networks_of(case):
    unet, vae = make_unet(case.info["unet_config"]), make_vae(case.info["vae_config"])
    load_exactly(unet, part(case, "unet.base."), case.path)
    load_exactly(vae, part(case, "vae.base."), case.path)
    return Networks(
        unet.eval().requires_grad_(False), vae.eval().requires_grad_(False), torch.nn.Module()
    )


def checkpoint_of(case):
    return OSEDiffCheckpoint(
        part(case, "unet.lora."), part(case, "vae.lora."), case.info["rank"], case.info["rank"]
    )


def predicted(case, unet, time):
    return unet(
        case.tensors["unet.z"], case.tensors[f"unet.{time}"], case.tensors["unet.ctx"]
    ).sample


@pytest.mark.golden("sd_osediff_small_*")
def test_base_and_merged_networks_reproduce_the_unmerged_ones(case):
    networks = networks_of(case)
    codec, t = KLAutoencoder(networks.vae), case.tensors
    for time in ("t999", "tmix"):
        close(predicted(case, networks.unet, time), t[f"unet.{time}.out_base"], 5e-5)
    lq_encoder = apply_osediff(networks, checkpoint_of(case), case.info["lora_alpha"], case.path)
    for time in ("t999", "tmix"):
        close(predicted(case, networks.unet, time), t[f"unet.{time}.out_lora"], 5e-5)
    close(lq_encoder(t["vae.x"]), t["vae.out_lora.mean"], 5e-5)
    close(
        codec.encode(t["vae.x"]), t["vae.out_base.mean"], 5e-5
    )  # the base autoencoder is as it was
    close(codec.decode(t["vae.out_base.sample"]), t["vae.out_base.dec"], 5e-5)


@pytest.mark.golden("sd_osediff_small_*")
def test_adapters_of_another_scale_are_seen(case):
    networks = networks_of(case)
    apply_osediff(networks, checkpoint_of(case), 1.5 * case.info["lora_alpha"], case.path)
    assert (
        predicted(case, networks.unet, "t999") - case.tensors["unet.t999.out_lora"]
    ).abs().max() > 1e-3


@pytest.mark.golden("sd_osediff_small_*")
def test_one_step_from_latent_to_image(case):
    networks, t = networks_of(case), case.tensors
    lq_encoder = apply_osediff(networks, checkpoint_of(case), case.info["lora_alpha"], case.path)
    assert case.info["scaling_factor"] == LATENT_SCALE
    model = OSEDiff(networks.unet, networks.vae, lq_encoder, FixedPrompt(t["unet.ctx"][:1]))
    condition = Condition(extra={"prompt": t["unet.ctx"], "latent": lambda: t["e2e.z_lq"]})
    close(
        model(t["e2e.z_lq"], torch.full((len(t["e2e.z_lq"]),), 999), condition), t["e2e.eps"], 5e-5
    )
    x0 = model.generate(condition)
    close(x0, t["e2e.x0"], 5e-4)
    close(model.codec.decode(x0).clamp(-1, 1), t["e2e.image"], 5e-4)


def with_prediction(kind, *predictions, **options):
    """A model whose UNet predicts what is given, whatever it is asked."""
    answers = iter(predictions)
    model = kind(
        torch.nn.Module(),
        torch.nn.Module(),
        *options.pop("encoder", ()),
        FixedPrompt(torch.zeros(1, 2, 3)),
        **options,
    )
    model.network.forward = lambda *inputs: SimpleNamespace(sample=next(answers))
    return model


@pytest.mark.golden("osediff_onestep*")
def test_process_and_clean_latent_by_formula(case):
    t, (time, z, eps) = (
        case.tensors,
        (case.tensors[k] for k in ("addnoise.t", "addnoise.x0", "addnoise.noise")),
    )
    model = with_prediction(OSEDiff, t["onestep.eps"], eps, encoder=(torch.nn.Module(),))
    close(model.process.table[0].square().float(), t["alphas_cumprod"], 1e-7)
    assert len(t["alphas_cumprod"]) == case.info["timestep"] + 1
    prompt = torch.zeros(1, 2, 3)
    x0 = model.generate(Condition(extra={"prompt": prompt, "latent": lambda: t["onestep.z_lq"]}))
    close(x0, t["onestep.x0"], 1e-4)
    if (
        "step_prev_sample" in t
    ):  # the scheduler's own step to a time before 0, which adds 1e-10 of noise
        close(x0, t["step_prev_sample"], 1e-4)
    noisy = model.process.add_noise(z, eps, time)
    close(noisy, t["addnoise.noisy"], 1e-6)
    close(
        model.predict(noisy, time, Condition(extra={"prompt": prompt})).sample,
        t["eps_to_mu.x0"],
        1e-4,
    )


@pytest.mark.golden("osediff_tiling*")
def test_tiled_denoising(case):
    for i, c in enumerate(case.info["cases"]):
        calls = []

        def stub(z, calls=calls):
            calls.append(z.shape)
            return 0.5 * z + z.mean((1, 2, 3), keepdim=True) + 0.1 * z.flip(-1)

        close(
            denoise_tiled(stub, case.tensors[f"case{i}.latent"], c["tile"], c["overlap"]),
            case.tensors[f"case{i}.model_pred"],
            1e-5,
        )
        assert len(calls) == c["n_unet_calls"]
        if f"case{i}.weights" in case.tensors:
            close(tile_weight(c["tile"]).float(), case.tensors[f"case{i}.weights"], 1e-5)


@pytest.mark.golden("clip_text_small_*")
def test_text_encoder(case):
    sizes = {k: case.info[k] for k in ("vocab_size", "max_position_embeddings")}
    network = make_text(FULL.text | sizes | case.info["config"]).eval()
    load_exactly(network, rename_text(part(case, "sd."), network), case.path)
    with torch.no_grad():
        close(
            network(input_ids=case.tensors["input_ids"]).last_hidden_state,
            case.tensors["last_hidden_state"],
            1e-5,
        )


def shapes(state):
    return {k: list(v.shape) for k, v in state.items()}


@pytest.mark.golden("sd21base_unet_keys_full")
def test_unet_has_the_published_keys(case):
    unet = make_empty(make_unet, FULL.unet)
    assert shapes(unet.state_dict()) == case.info["keys"]
    assert len(case.info["keys"]) == 686
    assert sum(p.numel() for p in unet.parameters()) == case.info["n_params"]
    assert all(
        unet.config[k] == v for k, v in case.info["config"].items() if not isinstance(v, list)
    )
    assert all(
        list(unet.config[k]) == v for k, v in case.info["config"].items() if isinstance(v, list)
    )


@pytest.mark.golden("sd21base_vae_keys_full")
def test_autoencoder_has_the_published_keys(case):
    vae = make_empty(make_vae, FULL.vae)
    assert shapes(vae.state_dict()) == case.info["keys"]
    assert len(case.info["keys"]) == 248
    assert sum(p.numel() for p in vae.parameters()) == case.info["n_params"]


@pytest.mark.golden("sd21base_text_encoder_keys_full")
def test_text_encoder_has_the_published_keys(case):
    text = make_empty(make_text, FULL.text)
    published = {k: torch.empty(shape, device="meta") for k, shape in case.info["keys"].items()}
    assert len(published) == 372
    assert shapes(rename_text(published, text)) == shapes(text.state_dict())


@pytest.mark.golden("osediff_lora_keys_full")
def test_adapters_have_the_published_keys(case):
    unet, vae = (
        make_empty(make_unet, FULL.unet).state_dict(),
        make_empty(make_vae, FULL.vae).state_dict(),
    )
    rank = case.info["rank"]
    for layout, listed, count in (
        (unet_layout(unet, rank), case.info["state_dict_unet"], 518),
        (vae_layout(vae, rank), case.info["state_dict_vae"], 64),
    ):
        assert {k: list(shape) for k, shape in layout.items()} == listed
        assert len(listed) == count
    assert case.info["lora_alpha"] == ALPHA


@pytest.mark.golden("osediff_vsd*")
def test_guided_and_plain_predictions_make_the_published_vsd_loss(case):
    t, prompt = (
        case.tensors,
        Condition(extra={"prompt": torch.ones(len(case.tensors["latents"]), 2, 3)}),
    )
    both = torch.cat([t["eps_fix_uncond"], t["eps_fix_text"]])  # the negative prompt comes first
    base = with_prediction(
        StableDiffusion, both, negative=torch.zeros(1, 2, 3), guidance=case.info["cfg_vsd"]
    )
    critic = with_prediction(StableDiffusion, t["eps_update"])
    noisy = base.process.add_noise(t["latents"], t["noise"], t["timesteps"])
    close(noisy, t["noisy"], 1e-6)
    x_fix = base.predict(noisy, t["timesteps"], prompt).sample
    x_phi, eps_phi = critic.predict(noisy, t["timesteps"], prompt)
    torch.testing.assert_close(
        (eps_phi - t["noise"]).square().mean()[None], t["diff_loss"], rtol=1e-5, atol=0
    )
    grad = (x_phi - x_fix) / (t["latents"] - x_fix).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(grad.square().mean()[None], t["vsd.loss"], rtol=1e-5, atol=0)
    # Where the two predictions nearly agree, the rounding of their difference has the size of the
    # predictions, not its own.
    rounding = 1e-6 * t["vsd.grad"].abs().max().item()
    torch.testing.assert_close(2 * grad / grad.numel(), t["vsd.grad"], rtol=1e-5, atol=rounding)
