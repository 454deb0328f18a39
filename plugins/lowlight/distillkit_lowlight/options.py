"""The options of everything that this plugin offers."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from distillkit import MetricSpec, Options, WeightFile, load_plugins
from distillkit_lowlight.licenses import UNLICENSED

GSAD_SOURCE = "the Google Drive folder that the README of github.com/jinnh/GSAD links to"
RETIDIFF_REPOSITORY = "github.com/ChunmingHe/Reti-Diff"


class NetworkOptions(Options):
    """A network of published size, or a toy of the same classes."""

    source: ClassVar[str]
    """Where the authors publish its files."""

    size: Literal["full", "tiny"] = Field(
        "full",
        description='"tiny": toy sizes with random weights, to try a recipe on a CPU',
    )
    seed: int = Field(
        0,
        ge=0,
        description="seed of a tiny network's random weights",
    )
    weights_dir: Path = Field(
        Path("weights"),
        description="folder where published files are looked for",
    )

    @property
    @abstractmethod
    def published(self) -> dict[str, str]:
        """The published file of each option that names one."""

    def files(self) -> dict[str, WeightFile]:
        """Locate the weight file of each option that names one; none for size tiny."""
        if self.size == "tiny":
            return {}
        known = {"license": UNLICENSED, "source": self.source}
        files = {}
        for option, name in self.published.items():
            file = getattr(self, option) or WeightFile(path=self.weights_dir / name)
            files[option] = file.model_copy(update=known)
        return files

    def weight_files(self) -> tuple[WeightFile, ...]:
        return tuple(self.files().values())

    @model_validator(mode="after")
    def _check_that_tiny_reads_no_file(self) -> Self:
        given = [option for option in self.published if getattr(self, option) is not None]
        if self.size == "tiny" and given:
            raise ValueError(f'size = "tiny" has random weights and reads no {" and ".join(given)}')
        return self


class GSADOptions(NetworkOptions):
    """Options of ``lowlight/gsad`` as a teacher."""

    source = GSAD_SOURCE

    weights: WeightFile | None = Field(
        None,
        description=(
            "its file; default: the one published for data_set in weights_dir, "
            "such as lolv2_syn_gen.pth"
        ),
    )
    data_set: Literal["lol-v1", "lol-v2-real", "lol-v2-syn"] = Field(
        "lol-v2-syn",
        description="whose published sampling schedule is used: 20, 10 and 10 steps",
    )

    @property
    def published(self) -> dict[str, str]:
        names = {
            "lol-v1": "lolv1_gen.pth",
            "lol-v2-real": "lolv2_real_gen.pth",
            "lol-v2-syn": "lolv2_syn_gen.pth",
        }
        return {"weights": names[self.data_set]}


class GSADStudentOptions(GSADOptions):
    """Options of ``lowlight/gsad`` as a student."""

    generate: Literal["last-step", "one-step"] = Field(
        "last-step",
        description=(
            '"last-step": training stops the sampler at a random step and sends gradient through '
            "that step alone; restoring takes all steps. "
            '"one-step": one network evaluation from noise at the noisiest level of training, '
            "in training and when restoring"
        ),
    )


class RetiDiffOptions(NetworkOptions):
    """Options of ``lowlight/retidiff``."""

    source = (
        f"{RETIDIFF_REPOSITORY}: the decomposition network is in the repository, "
        "the rest in the Google Drive folder it links to"
    )

    weights: WeightFile | None = Field(
        None,
        description="its file; default: llie_syn.pth in weights_dir",
    )
    decomposition: WeightFile | None = Field(
        None,
        description=(
            "decomposition network of dark images; default: retinex_decomnet.pth in weights_dir"
        ),
    )

    @property
    def published(self) -> dict[str, str]:
        return {
            "weights": "llie_syn.pth",
            "decomposition": "retinex_decomnet.pth",
        }


class PriorOptions(RetiDiffOptions):
    """Options of ``lowlight/retidiff-priors``, which needs the extractors of stage 1."""

    source = (
        f"{RetiDiffOptions.source}. "
        "Weights of stage 1 are not published: train them with the authors' program"
    )

    stage_one: WeightFile | None = Field(
        None,
        description="weights of stage 1; default: retidiff_s1.pth in weights_dir",
    )
    decomposition_high: WeightFile | None = Field(
        None,
        description="decomposition network of bright images; default: init_high.pth in weights_dir",
    )

    @property
    def published(self) -> dict[str, str]:
        return {
            **super().published,
            "stage_one": "retidiff_s1.pth",
            "decomposition_high": "init_high.pth",
        }


class RetinexOptions(NetworkOptions):
    """Options of the metric ``lowlight/retinex``."""

    source = f"the repository {RETIDIFF_REPOSITORY}"

    decomposition: WeightFile | None = Field(
        None,
        description="decomposition network of bright images; default: init_high.pth in weights_dir",
    )

    @property
    def published(self) -> dict[str, str]:
        return {"decomposition": "init_high.pth"}


class AfterGtMean(Options):
    """Options of a metric of the engine after GT-mean: those of the metric itself."""

    base: ClassVar[str]
    """The engine's metric."""
    bgr: ClassVar[bool] = False
    """Whether it is shown blue, green, red in place of red, green, blue."""

    def engine_metric(self) -> tuple[MetricSpec, Options]:
        """Find the engine's metric; return it with the same options."""
        spec = load_plugins().find("metrics", f"distillkit/{self.base}")
        assert isinstance(spec, MetricSpec)
        return spec, spec.config(**self.model_dump())

    def weight_files(self) -> tuple[WeightFile, ...]:
        _, options = self.engine_metric()
        return options.weight_files()


