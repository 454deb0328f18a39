"""The keys of a recipe file, their types, ranges and defaults.

A table with a ``use`` key also holds the options of the plugin's component that it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FIDELITY = "fidelity"
REALNESS = "realness"
ROLES = (FIDELITY, REALNESS)
"""The paper's two teachers. A recipe may name others beside them."""
PAPER_WEIGHTS = {FIDELITY: 2.0, REALNESS: 1.0}
"""lambda_fl and lambda_rn (Sec. 5.1)."""


class Config(BaseModel):
    """A recipe table: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UseConfig(BaseModel):
    """A table that names a component of a plugin; its other keys are the component's options.

    In a recipe file the name alone may stand in its place.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description='"<plugin>/<name>", or "<name>" where that is unique')


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=-(2**62), le=2**62)]
"""Within what torch's generators take."""
ColorFix = Literal["none", "adain", "wavelet"]
"""How a restored image gets the colors of its input: :mod:`distillkit.inference.color`."""
TeacherName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class SourceConfig(BaseModel):
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
    config: str | None = Field(
        default=None, description="configuration of the Hub repository, where it has several"
    )
    split: str = Field(default="train", description="split of the dataset")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = Field(
        default=None,
        description="evaluation set that a source of data.eval belongs to; each set has tables and "
        "checks of its own; default: the recipe's name",
    )
    imagefolder: Path | None = Field(default=None, description="folder of images, read recursively")
    lq_folder: Path | None = Field(
        default=None,
        description="folder of the low-quality partners of imagefolder, which have the same names "
        "but for an ending that all of a folder share: a paired source, which skips the "
        "degradation",
    )
    parquet: Path | None = Field(default=None, description="parquet file or glob")
    streaming: bool = Field(
        default=False,
        description="read the Hub's or a parquet source while it is used; nothing is downloaded "
        "ahead",
    )
    shuffle_buffer: CountOrZero = Field(
        default=1000,
        description="streamed rows among which the next one is drawn; 0: in the files' order",
    )
    image_column: str = Field(
        default="image", description="column of clean images; the degradation makes their inputs"
    )
    lq_column: str | None = Field(
        default=None,
        description="column of low-quality inputs: a paired source, which skips the degradation",
    )
    ground_truth: bool = Field(
        default=True,
        description="false: its images are low-quality inputs, of lq_column or else image_column, "
        "from which only teachers' images are learned",
    )
    caption_column: str | None = Field(
        default=None,
        description="column of texts about the images, for models that take captions; "
        "null: no caption",
    )
    weight: Positive = Field(
        default=1.0, description="share of the drawn images, relative to the other sources"
    )
    zoom_out: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=1.0,
        description="crops of data.train are up to this many times as large, and shrunk to "
        "data.crop_size together with their low-quality partners: the blur of one camera becomes "
        "that of many",
    )

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kinds = [k for k in ("use", "hub", "imagefolder", "parquet") if getattr(self, k)]
        if len(kinds) != 1:
            named = " and ".join(kinds) or "none"
            raise ValueError(f"give exactly one of use, hub, imagefolder and parquet, not {named}")
        if self.streaming and kinds[0] not in ("hub", "parquet"):
            raise ValueError(f"{kinds[0]} cannot be streamed; hub and parquet can")
        if self.lq_folder is not None:
            self._check_lq_folder()
        return self

    def _check_lq_folder(self) -> None:
        if self.imagefolder is None:
            raise ValueError("lq_folder goes with imagefolder, the folder of the clean images")
        if self.lq_column is not None:
            raise ValueError("give one of lq_folder and lq_column, not both")
        if not self.ground_truth:
            raise ValueError(
                "a source without ground truth is one folder: its inputs are those of imagefolder"
            )

    @property
    def paired(self) -> bool:
        """Whether the table says that its images come in pairs."""
        has_lq = self.lq_column is not None or self.lq_folder is not None
        return self.ground_truth and has_lq


