"""A cache on disk for what frozen models compute from inputs that repeat.

A key is the hash of everything that a result depends on: its kind, the pixels of the batch, what
degraded them and with which draws, the model (name, plugin's version, options, weight files,
weights in memory), the draws it was given, torch's version, device type and precision. So a changed
weight, option or image makes another key, and an old result is never taken for a new one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distillkit.data.batches import Batch
from distillkit.diffusion.model import FeatureLookup
from distillkit.files.download import sha256_of
from distillkit.plugins.manager import load_plugins
from distillkit.recipe.load import Component
from distillkit.recipe.schema import TrainingConfig
from distillkit.training.feature_store import FORMAT, FeatureStore, default_folder, with_checksum


@dataclass(frozen=True)
class CacheCounts:
    """Hits, misses and saved time of a cache so far."""

    hits: int = 0
    misses: int = 0
    seconds_saved: float = 0.0
    """What computing the hits once took, less all that storing and reading results took."""


class FeatureCache:
    """Results by key, computed where the store holds none. Without a store all are computed.

    Args:
        store: The store of the files.
        device: Where the results belong.
    """

    def __init__(self, store: FeatureStore | None, device: torch.device) -> None:
        self.store = store
        self.identities: dict[str, str] = {}
        """Hashes of the models whose results are kept, by their names in the run."""
        self._device = device
        self._counts = CacheCounts()
        self._reported = CacheCounts()

    @property
    def enabled(self) -> bool:
        return self.store is not None

    def get(
        self,
        kind: str,
        key: str,
        models: Sequence[str],
        compute: Callable[[], Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return ``compute()`` without gradient, or its earlier result for the same inputs.

        Args:
            kind: What the results are, such as ``"restored"``; part of the key.
            key: A hash of the inputs.
            models: Names of the models that take part.
            compute: Makes the result.
            generator: The generator that ``compute`` draws from; its state is part of the key.
        """
        if self.store is None:
            with torch.no_grad():
                return compute()
        draws = "" if generator is None else hash_generator(generator)
        identities = [self.identities[name] for name in models]
        return self._read_or_compute(self.store, kind, [key, *identities, draws], compute)

    def lookup(self, model: str, key: str) -> FeatureLookup:
        """Make the part of the cache that one model may use for the input of ``key``."""

        def look_up(name: str, compute: Callable[[], Tensor]) -> Tensor:
            return self.get(name, digest(key, name), [model], compute)

        return look_up

    def _read_or_compute(
        self, store: FeatureStore, kind: str, parts: Sequence[str], compute: Callable[[], Tensor]
    ) -> Tensor:
        began = time.perf_counter()
        key = digest(str(FORMAT), kind, *parts, *self._environment())
        entry = store.read(key)
        if entry is not None:
            content, metadata = entry
            value = load(content)["value"].to(self._device)
            spent = time.perf_counter() - began
            self._count(hits=1, seconds_saved=float(metadata["seconds"]) - spent)
            return value
        if self._device.type == "cuda":
            # so that work queued before is not counted
            torch.cuda.synchronize(self._device)
        started = time.perf_counter()
        with torch.no_grad():
            value = compute()
        kept = value.contiguous().cpu()
        seconds = time.perf_counter() - started
        metadata = {"key": key, "kind": kind, "seconds": f"{seconds:.6f}"}
        store.write(key, with_checksum(save({"value": kept}), metadata))
        self._count(misses=1, seconds_saved=began + seconds - time.perf_counter())
        return value

    def _count(self, hits: int = 0, misses: int = 0, seconds_saved: float = 0.0) -> None:
        before = self._counts
        self._counts = CacheCounts(
            before.hits + hits,
            before.misses + misses,
            before.seconds_saved + seconds_saved,
        )

    def report_changes(self) -> dict[str, float]:
        """Report what was looked up since the last call.

        Returns:
            ``cache_hits``, the share of lookups that found a result, and ``cache_saved``, seconds;
            empty where nothing was looked up.
        """
        now, before = self._counts, self._reported
        self._reported = now
        hits = now.hits - before.hits
        lookups = hits + now.misses - before.misses
        if lookups == 0:
            return {}
        saved = now.seconds_saved - before.seconds_saved
        return {"cache_hits": hits / lookups, "cache_saved": saved}

    def summary(self) -> dict[str, object]:
        """Summarize the cache's use by this process, for the manifest of a run."""
        assert self.store is not None
        return {
            "folder": str(self.store.folder),
            "hits": self._counts.hits,
            "misses": self._counts.misses,
            "seconds_saved": round(self._counts.seconds_saved, 2),
            "damaged": self.store.damaged,
            "full": self.store.full,
        }

    def _environment(self) -> tuple[str, str, str]:
        """Return torch's version, the device type and the precision, which results depend on."""
        kind = self._device.type
        precision = "full"
        if torch.is_autocast_enabled(kind):
            precision = str(torch.get_autocast_dtype(kind))
        return torch.__version__, kind, precision


def open_cache(config: TrainingConfig, device: torch.device) -> FeatureCache:
    """Open the cache of ``[training]``: ``cache_gib`` in ``cache_dir``."""
    limit = int(config.cache_gib * 2**30)
    if limit == 0:
        return FeatureCache(None, device)
    folder = config.cache_dir or default_folder()
    return FeatureCache(FeatureStore(folder, limit), device)


def digest(*parts: str) -> str:
    """Hash several texts; no two lists of texts have the same hash."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hash_component(component: Component, built: object) -> str:
    """Hash a component: its name and version, options, weight files and weights in memory."""
    owner = component.full_name.partition("/")[0]
    versions = [plugin.distribution for plugin in load_plugins() if plugin.name == owner]
    files = []
    for file in component.config.weight_files():
        path = file.find()
        hash_of_file = file.sha256 or (sha256_of(path) if path else "")
        files.append(hash_of_file)
    weights = hash_weights(built) if isinstance(built, nn.Module) else ""
    options = component.config.model_dump_json()
    return digest(component.full_name, *versions, options, *files, weights)


def hash_weights(module: nn.Module) -> str:
    """Hash everything in a module's state."""
    sha256 = hashlib.sha256()
    for name, value in module.state_dict().items():
        content = _content(value) if isinstance(value, Tensor) else repr(value).encode()
        sha256.update(name.encode())
        sha256.update(content)
    return sha256.hexdigest()


def hash_batch(batch: Batch) -> str:
    """Hash the pixels and captions of a batch as it was loaded."""
    sha256 = hashlib.sha256()
    for images in (batch.gt, batch.lq):
        if images is not None:
            sha256.update(_content(images))
    return digest(sha256.hexdigest(), json.dumps(batch.captions))


def hash_image(image: np.ndarray, caption: str | None) -> str:
    """Hash the pixels and the caption of an image."""
    head = f"{image.dtype} {image.shape} ".encode()
    sha256 = hashlib.sha256(head + np.ascontiguousarray(image).tobytes())
    return digest(sha256.hexdigest(), json.dumps(caption))


def hash_generator(generator: torch.Generator) -> str:
    """Hash a generator's state, on which all its coming draws depend."""
    return hashlib.sha256(_content(generator.get_state())).hexdigest()


def _content(tensor: Tensor) -> bytes:
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return head + flat.view(torch.uint8).numpy().tobytes()
