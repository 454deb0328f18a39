import pytest
from toy_fixtures import install_plugins, photos, recipe

__all__ = ["photos", "recipe"]


@pytest.fixture
def toys(monkeypatch):
    """The toy plugin and the demo, as if they were what is installed."""
    return install_plugins(monkeypatch, toy="toy_plugin", demo="distillkit_demo.plugin")
