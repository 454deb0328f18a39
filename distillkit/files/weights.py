"""Find, fetch, verify and read weight files; run nothing in them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillkit.errors import WeightsError, first_line
from distillkit.files.download import download, verify_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
"""What DDP and ``torch.compile`` put in front of every name."""


class WeightFile(BaseModel):
    """A file of weights: a local one, perhaps with a ``url``, or the Hub's.

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
        if isinstance(given, str | Path):
            return {"path": given}
        return given

    @model_validator(mode="after")
    def _check_that_it_names_one_place(self) -> Self:
        given = [self.path is not None, self.repo is not None, self.filename is not None]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("give either a path, or repo and filename")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "format": "path"}, handler(core_schema)]}

    @property
    def name(self) -> str:
        """Its path, or its address on the Hub."""
        if self.path:
            return str(self.path)
        return f"{self.repo}/{self.filename}@{self.revision}"

    @property
    def fetchable(self) -> bool:
        """Whether :meth:`fetch` knows where to download it."""
        return self.path is None or self.url is not None

    def find(self) -> Path | None:
        """Find the file on this machine, if it is there. Nothing is downloaded."""
        if self.path is not None:
            if self.path.is_file():
                return self.path
            return None
        from huggingface_hub import try_to_load_from_cache

        assert self.repo and self.filename
        cached = try_to_load_from_cache(self.repo, self.filename, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached)
        return None

    def fetch(self) -> Path:
        """Return the file's path, after a download if it is missing, with its known hash verified.

        Interrupted downloads resume. Hashes are :attr:`sha256` and
        :func:`~distillkit.files.download.recorded_sha256`.

        Raises:
            WeightsError: It is not here and cannot be downloaded, or its hash differs.
        """
        path = self.find()
        if path is not None:
            return verify_hash(path, self.sha256)
        if self.path is None:
            return self._download_from_hub()
        return self._download(self.path)

    def _download(self, path: Path) -> Path:
        if self.url is not None:
            return download(self.url, path, self.sha256)
        advice = ""
        if self.source:
            advice = f"; get it from {self.source} (license {self.license})"
        raise WeightsError(f"{path} - no such weight file{advice}")

    def _download_from_hub(self) -> Path:
        from huggingface_hub import hf_hub_download

        assert self.repo and self.filename
        try:
            path = hf_hub_download(self.repo, self.filename, revision=self.revision)
        # The Hub's client raises its own errors, its HTTP library's and the system's.
        except Exception as error:
            raise WeightsError(
                f"{self.name} - not downloaded from the Hub: {first_line(error)}"
            ) from error
        return verify_hash(Path(path), self.sha256)


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a torch checkpoint.

    They are on the CPU.

    Torch checkpoints are read with ``weights_only=True``: a file that holds anything but
    containers, numbers, strings and tensors is refused. A nested layout is returned as it is.

    Raises:
        WeightsError: The file is missing, has changed since it was fetched, is truncated, is not a
            weight file, or would run code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} - no such weight file")
    verify_hash(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # torch warns of an unusual pickle protocol before it refuses the file.
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} - not a readable weight file (truncated or damaged): {first_line(error)}"
        ) from error
    # UnpicklingError, and whatever a hostile stream provokes in the restricted unpickler.
    except Exception as error:
        raise WeightsError(
            f"{path} - refused: not a plain file of tensors: {_explain_refusal(error)}"
        ) from None


def read_tensors(path: Path | str, *keys: str) -> dict[str, Tensor]:
    """Read the named tensors of a weight file, out of a training program's container.

    The prefixes that DDP and ``torch.compile`` put in front of every name are taken off.

    Args:
        path: The weight file.
        *keys: Keys to descend by where the file is a container; a flat file is taken as it is.

    Raises:
        WeightsError: As :func:`read_state_dict`, or there is no dictionary of tensors.
    """
    state: Any = read_state_dict(path)
    for key in keys:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not _holds_tensors(state):
        place = " / ".join(keys) or "its top level"
        raise WeightsError(
            f"{path} - no dictionary of tensors at {place}; "
            "is it the network's file and not the optimizer's?"
        )
    return {_WRAPPERS.sub("", str(name)): tensor for name, tensor in state.items()}


def _holds_tensors(state: object) -> bool:
    from torch import Tensor

    if not isinstance(state, Mapping) or not state:
        return False
    return all(isinstance(value, Tensor) for value in state.values())


def load_exactly(
    module: nn.Module,
    state: dict[str, Tensor],
    source: object,
) -> None:
    """Load weights into a module, key for key and shape for shape.

    A module built on the meta device takes the tensors themselves instead of copies.

    Args:
        module: Takes the weights.
        state: The weights.
        source: What errors call the weights.

    Raises:
        WeightsError: It names the first keys that are missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own.keys() - state.keys()]
    problems += [f"unexpected {key}" for key in state.keys() - own.keys()]
    for key in own.keys() & state.keys():
        shape = tuple(state[key].shape)
        expected = tuple(own[key].shape)
        if shape != expected:
            problems.append(f"{key} is {shape}, expected {expected}")
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        if len(problems) > 5:
            shown += f"; and {len(problems) - 5} more"
        raise WeightsError(
            f"{source} - weights of another architecture than {type(module).__name__}: {shown}"
        )
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    module.load_state_dict(state, assign=on_meta)


def load_tensors(
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    source: object,
) -> None:
    """Copy values into tensors in place, name for name.

    Args:
        tensors: Take the values.
        values: By the same names.
        source: What errors call the values.

    Raises:
        WeightsError: Other names or shapes.
    """
    import torch

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != {name: value.shape for name, value in values.items()}:
        raise WeightsError(
            f"{source} - holds other tensors than this student trains; was it written with another "
            "recipe?"
        )
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def _explain_refusal(error: Exception) -> str:
    """Say why a file was refused.

    torch's own text would tell how to load it all the same.
    """
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return "its bytes are no torch checkpoint"
    return f"it holds {found[1]}, and loading that could run code"
