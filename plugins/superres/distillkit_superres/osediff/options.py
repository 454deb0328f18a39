"""Options of the Stable Diffusion 2.1-base models, and the files they need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from distillkit import Options, WeightFile
from distillkit_superres.files import PublishedWeights
from distillkit_superres.licenses import APACHE, OPENRAIL
from distillkit_superres.osediff.sizes import (
    ARCHITECTURES,
    DEFAULT_LAYERS_PER_BLOCK,
    Size,
    find_width_problem,
)

CHECKPOINT = "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl"
CHECKPOINT_SIZE = 17_750_000
BASE = "a repository stable-diffusion-2-1-base of the Hub, in diffusers' layout"


class _BaseFile(NamedTuple):
    """One file of the base model."""

    names: tuple[str, ...]
    """Its possible names, the preferred one first."""
    size: int
    """Bytes of the float32 tensors."""


BASE_FILES = {
    "unet": _BaseFile(
        (
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.bin",
        ),
        size=3_463_642_896,
    ),
    "vae": _BaseFile(
        (
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ),
        size=334_615_452,
    ),
    "text_encoder": _BaseFile(
        (
            "text_encoder/model.safetensors",
            "text_encoder/pytorch_model.bin",
        ),
        size=1_361_551_360,
    ),
    "vocabulary": _BaseFile(("tokenizer/vocab.json",), size=1_059_962),
    "merges": _BaseFile(("tokenizer/merges.txt",), size=524_619),
}


class BaseModelOptions(Options):
    """Which Stable Diffusion 2.1-base, and how it is prompted."""

    size: Size = Field(
        "full",
        description="tiny: toy networks with random weights; no file is read",
    )
    seed: int = Field(
        0,
        description="seed of the random weights, for size tiny",
    )
    folder: Path | None = Field(
        None,
        description=(
            "Stable Diffusion 2.1-base in diffusers' layout "
            "(unet/, vae/, text_encoder/, tokenizer/)"
        ),
    )
    repo: str = Field(
        "Manojb/stable-diffusion-2-1-base",
        description="Hub repository in the same layout, where no folder is given",
    )
    revision: str = Field(
        "main",
        description="branch, tag or commit of the Hub repository",
    )
    prompt: str = Field(
        "",
        description="text for every image; it follows an image's own text, where there is one",
    )
    captions: bool = Field(
        False,
        description="take an image's caption, where its source has one, as its own text",
    )
    tagger: str | None = Field(
        None,
        description="name of an installed tagger: writes the text of an image without a caption",
    )

    @model_validator(mode="after")
    def _check_that_tiny_reads_no_text(self) -> Self:
        if self.size == "tiny" and self.needs_tokenizer:
            raise ValueError(
                'size = "tiny" has no tokenizer: '
                "prompts must be empty, captions off and no tagger named"
            )
        return self

    @property
    def needs_tokenizer(self) -> bool:
        """Whether there are texts beside the empty one."""
        return bool(self.prompt or self.tagger or self.captions)

    def file(self, role: str) -> WeightFile:
        """Locate one file of the base model, a key of :data:`BASE_FILES`."""
        names, size = BASE_FILES[role]
        if self.folder is None:
            return WeightFile(
                repo=self.repo,
                filename=names[0],
                revision=self.revision,
                size=size,
                license=OPENRAIL,
            )
        paths = [self.folder / name for name in names]
        existing = [path for path in paths if path.is_file()]
        path = existing[0] if existing else paths[0]
        return WeightFile(path=path, size=size, license=OPENRAIL, source=BASE)

    def weight_files(self) -> tuple[WeightFile, ...]:
        """List every file that must be there; none for size tiny."""
        if self.size == "tiny":
            return ()
        return tuple(self.file(role) for role in self._roles())

    def _roles(self) -> Iterator[str]:
        yield from ("unet", "vae", "text_encoder")
        if self.needs_tokenizer:
            yield from ("vocabulary", "merges")


class SD21BaseOptions(BaseModelOptions):
    """Options of ``superres/sd21-base``."""

    guidance: float = Field(
        1.0,
        ge=0,
        description="classifier-free guidance: eps_neg + guidance (eps_pos - eps_neg); 1: none",
    )
    negative_prompt: str = Field(
        "",
        description="what guidance leads away from",
    )

    @model_validator(mode="after")
    def _check_that_guidance_has_a_direction(self) -> Self:
        if self.guidance != 1 and self.size == "full" and self._prompts_are_the_same:
            raise ValueError(
                "guidance leads from negative_prompt to prompt, and they are the same; "
                "give different texts, or guidance = 1"
            )
        return self

    @property
    def needs_tokenizer(self) -> bool:
        return super().needs_tokenizer or bool(self.negative_prompt)

    @property
    def _prompts_are_the_same(self) -> bool:
        images_have_texts = self.tagger is not None or self.captions
        return not images_have_texts and self.prompt == self.negative_prompt


class OSEDiffOptions(BaseModelOptions, PublishedWeights):
    """Options of ``superres/osediff`` as a teacher."""

    checkpoint: WeightFile | None = Field(
        None,
        description=(
            "OSEDiff's adapters, a path or a file on the Hub; "
            "default: the published osediff.pkl in weights_dir"
        ),
    )
    lora_alpha: float = Field(
        8.0,
        gt=0,
        description=(
            "of the checkpoint's adapters, which are scaled by lora_alpha / rank; "
            "the file does not say"
        ),
    )

    def adapter_file(self) -> WeightFile | None:
        """Locate the checkpoint; None for size tiny."""
        if self.size == "tiny":
            return None
        return self.weight_file(self.checkpoint, CHECKPOINT, APACHE, CHECKPOINT_SIZE)

    def weight_files(self) -> tuple[WeightFile, ...]:
        """List every file that must be there; none for size tiny."""
        files = super().weight_files()
        adapters = self.adapter_file()
        if adapters is None:
            return files
        return (*files, adapters)


class OSEDiffStudentOptions(OSEDiffOptions):
    """Options of ``superres/osediff`` as a student."""

    width: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "share of the channels of each block of the UNet that the student has, "
            "initialized by a slice of OSEDiff's: 0.2, 0.4, 0.6, 0.8 or 1; of size tiny 0.5 or 1"
        ),
    )
    layers_per_block: int | None = Field(
        None,
        ge=1,
        description="layers that the student has of each block of the UNet: 1; default: all, 2",
    )
    decoder_width: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "share of the channels of the autoencoder's decoder that the student's has, "
            "likewise: 0.25, 0.5, 0.75 or 1; below 1, it is trained with the UNet"
        ),
    )

    @model_validator(mode="after")
    def _check_that_slices_are_whole(self) -> Self:
        sizes = ARCHITECTURES[self.size]
        problem = find_width_problem(sizes.unet, self.width)
        if problem:
            raise ValueError(f"width = {problem}")
        problem = find_width_problem(sizes.vae, self.decoder_width)
        if problem:
            raise ValueError(f"decoder_width = {problem}")
        layers = sizes.unet.get("layers_per_block", DEFAULT_LAYERS_PER_BLOCK)
        if self.layers_per_block is not None and self.layers_per_block > layers:
            raise ValueError(
                f"layers_per_block = {self.layers_per_block}: the teacher's blocks have {layers}"
            )
        return self
