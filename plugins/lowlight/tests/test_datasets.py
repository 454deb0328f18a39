"""LOL in the folder layouts it is published in, and as parquet files."""

import io
import warnings
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from distillkit import DistillkitError, load_plugins
from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.opening import open_source
from distillkit_lowlight.datasets import LOL_V1, LOL_V2_REAL, LOL_V2_SYN, load

SMALL = {"pairs": {"train": 3, "test": 3}, "size": (8, 12)}
V1 = replace(LOL_V1, **SMALL)
V2_REAL = replace(LOL_V2_REAL, **SMALL)
V2_SYN = replace(LOL_V2_SYN, **SMALL)


def write(folder, names, size=(8, 12), value=0):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), value + i, np.uint8)).save(folder / name)


NUMBERED = ["1.png", "10.png", "2.png"]
SAME_NAMES = (NUMBERED, NUMBERED)
WITHOUT_NUMBERS = (["r1t.png", "r2t.png", "r3t.png"], ["r1t.png", "r2t.png", "r3t.png"])
WITH_PREFIXES = (
    ["low00001.png", "low00002.png", "low00690.png"],
    ["normal00001.png", "normal00002.png", "normal00690.png"],
)
LAYOUTS = [
    (V1, "train", ("our485/low", "our485/high"), SAME_NAMES),
    (V1, "test", ("LOLv1/eval15/low", "LOLv1/eval15/high"), SAME_NAMES),
    (V1, "train", ("LOLv1/Train/input", "LOLv1/Train/target"), SAME_NAMES),
    (
        V2_REAL,
        "train",
        ("Real_captured/Train/Low", "Real_captured/Train/Normal"),
        WITH_PREFIXES,
    ),
    (
        V2_REAL,
        "test",
        ("LOLv2/Real_captured/Test/Low", "LOLv2/Real_captured/Test/Normal"),
        SAME_NAMES,
    ),
    (V2_SYN, "test", ("Synthetic/Test/Low", "Synthetic/Test/Normal"), WITHOUT_NUMBERS),
    (V2_SYN, "test", ("LOLv2/Synthetic/Test/low", "LOLv2/Synthetic/Test/high"), SAME_NAMES),
]


def assert_three_pairs(pairs):
    """Three pairs as the tests write them: 90 gray levels apart, dark and bright."""
    assert set(pairs.column_names) == {"gt", "lq"}
    assert len(pairs) == 3
    for row in pairs:
        lq = np.asarray(row["lq"])[0, 0, 0]
        gt = np.asarray(row["gt"])[0, 0, 0]
        assert gt - lq == 90
        assert lq < 20


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("published", "split", "folders", "names"), LAYOUTS)
def test_published_layouts(tmp_path, published, split, folders, names):
    for folder, folder_names, value in zip(folders, names, (10, 100), strict=True):
        write(tmp_path / folder, folder_names, value=value)
    assert_three_pairs(load(published, tmp_path, split))


def test_counts_of_the_papers():
    assert [p.pairs["train"] for p in (LOL_V1, LOL_V2_REAL, LOL_V2_SYN)] == [485, 689, 900]
    assert [p.pairs["test"] for p in (LOL_V1, LOL_V2_REAL, LOL_V2_SYN)] == [15, 100, 100]


@pytest.fixture
def syn(tmp_path):
    """The folders of a small v2-syn training split, with three good pairs."""
    folders = tmp_path / "Synthetic/Train/Low", tmp_path / "Synthetic/Train/Normal"
    for folder in folders:
        write(folder, NUMBERED)
    return folders


