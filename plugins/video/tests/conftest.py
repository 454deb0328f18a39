import pytest
from toy_fixtures import distillkit, install_plugins

__all__ = ["distillkit"]


@pytest.fixture
def toys(monkeypatch):
    """The toy plugin and the one for videos, as if they were what is installed."""
    return install_plugins(monkeypatch, toy="toy_plugin", video="distillkit_video.plugin")