class DataConfig(Config):
    """Where training and evaluation images come from and how they are cropped."""

    train: list[SourceConfig] = Field(min_length=1, description="sources of training images")
    eval: list[SourceConfig] = Field(default_factory=list, description="sources of held-out images")
    crop_size: Count = Field(
        default=512, description="side of the square training crops of the clean image, pixels"
    )
    batch_size: Count = Field(default=1, description="crops per step and process")
    augment: bool = Field(default=True, description="mirror and rotate crops at random")
    cycle_steps: CountOrZero = Field(
        default=0,
        description="step s of a stage repeats the crops and degradations of step s mod this; "
        "0: always new ones",
    )
    num_workers: CountOrZero = Field(
        default=0, description="worker processes of the loader; 0 prefetches on a thread"
    )
    image_cache_mb: CountOrZero = Field(
        default=512, description="decoded images kept in memory, MB"
    )
    max_bad_fraction: Fraction = Field(
        default=0.05, description="share of unreadable or too small images at which a run stops"
    )

    @field_validator("train")
    @classmethod
    def _check_unnamed(cls, train: list[SourceConfig]) -> list[SourceConfig]:
        if any(source.name is not None for source in train):
            raise ValueError("name is of data.eval alone: it names an evaluation set")
        return train

    @field_validator("eval")
    @classmethod
    def _check_whole(cls, sources: list[SourceConfig]) -> list[SourceConfig]:
        if any(source.zoom_out > 1 for source in sources):
            raise ValueError("zoom_out is of data.train alone: held-out images stay as they are")
        return sources


class AdapterConfig(Config):
    """What a stage trains: low-rank adapters on the denoiser, or all of its weights."""

    kind: Literal["lora", "full"] = Field(
        default="lora", description="low-rank adapters (Sec. 5.1), or all weights of the denoiser"
    )
    rank: Count = Field(default=4, description="rank of the adapters")
    alpha: Positive | None = Field(
        default=None,
        description="the adapters' output is scaled by alpha / rank; default: alpha = rank",
    )
    targets: list[str] | None = Field(
        default=None,
        description="endings of the names of the adapted layers; default: every Linear and every "
        "Conv2d without groups",
    )


class ReconstructionConfig(Config):
    """Eq. 1: the student's image against the ground truth. Defaults are the paper's (Sec. 5.1)."""

    l2_weight: NonNegative = Field(default=1.0, description="lambda_l2: mean squared error")
    l1_weight: NonNegative = Field(
        default=0.0, description="mean absolute error (not in the paper)"
    )
    grid_weight: NonNegative = Field(
        default=0.0,
        description="the grid (checkerboard artifacts) that an upsampler leaves under perceptual "
        "and adversarial terms: the spread of the sharpness of its phases and the pattern they "
        "share (not in the paper)",
    )
    grid_period: Count = Field(
        default=4, description="period of the grid, in pixels: the factor of the last upsampling"
    )
    perceptual_weight: NonNegative = Field(
        default=2.0, description="lambda_lp: perceptual distance"
    )
    perceptual_metric: UseConfig = Field(
        default_factory=lambda: UseConfig(use="distillkit/lpips-vgg"),
        description="the perceptual distance, a differentiable metric",
    )
    perceptual_max_shift: CountOrZero = Field(
        default=7,
        description="largest random shift, in pixels, of the crop that the perceptual distance "
        "sees; curbs grid patterns",
    )


class AdversarialConfig(Config):
    """An adversarial term: a small discriminator of patches, with hinge losses."""

    weight: NonNegative = Field(default=0.0, description="weight of the student's term; 0: none")
    learning_rate: Positive = Field(default=1e-4, description="learning rate of the discriminator")
    channels: Count = Field(default=32, description="channels of the discriminator's first layer")
    max_shift: CountOrZero = Field(
        default=7, description="largest random shift, in pixels, of the crop that it sees"
    )


class FakeScoreConfig(Config):
    """The score of the student's own images, for distribution matching."""

    rank: Count = Field(
        default=8, description="rank of the LoRA on a copy of the teacher's denoiser"
    )
    learning_rate: Positive = Field(default=1e-4, description="learning rate of that LoRA")
    updates: Count = Field(default=5, description="optimizer steps for each one of the student")


