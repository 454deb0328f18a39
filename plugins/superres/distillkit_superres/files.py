"""Options of models whose weight files are published at a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from distillkit import Options, WeightFile


class PublishedWeights(Options):
    """Where published files are, unless a recipe names others."""

    weights_dir: Path = Field(
        Path("weights"),
        description="folder where published files are looked for and fetched to",
    )

    def weight_file(
        self,
        file: WeightFile | None,
        published: str,
        license: str,
        size: int,
    ) -> WeightFile:
        """Complete what a recipe says about a file.

        Args:
            file: What the recipe says; by default the published file in ``weights_dir``.
            published: Its URL. A missing file can be fetched from there if its path ends in the
                published name.
            license: SPDX identifier.
            size: Bytes.
        """
        name = published.rpartition("/")[2]
        if file is None:
            file = WeightFile(path=self.weights_dir / name)
        known: dict[str, Any] = {"license": license, "size": size}
        if file.path is not None:
            known["source"] = published
            # A file of another name is not the published one, and cannot be fetched as that.
            if file.path.name == name:
                known["url"] = published
        return file.model_copy(update=known)
