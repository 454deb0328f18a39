"""Student and realness teacher are made of the same files: one base in memory, the gradient unharmed."""

import itertools
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch

from distillkit.data.pairs import Batch
from distillkit.recipe.build import build_adapter
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import open_batches
from distillkit.training.blocks import gradient_checkpointing
from distillkit.training.cache_estimate import estimate_cache
from distillkit.training.feature_store import FeatureStore
from distillkit.training.models import build_models
from distillkit.training.step import Stage1Step

RECIPE = Path(__file__).parents[3] / "recipes" / "tiny" / "ctsr_sr4x.toml"
CPU = torch.device("cpu")


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps inside the block, each storage once, while it keeps them."""

    def __init__(self):
        self.now = self.most = 0
        self.seen = weakref.WeakKeyDictionary()
        super().__init__(self._keep, lambda x: x)

    def _keep(self, x):
        storage = x.untyped_storage()
        if storage not in self.seen:
            self.seen[storage] = size = storage.nbytes()
            weakref.finalize(storage, self._let_go, size)
            self.now += size
            self.most = max(self.most, self.now)
        return x

    def _let_go(self, size):
        self.now -= size


def storages(module):
    return {p.untyped_storage().data_ptr() for p in module.parameters()}


def test_every_weight_of_the_realness_teacher_is_the_students():
    cast = build_models(load_recipe(RECIPE), CPU)
    assert storages(cast.teachers["realness"]) <= storages(cast.student)
    shared = storages(cast.teachers["fidelity"]) & storages(cast.student)
    weights = list(cast.teachers["fidelity"].parameters())
    both = sum(p.nbytes for p in weights if p.untyped_storage().data_ptr() in shared)
    assert both < 0.02 * sum(p.nbytes for p in weights), (
        "no more than the zeros and ones of biases and norms"
    )


def test_teacher_of_another_unet_still_shares_the_autoencoder():
    cast = build_models(load_recipe(RECIPE, ['teachers.realness.use="superres/sd21-base"']), CPU)
    teacher = cast.teachers["realness"]
    assert storages(teacher.codec) <= storages(cast.student)
    assert storages(teacher.network) - storages(cast.student), (
        "OSEDiff's adapters changed the student's network"
    )


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_saving_memory_keeps_terms_and_gradient(gradient):
    """With checkpointing, term by term, and both: the same numbers, and less that is kept for the backward pass each time."""
    resolved = load_recipe(RECIPE, [f'stage1.teacher_gradient="{gradient}"'])
    gt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for checkpointing, per_term_backward in itertools.product((False, True), repeat=2):
        cast = build_models(resolved, CPU)
        adapter = build_adapter(cast.student, resolved.recipe.stage1.adapter, seed=0)
        step = Stage1Step(
            cast, adapter, resolved.recipe.stage1, None, seed=0, per_term_backward=per_term_backward
        )
        with gradient_checkpointing(cast.models if checkpointing else [], adapter):
            with (kept := Kept()):
                terms = step(Batch(gt, None, ["a"]), 0)
            sum(terms.values()).backward()
        gradients = [p.grad for p in adapter.tensors().values()]
        found.append(({k: v.detach() for k, v in terms.items()}, gradients, kept.most))
    (terms, plain, most), *others = found
    scale = max(float(g.abs().max()) for g in plain)
    assert scale > 0
    for again, other, less in others:
        assert again == terms and less < most
        assert all(
            torch.allclose(a, b, atol=1e-6 * scale) for a, b in zip(plain, other, strict=True)
        )
    assert found[3][2] < min(found[1][2], found[2][2])


def test_what_models_encode_of_an_input_is_kept(tmp_path):
    """Student and faithful teacher encode an input once; terms are the same bit for bit; the size is foretold."""
    cached = [
        "training.cache_gib=1",
        f"training.cache_dir='{tmp_path}'",
        "data.cycle_steps=1",
        "stage2.steps=0",
    ]
    resolved = load_recipe(
        RECIPE, ["stage1.steps=2", "stage1.reconstruction.perceptual_weight=0", *cached]
    )
    batch = Batch(
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1, None, ["a"]
    )
    plain, kept = build_models(load_recipe(RECIPE), CPU), build_models(resolved, CPU)
    found = []
    for cast in (plain, kept, kept):
        adapter = build_adapter(cast.student, resolved.recipe.stage1.adapter, seed=0)
        terms = Stage1Step(cast, adapter, resolved.recipe.stage1, None, seed=0)(batch, 0)
        adapter.merge()
        found.append({k: v.item() for k, v in terms.items()})
    assert found[0] == found[1] == found[2]
    assert (kept.cache.misses, kept.cache.hits) == (4, 4)
    entries = Counter(entry.kind for entry in FeatureStore(tmp_path, 0).features())
    assert entries == {"lq latent": 2, "gt latent": 2}
    foretold = estimate_cache(resolved.recipe, kept, open_batches(resolved, kept, 1))
    assert Counter(f.kind for f in foretold for _ in range(f.entries)) == entries
