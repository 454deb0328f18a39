import pytest

pytest.importorskip("onnxscript", reason="pip install 'distillkit[onnx]' to test the runtime")

from exported_toys import toys

__all__ = ["toys"]
