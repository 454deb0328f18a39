"""Sources of every kind, batches that depend on their number alone, evaluation pairs."""

from __future__ import annotations

import io
import json
import pickle
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from distillkit.data import sources
from distillkit.data.batches import Batch, BatchSettings, TrainingBatches
from distillkit.data.crops import central_grid
from distillkit.data.evaluation_pairs import EvaluationPair, PlannedPair, evaluation_pairs
from distillkit.data.opening import open_source
from distillkit.data.sampling import interleave, shuffled
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import Columns, HubDataset, Source
from distillkit.errors import DataError
from distillkit.files.images import decode_image, to_float


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def pixels(seed: int, height: int = 48, width: int = 56) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def in_memory(images: list[bytes], name: str = "memory", lq: list[bytes] | None = None) -> Source:
    columns = {"image": images} if lq is None else {"gt": images, "lq": lq}
    rows = {k: [{"bytes": content, "path": None} for content in v] for k, v in columns.items()}
    features = datasets.Features({k: datasets.Image() for k in rows})
    return open_source(dataset=datasets.Dataset.from_dict(rows, features=features), name=name)


def blocks(count: int, scale: int = 4) -> Source:
    """Make pairs: the clean image repeats every low-quality pixel ``scale`` times each way."""
    low = [pixels(100 + k, 10, 12) for k in range(count)]
    clean = [image.repeat(scale, 0).repeat(scale, 1) for image in low]
    return in_memory([png(image) for image in clean], "pairs", [png(image) for image in low])


def batches(
    *sources: Source, weights: list[float] | None = None, **options: Any
) -> TrainingBatches:
    defaults: dict[str, Any] = {"crop_size": 32, "batch_size": 3, "scale": 4, "seed": 5}
    settings = BatchSettings(**(defaults | options))
    return TrainingBatches(sources, weights or [1.0] * len(sources), settings)


def same(a: Batch, b: Batch) -> bool:
    if a.ids != b.ids or not torch.equal(a.gt, b.gt):
        return False
    if a.lq is None or b.lq is None:
        return a.lq is b.lq
    return torch.equal(a.lq, b.lq)


# Randomness by key


def test_generators_depend_on_their_key_alone() -> None:
    def draw(*key: str | int) -> list[float]:
        return torch.rand(4, generator=keyed_generator(*key)).tolist()

    assert draw(0, "stage1", 7) == draw(0, "stage1", 7)
    keys: list[tuple[str | int, ...]] = [
        (0, "a", 1),
        (0, "a", 2),
        (1, "a", 1),
        ("0", "a", 1),
        (0, "a1"),
        (0, "a", "1"),
    ]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    with pytest.raises(TypeError):
        keyed_generator(np.int64(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.0], [1.0, 1.0, 1.0], [1e6, 1.0, 1.0]])
def test_interleave_shares_by_weight_and_counts(weights: list[float]) -> None:
    seen: Counter[int] = Counter()
    for position in range(2500):
        choice, earlier = interleave(weights, position, 0, "x")
        assert earlier == seen[choice]
        seen[choice] += 1
        if position == 999:
            for k, weight in enumerate(weights):
                assert seen[k] >= 1
                assert abs(seen[k] - 1000 * weight / sum(weights)) < len(weights)
    order = [interleave(weights, position, 0, "x")[0] for position in range(1000)]
    assert len(weights) == 1 or order != sorted(order)
    assert len(weights) == 1 or order != [
        interleave(weights, position, 0, "x")[0] for position in range(1000, 2000)
    ]