class TeacherLossConfig(Config):
    """The loss terms of one teacher: eq. 2 for the faithful one, eq. 3 for the realistic one."""

    weight: NonNegative = Field(
        default=1.0, description="lambda_fl or lambda_rn: weight of the teacher's terms"
    )
    term: Literal["score", "output", "distribution_matching"] = Field(
        default="score",
        description="what is learned from the teacher: its score, its output (images), or with "
        "distribution_matching its score against a score of the student's images, which is trained "
        "beside it",
    )
    fake_score: FakeScoreConfig = Field(
        default=FakeScoreConfig(), description="with term = distribution_matching"
    )
    imitation_weight: NonNegative = Field(
        default=1.0, description="first term of eq. 2 and 3: match the teacher's score"
    )
    imitator: Literal["denoiser", "output"] = Field(
        default="denoiser",
        description="what of the student is to match the score: its denoiser, as in eq. 2 and 3; "
        "or its output, which is pulled to the teacher's denoised sample, for a student without a "
        "denoiser",
    )
    anchor_weight: NonNegative = Field(
        default=5.5,
        description="gamma_time, second term of eq. 2 and 3: match the ground truth through the "
        "teacher",
    )
    anchor_metric: UseConfig | None = Field(
        default=None,
        description="a differentiable metric between image and truth, as the anchor of an output "
        "teacher",
    )
    output_loss: Literal["image", "denoised"] = Field(
        default="image",
        description="what an output teacher's result is compared with: the student's image, or "
        "its clean latents at random timesteps, in its latent space and weighted by "
        "min(SNR, 1)",
    )
    output_metric: UseConfig | None = Field(
        default=None,
        description="a differentiable metric between the student's image and an output teacher's, "
        "added to the squared error; it sees crops shifted by up to "
        "stage1.reconstruction.perceptual_max_shift",
    )
    output_metric_weight: NonNegative = Field(default=1.0, description="weight of that metric")
    output_input: Literal["crop", "full_image"] = Field(
        default="crop",
        description="what an output teacher restores: the crop that the student sees, or the full "
        "image, whose result is cropped; inputs of unpaired sources are then cropped from the "
        "degraded full image",
    )

    @property
    def restores_full_images(self) -> bool:
        """Whether the teacher restores full images."""
        return self.weight > 0 and self.term == "output" and self.output_input == "full_image"


class Stage1Config(Config):
    """Dual-teacher score distillation (Sec. 4.3)."""

    steps: CountOrZero = Field(
        default=20_000,
        description="0 leaves stage 1 out: the realistic end is the student as built",
    )
    pretraining_steps: CountOrZero = Field(
        default=0,
        description="number of first steps in which the mean absolute error to the ground truth is "
        "the only loss, for a student with random weights; images without ground truth have the "
        "stage's own losses",
    )
    learning_rate: Positive = Field(default=5e-5, description="learning rate of AdamW (Sec. 5.1)")
    adapter: AdapterConfig = Field(default=AdapterConfig(), description="what is trained")
    reconstruction: ReconstructionConfig = Field(
        default=ReconstructionConfig(), description="eq. 1: terms against the ground truth"
    )
    adversarial: AdversarialConfig = Field(
        default=AdversarialConfig(), description="a term of ours, off by default"
    )
    teachers: dict[TeacherName, TeacherLossConfig] = Field(
        default_factory=dict,
        validate_default=True,
        description="the terms of each teacher, by its name in [teachers]",
    )
    score_weighting: Literal["literal", "clipped", "sample"] = Field(
        default="clipped", description="weight of a score difference over timesteps"
    )
    teacher_gradient: Literal["full", "sds"] = Field(
        default="full",
        description='through the teachers ("full") or as in score distillation sampling ("sds")',
    )
    decode_crop_size: Count | None = Field(
        default=None,
        description="side of the random crop of the student's output that is decoded, pixels: "
        "eq. 1 and teachers of other latent spaces see that crop only; default: all of it",
    )

    @field_validator("teachers", mode="before")
    @classmethod
    def _fill_in_paper_weights(cls, tables: Any) -> Any:
        """Give the paper's two teachers its weights where the recipe states none."""
        if not isinstance(tables, dict):
            return tables
        filled = dict(tables)
        for role, weight in PAPER_WEIGHTS.items():
            table = filled.get(role, {})
            if isinstance(table, dict):
                filled[role] = {"weight": weight, **table}
        return filled

    @model_validator(mode="after")
    def _check_something_to_learn(self) -> Self:
        eq1 = self.reconstruction
        weights = [eq1.l2_weight, eq1.l1_weight, eq1.perceptual_weight]
        weights += [teacher.weight for teacher in self.teachers.values()]
        if not any(weights):
            raise ValueError("all weights are 0: there is nothing to learn")
        return self

    @property
    def restores_full_images(self) -> bool:
        """Whether a teacher restores full images."""
        return any(teacher.restores_full_images for teacher in self.teachers.values())

    @property
    def learns_from_outputs(self) -> bool:
        """Whether a teacher's images are learned from, for which no ground truth is needed."""
        outputs = [teacher for teacher in self.teachers.values() if teacher.term == "output"]
        return any(teacher.weight * teacher.imitation_weight > 0 for teacher in outputs)


