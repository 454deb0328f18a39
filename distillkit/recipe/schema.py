"""The keys of a recipe file, their types, ranges and defaults. Tables with a ``use`` key also hold the options of what they
name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Table(BaseModel):
    """A recipe table: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Use(BaseModel):
    """A table that names something of a plugin; its other keys are checked by that thing's own config model.

    In a recipe file the name alone may stand in its place.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description='"<plugin>/<name>", or "<name>" where that is unique')


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Teachers(Table):
    """The two teachers. Either may be left out where its weight is 0."""

    fidelity: Use | None = Field(default=None, description="the faithful teacher T_f")
    realness: Use | None = Field(default=None, description="the realistic teacher T_r")


class Source(BaseModel):
    """One source of images: exactly one of ``use``, ``hub``, ``imagefolder`` and ``parquet``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str | None = Field(
        default=None, description="a plugin's dataset; the table's other keys are its options"
    )
    hub: str | None = Field(
        default=None, description="name of a dataset repository on the Hugging Face Hub"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of the Hub repository"
    )
    split: str = Field(default="train", description="split of the dataset")
    imagefolder: Path | None = Field(default=None, description="folder of images, read recursively")
    parquet: Path | None = Field(default=None, description="parquet file or glob")
    column: str = Field(
        default="image", description="column of clean images; the degradation makes their inputs"
    )
    lq_column: str | None = Field(
        default=None,
        description="column of low-quality inputs: a paired source, which skips the degradation",
    )
    caption_column: str | None = Field(
        default=None,
        description="column of texts about the images, for models that take captions; a null stands for none",
    )
    weight: Positive = Field(
        default=1.0, description="share of the drawn images, relative to the other sources"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [
            k for k in ("use", "hub", "imagefolder", "parquet") if getattr(self, k) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of use, hub, imagefolder and parquet, not {' and '.join(given) or 'none'}"
            )
        return self


class Data(Table):
    """Where training and evaluation images come from and how they are cut."""

    train: list[Source] = Field(min_length=1, description="sources of training images")
    eval: list[Source] = Field(default_factory=list, description="sources of held-out images")
    crop: Count = Field(
        default=512, description="side of the square training crops of the clean image, pixels"
    )
    batch_size: Count = Field(default=1, description="crops per step and process")
    flip: bool = Field(default=True, description="mirror and rotate crops at random")
    cycle: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="step s of a stage has the crops and degradations of step s mod this; 0: always new ones",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="worker processes of the loader; 0 prefetches on a thread"
    )
    image_cache_mb: Annotated[int, Field(ge=0)] = Field(
        default=512, description="decoded images kept in memory, MB"
    )
    max_bad_fraction: Fraction = Field(
        default=0.05, description="share of unreadable or too small images at which a run stops"
    )


class Adapter(Table):
    """What a stage trains: low-rank adapters on the denoiser, or all of its weights."""

    kind: Literal["lora", "full"] = "lora"
    rank: Count = Field(default=4, description="rank of the adapters")
    alpha: Positive | None = Field(
        default=None,
        description="the adapters' output is scaled by alpha / rank; default: alpha = rank",
    )
    targets: list[str] | None = Field(
        default=None,
        description="endings of the names of the adapted layers; default: every Linear and Conv2d",
    )


class Stage1Weights(Table):
    """Weights of eq. 1 and eq. 4; the defaults are the paper's (Sec. 5.1)."""

    l2: NonNegative = Field(
        default=1.0, description="lambda_l2: mean squared error to the ground truth"
    )
    l1: NonNegative = Field(
        default=0.0, description="mean absolute error to the ground truth (not in the paper)"
    )
    perceptual: NonNegative = Field(
        default=2.0, description="lambda_lp: perceptual distance to the ground truth"
    )
    realness: NonNegative = Field(
        default=1.0, description="lambda_rn: the realistic teacher's terms, eq. 3"
    )
    fidelity: NonNegative = Field(
        default=2.0, description="lambda_fl: the faithful teacher's terms, eq. 2"
    )
    imitate: NonNegative = Field(
        default=1.0, description="first term of eq. 2 and 3: match the teacher's score"
    )
    anchor: NonNegative = Field(
        default=5.5,
        description="gamma_time, second term of eq. 2 and 3: match the ground truth through the teacher",
    )
    fidelity_anchor: NonNegative | None = Field(
        default=None, description="gamma_time of the faithful teacher alone; default: anchor"
    )
    realness_anchor: NonNegative | None = Field(
        default=None, description="gamma_time of the realistic teacher alone; default: anchor"
    )

    def gamma(self, role: Literal["fidelity", "realness"]) -> float:
        """gamma_time of one teacher."""
        own = self.fidelity_anchor if role == "fidelity" else self.realness_anchor
        return self.anchor if own is None else own

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any((self.l2, self.l1, self.perceptual, self.realness, self.fidelity)):
            raise ValueError("all weights are 0: there is nothing to learn")
        return self


