"""Networks with random weights, of any architecture of spandrel's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from importlib.util import find_spec
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from distillkit import PluginError, did_you_mean

PACKAGES = ("spandrel.architectures", "spandrel_extra_arches.architectures")

Parameters = Mapping[str, Any]


def _at_scales(parameter: str, **others: Any) -> dict[int, Parameters]:
    return {scale: {parameter: scale, **others} for scale in (1, 2, 3, 4)}


_LITE = {"num_filters": 32, "num_blocks": 12}

PRESETS: Mapping[str, Mapping[int, Parameters]] = {
    "Compact": _at_scales("upscale", num_feat=64, num_conv=16),
    # Without the mean and the range of 255, which a network with random weights would have to undo.
    "SPAN": _at_scales("upscale", num_in_ch=3, num_out_ch=3, feature_channels=48, norm=False),
    "PLKSR": _at_scales(
        "upscaling_factor", dim=64, n_blocks=12, kernel_size=13, ccm_type="DCCM", use_ea=False
    ),
    "RealPLKSR": _at_scales("upscaling_factor", dim=64, n_blocks=12, kernel_size=13),
    # It always enlarges 4 times; smaller scales first move pixels into channels.
    "ESRGAN": {
        1: {"scale": 4, "in_nc": 48, "shuffle_factor": 4, **_LITE},
        2: {"scale": 4, "in_nc": 12, "shuffle_factor": 2, **_LITE},
        4: {"scale": 4, **_LITE},
    },
}
"""Parameters of small networks, by architecture and scale."""


def construct(name: str, parameters: Parameters, scale: int | None, seed: int) -> nn.Module:
    """Construct a network with random weights, in evaluation mode.

    torch's global generator is as it was before.

    Args:
        name: The name of an architecture, as spandrel exports it (``"SPAN"``, ``"RealPLKSR"``).
        parameters: Keyword arguments of its class.
        scale: Start from the preset of this scale, where the architecture has presets.
        seed: The seed of the weights.

    Raises:
        PluginError: No such architecture, no preset of that scale, or parameters that its class
            refuses.
    """
    architecture = _find_architecture(name)
    if scale is not None:
        parameters = {**_find_preset(name, scale), **parameters}
    _check_names(name, architecture, parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = architecture(**parameters)
        # Each class fails in its own way at values that it does not like.
        except Exception as e:
            given = ", ".join(f"{key} = {value!r}" for key, value in parameters.items())
            reason = shorten(f"{type(e).__name__}: {e}", 200)
            raise PluginError(f"{name} cannot be constructed with {given}: {reason}") from e
    return network.eval()


def list_architectures() -> dict[str, type[nn.Module]]:
    """Return the classes of networks that spandrel exports, by name."""
    found: dict[str, type[nn.Module]] = {}
    for package in PACKAGES:
        if find_spec(package.partition(".")[0]) is None:
            continue
        path = importlib.import_module(package).__path__
        for _, name, _ in pkgutil.iter_modules(path):
            module = importlib.import_module(f"{package}.{name}")
            found |= _exported_networks(module)
    return found


def _exported_networks(module: Any) -> dict[str, type[nn.Module]]:
    found = {}
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            found[name] = value
    return found


def _find_architecture(name: str) -> type[nn.Module]:
    known = list_architectures()
    if name in known:
        return known[name]
    # Capitals are easily forgotten: they must not count as differences.
    capitals = {known_name.lower(): known_name for known_name in known}
    meant = difflib.get_close_matches(name.lower(), capitals, n=1)
    if meant:
        hint = f'did you mean "{capitals[meant[0]]}"?'
    else:
        hint = f"known: {', '.join(sorted(known))}"
    raise PluginError(f'spandrel has no architecture "{name}"; {hint}')


def _find_preset(name: str, scale: int) -> Parameters:
    presets = PRESETS.get(name)
    if presets is None:
        return {}
    if scale not in presets:
        scales = ", ".join(map(str, presets))
        raise PluginError(
            f"{name} has no preset of scale {scale}, only of {scales}; leave out scale and give "
            "parameters"
        )
    return presets[scale]


def _check_names(name: str, architecture: type[nn.Module], parameters: Parameters) -> None:
    accepted = inspect.signature(architecture).parameters
    for key in parameters:
        if key not in accepted:
            hint = did_you_mean(key, accepted) or f"; it takes {', '.join(accepted)}"
            raise PluginError(f'{name} takes no parameter "{key}"{hint}')
    needed = [key for key, p in accepted.items() if p.default is p.empty]
    lacking = [key for key in needed if key not in parameters]
    if lacking:
        advice = ""
        if name in PRESETS:
            advice = "; or give scale, for a small preset"
        raise PluginError(f"{name} also needs the parameters {', '.join(lacking)}{advice}")
