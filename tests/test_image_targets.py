"""An output teacher's results for full images, cut to crops (``output_input = "full_image"``)."""

import io
from dataclasses import replace
from types import MappingProxyType

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from toy_models import ToyModel

from distillkit import ModelInput
from distillkit.adapters import add_adapter
from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.opening import open_source
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import Columns
from distillkit.files.images import to_float
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.load import load_recipe
from distillkit.recipe.schema import Stage1Config
from distillkit.runs.run import open_batches
from distillkit.training.cache_estimate import describe_cache, estimate_cache
from distillkit.training.feature_cache import FeatureCache
from distillkit.training.feature_store import FeatureStore
from distillkit.training.models import RunModels, build_models
from distillkit.training.step import Stage1Step

CPU = torch.device("cpu")


class Spread:
    """Enlarges, and adds to every pixel the full image's mean, the pixel's place, and draws."""

    scale, nfe, size_multiple = 2, 1, 8

    def __init__(self):
        self.seen = []

    def restore(self, inputs, generator=None):
        lq = inputs.lq
        self.seen.append((tuple(lq.shape), inputs.caption_list()))
        assert lq.shape[2] % 8 == lq.shape[3] % 8 == 0
        large = torch.nn.functional.interpolate(lq, scale_factor=2)
        rows, columns = (torch.linspace(0, 1, n) for n in large.shape[2:])
        return (
            large
            + lq.mean()
            + rows[:, None]
            + 3 * columns
            + torch.randn(large.shape, generator=generator)
        )


class Repeat(Spread):
    """Gives the clean image of a pair of blocks, if it is asked about the right pixels."""

    size_multiple = 1

    def restore(self, inputs, generator=None):
        lq = inputs.lq
        self.seen.append((tuple(lq.shape), inputs.caption_list()))
        return lq.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Pool:
    scale = 2

    def __call__(self, gt, generator):
        return torch.nn.functional.avg_pool2d(gt, 2) + torch.rand((), generator=generator)


def low(k):
    return np.random.default_rng(k).integers(0, 256, (11 + k, 13, 3), dtype=np.uint8)


def source(count=4, paired=True, captions=None):
    """Clean images with every pixel of the low-quality ones twice each way."""

    def column(images):
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            Image.fromarray(image).save(file, "PNG")
        return [{"bytes": file.getvalue(), "path": None} for file in files]

    lows = [low(k) for k in range(count)]
    rows = {"image": column([a.repeat(2, 0).repeat(2, 1) for a in lows])} | (
        {"lq": column(lows)} if paired else {}
    )
    features = {name: datasets.Image() for name in rows} | (
        {"said": datasets.Value("string")} if captions else {}
    )
    rows |= {"said": captions} if captions else {}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    return open_source(
        dataset=data,
        columns=Columns(lq="lq" if paired else None, caption="said" if captions else None),
    )


def batches(from_source=None, **options):
    defaults = {"crop_size": 8, "batch_size": 4, "scale": 2, "seed": 5, "full_images": True}
    settings = BatchSettings(**defaults | options)
    return TrainingBatches([from_source or source()], [1.0], settings)


def cast_of(teacher, store=None, name="teacher", degradation=None):
    cache = FeatureCache(store, CPU)
    cache.identities.update({"realness": name, "degradation": "pool"})
    student = ToyModel(seed=1).requires_grad_(False)
    return RunModels(student, {"realness": teacher}, degradation, CPU, cache)


def draws(key):
    return keyed_generator("draws", key)


def targets(cast, batch, draws=draws):
    prepared = cast.prepare(batch, torch.Generator().manual_seed(1))
    return cast.restore_full_images("realness", prepared, draws)


def turned(array, turn):
    return np.rot90(array, turn % 4)[:, :: -1 if turn >= 4 else 1]


