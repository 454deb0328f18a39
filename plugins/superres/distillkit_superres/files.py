"""How a recipe names a weight file.

``"models/x.pth"``, or with its hash ``{ path = "models/x.pth", sha256 = "..." }``; one on the Hub
``{ repo = "owner/name", filename = "x.pth" }``.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from distillkit import Options, WeightFile


class PublishedWeights(Options):
    """Options of models whose files are published at a URL."""

    weights_dir: Path = Field(
        Path("weights"), description="folder where published files are looked for and fetched to"
    )

    def weight_file(
        self, file: WeightFile | None, published: str, license: str, size: int
    ) -> WeightFile:
        """Complete what a recipe says of a file.

        Args:
            file: what the recipe says; by default the published file in ``weights_dir``.
            published: its URL. A missing file can be fetched from there if its path ends in the
                published name.
            license: SPDX identifier.
            size: bytes.
        """
        name = published.rpartition("/")[2]
        file = file or WeightFile(path=self.weights_dir / name)
        known = {"license": license, "size": size}
        if file.path is None:
            return file.model_copy(update=known)
        known["source"] = published
        if file.path.name == name:
            known["url"] = published
        return file.model_copy(update=known)
