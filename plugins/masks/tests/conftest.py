from toy_fixtures import distillkit

__all__ = ["distillkit"]
