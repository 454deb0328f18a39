"""What a recipe may set, per name of this plugin."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from distillkit import MetricSpec, Options, WeightFile, load_plugins

UNLICENSED = "NONE"
"""SPDX: the authors publish no license. Their weights may be used as their authors allow, and are never part of this plugin."""


class Network(Options):
    """A network of published size, or a toy of the same classes."""

    source: ClassVar[str]
    """Where the authors publish its files."""

    size: Literal["full", "tiny"] = Field(
        "full", description='"tiny": toy sizes with random weights, to try a recipe on a CPU'
    )
    seed: int = Field(0, ge=0, description="of a tiny network's random weights")
    weights_dir: Path = Field(
        Path("weights"), description="folder where published files are looked for"
    )

    @property
    @abstractmethod
    def published(self) -> dict[str, str]:
        """The published file of each option that names one."""

    def files(self) -> dict[str, Path]:
        """The weight file of each option that names one; none for a toy."""
        if self.size == "tiny":
            return {}
        return {
            option: getattr(self, option) or self.weights_dir / file
            for option, file in self.published.items()
        }

    def weight_files(self) -> tuple[WeightFile, ...]:
        return tuple(
            WeightFile(path=path, license=UNLICENSED, source=self.source)
            for path in self.files().values()
        )

    @model_validator(mode="after")
    def _a_toy_reads_no_file(self) -> Self:
        given = [option for option in self.published if getattr(self, option) is not None]
        if self.size == "tiny" and given:
            raise ValueError(f'size = "tiny" has random weights and reads no {" and ".join(given)}')
        return self


_RETIDIFF_FILES = "github.com/ChunmingHe/Reti-Diff"


class GSADOptions(Network):
    """GSAD."""

    source = "the Google Drive folder that the README of github.com/jinnh/GSAD links to"

    weights: Path | None = Field(
        None,
        description="its file; default: the one published for data_set, lolv2_syn_gen.pth in weights_dir",
    )
    data_set: Literal["lol-v1", "lol-v2-real", "lol-v2-syn"] = Field(
        "lol-v2-syn", description="whose published sampling schedule is used: 20, 10 and 10 steps"
    )

    @property
    def published(self) -> dict[str, str]:
        return {
            "weights": {"lol-v1": "lolv1", "lol-v2-real": "lolv2_real", "lol-v2-syn": "lolv2_syn"}[
                self.data_set
            ]
            + "_gen.pth"
        }


class GSADStudentOptions(GSADOptions):
    """A student that starts as GSAD."""

    generate: Literal["last-step", "one-step"] = Field(
        "last-step",
        description='"last-step": the sampler is stopped at a random step, gradient through that step alone; all steps are made '
        'when restoring. "one-step": one pass from noise at the noisiest level of training, in training and when restoring',
    )


class RetiDiffOptions(Network):
    """Reti-Diff."""

    source = f"{_RETIDIFF_FILES}: the decomposition network is in the repository, the rest in the Google Drive folder it links to"

    weights: Path | None = Field(None, description="its file; default: llie_syn.pth in weights_dir")
    decomposition: Path | None = Field(
        None,
        description="decomposition network of dark images; default: retinex_decomnet.pth in weights_dir",
    )

    @property
    def published(self) -> dict[str, str]:
        return {"weights": "llie_syn.pth", "decomposition": "retinex_decomnet.pth"}


class PriorOptions(RetiDiffOptions):
    """Reti-Diff's diffusion over priors, which needs the extractors of stage 1 to encode an image."""

    source = f"{RetiDiffOptions.source}. Weights of stage 1 are not published: train them with the authors' program"

    stage_one: Path | None = Field(
        None, description="weights of stage 1; default: retidiff_s1.pth in weights_dir"
    )
    decomposition_high: Path | None = Field(
        None,
        description="decomposition network of bright images; default: init_high.pth in weights_dir",
    )

    @property
    def published(self) -> dict[str, str]:
        return super().published | {
            "stage_one": "retidiff_s1.pth",
            "decomposition_high": "init_high.pth",
        }


class RetinexOptions(Network):
    """The distance of retinex maps."""

    source = f"the repository {_RETIDIFF_FILES}"

    decomposition: Path | None = Field(
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
        """The engine's metric, and the same options for it."""
        _, spec = load_plugins().find("metrics", f"distillkit/{self.base}")
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
    """A LOL data set on disk."""

    root: Path = Field(
        description="the data set's folder, or the one it lies in; or a folder of parquet files"
    )
    split: Literal["train", "test"] = "train"
    check: bool = Field(True, description="require the published number of pairs and image size")


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the lower end, {value[0]:g}, is above the upper, {value[1]:g}")
    return value


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Amount = Annotated[float, Field(ge=0, le=1)]
_Quality = Annotated[float, Field(ge=1, le=100)]


class DarkOptions(Options):
    """Ranges that every image draws from."""

    gamma: Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)] = (2.0, 3.5)
    exposure: Annotated[tuple[_Amount, _Amount], AfterValidator(_ordered)] = (0.3, 0.9)
    cast: Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)] = (0.85, 1.15)
    shot: Annotated[tuple[_Amount, _Amount], AfterValidator(_ordered)] = (0.0, 0.002)
    read: Annotated[tuple[_Amount, _Amount], AfterValidator(_ordered)] = (0.001, 0.006)
    jpeg: Annotated[tuple[_Quality, _Quality], AfterValidator(_ordered)] = (75.0, 97.0)