def test_shuffled_runs_through_everything_in_ever_new_orders() -> None:
    epochs = [[shuffled(20, 20 * epoch + k, 0, "x") for k in range(20)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


# Shrunk crops


def ramps(count: int) -> Source:
    """Make pairs that get brighter by a gray level a clean pixel, and by four an input's."""
    across = np.arange(0, 160, dtype=np.uint8)
    clean = np.broadcast_to(across[None, :, None], (160, 160, 3)).copy()
    low = np.broadcast_to((across[::4] + 2)[None, :, None], (40, 40, 3)).copy()
    return in_memory([png(clean)] * count, "ramps", [png(low)] * count)


def test_crops_are_shrunk_together_with_their_partners() -> None:
    source = replace(ramps(2), zoom_out=1.6)
    slopes = set()
    for step in range(12):
        batch = batches(source, crop_size=64, batch_size=1, augment=False).batch("stage1", step)
        assert batch.gt is not None
        assert batch.lq is not None
        assert batch.gt.shape == (1, 3, 64, 64)
        assert batch.lq.shape == (1, 3, 16, 16)
        gt = batch.gt[0, 0, 32] * 127.5
        lq = batch.lq[0, 0, 8] * 127.5
        slope = (gt[48] - gt[16]).item() / 32
        # A larger crop in the same number of pixels is steeper, by the same factor in both.
        assert (lq[12] - lq[4]).item() / 8 == pytest.approx(4 * slope, abs=0.05)
        # And both show the same place.
        assert lq[8].item() == pytest.approx((gt[32:36].mean().item()) + 0.5, abs=0.6)
        slopes.add(round(slope * 16))
    assert min(slopes) >= 16
    assert max(slopes) <= 1.6 * 16 + 1
    assert len(slopes) > 4


def test_without_zooming_out_crops_are_those_of_before() -> None:
    source = blocks(3)
    plain = batches(source).batch("stage1", 3)
    assert same(plain, batches(replace(source, zoom_out=1.0)).batch("stage1", 3))
    assert same(plain, batches(replace(source, zoom_out=1.02)).batch("stage1", 3))


def test_an_image_as_small_as_the_crop_is_not_zoomed_out_of() -> None:
    source = replace(blocks(2), zoom_out=3.0)
    batch = batches(source, crop_size=40).batch("stage1", 0)
    assert batch.gt is not None
    assert batch.gt.shape == (3, 3, 40, 40)
    assert same(batch, batches(blocks(2), crop_size=40).batch("stage1", 0))


# Sources


def test_a_folder_is_read_recursively_whatever_its_folders_are_called(tmp_path: Path) -> None:
    root = tmp_path / "photos [2020]"
    for k, place in enumerate(["a.png", "train/b.png", "test/deep er/c.png", "validation/d.jpg"]):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(png(pixels(k)))
    (root / "notes.txt").write_text("no image")
    source = open_source(imagefolder=root)
    assert sorted(source.label(k) for k in range(len(source))) == [
        "a.png",
        "test/deep er/c.png",
        "train/b.png",
        "validation/d.jpg",
    ]
    index = [source.label(k) for k in range(4)].index("train/b.png")
    example = source.read(index)
    assert example.id == f"{root}[{index}] train/b.png"
    assert np.array_equal(example.gt, pixels(1))
    assert example.lq is None
    assert not source.paired


def test_a_folder_is_listed_again_only_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    (root / "below").mkdir(parents=True)
    for name in ("a.png", "below/b.png"):
        (root / name).write_bytes(png(pixels(1)))

    def labels() -> list[str]:
        source = open_source(imagefolder=root)
        return sorted(source.label(index) for index in range(len(source)))

    assert labels() == ["a.png", "below/b.png"]
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_dataset", pytest.fail)
        assert labels() == ["a.png", "below/b.png"]
        assert np.array_equal(open_source(imagefolder=root).read(0).gt, pixels(1))
    (root / "below/c.png").write_bytes(png(pixels(2)))
    assert labels() == ["a.png", "below/b.png", "below/c.png"]
    (root / "a.png").unlink()
    assert labels() == ["below/b.png", "below/c.png"]
    [index] = (tmp_path / "hf-cache" / "distillkit-folders").iterdir()
    index.write_text("{")
    assert labels() == ["below/b.png", "below/c.png"]


def test_a_changed_metadata_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(pixels(1)))
    caption = Columns(caption="text")
    for text in ("first", "another"):
        row = json.dumps({"file_name": "a.png", "text": text})
        (tmp_path / "metadata.jsonl").write_text(row)
        assert open_source(imagefolder=tmp_path, columns=caption).read(0).caption == text


def test_a_folder_names_pairs_in_its_metadata(tmp_path: Path) -> None:
    rows = []
    for k in range(2):
        (tmp_path / f"hr{k}.png").write_bytes(png(pixels(k)))
        (tmp_path / f"lr{k}.png").write_bytes(png(pixels(9 + k, 12, 14)))
        rows.append(json.dumps({"file_name": f"hr{k}.png", "lq_file_name": f"lr{k}.png"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    source = open_source(imagefolder=tmp_path, columns=Columns(lq="lq"))
    assert source.paired
    index = [source.label(k) for k in range(2)].index("hr1.png")
    example = source.read(index)
    assert np.array_equal(example.gt, pixels(1))
    assert np.array_equal(example.lq, pixels(10, 12, 14))


def write_images(folder: Path, names: str, first: int) -> None:
    """Write images that their numbers tell apart, from ``first`` on."""
    for number, name in enumerate(names.split(), first):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(pixels(number)))


@pytest.mark.parametrize(
    ("clean", "low"),
    [
        ("1.png 2.png", "1.png 2.png"),
        ("1.png b/2.png", "1.webp b/2.webp"),
        ("0010.png 0020.png", "0010x4.png 0020x4.png"),
        ("1_HR.png 2_HR.png", "1_LR4.png 2_LR4.png"),
    ],
)
def test_pairs_of_two_folders_go_by_their_names(tmp_path: Path, clean: str, low: str) -> None:
    write_images(tmp_path / "hr", clean, 0)
    write_images(tmp_path / "lr", low, 8)
    source = open_source(imagefolder=tmp_path / "hr", lq_folder=tmp_path / "lr")
    assert source.paired
    assert [source.label(k) for k in range(len(source))] == clean.split()
    for k in range(2):
        example = source.read(k)
        assert np.array_equal(example.gt, pixels(k))
        assert np.array_equal(example.lq, decode_image(tmp_path / "lr" / low.split()[k]))


@pytest.mark.parametrize(
    ("clean", "low", "message"),
    [
        ("1.png 2.png 3.png", "1.png 2.png", r"lr - has no partner for 1 of 3 .*hr/3\.png"),
        ("1.png", "1.png 2.png", r"hr - has no partner for 1 of 2 images: .*lr/2\.png"),
        ("1.png 2.png", "1.png other/2.png", r"lr - has no partner for 1 of 2"),
        ("1.png 2.png", "1x2.png 2x4.png", r"lr - has no partner for 2 of 2"),
        ("1.png 1.jpg", "1.png", r"1\.png - has the name of 1\.jpg, and pairs go by names"),
        ("1.png", "notes.txt", r"lr - no images in this folder"),
        ("1.png", "", r"lr - no such folder; lq_folder is a folder of images"),
    ],
)
def test_images_without_a_partner_are_refused(
    tmp_path: Path, clean: str, low: str, message: str
) -> None:
    write_images(tmp_path / "hr", clean, 0)
    write_images(tmp_path / "lr", low, 8)
    with pytest.raises(DataError, match=message):
        open_source(imagefolder=tmp_path / "hr", lq_folder=tmp_path / "lr")


def test_parquet_files_and_globs(tmp_path: Path) -> None:
    for part in range(2):
        rows = [{"bytes": png(pixels(10 * part + k)), "path": f"{part}{k}.png"} for k in range(3)]
        data = datasets.Dataset.from_dict(
            {"photo": rows}, features=datasets.Features({"photo": datasets.Image()})
        )
        data.to_parquet(tmp_path / f"part-{part}.parquet")
    source = open_source(parquet=str(tmp_path / "part-*.parquet"), columns=Columns("photo"))
    assert sorted(source.label(k) for k in range(len(source))) == [
        "00.png",
        "01.png",
        "02.png",
        "10.png",
        "11.png",
        "12.png",
    ]
    one = open_source(
        parquet=str(tmp_path / "part-1.parquet"), columns=Columns("photo"), name="second"
    )
    assert np.array_equal(one.read(2).gt, pixels(12))
    assert one.read(2).id == "second[2] 12.png"


def test_datasets_that_are_already_open(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(pixels(3)))
    paths = open_source(
        dataset=datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}), name="paths"
    )
    assert np.array_equal(paths.read(0).gt, pixels(3))
    assert paths.label(0) == "a.png"
    pairs = blocks(2)
    assert pairs.paired
    assert pairs.read(1).lq is not None
    assert pairs.label(1) == "1"
    selected = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / "b.png"), str(tmp_path / "a.png")]}
    ).select([1])
    assert open_source(dataset=selected).label(0) == "a.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of hub, imagefolder, parquet, dataset, not none"),
        ({"hub": HubDataset("a/b"), "parquet": "c"}, "not hub and parquet"),
        ({"imagefolder": "nowhere"}, "nowhere - no such folder"),
        ({"imagefolder": "texts"}, "texts - no images"),
        ({"parquet": "no*.parquet"}, r"no\*\.parquet - no such file"),
        ({"parquet": "c", "lq_folder": "texts"}, "lq_folder goes with imagefolder"),
        ({"parquet": "texts"}, r"texts - is a folder; name the files in it: texts/\*\.parquet"),
        ({"parquet": "texts/a.txt"}, "cannot be loaded as parquet"),
        ({"hub": HubDataset("texts")}, "a local file or folder"),
        ({"hub": HubDataset("nobody/nothing")}, "Hub cannot be reached .*hf download"),
        ({"dataset": datasets.Dataset.from_dict({"image": []})}, "dataset - the dataset is empty"),
        ({"dataset": datasets.Dataset.from_dict({"image": [1]})}, "holds Value.* not images"),
        (
            {"dataset": datasets.Dataset.from_dict({"images": ["a"]})},
            "no column 'image'; did you mean \"images\"",
        ),
        (
            {"dataset": datasets.Dataset.from_dict({"image": ["a"]}), "columns": Columns(lq="lq")},
            "no column 'lq'",
        ),
        (
            {"dataset": datasets.Dataset.from_dict({"image": ["a"]}).to_iterable_dataset()},
            "streaming .* resumed exactly",
        ),
        ({"dataset": datasets.DatasetDict()}, "DatasetDict"),
    ],
)
def test_unusable_sources_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a")
    with pytest.raises(DataError, match=message):
        open_source(**arguments)