class LpipsAfterGtMean(AfterGtMean):
    """Options of LPIPS after GT-mean."""

    trunk: Path | None = None
    """ImageNet weights of the network, as those of ``distillkit/lpips-alex``."""


class SsimOptions(AfterGtMean):
    base = "ssim"


class StlpipsAlexOptions(AfterGtMean):
    base = "stlpips-alex"


class StlpipsVggOptions(AfterGtMean):
    base = "stlpips-vgg"


class LpipsAlexOptions(LpipsAfterGtMean):
    base = "lpips-alex"


class LpipsVggOptions(LpipsAfterGtMean):
    base = "lpips-vgg"


class LpipsAlexBgrOptions(LpipsAlexOptions):
    bgr = True


class LOLOptions(Options):
    """Options of a LOL data set on disk."""

    root: Path = Field(
        description=(
            "the data set's folder, or the folder that contains it; or a folder of parquet files"
        ),
    )
    split: Literal["train", "test"] = "train"
    """As its authors divided it."""
    check: bool = Field(
        True,
        description="require the published number of pairs and image size",
    )


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if low > high:
        raise ValueError(f"the lower end, {low:g}, is above the upper, {high:g}")
    return bounds


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Quality = Annotated[float, Field(ge=1, le=100)]

PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_check_order)]
ShareRange = Annotated[tuple[_Share, _Share], AfterValidator(_check_order)]
QualityRange = Annotated[tuple[_Quality, _Quality], AfterValidator(_check_order)]


class LowLightOptions(Options):
    """Options of ``lowlight/dark``: the ranges that every image draws from."""

    gamma: PositiveRange = Field(
        (2.0, 3.5),
        description="exponents: about 2.2 gives linear light, more a harder contrast",
    )
    exposure: ShareRange = Field(
        (0.3, 0.9),
        description="factors of the light",
    )
    cast: PositiveRange = Field(
        (0.85, 1.15),
        description="factors of each color channel",
    )
    shot: ShareRange = Field(
        (0.0, 0.002),
        description="variance of the shot noise for each unit of signal",
    )
    read: ShareRange = Field(
        (0.001, 0.006),
        description="standard deviation of the read noise, on the scale [0, 1]",
    )
    jpeg: QualityRange = Field(
        (75.0, 97.0),
        description="JPEG qualities",
    )
