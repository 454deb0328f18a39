"""From options to models."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from distillkit_superres.osediff.architecture import (
    Networks,
    make_empty,
    make_random_networks,
    make_text,
    make_unet,
    make_vae,
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
    BaseModelOptions,
    OSEDiffOptions,
    OSEDiffStudentOptions,
    SD21BaseOptions,
)
from distillkit_superres.osediff.sizes import ARCHITECTURES
from distillkit_superres.osediff.slicing import slice_decoder, slice_unet
from distillkit_superres.osediff.text import (
    FixedPrompt,
    Prompt,
    PromptEncoder,
    PromptPerImage,
    find_tagger,
    read_tokenizer,
)

RANDOM_RANK = 4
"""Rank of the random adapters of size tiny; it is that of the published ones."""


def build_sd21_base(options: SD21BaseOptions) -> StableDiffusion:
    """Build the plain base model, as a score teacher.

    Raises:
        WeightsError: A file is missing, damaged or of another model.
        DistillkitError: There is no such tagger, or the tokenizer is damaged.
    """
    networks = _make_base(options)
    encoder = _make_prompt_encoder(options, networks)
    negative = None
    if options.guidance != 1:
        negative = encoder([options.negative_prompt])
    return StableDiffusion(
        networks.unet,
        networks.vae,
        _make_prompt(options, encoder),
        _space(options),
        negative=negative,
        guidance=options.guidance,
    )


def build_osediff(options: OSEDiffOptions) -> OSEDiff:
    """Build OSEDiff with its adapters merged into the base weights.

    Its ``network`` is then free for a student's own adapters.

    Raises:
        WeightsError: A file is missing, damaged or of another model.
        DistillkitError: There is no such tagger, or the tokenizer is damaged.
    """
    networks = _make_base(options)
    file = options.adapter_file()
    if file is None:
        checkpoint = make_random_osediff(networks, options.seed)
        source = "random weights"
    else:
        checkpoint = read_osediff(file.fetch())
        source = file.name
    lq_encoder = apply_osediff(networks, checkpoint, options.lora_alpha, source)
    return OSEDiff(
        networks.unet,
        networks.vae,
        lq_encoder,
        _make_prompt(options, _make_prompt_encoder(options, networks)),
        _space(options),
    )


def build_student(options: OSEDiffStudentOptions) -> OSEDiff:
    """Build a student that starts as OSEDiff, or as a slice of it.

    Raises:
        WeightsError: A file is missing, damaged or of another model.
        DistillkitError: There is no such tagger, or the tokenizer is damaged.
    """
    model = build_osediff(options)
    make_thin(model, options)
    return model


def make_thin(model: OSEDiff, options: OSEDiffStudentOptions) -> None:
    """Replace a model's UNet and decoder by slices of them, as the options say."""
    sizes = ARCHITECTURES[options.size]
    if options.width < 1 or options.layers_per_block is not None:
        width, layers = options.width, options.layers_per_block
        model.network = slice_unet(model.network, sizes.unet, width, layers)
    if options.decoder_width < 1:
        model.replace_decoder(slice_decoder(model.decoder, sizes.vae, options.decoder_width))


def apply_osediff(
    networks: Networks,
    checkpoint: OSEDiffCheckpoint,
    alpha: float,
    source: object,
) -> PosteriorMean:
    """Merge OSEDiff's adapters into the networks.

    Those of the UNet are merged in place. The autoencoder stays as it is: a copy of its encoder is
    tuned.

    Args:
        networks: The base model.
        checkpoint: The adapters.
        alpha: ``lora_alpha`` of the adapters.
        source: Where they come from, for the error.

    Returns:
        The tuned encoder.

    Raises:
        WeightsError: The checkpoint is of another base model.
    """
    layout = unet_layout(networks.unet.state_dict(), checkpoint.rank_unet)
    merge(networks.unet, checkpoint.unet, layout, alpha, source)
    # A copy, because the ground truth goes through the base encoder.
    lq_encoder = copy.deepcopy(PosteriorMean(networks.vae))
    layout = vae_layout(lq_encoder.state_dict(), checkpoint.rank_vae)
    merge(lq_encoder, checkpoint.vae, layout, alpha, source)
    return lq_encoder


def _make_base(options: BaseModelOptions) -> Networks:
    """Make the base model: read from files, or of toy size and random."""
    architecture = ARCHITECTURES[options.size]
    if options.size == "tiny":
        return make_random_networks(architecture, options.seed)
    unet = make_empty(make_unet, architecture.unet)
    load_unet(unet, options.file("unet").fetch())
    vae = make_empty(make_vae, architecture.vae)
    load_vae(vae, options.file("vae").fetch())
    text = make_empty(make_text, architecture.text)
    load_text(text, options.file("text_encoder").fetch())
    return Networks(unet, vae, text)


def make_random_osediff(networks: Networks, seed: int) -> OSEDiffCheckpoint:
    """Make seeded random adapters for networks, in the layout of the published checkpoint."""
    unet = unet_layout(networks.unet.state_dict(), RANDOM_RANK)
    vae = vae_layout(networks.vae.state_dict(), RANDOM_RANK)
    generator = torch.Generator().manual_seed(seed)
    return OSEDiffCheckpoint(
        unet=_draw_tensors(unet, generator),
        vae=_draw_tensors(vae, generator),
        rank_unet=RANDOM_RANK,
        rank_vae=RANDOM_RANK,
    )


def _draw_tensors(
    layout: Shapes,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in layout.items()}


def _make_prompt_encoder(
    options: BaseModelOptions,
    networks: Networks,
) -> PromptEncoder:
    if not options.needs_tokenizer:
        return PromptEncoder(networks.text)
    vocabulary = options.file("vocabulary").fetch()
    options.file("merges").fetch()  # the tokenizer finds it beside the vocabulary
    return PromptEncoder(networks.text, read_tokenizer(vocabulary.parent))


def _make_prompt(options: BaseModelOptions, encoder: PromptEncoder) -> Prompt:
    if options.tagger is None and not options.captions:
        return FixedPrompt(encoder([options.prompt]))
    tagger = None
    if options.tagger is not None:
        tagger = find_tagger(options.tagger)
    return PromptPerImage(encoder, options.prompt, tagger, options.captions)


def _space(options: BaseModelOptions) -> str:
    """Name the latent space: each tiny autoencoder has another."""
    if options.size == "full":
        return "sd-kl-f8"
    return f"sd-kl-f8-tiny{options.seed}"
