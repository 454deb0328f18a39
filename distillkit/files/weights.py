"""Weight files: where they come from, whether they are the right ones, and reading them without running anything in them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillkit.errors import WeightsError
from distillkit.files.download import check, download

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightFile(BaseModel):
    """One file of weights: a local one, which may be published at a ``url``, or one of a Hub repository.

    Either ``path`` is given, or ``repo`` and ``filename``. In a recipe, a path alone is enough
    (``weights = "models/x.pth"``); more is a table (``{ path = "models/x.pth", sha256 = "..." }``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = None
    url: str | None = None
    """Where a missing file at ``path`` is downloaded from, such as the asset of a release."""
    repo: str | None = None
    """A repository of the Hugging Face Hub, ``owner/name``."""
    filename: str | None = None
    """The file inside the repository."""
    revision: str = "main"
    """Branch, tag or commit of the repository."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    """Hexadecimal, or its first digits."""
    size: int | None = None
    """Bytes."""
    license: str = "unknown"
    """SPDX identifier."""
    source: str | None = None
    """Where a person finds a file that has no ``url``."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _check_that_it_names_one_place(self) -> Self:
        on_the_hub = self.repo is not None and self.filename is not None
        half_named = not on_the_hub and (self.repo is not None or self.filename is not None)
        if half_named or on_the_hub == (self.path is not None):
            raise ValueError("give either a path, or repo and filename")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "format": "path"}, handler(core_schema)]}

    @property
    def name(self) -> str:
        return str(self.path) if self.path else f"{self.repo}/{self.filename}@{self.revision}"

    @property
    def fetchable(self) -> bool:
        """Whether :meth:`fetch` knows where to download it."""
        return self.path is None or self.url is not None

    def find(self) -> Path | None:
        """The file on this machine, or None. Never touches the network."""
        if self.path is not None:
            return self.path if self.path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        assert self.repo and self.filename
        found = try_to_load_from_cache(self.repo, self.filename, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def fetch(self) -> Path:
        """The file, downloaded if it is not here (an interrupted download resumes), its hash checked where one is known.

        Hashes are :attr:`sha256` and :func:`~distillkit.files.download.recorded_sha256`.

        Raises:
            WeightsError: it is not here and nowhere to be had, or its hash differs.
        """
        path = self.find()
        if path is None:
            return self._from_hub() if self.path is None else self._from_url(self.path)
        return check(path, self.sha256)

    def _from_url(self, path: Path) -> Path:
        if self.url is None:
            advice = f"; get it from {self.source} (license {self.license})" if self.source else ""
            raise WeightsError(f"{path} - no such weight file{advice}")
        return download(self.url, path, self.sha256)

    def _from_hub(self) -> Path:
        from huggingface_hub import hf_hub_download

        assert self.repo and self.filename
        try:
            path = Path(hf_hub_download(self.repo, self.filename, revision=self.revision))
        except (
            Exception
        ) as e:  # the Hub's client raises its own, its HTTP library's and the system's
            raise WeightsError(
                f"{self.name} - not downloaded from the Hub: {_first_line(e)}"
            ) from e
        return check(path, self.sha256)


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a torch checkpoint, on the CPU.

    Torch checkpoints are read with ``weights_only=True``: a file that holds anything but containers, numbers, strings and tensors
    is refused. A nested layout is returned as it is.

    Raises:
        WeightsError: no such file, one that has changed since it was fetched, truncated, not a weight file, or one that would run
            code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} - no such weight file")
    check(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(
            action="ignore"
        ):  # of an unusual pickle protocol, before it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as e:
        raise WeightsError(
            f"{path} - not a readable weight file (truncated or damaged): {_first_line(e)}"
        ) from e
    except Exception as e:  # pickle.UnpicklingError and whatever a hostile stream provokes in the restricted unpickler
        raise WeightsError(
            f"{path} - refused: not a plain file of tensors: {_foreign(e)}"
        ) from None


def load_exactly(module: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load ``state`` into ``module``, key for key and shape for shape.

    A module built on the meta device takes the tensors themselves instead of copies.

    Raises:
        WeightsError: naming the first keys that are missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own.keys() - state.keys()]
    problems += [f"unexpected {k}" for k in state.keys() - own.keys()]
    problems += [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5]) + (
            f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        )
        raise WeightsError(
            f"{source} - weights of another architecture than {type(module).__name__}: {shown}"
        )
    module.load_state_dict(state, assign=any(p.is_meta for p in module.parameters()))


def load_tensors(
    tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], source: object
) -> None:
    """Copy ``values`` into ``tensors`` in place, name for name.

    Raises:
        WeightsError: other names or shapes.
    """
    import torch

    if tensors.keys() != values.keys() or any(tensors[k].shape != values[k].shape for k in tensors):
        raise WeightsError(
            f"{source} - holds other tensors than this student trains; was it written with another recipe?"
        )
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def _foreign(error: Exception) -> str:
    """What a file was refused for. torch's own text would tell how to load it all the same."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return (
        f"it holds {found[1]}, and loading that could run code"
        if found
        else "its bytes are no torch checkpoint"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
