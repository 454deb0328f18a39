"""What frozen models make of inputs that come again, remembered on disk under keys of content.

A key is the hash of everything that a result depends on: its kind, the pixels of the batch, what degraded them and with which
draws, the model (name, plugin's version, options, weight files, weights in memory), the draws it was given, torch's version, device
type and precision. So a changed weight, option or image is another key, and an old result is never taken for a new one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distillkit.data.pairs import Batch
from distillkit.files.download import sha256_of
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.load import Component
from distillkit.recipe.schema import Training
from distillkit.training.feature_store import FORMAT, FeatureStore, default_folder, with_checksum


class Cache:
    """Results by key, computed where they are not known. Without a store everything is computed.

    Args:
        device: where the results belong.
    """

    def __init__(self, store: FeatureStore | None, device: torch.device) -> None:
        self.store, self._device = store, device
        self.hits = self.misses = 0
        self.saved = 0.0
        """Seconds: what computing the hits once took, less all that keeping and finding results took."""
        self._told = (0, 0, 0.0)

    def tensor(self, kind: str, parts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` returns, without gradient, or returned when ``kind`` and ``parts`` were the same."""
        if self.store is None:
            with torch.no_grad():
                return compute()
        began = time.perf_counter()
        key = digest(str(FORMAT), kind, *parts, *self._circumstances())
        found = self.store.read(key)
        if found is not None:
            value = load(found[0])["value"].to(self._device)
            self.hits += 1
            self.saved += float(found[1]["seconds"]) - (time.perf_counter() - began)
            return value
        self.misses += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that nobody else's work is counted
        started = time.perf_counter()
        with torch.no_grad():
            value = compute()
        kept = value.contiguous().cpu()
        seconds = time.perf_counter() - started
        self.store.write(
            key,
            with_checksum(
                save({"value": kept}), {"key": key, "kind": kind, "seconds": f"{seconds:.6f}"}
            ),
        )
        self.saved -= time.perf_counter() - began - seconds
        return value

    def news(self) -> dict[str, float]:
        """Since the last call: ``cache_hits``, the share of lookups that found something, and ``cache_saved``, seconds.

        Empty where nothing was looked up.
        """
        now = (self.hits, self.misses, self.saved)
        hits, misses, saved = (a - b for a, b in zip(now, self._told, strict=True))
        self._told = now
        return {"cache_hits": hits / (hits + misses), "cache_saved": saved} if hits + misses else {}

    def facts(self) -> dict[str, object]:
        """For the manifest of a run; of this process alone."""
        assert self.store is not None
        return {
            "folder": str(self.store.folder),
            "hits": self.hits,
            "misses": self.misses,
            "seconds_saved": round(self.saved, 2),
            "damaged": self.store.damaged,
            "full": self.store.full,
        }

    def _circumstances(self) -> tuple[str, str, str]:
        kind = self._device.type
        precision = (
            str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "full"
        )
        return torch.__version__, kind, precision


def open_cache(options: Training, device: torch.device) -> Cache:
    """The cache that a recipe asks for: ``cache_gib`` in ``cache_dir``."""
    limit = int(options.cache_gib * 2**30)
    return Cache(
        FeatureStore(options.cache_dir or default_folder(), limit) if limit else None, device
    )


def digest(*parts: str) -> str:
    """One hash of several texts; no two lists of texts have the same."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def identity(component: Component, thing: object) -> str:
    """Of what a recipe's table names and what its plugin built: its name and version, options, weight files and weights."""
    owner = component.full_name.partition("/")[0]
    versions = [p.distribution for p in load_plugins() if p.name == owner]
    files = [
        file.sha256 or (sha256_of(path) if (path := file.find()) else "")
        for file in component.config.weight_files()
    ]
    weights = identity_of_weights(thing) if isinstance(thing, nn.Module) else ""
    return digest(
        component.full_name, *versions, component.config.model_dump_json(), *files, weights
    )


def identity_of_weights(module: nn.Module) -> str:
    """Of everything in a module's state."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(_content(value) if isinstance(value, Tensor) else repr(value).encode())
    return found.hexdigest()


def identity_of_batch(batch: Batch) -> str:
    """Of the pixels of a batch and of what is said about them."""
    found = hashlib.sha256(_content(batch.gt))
    if batch.lq is not None:
        found.update(_content(batch.lq))
    return digest(found.hexdigest(), json.dumps(batch.captions))


def identity_of_image(image: np.ndarray, caption: str | None) -> str:
    """Of the pixels of an image and of what is said about it."""
    found = hashlib.sha256(
        f"{image.dtype} {image.shape} ".encode() + np.ascontiguousarray(image).tobytes()
    )
    return digest(found.hexdigest(), json.dumps(caption))


def identity_of_draws(generator: torch.Generator) -> str:
    """Of all that a generator will draw from now on."""
    return hashlib.sha256(_content(generator.get_state())).hexdigest()


def _content(tensor: Tensor) -> bytes:
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return head + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