# Batches


@pytest.fixture
def photos() -> Source:
    return in_memory([png(pixels(k)) for k in range(7)], "photos")


def test_crops_are_cut_from_the_images(photos: Source) -> None:
    batch = batches(photos, augment=False).batch("stage1", 0)
    assert batch.gt.shape == (3, 3, 32, 32)
    assert batch.gt.dtype == torch.float32
    assert batch.lq is None
    for crop, name in zip(batch.gt, batch.ids, strict=True):
        windows = to_float(photos.read(int(name.split()[-1])).gt).unfold(1, 32, 1).unfold(2, 32, 1)
        assert (windows == crop[:, None, None]).all(-1).all(-1).all(0).sum() == 1


def test_pairs_are_cut_at_the_same_place() -> None:
    for flip in (False, True):
        for step in range(10):
            batch = batches(blocks(3), augment=flip, crop_size=24).batch("stage1", step)
            assert batch.lq is not None
            assert batch.lq.shape == (3, 3, 6, 6)
            assert torch.equal(batch.gt, batch.lq.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_flip_gives_all_eight_positions_of_a_square() -> None:
    source = in_memory([png(pixels(0, 8, 8))])

    def positions(flip: bool) -> set[bytes]:
        made = batches(source, crop_size=8, batch_size=100, augment=flip).batch("s", 0)
        return {crop.numpy().tobytes() for crop in made.gt}

    assert (len(positions(True)), len(positions(False))) == (8, 1)


def test_files_of_every_kind_come_through(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels(0)).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(np.arange(48 * 56, dtype=np.uint16).reshape(48, 56) * 20).save(
        tmp_path / "deep.png"
    )
    Image.fromarray(pixels(1)).convert("P").save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(pixels(2)).convert("LA").save(tmp_path / "gray_alpha.png")
    made = batches(open_source(imagefolder=tmp_path), crop_size=48, batch_size=4).batch("s", 0)
    assert len(set(made.ids)) == 4
    assert made.gt.abs().max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_history_or_restarts(photos: Source, workers: int) -> None:
    sources = (photos, blocks(4), in_memory([png(pixels(50 + k)) for k in range(2)], "more"))

    def fresh(**options: Any) -> TrainingBatches:
        return batches(*sources, weights=[2.0, 1.0, 1.0], **options)

    expected = [fresh().batch("stage1", step, 1) for step in range(9)]
    state = torch.get_rng_state()
    whole = list(fresh(num_workers=workers, image_cache_mb=0).iterate("stage1", 0, 9, [1]))
    assert torch.equal(torch.get_rng_state(), state)
    resumed = list(fresh(num_workers=workers).iterate("stage1", 4, 9, [1]))
    assert all(map(same, whole, expected))
    assert all(map(same, resumed, expected[4:]))
    assert (len(whole), len(resumed)) == (9, 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_cycle_the_first_batches_come_again(photos: Source, workers: int) -> None:
    made = list(batches(photos, cycle_steps=3, num_workers=workers).iterate("stage1", 1, 8, [1]))
    expected = [batches(photos).batch("stage1", step % 3, 1) for step in range(1, 8)]
    assert all(map(same, made, expected)) and [b.step for b in made] == [1, 2, 0, 1, 2, 0, 1]


def test_stage_micro_batch_and_seed_change_the_draws(photos: Source) -> None:
    base = batches(photos).batch("stage1", 0, 0)
    others = [
        batches(photos).batch("stage2", 0, 0),
        batches(photos).batch("stage1", 0, 1),
        batches(photos, seed=6).batch("stage1", 0, 0),
    ]
    assert not any(torch.equal(base.gt, other.gt) for other in others)


def test_no_image_comes_twice_before_each_has_come_once(photos: Source) -> None:
    made = batches(photos, batch_size=2, micro_batches=2)
    ids = [
        name
        for step in range(7)
        for micro_batch in range(2)
        for name in made.batch("stage1", step, micro_batch).ids
    ]
    for epoch in range(4):
        assert len(set(ids[7 * epoch : 7 * (epoch + 1)])) == 7
    assert ids[:7] != ids[7:14]


def test_sources_share_by_weight_and_batches_are_of_one_kind(photos: Source) -> None:
    more = in_memory([png(pixels(50 + k)) for k in range(3)], "more")
    made = batches(photos, more, blocks(2), weights=[3.0, 1.0, 4.0], batch_size=2, crop_size=4)
    seen: Counter[str] = Counter()
    for step in range(1000):
        batch = made.batch("stage1", step)
        names = [name.split("[")[0] for name in batch.ids]
        assert (batch.lq is not None) == ("pairs" in names) == (set(names) == {"pairs"})
        seen.update(names)
    assert seen == {"photos": 750, "more": 250, "pairs": 1000}


def test_a_second_source_of_either_kind_does_not_need_the_other() -> None:
    assert batches(blocks(2), crop_size=8).batch("s", 0).lq is not None


@pytest.fixture
def damaged(tmp_path: Path) -> Source:
    """Ten photographs: one is truncated, one too small, the others fine."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for k in range(8):
        (folder / f"{k}.png").write_bytes(png(pixels(k)))
    (folder / "8_cut.jpg").write_bytes(png(pixels(8, 200, 200), "JPEG")[:4000])
    (folder / "9_small.png").write_bytes(png(pixels(9, 31, 90)))
    return open_source(imagefolder=folder, name="damaged")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_counted_and_named(damaged: Source, workers: int) -> None:
    made = batches(damaged, batch_size=2, max_bad_fraction=0.2, num_workers=workers)
    drawn = list(made.iterate("stage1", 0, 5))
    assert all(
        name.split()[-1] in {f"{k}.png" for k in range(8)} for batch in drawn for name in batch.ids
    )
    assert len(made.bad_images) == 2
    reasons = {}
    for name, reason in made.bad_images.items():
        reasons[name.split()[-1]] = reason.split(" (")[0]
    assert reasons == {
        "8_cut.jpg": "image file is truncated",
        "9_small.png": "90x31 is smaller than the crop of 32x32",
    }
    again = batches(damaged, batch_size=2, max_bad_fraction=0.2)
    assert all(same(batch, again.batch("stage1", step)) for step, batch in enumerate(drawn))


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_stop_and_are_listed(damaged: Source, workers: int) -> None:
    made = batches(damaged, batch_size=2, max_bad_fraction=0.1, num_workers=workers)
    listed = r"damaged - 2 of 10 images cannot be used(?s:.)*\n  damaged\[8\] 8_cut\.jpg - (?s:.)*"
    with pytest.raises(DataError, match=listed) as raised:
        list(made.iterate("stage1", 0, 10))
    assert "9_small.png - 90x31 is smaller" in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_source_without_one_usable_image_ends_even_if_all_may_be_bad() -> None:
    source = in_memory([png(pixels(k, 8, 8)) for k in range(4)], "tiny")
    with pytest.raises(
        DataError, match="tiny - not one of 4 images can be used; the last one: .*8x8 is smaller"
    ):
        batches(source, max_bad_fraction=1.0).batch("s", 0)


def test_pairs_that_do_not_fit_and_empty_rows_are_bad() -> None:
    good = blocks(8)
    contents = [good.dataset[k]["gt"]["bytes"] for k in range(8)] + [
        png(pixels(1)),
        png(pixels(2, 40, 48)),
    ]
    low = [good.dataset[k]["lq"]["bytes"] for k in range(8)] + [png(pixels(1)), b""]
    made = batches(in_memory(contents, "pairs", low), batch_size=10, max_bad_fraction=0.2)
    made.batch("s", 0)
    assert made.bad_images == {
        "pairs[8] 8": "56x48 is not 4 times its low-quality image of 56x48",
        "pairs[9] 9": "lq: the row holds no image",
    }


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([0.0], {}, "weight above 0"),
        ([1.0, 1.0], {}, "weight above 0"),
        ([1.0], {"crop_size": 30}, "30 pixels is not a multiple of the scale 4"),
    ],
)
def test_impossible_batches_are_refused(
    photos: Source, weights: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        batches(photos, weights=weights, **options)


def test_images_are_decoded_once_within_the_memory_bound(
    photos: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[int] = Counter()
    read = Source.read

    def counted(self: Source, index: int) -> Any:
        reads[index] += 1
        return read(self, index)

    monkeypatch.setattr(Source, "read", counted)
    one = 48 * 56 * 3 / 1e6
    for size, expected in ((7 * one, 7), (0, 21)):
        reads.clear()
        list(batches(photos, image_cache_mb=size + 1e-6).iterate("s", 0, 7))
        assert sum(reads.values()) == expected
    reads.clear()
    made = batches(photos, image_cache_mb=3 * one + 1e-6)
    list(made.iterate("s", 0, 7))
    assert 7 < sum(reads.values()) < 21
    assert len(pickle.loads(pickle.dumps(made)).cache._kept) == 0


def test_waiting_is_measured_and_leaving_early_ends_the_thread(photos: Source) -> None:
    made = batches(photos)
    before = threading.active_count()
    stream = made.iterate("s", 0, 100)
    next(stream)
    waited = made.wait_seconds
    assert waited > 0
    assert threading.active_count() == before + 1
    next(stream)
    assert made.wait_seconds > waited
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# Evaluation


class Noisy:
    """Every second pixel, with noise."""

    scale = 2

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        low = gt[..., ::2, ::2]
        return (low + 0.1 * torch.randn(low.shape, generator=generator)).clamp(-1, 1)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(48, 56, 16), (33, 17, 16), (100, 40, 7), (16, 16, 16)]
)
def test_the_grid_is_even_central_and_does_not_overlap(height: int, width: int, side: int) -> None:
    corners = central_grid(height, width, side)
    covered = np.zeros((height, width), int)
    for top, left in corners:
        assert covered[top : top + side, left : left + side].shape == (side, side)
        covered[top : top + side, left : left + side] += 1
    assert covered.max() == 1
    assert len(corners) == (height // side) * (width // side)
    distances = [
        np.hypot(top + side / 2 - height / 2, left + side / 2 - width / 2) for top, left in corners
    ]
    assert distances == sorted(distances)


def read_all(planned: list[PlannedPair]) -> list[EvaluationPair]:
    return [pair.read() for pair in planned]


def test_held_out_images_are_planned_by_their_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    photos = in_memory([png(pixels(0, 20, 60)), png(pixels(1, 20, 60), "JPEG", exif=turned)])
    monkeypatch.setattr(sources, "decode_image", pytest.fail)
    pairs = evaluation_pairs(photos, Noisy(), crop=None, scale=2, seed=0)
    monkeypatch.undo()
    assert [pair.box[:4] for pair in pairs] == [(0, 0, 10, 30), (0, 0, 30, 10)]
    assert [tuple(pair.gt.shape[2:]) for pair in read_all(pairs)] == [(20, 60), (60, 20)]


def test_evaluation_crops_are_fixed_and_degraded_by_name(photos: Source) -> None:
    options: dict[str, Any] = {"crop": 16, "crops_per_image": 2, "scale": 2, "seed": 3}
    pairs = read_all(evaluation_pairs(photos, Noisy(), **options))
    assert [name for name, *_ in pairs] == [f"{photo}#{k}" for photo in range(7) for k in range(2)]
    assert all(lq.shape == (1, 3, 8, 8) and gt.shape == (1, 3, 16, 16) for _, lq, gt, _ in pairs)
    two = in_memory([png(pixels(k)) for k in range(2)])
    alone = read_all(evaluation_pairs(two, Noisy(), **options))
    for (name, lq, gt, _), (expected_name, expected_lq, expected_gt, _) in zip(
        alone, pairs[:4], strict=True
    ):
        assert name == expected_name
        assert torch.equal(lq, expected_lq)
        assert torch.equal(gt, expected_gt)
    reseeded = read_all(evaluation_pairs(photos, Noisy(), **(options | {"seed": 4})))
    assert torch.equal(reseeded[0][2], pairs[0][2])
    assert not torch.equal(reseeded[0][1], pairs[0][1])
    few = evaluation_pairs(photos, Noisy(), **(options | {"crop": 40, "crops_per_image": 9}))
    assert len(few) == 7


def test_full_images_are_trimmed_to_the_scale() -> None:
    source = in_memory([png(pixels(0, 21, 33))])
    [planned] = evaluation_pairs(source, Noisy(), crop=None, scale=2, seed=0)
    name, lq, gt, _ = planned.read()
    assert name == "0"
    assert torch.equal(gt[0], to_float(pixels(0, 21, 33)[:20, :32]))
    assert lq.shape == (1, 3, 10, 16)


def test_pairs_are_evaluated_with_their_own_inputs() -> None:
    for crop in (16, None):
        pairs = read_all(evaluation_pairs(blocks(2), None, crop=crop, scale=4, seed=0))
        assert len(pairs) == 2
        for _, lq, gt, _ in pairs:
            assert torch.equal(gt, lq.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_photos_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    for form in ("png", "jpg"):
        Image.fromarray(pixels(0)).save(tmp_path / f"a.{form}")
    source = open_source(imagefolder=tmp_path)
    pairs = evaluation_pairs(source, Noisy(), crop=16, scale=2, seed=0)
    assert [pair.name for pair in pairs] == ["a#0", "a@1#0"]


def test_evaluation_refuses_or_reports_bad_images(damaged: Source, photos: Source) -> None:
    with pytest.raises(DataError, match=r"\d of 10 images cannot be used"):
        evaluation_pairs(damaged, Noisy(), crop=32, scale=2, seed=0)
    reported: dict[str, str] = {}
    pairs = evaluation_pairs(
        damaged,
        Noisy(),
        crop=32,
        scale=2,
        seed=0,
        max_bad_fraction=0.2,
        on_bad=reported.__setitem__,
    )
    unread = []
    for pair in pairs:
        try:
            pair.read()
        except DataError as error:
            unread.append(str(error))
    assert len(pairs) - len(unread) == 8
    assert len(reported) + len(unread) == 2
    assert "8_cut.jpg" in " ".join([*reported, *unread])
    with pytest.raises(DataError, match="photos - has no low-quality images"):
        evaluation_pairs(photos, None, crop=32, scale=2, seed=0)
    with pytest.raises(DataError, match="not a multiple of the scale"):
        evaluation_pairs(photos, Noisy(), crop=33, scale=2, seed=0)
