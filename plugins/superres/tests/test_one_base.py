"""Student and realness teacher are made of the same files and share one base in memory."""

import itertools
import weakref
from collections import Counter

import pytest
import torch

from distillkit.data.batches import Batch
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.build import build_adapter
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import open_batches
from distillkit.training.blocks import gradient_checkpointing
from distillkit.training.cache_estimate import estimate_cache
from distillkit.training.feature_store import FeatureStore
from distillkit.training.models import build_models
from distillkit.training.step import Stage1Step

RECIPE = "superres/tiny/ctsr_sr4x"
CPU = torch.device("cpu")


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd saves inside the block, each storage once."""

    def __init__(self):
        self.now = 0
        self.most = 0
        self.seen = weakref.WeakSet()
        super().__init__(self._save, self._unpack)

    def _save(self, x):
        storage = x.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            weakref.finalize(storage, self._free, storage.nbytes())
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return x

    def _unpack(self, x):
        return x

    def _free(self, size):
        self.now -= size


def storages(module):
    return {p.untyped_storage().data_ptr() for p in module.parameters()}


def test_every_weight_of_the_realness_teacher_is_the_students():
    models = build_models(load_recipe(RECIPE), CPU)
    assert storages(models.teachers["realness"]) <= storages(models.student)
    shared = storages(models.teachers["fidelity"]) & storages(models.student)
    weights = list(models.teachers["fidelity"].parameters())
    both = sum(p.nbytes for p in weights if p.untyped_storage().data_ptr() in shared)
    # No more than the zeros and ones of biases and norms.
    assert both < 0.02 * sum(p.nbytes for p in weights)


def test_teacher_of_another_unet_still_shares_the_autoencoder():
    # As a table, which replaces the recipe's and its keys.
    realness = 'teachers.realness={use="superres/sd21-base", size="tiny"}'
    models = build_models(load_recipe(RECIPE, [realness]), CPU)
    teacher = models.teachers["realness"]
    assert storages(teacher.codec) <= storages(models.student)
    # OSEDiff's adapters changed the student's network.
    assert storages(teacher.network) - storages(models.student)


@pytest.mark.parametrize("gradient", ["full", "sds"])
def test_saving_memory_keeps_terms_and_gradient(gradient):
    """Checkpointing, term by term, and both: the same numbers, and less saved for the backward."""
    resolved = load_recipe(RECIPE, [f'stage1.teacher_gradient="{gradient}"'])
    gt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for checkpointing, per_term_backward in itertools.product((False, True), repeat=2):
        models = build_models(resolved, CPU)
        adapter = build_adapter(
            models.student.stage1_network, resolved.recipe.stage1.adapter, seed=0
        )
        step = Stage1Step(
            models,
            adapter,
            resolved.recipe.stage1,
            ReconstructionLoss(),
            seed=0,
            per_term_backward=per_term_backward,
        )
        saved = SavedBytes()
        with gradient_checkpointing(models.modules if checkpointing else [], adapter):
            with saved:
                terms = step(Batch(gt, None, ["a"]), 0)
            sum(terms.values()).backward()
        gradients = [p.grad for p in adapter.tensors().values()]
        found.append(({k: v.detach() for k, v in terms.items()}, gradients, saved.most))
    (plain_terms, plain_gradients, plain_bytes), *others = found
    scale = max(float(gradient.abs().max()) for gradient in plain_gradients)
    assert scale > 0
    for terms, gradients, saved_bytes in others:
        assert terms == plain_terms
        assert saved_bytes < plain_bytes
        for gradient, plain in zip(gradients, plain_gradients, strict=True):
            assert torch.allclose(gradient, plain, atol=1e-6 * scale)
    per_term, checkpointed, both = (saved_bytes for _, _, saved_bytes in others)
    assert both < min(per_term, checkpointed)


def test_what_models_encode_of_an_input_is_kept(tmp_path):
    """Student and faithful teacher encode an input once, and the terms stay the same bit for bit.

    The estimate of the cache is right.
    """
    changes = [
        "stage1.steps=2",
        "stage2.steps=0",
        "stage1.reconstruction.perceptual_weight=0",
        "data.cycle_steps=1",
        "training.cache_gib=1",
        f"training.cache_dir='{tmp_path}'",
    ]
    resolved = load_recipe(RECIPE, changes)
    stage1 = resolved.recipe.stage1
    gt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(gt, None, ["a"])
    plain = build_models(load_recipe(RECIPE), CPU)
    cached = build_models(resolved, CPU)
    found = []
    for models in (plain, cached, cached):
        adapter = build_adapter(models.student.stage1_network, stage1.adapter, seed=0)
        step = Stage1Step(models, adapter, stage1, ReconstructionLoss(), seed=0)
        terms = step(batch, 0)
        adapter.merge()
        found.append({name: term.item() for name, term in terms.items()})
    assert found[0] == found[1] == found[2]
    counts = cached.cache.summary()
    assert (counts["misses"], counts["hits"]) == (4, 4)
    entries = Counter(entry.kind for entry in FeatureStore(tmp_path, 0).features())
    assert entries == {"lq latent": 2, "gt latent": 2}
    estimated = Counter()
    for estimate in estimate_cache(
        resolved.recipe, cached, open_batches(resolved, cached.student.scale, 1)
    ):
        estimated[estimate.kind] += estimate.entries
    assert estimated == entries
