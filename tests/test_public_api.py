"""A changed public name or signature is noticed: plugins of others depend on them."""

from __future__ import annotations

import difflib

from public_api import LISTED, public_api


def test_the_public_api_is_that_of_the_committed_list():
    listed = LISTED.read_text(encoding="utf-8").splitlines()
    current = public_api().splitlines()
    changes = [
        line
        for line in difflib.unified_diff(listed, current, n=0, lineterm="")
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    advice = (
        "the public API has changed. Could a plugin for the last release stop working? Then raise "
        "API_VERSION in distillkit/plugins/hookspecs.py, and say in CHANGELOG.md what to write "
        "now. Then run: python tests/public_api.py"
    )
    assert changes == [], advice


def test_the_list_holds_signatures_methods_and_hooks():
    text = LISTED.read_text(encoding="utf-8")
    assert "recipe.load.load_recipe(source: Path | str, overrides: Iterable[str]=(), " in text
    assert (
        "diffusion.model.DiffusionModel.@abstractmethod forward(self, z_t: Tensor, t: Tensor, "
        in text
    )
    assert "metrics.base.FullReference.smallest_side: int = 1" in text
    assert "hook distillkit_recipes() -> Path" in text