class Stage1(Table):
    """Dual-teacher distillation (Sec. 4.3)."""

    steps: Count = 20_000
    learning_rate: Positive = 5e-5
    weights: Stage1Weights = Stage1Weights()
    adapter: Adapter = Adapter()
    perceptual: Use = Field(
        default_factory=lambda: Use(use="distillkit/lpips-vgg"),
        description="the perceptual distance of eq. 1, a differentiable metric",
    )
    perceptual_shift: Annotated[int, Field(ge=0)] = Field(
        default=7,
        description="largest random shift, in pixels, of the crop that the perceptual distance sees; curbs grid patterns",
    )
    score_weighting: Literal["literal", "clipped", "sample"] = Field(
        default="clipped", description="weight of a score difference over noise levels"
    )
    teacher_gradient: Literal["full", "sds"] = Field(
        default="full",
        description='through the teachers ("full") or score-distillation style ("score")',
    )
    fidelity_term: Literal["score", "output"] = Field(
        default="score", description="what the faithful teacher is asked for"
    )
    realness_term: Literal["score", "output"] = Field(
        default="score", description="what the realistic teacher is asked for"
    )
    output_loss: Literal["image", "denoised"] = Field(
        default="image",
        description="what an output teacher's result is compared with: the student's image, or its clean predictions at random "
        "noise levels, in its latent space and weighted by min(SNR, 1)",
    )
    output_targets: Literal["crop", "image"] = Field(
        default="crop",
        description="what an output teacher restores: the crop that the student sees, or the whole image, whose result is cut to "
        "that crop; inputs of unpaired sources are then cut out of the whole image degraded",
    )
    fidelity_anchor: Use | None = Field(
        default=None,
        description="a differentiable metric between image and truth, as the anchor of a faithful output teacher",
    )
    realness_anchor: Use | None = Field(
        default=None, description="the same for a realistic output teacher"
    )
    decode_crop_size: Count | None = Field(
        default=None,
        description="side of the random part of the student's output that is decoded, pixels: eq. 1 and teachers of other latent "
        "spaces see that part only; default: all of it",
    )

    @property
    def restores_images(self) -> bool:
        """Whether a teacher is asked for what it makes of whole images."""
        asked = [
            getattr(self.weights, role)
            for role in ("fidelity", "realness")
            if getattr(self, f"{role}_term") == "output"
        ]
        return self.output_targets == "image" and any(asked)


class Stage2(Table):
    """Controllability distillation (Sec. 4.4)."""

    steps: Annotated[int, Field(ge=0)] = Field(
        default=50_000, description="0 leaves stage 2 out: the student has no knob"
    )
    learning_rate: Positive = 5e-5
    variant: Literal["adapter_scaling", "ctsr_eq8", "ctsr_alg2", "oftsr"] = "adapter_scaling"
    target: Literal["reconstruction", "teacher"] = Field(
        default="reconstruction", description="what a gate aims at between the ends of the knob"
    )
    l2_weight_ratio: Annotated[float, Field(gt=1)] = Field(
        default=40.0, description="L2 weight at tradeoff 1 over that at 0, for target geo"
    )
    adapter: Adapter = Adapter(rank=16)
    faithful_every: Annotated[int, Field(ge=0)] = Field(
        default=3, description="every so many steps the gate trains tradeoff 1 itself; 0: never"
    )
    faithful_check_images: Annotated[int, Field(ge=0)] = Field(
        default=16, description="training crops on which the faithful endpoint is compared first"
    )