def found_in(crop, image):
    """Find the one (turn, top, left) that ``crop`` was cut from, by looking everywhere."""
    side = crop.shape[0]
    places = [
        (top, left)
        for top in range(image.shape[0] - side + 1)
        for left in range(image.shape[1] - side + 1)
    ]
    (place,) = (
        (turn, top, left)
        for turn in range(8)
        for top, left in places
        if np.array_equal(turned(image[top : top + side, left : left + side], turn), crop)
    )
    return place


def test_a_target_is_the_same_crop_of_what_the_teacher_makes_of_the_whole_image():
    teacher, made = Spread(), batches()
    cast, places = cast_of(teacher), set()
    for step in range(40):
        batch = made.batch("stage1", step)
        for one, lq, whole in zip(
            targets(cast, batch),
            batch.lq,
            cast.prepare(batch, torch.Generator()).full_images,
            strict=True,
        ):
            image = whole.lq[0].permute(1, 2, 0).numpy()
            turn, top, left = found_in(lq.permute(1, 2, 0).numpy(), image)
            places.add(
                (turn, top == 0, left == 0, top + 4 == image.shape[0], left + 4 == image.shape[1])
            )
            height, width = image.shape[:2]
            padded = torch.nn.functional.pad(
                whole.lq, (0, -width % 8, 0, -height % 8), mode="reflect"
            )
            full = (
                teacher.restore(ModelInput(padded), draws(whole.key))[
                    0, :, : 2 * height, : 2 * width
                ]
                .permute(1, 2, 0)
                .numpy()
            )
            expected = turned(full[2 * top : 2 * top + 8, 2 * left : 2 * left + 8], turn)
            assert np.array_equal(one.permute(1, 2, 0).numpy(), expected)
    assert {place[0] for place in places} == set(range(8)) and all(
        any(place[k] for place in places) for k in range(1, 5)
    )


def test_asking_for_whole_images_changes_no_crop_of_a_pair_and_workers_bring_them():
    plain, asked, by_workers = (
        list(batches(**options).iterate("s", 0, 3))
        for options in ({"full_images": False}, {}, {"num_workers": 1})
    )
    for a, b, c in zip(plain, asked, by_workers, strict=True):
        assert a.full_images is None and torch.equal(a.gt, b.gt) and torch.equal(a.lq, b.lq)
        assert all(
            torch.equal(full_image.box.cut(to_float(full_image.pixels)), lq)
            for full_image, lq in zip(b.full_images, b.lq, strict=True)
        )
        assert all(
            np.array_equal(p.pixels, q.pixels) and p.box == q.box
            for p, q in zip(b.full_images, c.full_images, strict=True)
        )


def test_the_second_epoch_finds_every_image_and_what_differs_is_not_found(tmp_path):
    store, plain = FeatureStore(tmp_path, 2**30), Spread()
    made = batches(source(captions=["a", "b", None, "d"]), batch_size=2)
    teacher = Spread()
    cast = cast_of(teacher, store)
    for step in range(6):  # three epochs
        assert torch.equal(
            targets(cast, made.batch("stage1", step)),
            targets(cast_of(plain), made.batch("stage1", step)),
        )
    assert len(teacher.seen) == 4 and {shape[0] for shape, _ in teacher.seen} == {1}
    assert sorted(str(said) for _, (said,) in teacher.seen) == ["None", "a", "b", "d"]
    assert {entry.kind for entry in store.features()} == {"restored full image"}

    batch = made.batch("stage1", 0)
    for name, other_draws, other_made, calls in (
        ("teacher", draws, made, 0),
        ("another", draws, made, 2),
        ("teacher", lambda key: keyed_generator("others", key), made, 2),
        ("teacher", draws, batches(source(captions=["e", "f", "g", "h"]), batch_size=2), 2),
    ):
        again = Spread()
        targets(cast_of(again, store, name), other_made.batch("stage1", 0), other_draws)
        assert len(again.seen) == calls
    other = batch.full_images[0].pixels.copy()
    other[0, 0, 0] ^= 1
    changed = Spread()
    targets(
        cast_of(changed, store),
        replace(
            batch,
            full_images=[batch.full_images[0]._replace(pixels=other), batch.full_images[1]],
        ),
    )
    assert len(changed.seen) == 1