class LineConfig(Config):
    """Line distillation: the student at tradeoff t learns ``m_t = t f + (1 - t) r``.

    r and f are images of the realistic and of the faithful end, x is the ground truth. The pixel
    loss P is ``l2_weight`` times the squared error plus ``l1_weight`` times the absolute one; d is
    a perceptual distance.
    """

    mix_weight: NonNegative = Field(default=1.0, description="w_m: P to m_t")
    ground_truth_weight: NonNegative = Field(
        default=0.0,
        description="w_x: P to x at every tradeoff; alone it is the control without teachers",
    )
    faithful_weight: NonNegative = Field(default=1.0, description="w_g: t times P to x")
    mix_perceptual_weight: NonNegative = Field(
        default=0.0, description="w_p: (1 - t) times d to m_t"
    )
    perceptual_weight: NonNegative = Field(default=0.3, description="w_d: (1 - t) times d to x")
    faithful_perceptual_weight: NonNegative = Field(
        default=0.0, description="w_e: t times d to x; a little of it keeps the faithful end sharp"
    )
    grid_weight: NonNegative = Field(
        default=0.0, description="w_h: the grid of an upsampler, as stage1.reconstruction's"
    )
    grid_period: Count = Field(default=4, description="period of the grid, in pixels")
    l2_weight: NonNegative = Field(default=10.0, description="weight of the squared error in P")
    l1_weight: NonNegative = Field(default=1.0, description="weight of the absolute error in P")
    perceptual_metrics: list[UseConfig] = Field(
        default_factory=lambda: [UseConfig(use="distillkit/lpips-vgg")],
        description="d is the mean of these differentiable metrics",
    )
    perceptual_max_shift: CountOrZero = Field(
        default=7, description="largest random shift, in pixels, of the crop that d sees"
    )
    realistic_end: Literal["teacher", "stage1"] = Field(
        default="teacher",
        description="r: the realistic teacher's image, or that of the student after stage 1",
    )
    faithful_end: Literal["teacher", "ground_truth"] = Field(
        default="teacher",
        description="f: the faithful teacher's image; or x, of which a student learns the mean",
    )
    adversarial: AdversarialConfig = Field(
        default=AdversarialConfig(), description="w_a is its weight, times (1 - t)"
    )
    self_ensemble: bool = Field(
        default=True,
        description="average the faithful teacher's images over the 8 flips and quarter turns",
    )

    @property
    def uses_mix(self) -> bool:
        """Whether a term uses m_t."""
        return self.mix_weight + self.mix_perceptual_weight > 0

    @property
    def uses_distance(self) -> bool:
        """Whether a term uses d."""
        weights = [
            self.mix_perceptual_weight,
            self.perceptual_weight,
            self.faithful_perceptual_weight,
        ]
        return any(weight > 0 for weight in weights)

    @model_validator(mode="after")
    def _check_something_to_learn(self) -> Self:
        pixels = self.mix_weight + self.ground_truth_weight + self.faithful_weight
        if pixels and not self.l2_weight + self.l1_weight:
            raise ValueError("l2_weight and l1_weight are both 0: P is 0")
        if not pixels and not self.uses_distance:
            raise ValueError("all weights are 0: there is nothing to learn")
        if self.uses_distance and not self.perceptual_metrics:
            raise ValueError("a perceptual weight is above 0, and perceptual_metrics is empty")
        return self