def test_overlap_is_warned_of(tmp_path, syn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(V2_SYN, tmp_path, "train")
    for folder in ("low", "high"):
        write(tmp_path / "our485" / folder, NUMBERED)
    with pytest.warns(UserWarning, match="LOL v1 and LOL v2-real share photographs"):
        load(V1, tmp_path, "train")


def test_a_missing_partner_is_named(tmp_path, syn):
    (syn[1] / "10.png").unlink()
    with pytest.raises(DistillkitError, match=r"without a partner.*Low/10\.png"):
        load(V2_SYN, tmp_path, "train")


def test_another_count_than_published(tmp_path, syn):
    for folder in syn:
        (folder / "2.png").unlink()
    with pytest.raises(DistillkitError, match="2 pairs, but the train split of LOL v2-syn has 3"):
        load(V2_SYN, tmp_path, "train")
    assert len(load(V2_SYN, tmp_path, "train", check=False)) == 2


def test_another_size_than_published(tmp_path, syn):
    for folder in syn:
        Image.new("RGB", (5, 5)).save(folder / "2.png")
    with pytest.raises(DistillkitError, match=r"2\.png - 5 x 5, but LOL v2-syn is 8 x 12"):
        load(V2_SYN, tmp_path, "train")
    assert len(load(V2_SYN, tmp_path, "train", check=False)) == 3


@pytest.mark.parametrize("check", [True, False])
def test_sizes_within_a_pair(tmp_path, syn, check):
    Image.new("RGB", (5, 5)).save(syn[1] / "2.png")
    with pytest.raises(DistillkitError, match="its partner"):
        load(V2_SYN, tmp_path, "train", check=check)


def test_other_files_are_passed_over_and_broken_images_named(tmp_path, syn):
    (syn[0] / "Thumbs.db").write_bytes(b"x")
    assert len(load(V2_SYN, tmp_path, "train")) == 3
    (syn[0] / "1.png").write_bytes(b"x")
    with pytest.raises(DistillkitError, match=r"1\.png - not a readable image"):
        load(V2_SYN, tmp_path, "train")


def test_two_images_of_one_name(tmp_path, syn):
    Image.new("RGB", (12, 8)).save(syn[0] / "1.jpg")
    with pytest.raises(DistillkitError, match="same name"):
        load(V2_SYN, tmp_path, "train")


def test_missing_folders_are_described(tmp_path):
    with pytest.raises(
        DistillkitError, match=r"the test split of LOL v2-syn is not there.*Synthetic/test"
    ):
        load(V2_SYN, tmp_path, "test")


def test_empty_folders(tmp_path):
    for folder in ("low", "high"):
        (tmp_path / "Synthetic/Train" / folder).mkdir(parents=True)
    with pytest.raises(DistillkitError, match="no images"):
        load(V2_SYN, tmp_path, "train", check=False)


def parquet(
    path,
    names,
    columns=("low", "high"),
    sizes=((8, 12), (8, 12)),
    prefixes=("low", "normal"),
):
    """Write a file of pairs with the images inside, as copies on the Hub have them."""
    rows = {}
    for column, size, prefix, value in zip(columns, sizes, prefixes, (10, 100), strict=True):
        rows[column] = []
        for i, name in enumerate(names):
            file = io.BytesIO()
            Image.fromarray(np.full((*size, 3), value + i, np.uint8)).save(file, "PNG")
            stored_name = f"{prefix}{name}" if name else None
            rows[column].append({"bytes": file.getvalue(), "path": stored_name})
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))


@pytest.mark.parametrize("names", [["001.png", "002.png", "690.png"], [None, None, None]])
@pytest.mark.parametrize(
    "columns", [("low", "high"), ("input", "target"), ("lq", "gt"), ("Low", "Normal")]
)
def test_parquet_files_of_pairs(tmp_path, names, columns):
    parquet(tmp_path / "data/test-00000-of-00002.parquet", names[:2], columns)
    parquet(tmp_path / "data/test-00001-of-00002.parquet", names[2:], columns)
    parquet(tmp_path / "data/train-00000-of-00001.parquet", names * 2, columns)
    assert_three_pairs(load(V2_SYN, tmp_path, "test"))
    with pytest.raises(DistillkitError, match="6 pairs, but the train split of LOL v2-syn has 3"):
        load(V2_SYN, tmp_path, "train")


NAMES = ["001.png", "002.png", "003.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sizes": ((8, 12), (8, 13))},
            r"low001\.png - 8 x 12, but its partner normal001\.png is 8 x 13",
        ),
        ({"sizes": ((9, 9), (9, 9))}, r"low001\.png - 9 x 9, but LOL v2-syn is 8 x 12"),
        (
            {"sizes": ((9, 9), (9, 9)), "names": [None] * 3},
            r"row 0 lq - 9 x 9, but LOL v2-syn is 8 x 12",
        ),
        (
            {"prefixes": ("low", "normal1")},
            r"row 0 - low001\.png is paired with normal1001\.png, which is another image",
        ),
        (
            {"columns": ("low", "image")},
            "its columns are low, image: exactly one must be called gt or high or normal or target",
        ),
    ],
)
def test_parquet_files_that_are_not_the_published_set(tmp_path, options, message):
    parquet(tmp_path / "train-00000-of-00001.parquet", **{"names": NAMES} | options)
    with pytest.raises(DistillkitError, match=message):
        load(V2_SYN, tmp_path, "train")


def test_parquet_files_warn_of_the_overlap_and_damaged_ones_are_named(tmp_path):
    parquet(tmp_path / "train/0000.parquet", NAMES)
    with pytest.warns(UserWarning, match="LOL v2-real and LOL v1 share photographs"):
        load(V2_REAL, tmp_path, "train")
    (tmp_path / "test.parquet").write_bytes(b"x")
    with pytest.raises(DistillkitError, match="cannot be read as parquet"):
        load(V2_REAL, tmp_path, "test")


def test_the_engine_opens_and_cuts_them(tmp_path):
    """From a recipe's table on, as a run does."""
    parquet(tmp_path / "data/train-00000-of-00001.parquet", NAMES)
    spec = load_plugins().find("datasets", "lowlight/lol-v2-syn")
    dataset = spec.create(spec.config(root=tmp_path, check=False))
    settings = BatchSettings(crop_size=8, batch_size=3, scale=1, seed=0)
    batch = TrainingBatches([open_source(dataset=dataset)], [1.0], settings).batch("stage1", 0)
    assert ((batch.gt - batch.lq) * 127.5).round().eq(90).all()