def test_whole_images_of_unpaired_sources_are_degraded_and_inputs_cut_out_of_them(tmp_path):
    store, made = FeatureStore(tmp_path, 2**30), batches(source(paired=False), cycle_steps=3)
    teacher = Spread()
    cast = cast_of(teacher, store, degradation=Pool())
    for step in range(6):
        batch = made.batch("stage1", step)
        inputs = cast.prepare(batch, keyed_generator("degrade", batch.step))
        dark = torch.nn.functional.avg_pool2d(batch.gt, 2)
        shift = (inputs.lq - dark).flatten(1)
        assert (
            torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
            and len(set(shift[:, 0].tolist())) == 4
        )
        others = cast.prepare(batch, keyed_generator("others"))
        assert inputs.cache_key != others.cache_key
        cast.restore_full_images("realness", inputs, draws)
    assert len(teacher.seen) == 12


@pytest.mark.parametrize("decode_crop_size", [None, 4, 8])
def test_a_step_compares_the_decoded_window_with_that_of_the_image(decode_crop_size):
    """The teacher gives the clean image, so that its term is the ground truth's."""
    teacher, made = Repeat(), batches(crop_size=16)
    cast = cast_of(teacher)
    adapter = add_adapter(cast.student.network, "lora", rank=2)
    losses = {"weight": 1, "term": "output", "output_input": "full_image"}
    config = Stage1Config(
        teachers={"fidelity": {"weight": 0}, "realness": losses},
        decode_crop_size=decode_crop_size,
    )
    step = Stage1Step(cast, adapter, config, ReconstructionLoss(), seed=0)
    for k in range(5):
        terms = step(made.batch("stage1", k), k)
        assert terms["realness/output"] > 0 and torch.equal(terms["realness/output"], terms["l2"])
    assert {shape[2:] for shape, _ in teacher.seen} == {(11 + k, 13) for k in range(4)}


PAIRED = MappingProxyType(
    {
        "stage1.teachers.realness.term": "'output'",
        "stage1.teachers.realness.output_input": "'full_image'",
        "stage2.steps": "0",
    }
)


@pytest.fixture
def paired_recipe(recipe, photos):
    """Loads the toy recipe with pairs of files of 48 x 40 pixels."""
    rows = []
    for path in sorted((photos / "train").glob("*.png")):
        lq_path = path.with_suffix(".lq.png")
        Image.open(path).reduce(2).save(lq_path)
        rows.append(f'{{"file_name": "{path.name}", "lq_file_name": "{lq_path.name}"}}\n')
    (photos / "train" / "metadata.jsonl").write_text("".join(rows))
    train = f"[{{imagefolder='{photos / 'train'}', lq_column='lq'}}]"

    def load(**sets):
        return load_recipe(
            recipe,
            [
                f"{k}={v}"
                for k, v in (PAIRED | {"data.train": train, "training.cache_gib": 1} | sets).items()
            ],
        )

    return load


def test_the_cache_estimate_counts_images_not_batches(paired_recipe):
    def estimate(**overrides):
        resolved = paired_recipe(**overrides)
        models = build_models(resolved, CPU)
        batches = open_batches(resolved, models.student.scale, 1)
        estimates = estimate_cache(resolved.recipe, models, batches)
        (images,) = (one for one in estimates if one.kind == "restored full image")
        return images, describe_cache(resolved.recipe, models, batches)

    images, description = estimate()
    # 6 steps of 2 crops out of 6 images
    assert (images.entries, images.repeats) == (6, True)
    assert images.size == pytest.approx(6 * 3 * 48 * 40 * 4, rel=0.05)
    assert "6 restored full image" in description
    assert "no batch repeats" not in description
    images, description = estimate(**{"stage1.steps": 2})
    assert (images.entries, images.repeats) == (4, False)
    assert "no batch repeats" in description
    images, _ = estimate(**{"data.cycle_steps": 1})
    assert (images.entries, images.repeats) == (2, True)
