"""From options to models."""

from __future__ import annotations

import copy

import torch

from distillkit_superres.osediff.architecture import (
    ARCHITECTURES,
    Networks,
    make_text,
    make_unet,
    make_vae,
    random_networks,
    without_memory,
)
from distillkit_superres.osediff.checkpoints import (
    OSEDiffCheckpoint,
    load_text,
    load_unet,
    load_vae,
    read_osediff,
)
from distillkit_superres.osediff.lora import Shapes, merge, unet_layout, vae_layout
from distillkit_superres.osediff.model import OSEDiff, PosteriorMean, StableDiffusion
from distillkit_superres.osediff.options import (
    BaseModelConfig,
    OSEDiffConfig,
    OSEDiffTeacherConfig,
    SD21BaseConfig,
)
from distillkit_superres.osediff.text import (
    FixedPrompt,
    Prompt,
    PromptEncoder,
    PromptOfEach,
    find_tagger,
    read_tokenizer,
)


def build_sd21_base(config: SD21BaseConfig) -> StableDiffusion:
    """The plain base model, as a score teacher.

    Raises:
        WeightsError: a file is missing, damaged or of another model. DistillkitError: no such tagger, or a damaged tokenizer.
    """
    networks = _base(config)
    encoder = _prompt_encoder(config, networks)
    negative = None if config.guidance == 1 else encoder([config.negative_prompt])
    return StableDiffusion(
        networks.unet,
        networks.vae,
        _prompt(config, encoder),
        _space(config),
        negative=negative,
        guidance=config.guidance,
    )


def build_osediff(config: OSEDiffConfig) -> OSEDiff:
    """OSEDiff with its adapters merged into the base weights, so that ``network`` is free for a student's own; errors as above."""
    networks = _base(config)
    file = config.adapters()
    checkpoint = read_osediff(file.fetch()) if file else random_osediff(networks, config.seed)
    lq_encoder = apply_osediff(
        networks, checkpoint, config.lora_alpha, file.name if file else "random weights"
    )
    prompt = _prompt(config, _prompt_encoder(config, networks))
    return OSEDiff(
        networks.unet,
        networks.vae,
        lq_encoder,
        prompt,
        _space(config),
        color_fix=config.color_fix if isinstance(config, OSEDiffTeacherConfig) else "none",
    )


def apply_osediff(
    networks: Networks, checkpoint: OSEDiffCheckpoint, alpha: float, source: object
) -> PosteriorMean:
    """Merge the UNet's adapters in place; the tuned encoder is returned and the autoencoder stays as it is.

    Raises:
        WeightsError: the checkpoint is of another base model; ``source`` is named.
    """
    merge(
        networks.unet,
        checkpoint.unet,
        unet_layout(networks.unet.state_dict(), checkpoint.rank_unet),
        alpha,
        source,
    )
    lq_encoder = copy.deepcopy(PosteriorMean(networks.vae))
    merge(
        lq_encoder,
        checkpoint.vae,
        vae_layout(lq_encoder.state_dict(), checkpoint.rank_vae),
        alpha,
        source,
    )
    return lq_encoder


def _base(config: BaseModelConfig) -> Networks:
    architecture = ARCHITECTURES[config.size]
    if config.size == "tiny":
        return random_networks(architecture, config.seed)
    unet = without_memory(make_unet, architecture.unet)
    load_unet(unet, config.file("unet").fetch())
    vae = without_memory(make_vae, architecture.vae)
    load_vae(vae, config.file("vae").fetch())
    text = without_memory(make_text, architecture.text)
    load_text(text, config.file("text_encoder").fetch())
    return Networks(unet, vae, text)


def random_osediff(networks: Networks, seed: int) -> OSEDiffCheckpoint:
    """Seeded random adapters of rank 4 for ``networks``, in the layout of the published checkpoint."""
    g = torch.Generator().manual_seed(seed)

    def random(layout: Shapes) -> dict[str, torch.Tensor]:
        return {k: 0.1 * torch.randn(shape, generator=g) for k, shape in layout.items()}

    unet, vae = unet_layout(networks.unet.state_dict(), 4), vae_layout(networks.vae.state_dict(), 4)
    return OSEDiffCheckpoint(random(unet), random(vae), 4, 4)


def _prompt_encoder(config: BaseModelConfig, networks: Networks) -> PromptEncoder:
    if not config.texts:
        return PromptEncoder(networks.text)
    vocabulary, _ = config.file("vocabulary").fetch(), config.file("merges").fetch()
    return PromptEncoder(networks.text, read_tokenizer(vocabulary.parent))


def _prompt(config: BaseModelConfig, encoder: PromptEncoder) -> Prompt:
    if config.tagger is not None or config.captions:
        tagger = None if config.tagger is None else find_tagger(config.tagger)
        return PromptOfEach(encoder, config.prompt, tagger, config.captions)
    return FixedPrompt(encoder([config.prompt]))


def _space(config: BaseModelConfig) -> str:
    return "sd-kl-f8" if config.size == "full" else f"sd-kl-f8-tiny{config.seed}"