class Training(Table):
    """How both stages are trained."""

    mixed_precision: Literal["no", "bf16"] = Field(
        default="no", description="bf16: activations in bfloat16; weights stay in float32"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="recompute activations in the backward pass instead of keeping them: less "
        "memory, more time",
    )
    recast_weights: bool = Field(
        default=False,
        description="with bf16: cast frozen weights again in the backward pass instead of keeping "
        "their bfloat16 copies: less memory in nearly the same time",
    )
    per_term_backward: bool = Field(
        default=False,
        description="stage 1: take the gradient of each teacher's terms before the next one is asked: less memory in the same "
        "time, but one more gradient of the trained weights for each",
    )
    channels_last: bool = Field(
        default=False,
        description="weights of convolutions in channels-last order: faster on some GPUs",
    )
    compile: bool = Field(
        default=False,
        description="compile the blocks of student and teachers: slow first steps, then faster ones on a GPU",
    )
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="full: of several processes each keeps a part of the frozen weights, and a block is gathered while it is used",
    )
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_weight_decay: NonNegative = 0.01
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    lr_decay_fraction: Fraction = Field(
        default=0.0,
        description="last part of each stage over which the learning rate falls linearly to 0",
    )
    max_grad_norm: Positive = 1.0
    gradient_accumulation_steps: Count = Field(default=1, description="batches per optimizer step")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="decay of the moving average of the trained weights; 0: none"
    )
    checkpointing_steps: Count = Field(default=500, description="steps between checkpoints")
    checkpoints_total_limit: Count = Field(default=2, description="newest checkpoints kept")
    validation_steps: Annotated[int, Field(ge=0)] = Field(
        default=500, description="steps between sample grids; 0: none"
    )
    logging_steps: Count = 10
    cache_gib: NonNegative = Field(
        default=0.0,
        description="disk for what frozen models make of inputs that come again (data.cycle), GiB; 0: no cache",
    )
    cache_dir: Path | None = Field(
        default=None, description="where that is; default: $DISTILLKIT_CACHE or ~/.cache/distillkit"
    )
    max_nonfinite_steps: Count = Field(
        default=3, description="non-finite losses in a row at which the run stops"
    )
    log_with: list[Literal["tensorboard", "wandb"]] = ["tensorboard"]


class Evaluation(Table):
    """How the student is judged on the held-out images."""

    tradeoffs: list[Fraction] = Field(default_factory=lambda: [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    alphas: list[Fraction] = Field(
        default_factory=lambda: [n / 10 for n in range(1, 10)],
        description="linear combinations of the teachers' images; 1 would be all fidelity. A coarse grid flatters the student",
    )
    metrics: list[Use] = Field(
        default_factory=lambda: [Use(use=f"distillkit/{m}") for m in ("psnr", "ssim", "lpips-vgg")]
    )
    reference: str | None = Field(
        default="bicubic",
        description='the method that others are compared with in pairs: "fidelity", "student@0", "linear:0.5"',
    )
    interpolate: Path | None = Field(
        default=None,
        description="another run's folder: interpolating the weights of both stage-1 students is one more baseline",
    )
    seeds: Count = Field(
        default=1,
        description="restorations of every image, with draws of their own: for means and deviations of models that draw",
    )
    crop: Count | None = Field(
        default=None, description="side of the evaluation crops, pixels; default: whole images"
    )
    crops_per_image: Count = 1
    max_images: Count | None = Field(
        default=None, description="evaluate only the first so many images or crops"
    )
    gallery: Count = Field(default=4, description="images shown in the strip and the report")


class Recipe(Table):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    extends: list[str] = Field(default_factory=list, description="recipes this one changes")
    seed: int = 0
    student: Use
    teachers: Teachers = Teachers()
    degradation: Use | None = Field(
        default=None, description="makes low-quality inputs of unpaired sources"
    )
    data: Data
    stage1: Stage1 = Stage1()
    stage2: Stage2 = Stage2()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