class Stage2Config(Config):
    """Flow-matching controllability distillation (Sec. 4.4)."""

    steps: CountOrZero = Field(
        default=50_000, description="0 leaves stage 2 out: the student has a fixed tradeoff"
    )
    learning_rate: Positive = Field(default=5e-5, description="learning rate of AdamW (Sec. 5.1)")
    variant: Literal["adapter_scaling", "ctsr_eq8", "ctsr_alg2", "oftsr"] = Field(
        default="adapter_scaling",
        description="how the tradeoff enters the student: the scale of an adapter; or as the "
        "paper's eq. 8 or algorithm 2 have it, or OFTSR",
    )
    target: Literal["reconstruction", "teacher", "line"] = Field(
        default="reconstruction",
        description="what adapter scaling learns: the reconstruction loss; a mix of the stage-1 "
        "student's latent and the faithful teacher's; or line distillation, set by [stage2.line]",
    )
    line: LineConfig = Field(default=LineConfig(), description='with target = "line"')
    l2_weight_ratio: Annotated[float, Field(gt=1)] = Field(
        default=40.0,
        description="L2 weight at tradeoff 1 over that at 0, for the reconstruction target",
    )
    adapter: AdapterConfig = Field(
        default=AdapterConfig(rank=16), description="what is trained, on top of stage 1"
    )
    faithful_every: CountOrZero = Field(
        default=3,
        description="adapter scaling trains tradeoff 1 at every n-th step; 0: at none on purpose",
    )
    faithful_steps: CountOrZero = Field(
        default=0,
        description="number of first steps in which adapter scaling trains tradeoff 1 alone",
    )
    faithful_check_images: CountOrZero = Field(
        default=16, description="training crops on which the faithful target is checked first"
    )

    @property
    def uses_line(self) -> bool:
        """Whether the student learns images on the line between two ends."""
        is_line = self.variant == "adapter_scaling" and self.target == "line"
        return is_line and self.line.uses_mix

    @property
    def learns_from_teachers_alone(self) -> bool:
        """Whether there is a target for images without ground truth."""
        return self.uses_line and self.line.faithful_end == "teacher"

    @property
    def uses_faithful_target(self) -> bool:
        """Whether the faithful teacher's images are learned from, as latents."""
        if self.variant == "adapter_scaling":
            return self.target == "teacher"
        return self.variant == "oftsr"

    @property
    def uses_reconstruction_target(self) -> bool:
        """Whether the tradeoff is learned from eq. 1, whose L2 weight it changes."""
        return self.variant == "adapter_scaling" and self.target == "reconstruction"

    @property
    def uses_stage1_latent(self) -> bool:
        """Whether the stage-1 student's latent is learned from."""
        if self.uses_line:
            return self.line.realistic_end == "stage1"
        return self.variant != "adapter_scaling" or self.target == "teacher"

    @property
    def needed_teachers(self) -> list[str]:
        """The teachers whose images are learned from."""
        needed = []
        line = self.line
        if self.uses_faithful_target or (self.uses_line and line.faithful_end == "teacher"):
            needed.append(FIDELITY)
        if self.uses_line and line.realistic_end == "teacher":
            needed.append(REALNESS)
        return needed


class TrainingConfig(Config):
    """How both stages are trained."""

    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no",
        description="bf16, fp16: activations in bfloat16, or in float16 with loss scaling; weights "
        "stay in float32",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="recompute activations in the backward pass: less memory, more time",
    )
    recast_weights: bool = Field(
        default=False,
        description="with bf16 or fp16: cast frozen weights again in the backward pass instead of "
        "keeping their copies, which takes next to no time; not with gradient_checkpointing",
    )
    per_term_backward: bool = Field(
        default=False,
        description="stage 1: take the gradient of each teacher's terms before the next teacher is "
        "called: less memory in the same time, but one more gradient of the trained weights each",
    )
    channels_last: bool = Field(
        default=False,
        description="weights of convolutions in channels-last order: faster on some GPUs",
    )
    compile: bool = Field(
        default=False,
        description="compile the blocks of student and teachers: slow first steps, then faster "
        "ones on a GPU",
    )
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="full: each of several processes keeps a part of the frozen weights, and a "
        "block is gathered while it is used",
    )
    adam_betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.999), description="betas of AdamW (Sec. 5.1)"
    )
    adam_weight_decay: NonNegative = Field(default=0.01, description="weight decay of AdamW")
    lr_warmup_steps: CountOrZero = Field(
        default=0, description="first steps of each stage, over which the learning rate rises"
    )
    lr_decay_fraction: Fraction = Field(
        default=0.0,
        description="last part of each stage over which the learning rate falls linearly to 0",
    )
    max_grad_norm: Positive = Field(
        default=1.0, description="longer gradients are scaled down to it"
    )
    gradient_accumulation_steps: Count = Field(default=1, description="batches per optimizer step")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="decay of the moving average of the trained weights; 0: none"
    )
    checkpointing_steps: Count = Field(default=500, description="steps between checkpoints")
    checkpoints_total_limit: Count = Field(default=2, description="newest checkpoints kept")
    validation_steps: CountOrZero = Field(
        default=500, description="steps between sample grids; 0: none"
    )
    logging_steps: Count = Field(default=10, description="steps between lines of the log")
    cache_gib: NonNegative = Field(
        default=0.0,
        description="disk for features of frozen models whose inputs repeat "
        "(data.cycle_steps), GiB; 0: no cache",
    )
    cache_dir: Path | None = Field(
        default=None, description="default: $DISTILLKIT_CACHE or ~/.cache/distillkit"
    )
    max_nonfinite_steps: Count = Field(
        default=3, description="non-finite losses in a row at which the run stops"
    )
    log_with: list[Literal["tensorboard", "wandb"]] = Field(
        default=["tensorboard"], description="trackers, beside metrics.jsonl"
    )


