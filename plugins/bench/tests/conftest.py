import pytest
from toy_fixtures import distillkit, install_plugins, photos, recipe

__all__ = ["distillkit", "photos", "recipe"]


@pytest.fixture
def toys(monkeypatch):
    """The toy plugin and the one that measures, as if they were what is installed."""
    return install_plugins(monkeypatch, toy="toy_plugin", bench="distillkit_bench.plugin")
