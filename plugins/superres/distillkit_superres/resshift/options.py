"""Options of ResShift and SinSR, and the files they need."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distillkit import WeightFile
from distillkit_superres.files import PublishedWeights
from distillkit_superres.licenses import CC_BY_NC_SA, S_LAB

RESSHIFT_RELEASE = "https://github.com/zsyOAOA/ResShift/releases/download/v2.0"
SINSR_RELEASE = "https://github.com/wyf0912/SinSR/releases/download/v1.0"
AUTOENCODER = f"{RESSHIFT_RELEASE}/autoencoder_vq_f4.pth"

# The releases state no sizes; these are those of the tensors.
NETWORK_SIZE = 477_700_000
AUTOENCODER_SIZE = 221_300_000


class NetworkOptions(PublishedWeights):
    """Options that both teachers have."""

    license: ClassVar[str]
    """License of the network's weights."""
    release: ClassVar[str]
    """Where they are published."""
    files: ClassVar[dict[str, str]]
    """The published file of each version."""

    version: str
    weights: WeightFile | None = Field(
        None,
        description="the network's checkpoint; default: the published file in weights_dir",
    )
    autoencoder: WeightFile | None = Field(
        None,
        description="the VQ f4 autoencoder; default: autoencoder_vq_f4.pth in weights_dir",
    )
    size: Literal["full", "tiny"] = Field(
        "full",
        description="tiny: toy networks with random weights, for tests",
    )
    seed: int = Field(
        0,
        description="seed of the weights of size tiny",
    )

    def weight_files(self) -> tuple[WeightFile, ...]:
        """List the files of network and autoencoder; none for size tiny."""
        if self.size == "tiny":
            return ()
        published = f"{self.release}/{self.files[self.version]}"
        return (
            self.weight_file(self.weights, published, self.license, NETWORK_SIZE),
            self.weight_file(self.autoencoder, AUTOENCODER, S_LAB, AUTOENCODER_SIZE),
        )


class ResShiftOptions(NetworkOptions):
    """Options of ``superres/resshift``."""

    license = S_LAB
    release = RESSHIFT_RELEASE
    files: ClassVar[dict[str, str]] = {
        "v1": "resshift_realsrx4_s15_v1.pth",
        "v2": "resshift_realsrx4_s15_v2.pth",
        "v3": "resshift_realsrx4_s4_v3.pth",
    }

    version: Literal["v1", "v2", "v3"] = Field(
        "v3",
        description="published model: v1 and v2 take 15 steps, v3 takes 4",
    )
    sampler: Literal["ancestral", "deterministic"] = Field(
        "ancestral",
        description="reverse step of its output: with fresh noise as published, or without",
    )


class SinSROptions(NetworkOptions):
    """Options of ``superres/sinsr``."""

    license = CC_BY_NC_SA
    release = SINSR_RELEASE
    files: ClassVar[dict[str, str]] = {
        "v1": "SinSR_v1.pth",
        "v2": "SinSR_v2.pth",
    }

    version: Literal["v1", "v2"] = Field(
        "v1",
        description="published model: v1 is the more faithful, v2 was stopped earlier",
    )
