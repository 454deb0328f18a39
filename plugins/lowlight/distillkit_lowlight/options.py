"""What a recipe may set, per name of this plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Options):
    """A network of published size, or a toy of the same classes."""

    files: ClassVar[tuple[str, ...]]
    """The options that name weight files: all needed at full size, none read by a toy."""

    size: Literal["full", "tiny"] = Field("full", description='"tiny": toy sizes with random weights, to try a recipe on a CPU')
    seed: int = Field(0, ge=0, description="of a tiny network's random weights")

    @model_validator(mode="after")
    def _weights_go_with_size(self) -> Self:
        given = [name for name in self.files if getattr(self, name) is not None]
        missing = [name for name in self.files if name not in given]
        if self.size == "full" and missing:
            raise ValueError(f'give the path of {" and ".join(missing)}, or size = "tiny" for a toy with random weights')
        if self.size == "tiny" and given:
            raise ValueError(f'size = "tiny" has random weights and reads no {" and ".join(given)}')
        return self


class GSADOptions(Network):
    """GSAD."""

    files = ("weights",)

    weights: Path | None = Field(None, description="published file, e.g. lolv2_syn_gen.pth")
    data_set: Literal["lol-v1", "lol-v2-real", "lol-v2-syn"] = Field(
        "lol-v2-syn", description="whose published sampling schedule is used: 20, 10 and 10 steps"
    )


class GSADStudentOptions(GSADOptions):
    """A student that starts as GSAD."""

    generate: Literal["last-step", "one-step"] = Field(
        "last-step",
        description='"last-step": the sampler is stopped at a random step, gradient through that step alone; all steps are made '
        'when restoring. "one-step": one pass from noise at the noisiest level of training, in training and when restoring',
    )


class RetiDiffOptions(Network):
    """Reti-Diff."""

    files = ("weights", "decomposition")

    weights: Path | None = Field(None, description="published file, e.g. llie_syn.pth")
    decomposition: Path | None = Field(None, description="published decomposition network of dark images, retinex_decomnet.pth")


class RetinexOptions(Network):
    """The distance of retinex maps."""

    files = ("decomposition",)

    decomposition: Path | None = Field(None, description="published decomposition network of bright images, init_high.pth")


class NoOptions(Options):
    """Nothing to set."""


class LOLOptions(Options):
    """A LOL data set on disk."""

    root: Path = Field(description="the data set's folder, or the one it lies in")
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