class EvaluationConfig(Config):
    """How the student is judged on the held-out images."""

    tradeoffs: list[Fraction] = Field(
        default_factory=lambda: [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        description="at which the student is judged: 0 most realistic, 1 most faithful",
    )
    alphas: list[Fraction] = Field(
        default_factory=lambda: [n / 10 for n in range(1, 10)],
        description="linear combinations of the teachers' images; 1 would be all fidelity. A "
        "coarse grid flatters the student",
    )
    metrics: list[UseConfig] = Field(
        default_factory=lambda: [
            UseConfig(use=f"distillkit/{m}") for m in ("psnr", "ssim", "lpips-vgg")
        ],
        description="by name, or tables with their options",
    )
    reference: str | None = Field(
        default="bicubic",
        description="the method that others are compared with in pairs: "
        '"fidelity", "student@0", "linear:0.5"',
    )
    interpolate_with: Path | None = Field(
        default=None,
        description="another run's folder: interpolating the weights from this run's stage-1 "
        "student to the other's faithful end is one more baseline",
    )
    color_fix: ColorFix = Field(
        default="none",
        description="gives what every model restores, student and teachers alike, the colors of "
        "its input; saved with the student as its default",
    )
    num_seeds: Count = Field(
        default=1,
        description="restorations of every image, each with its own random draws: for means and "
        "deviations of models that draw noise",
    )
    crop_size: Count | None = Field(
        default=None, description="side of the evaluation crops, pixels; default: full images"
    )
    crops_per_image: Count = Field(default=1, description="with crop_size: crops of each image")
    max_images: Count | None = Field(
        default=None,
        description="number of images or crops of each set that are evaluated, the first ones",
    )
    tile_size: Count | None = Field(
        default=None,
        description="side of the tiles in which larger images are restored, in input pixels; "
        "default: as `distillkit restore`, 768 pixels of the result",
    )
    num_gallery_images: Count = Field(
        default=4, description="images shown in the comparison figure and the report"
    )


class Recipe(Config):
    """A complete run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = Field(
        description="name of the run: its folder is runs/NAME, its exported files begin with it"
    )
    extends: list[str] = Field(
        default_factory=list, description="recipes this one changes: files, or plugin/name"
    )
    seed: Seed = Field(
        default=0, description="seed of every random draw: crops, degradations, noise, new weights"
    )
    student: UseConfig = Field(description="the model to train")
    teachers: dict[TeacherName, UseConfig] = Field(
        default_factory=dict,
        description='"fidelity": the faithful teacher T_f; "realness": the realistic teacher T_r; '
        "either may be left out where its weight is 0",
    )
    degradation: UseConfig | None = Field(
        default=None, description="makes low-quality inputs of unpaired sources"
    )
    data: DataConfig = Field(description="images, crops, batches")
    stage1: Stage1Config = Field(
        default=Stage1Config(), description="the realistic end, from two teachers (Sec. 4.3)"
    )
    stage2: Stage2Config = Field(default=Stage2Config(), description="the tradeoff (Sec. 4.4)")
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="optimizer, precision, checkpoints of both stages"
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="held-out images, metrics, figures"
    )

    @property
    def uses_reconstruction(self) -> bool:
        """Whether a stage that is trained learns from eq. 1."""
        stage2 = self.stage2
        is_target = stage2.variant == "adapter_scaling" and stage2.target == "reconstruction"
        return bool(self.stage1.steps or (stage2.steps and is_target))
