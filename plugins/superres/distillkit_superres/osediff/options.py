"""Options of the Stable Diffusion 2.1-base models, and the files they need."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from distillkit import Options, WeightFile
from distillkit_superres.files import PublishedWeights

CHECKPOINT = "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl"
BASE = "a repository stable-diffusion-2-1-base of the Hub, in diffusers' layout"

Part = Literal["unet", "vae", "text_encoder", "vocabulary", "merges"]
_FILES: dict[Part, tuple[str, ...]] = {
    "unet": ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
    "vae": ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"),
    "text_encoder": ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
    "vocabulary": ("tokenizer/vocab.json",),
    "merges": ("tokenizer/merges.txt",),
}
# Bytes of the float32 files, without their headers.
_SIZES: dict[Part, int] = {
    "unet": 3_463_642_896,
    "vae": 334_615_452,
    "text_encoder": 1_361_551_360,
    "vocabulary": 1_059_962,
    "merges": 524_619,
}


class BaseModelConfig(Options):
    """Which Stable Diffusion 2.1-base, and how it is prompted."""

    size: Literal["full", "tiny"] = Field(
        "full", description="tiny: toy networks with random weights; no file is read"
    )
    seed: int = Field(0, description="of the random weights, for size tiny")
    folder: Path | None = Field(
        None,
        description="Stable Diffusion 2.1-base in diffusers' layout (unet/, vae/, text_encoder/, tokenizer/)",
    )
    repo: str = Field(
        "Manojb/stable-diffusion-2-1-base",
        description="Hub repository in the same layout, where no folder is given",
    )
    revision: str = Field("main", description="branch, tag or commit of the Hub repository")
    prompt: str = Field(
        "", description="text for every image; it follows an image's own text, where there is one"
    )
    captions: bool = Field(
        False, description="take an image's caption, where its source has one, as its own text"
    )
    tagger: str | None = Field(
        None,
        description="name of an installed tagger: writes the text of an image without a caption",
    )

    @model_validator(mode="after")
    def _tiny_reads_nothing(self) -> Self:
        if self.size == "tiny" and self.texts:
            raise ValueError(
                'size = "tiny" has no tokenizer: prompts must be empty, captions off and no tagger named'
            )
        return self

    @property
    def texts(self) -> bool:
        """Whether texts beside the empty one have to be read."""
        return bool(self.prompt or self.tagger or self.captions)

    def file(self, part: Part) -> WeightFile:
        """Where one file of the base model is."""
        names = _FILES[part]
        if self.folder is None:
            return WeightFile(
                repo=self.repo,
                filename=names[0],
                revision=self.revision,
                size=_SIZES[part],
                license="openrail++",
            )
        paths = [self.folder / name for name in names]
        path = next((p for p in paths if p.is_file()), paths[0])
        return WeightFile(path=path, size=_SIZES[part], license="openrail++", source=BASE)

    def weight_files(self) -> tuple[WeightFile, ...]:
        """Every file that must be there."""
        if self.size == "tiny":
            return ()
        parts: tuple[Part, ...] = ("unet", "vae", "text_encoder")
        return tuple(
            self.file(part) for part in (*parts, *(("vocabulary", "merges") if self.texts else ()))
        )


class SD21BaseConfig(BaseModelConfig):
    """Options of ``superres/sd21-base``."""

    guidance: float = Field(
        1.0,
        ge=0,
        description="classifier-free guidance: eps_neg + guidance (eps_pos - eps_neg); 1: none",
    )
    negative_prompt: str = Field("", description="what guidance leads away from")

    @model_validator(mode="after")
    def _guidance_has_a_direction(self) -> Self:
        if self.guidance != 1 and self.size == "full" and self._same_text:
            raise ValueError(
                "guidance leads from negative_prompt to prompt, and they are the same; give different texts, or guidance = 1"
            )
        return self

    @property
    def texts(self) -> bool:
        return super().texts or bool(self.negative_prompt)

    @property
    def _same_text(self) -> bool:
        return self.tagger is None and not self.captions and self.prompt == self.negative_prompt


class OSEDiffConfig(BaseModelConfig, PublishedWeights):
    """Options of ``superres/osediff`` as a student."""

    checkpoint: WeightFile | None = Field(
        None,
        description="OSEDiff's adapters, a path or a file on the Hub; default: the published osediff.pkl in weights_dir",
    )
    lora_alpha: float = Field(
        8.0,
        gt=0,
        description="of the checkpoint's adapters, which are scaled by lora_alpha / rank; the file does not say",
    )

    def adapters(self) -> WeightFile | None:
        """The checkpoint's file; none at size tiny."""
        return (
            None
            if self.size == "tiny"
            else self.weight_file(self.checkpoint, CHECKPOINT, "Apache-2.0", 17_750_000)
        )

    def weight_files(self) -> tuple[WeightFile, ...]:
        adapters = self.adapters()
        return super().weight_files() + ((adapters,) if adapters else ())


class OSEDiffTeacherConfig(OSEDiffConfig):
    """Options of ``superres/osediff`` as a teacher."""

    color_fix: Literal["adain", "wavelet", "none"] = Field(
        "adain", description="how restored images get their input's colors"
    )
