"""The feature cache: keyed by content, never stale, bounded, and without influence on results."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from toy_models import ToyModel, unshuffled

from distillkit import Autoencoder, ModelInput
from distillkit.data.batches import Batch
from distillkit.diffusion.model import FeatureLookup
from distillkit.objectives.dual_teacher import ScoreTerms, StudentOutput, score_distillation
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.feature_cache import (
    FeatureCache,
    digest,
    hash_batch,
    hash_component,
    hash_generator,
)
from distillkit.training.feature_store import (
    FeatureStore,
    default_folder,
    verified_metadata,
    with_checksum,
)
from distillkit.training.models import encodes_by_network

CPU = torch.device("cpu")
GIB = 2**30


def remember(
    cache: FeatureCache, part: str, value: float = 1.0, size: int = 100
) -> tuple[float, bool]:
    """Look ``part`` up; the value that came, and whether it had to be computed."""
    computed = []
    found = cache.get("kind", part, [], lambda: computed.append(1) or torch.full((size,), value))  # type: ignore[func-returns-value]
    return float(found[0]), bool(computed)


def fresh(folder: Path, limit: int = GIB) -> FeatureCache:
    return FeatureCache(FeatureStore(folder, limit), CPU)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_computed_once_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.randn(2, 3, 5).to(dtype)
    cache = fresh(tmp_path)
    first = cache.get("kind", "ab", [], lambda: value)
    again = fresh(tmp_path).get("kind", "ab", [], lambda: pytest.fail("computed twice"))
    assert torch.equal(first, value) and torch.equal(again, value) and again.dtype == dtype
    with safe_open(files(tmp_path)[0], "pt") as file:  # any reader of safetensors can open it
        assert file.metadata()["kind"] == "kind" and float(file.metadata()["seconds"]) >= 0
    assert remember(cache, "a")[1] and FeatureCache(None, CPU).get(
        "kind", "ab", [], lambda: value + 1
    ).equal(value + 1)


def test_another_precision_is_another_key(tmp_path: Path) -> None:
    cache = fresh(tmp_path)
    remember(cache, "a", 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert remember(cache, "a", 2.0) == (2.0, True)
    assert remember(cache, "a", 3.0) == (1.0, False)


@pytest.mark.parametrize(
    "harm", ["flip data", "flip header", "truncate", "empty", "another's", "former format"]
)
def test_a_damaged_or_stale_entry_is_made_anew(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if harm == "former format":
        monkeypatch.setattr("distillkit.training.feature_store.FORMAT", 0)
    remember(fresh(tmp_path), "a", 1.0)
    monkeypatch.undo()
    (victim,) = files(tmp_path)
    raw = bytearray(victim.read_bytes())
    if harm == "flip data":
        raw[-3] ^= 16
    elif harm == "flip header":
        raw[40] ^= 1
    elif harm == "another's":
        remember(fresh(tmp_path / "other"), "b", 5.0)
        raw = bytearray(files(tmp_path / "other")[0].read_bytes())
    victim.write_bytes(raw[: {"truncate": -5, "empty": 0}.get(harm, len(raw))])
    cache = fresh(tmp_path)
    with pytest.warns(UserWarning, match="damaged cache entry, computed again"):
        assert remember(cache, "a", 2.0) == (2.0, True)
    assert cache.store is not None and cache.store.damaged == 1
    assert remember(fresh(tmp_path), "a", 3.0) == (2.0, False)


def test_every_flipped_bit_is_noticed() -> None:
    raw = with_checksum(
        save({"value": torch.arange(4.0)}), {"key": "k", "kind": "kind", "seconds": "1"}
    )
    assert verified_metadata(raw, "k") is not None
    for place in range(8 * len(raw)):
        harmed = bytearray(raw)
        harmed[place // 8] ^= 1 << place % 8
        assert verified_metadata(bytes(harmed), "k") is None or json.loads(
            harmed[8:-16]
        ) == json.loads(raw[8:-16])


def test_what_the_run_uses_stays_and_older_entries_make_way(tmp_path: Path) -> None:
    size = 4000
    for part in "abcd":
        remember(fresh(tmp_path), part, size=size)
    one = files(tmp_path)[0].stat().st_size
    limit = int(4.5 * one)
    for path in files(tmp_path):  # long ago
        os.utime(path, (0, 0))
    cache = fresh(tmp_path, limit)
    assert not remember(cache, "a", size=size)[1]  # used again: it stays
    for part in "efgh":
        assert remember(cache, part, size=size)[1]
    assert sum(p.stat().st_size for p in files(tmp_path)) <= limit
    assert cache.store is not None and cache.store.full
    kept = [
        part
        for part in "abcdefgh"
        if not remember(FeatureCache(cache.store, CPU), part, size=size)[1]
    ]
    assert kept == list("aefg")


def _write_many(folder: Path, first: int, limit: int) -> None:
    cache = fresh(folder, limit)
    for k in range(first, first + 40):
        remember(cache, str(k), float(k), size=500)


def test_processes_that_write_at_once_keep_the_bound_and_whole_files(tmp_path: Path) -> None:
    limit = 110_000
    jobs = [
        multiprocessing.get_context("fork").Process(
            target=_write_many, args=(tmp_path, first, limit)
        )
        for first in (0, 20, 20)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    entries = list(FeatureStore(tmp_path, limit).features())
    assert 0.8 * limit < sum(e.size for e in entries) <= limit and not list(
        tmp_path.rglob("*.part")
    )
    assert all(e.read_metadata() for e in entries)
    cache = fresh(tmp_path, 0)
    assert all(
        remember(cache, str(k), -1.0)[0] in (float(k), -1.0) for k in range(60)
    ) and cache.summary()["hits"] == len(entries)


def test_a_disk_that_cannot_be_written_is_warned_of_once_and_does_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = fresh(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="the cache cannot be written"):
        assert remember(cache, "a") == (1.0, True)
    assert remember(cache, "a") == (1.0, True)


def test_removing_leaves_other_peoples_files(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    for name in ("my/weights.safetensors", "notes.txt"):
        (tmp_path / name).write_text("mine")
    remember(fresh(tmp_path), "a")
    store = FeatureStore(tmp_path, 0)
    store.remove(store.features())
    assert (
        not list(store.features())
        and (tmp_path / "my/weights.safetensors").exists()
        and (tmp_path / "notes.txt").exists()
    )


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_folder() == Path("/x/distillkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path("~/.cache/distillkit").expanduser()
    monkeypatch.setenv("DISTILLKIT_CACHE", "/y")
    assert default_folder() == Path("/y")


def test_identities_change_with_all_that_matters(recipe: Path) -> None:
    def of(*sets: str, change: bool = False) -> str:
        component = load_recipe(recipe, sets).components["student"]
        model = component.build()
        if change:
            with torch.no_grad():
                next(iter(model.network.parameters())).view(-1)[0] += 1e-6
        return hash_component(component, model)

    assert of() == of()
    assert (
        len(
            {
                of(),
                of("student.seed=7"),
                of("student.space='unshuffle'"),
                of(change=True),
                of("student.use='student'"),
            }
        )
        == 4
    )
    a, b = (torch.Generator().manual_seed(s) for s in (1, 1))
    same = hash_generator(a) == hash_generator(b)
    torch.rand(1, generator=b)
    assert same and hash_generator(a) != hash_generator(b)
    gt, lq = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)
    batches = (
        Batch(gt, None, ["a"]),
        Batch(gt, lq, ["a"]),
        Batch(gt, lq + 1, ["a"]),
        Batch(gt.view(1, 3, 4, 16), lq, ["a"]),
    )
    assert len({hash_batch(batch) for batch in batches}) == 4
    said = [[None, "a"], ["", "a"], ["a", None], None]
    assert len({hash_batch(replace(batches[0], captions=captions)) for captions in said}) == 4


# Whole runs

OUTPUT = ["stage1.teachers.realness.term='output'", "teachers.realness.space='unshuffle'"]


@pytest.mark.parametrize(
    ("sets", "kinds"),
    [
        (["stage2.target='teacher'"], {"faithful target", "stage-1 latent"}),
        (["stage2.target='teacher'", *OUTPUT], {"faithful target", "stage-1 latent", "restored"}),
        (
            [
                "stage2.target='teacher'",
                *OUTPUT,
                "stage1.teachers.realness.output_input='full_image'",
            ],
            {"faithful target", "stage-1 latent", "restored full image"},
        ),
        (["stage2.variant='oftsr'"], {"faithful target", "stage-1 latent"}),
        (["stage2.variant='ctsr_eq8'"], {"stage-1 latent"}),
    ],
)
def test_a_cold_a_warm_and_no_cache_give_the_same_losses_and_weights(
    recipe: Path, tmp_path: Path, sets: list[str], kinds: set[str]
) -> None:
    folder = tmp_path / "cache"
    cached = ["training.cache_gib=1", f"training.cache_dir='{folder}'"]
    everywhere = [*sets, "data.cycle_steps=2", "data.eval=[]", "training.logging_steps=1"]
    lines, weights = {}, {}
    for name, more in (("none", []), ("cold", cached), ("warm", cached)):
        run_recipe(load_recipe(recipe, [*everywhere, *more]), tmp_path / name)
        lines[name] = [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        weights[name] = {
            k: v
            for f in sorted((tmp_path / name / "student").glob("*.safetensors"))
            for k, v in load_file(f).items()
        }
    of_speed = {"seconds", "loader_wait", "cache_hits", "cache_saved"}
    losses = {
        name: [{k: v for k, v in line.items() if k not in of_speed} for line in found]
        for name, found in lines.items()
    }
    assert losses["none"] == losses["cold"] == losses["warm"]
    for name in ("cold", "warm"):
        assert weights["none"].keys() == weights[name].keys()
        assert all(torch.equal(weights["none"][k], weights[name][k]) for k in weights["none"])
    assert {(e.read_metadata() or {})["kind"] for e in FeatureStore(folder, 0).features()} == kinds
    hits = {
        name: [line.get("cache_hits") for line in found if line["stage"] == "stage2"]
        for name, found in lines.items()
    }
    assert hits["none"] == [None] * 4 and hits["cold"] == [0, 0, 1, 1] and hits["warm"] == [1] * 4
    facts = json.loads((tmp_path / "warm/manifest.json").read_text())["cache"]
    assert facts["misses"] == 0 < facts["hits"] and facts["damaged"] == 0


def test_a_changed_teacher_finds_nothing_of_the_former_one(recipe: Path, tmp_path: Path) -> None:
    sets = [
        "stage2.target='teacher'",
        "data.eval=[]",
        "training.cache_gib=1",
        f"training.cache_dir='{tmp_path / 'cache'}'",
    ]
    for name, seed in (("a", 3), ("b", 8)):
        run_recipe(load_recipe(recipe, [*sets, f"teachers.fidelity.seed={seed}"]), tmp_path / name)
        assert json.loads((tmp_path / name / "manifest.json").read_text())["cache"]["hits"] == 0


class Fold(torch.nn.Module):
    """An autoencoder with a weight, which counts what it encodes."""

    encoded = 0

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        return torch.nn.functional.pixel_unshuffle(image, 2) * self.gain

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(latent / self.gain, 2)


def test_latents_of_the_ground_truth_are_kept_where_a_network_makes_them(tmp_path: Path) -> None:
    fold = Fold()
    teacher, plain = ToyModel(codec=Autoencoder(fold, "folded")).requires_grad_(False), unshuffled()
    student = ToyModel(seed=2)
    cache = fresh(tmp_path)
    cache.identities |= {"realness": "r", "fidelity": "f"}
    batch = Batch(torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 8, 8) * 2 - 1, ["a", "b"])
    condition = student.condition(ModelInput(batch.lq))
    latent = student.generate(condition)
    output = StudentOutput(condition, latent, student.codec.decode(latent))

    def losses(*lookup: FeatureLookup) -> ScoreTerms:
        inputs = ModelInput(batch.lq, batch.captions, *lookup)
        draws = torch.Generator().manual_seed(1)
        return score_distillation(teacher, student, output, inputs, batch.gt, draws)

    fold.encoded = 0
    lookup = cache.lookup("realness", digest("the batch"))
    assert losses() == losses(lookup)
    assert losses() == losses(lookup)
    # The input and the student's image each time, the ground truth all times but the last.
    assert fold.encoded == 4 * 2 + 3
    assert encodes_by_network(teacher)
    assert not encodes_by_network(plain)
