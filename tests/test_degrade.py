"""Pairs that a degradation makes: written, read back, pushed, and a source of recipes."""

import re

import datasets
import numpy as np
import pytest
import torch
from hub_stand_in import TOKEN, serve_hub
from huggingface_hub import DatasetCard
from PIL import Image
from toy_plugin import Halve

from distillkit import DistillkitError, load_recipe
from distillkit.recipe.build import open_evaluation_sets, open_sources
from distillkit.runs import degrade
from distillkit.runs.degrade import write_pairs


@pytest.fixture
def pairs(recipe, tmp_path):
    """The folder of the toy recipe's pairs."""
    write_pairs(load_recipe(recipe), tmp_path / "pairs")
    return tmp_path / "pairs"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve_hub(monkeypatch, tmp_path / "cache") as handler:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield handler


def held_out(recipe, *overrides):
    """Read the held-out pairs of a recipe."""
    resolved = load_recipe(recipe, list(overrides))
    [items] = open_evaluation_sets(resolved, Halve(), 2).values()
    return [item.read() for item in items]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.name.partition("#")[0] == b.name.partition("#")[0]
        assert torch.equal(a.gt, b.gt)
        assert torch.equal(a.lq, b.lq)


@pytest.mark.parametrize("crops", [[], ["evaluation.crop_size=16", "evaluation.crops_per_image=2"]])
def test_held_out_pairs_are_those_that_a_run_evaluates_on(recipe, tmp_path, crops):
    out = tmp_path / "pairs"
    lines = write_pairs(load_recipe(recipe, crops), out, ["test"])
    expected = held_out(recipe, *crops)
    assert lines == [f"data/test: {len(expected)} pairs"]
    read = held_out(recipe, f'data.eval=[{{parquet="{out}/data/test-*.parquet"}}]')
    assert_same(read, expected)


def test_every_photograph_becomes_a_pair(pairs, photos, recipe):
    rows = datasets.load_dataset(str(pairs), split="train")
    assert rows.column_names == ["gt", "lq"]
    files = sorted(photos.glob("train/*.png"))
    assert len(rows) == len(files)
    for row, file in zip(rows, files, strict=True):
        assert np.array_equal(row["gt"], Image.open(file))
        assert row["lq"].size == (24, 20)
    table = f'data.train=[{{parquet="{pairs}/data/train-*.parquet"}}]'
    [source] = open_sources(load_recipe(recipe, [table]), "train")
    assert source.paired
    assert source.label(0) == "train0.png"


def test_the_same_recipe_makes_the_same_pairs(pairs, recipe, tmp_path):
    write_pairs(load_recipe(recipe), tmp_path / "again")
    for file in pairs.glob("*/*.parquet"):
        again = tmp_path / "again" / file.relative_to(pairs)
        assert again.read_bytes() == file.read_bytes()


def test_pushed_pairs_are_a_source_of_a_recipe(hub, recipe, distillkit):
    # The command makes them by itself.
    outcome = distillkit("push", recipe, "me/pairs", "--dataset")
    assert outcome.code == 0, outcome.err
    stored = hub.repositories["datasets", "me/pairs"]
    assert len(stored.commits) == 2
    table = 'data.eval=[{hub="me/pairs", split="test"}]'
    assert_same(held_out(recipe, table), held_out(recipe))
    [source] = open_sources(load_recipe(recipe, ['data.train=[{hub="me/pairs"}]']), "train")
    assert source.paired
    assert len(source) == 6
    streamed = 'data.train=[{hub="me/pairs", streaming=true, shuffle_buffer=0}]'
    [stream] = open_sources(load_recipe(recipe, [streamed]), "train")
    assert np.array_equal(stream.read(0).lq, source.read(0).lq)
    assert datasets.load_dataset("me/pairs", split="test").num_rows == 3
    card = stored.files["README.md"].decode()
    assert 'hub = "me/pairs"\nsplit = "train"\n' in card
    assert 'load_dataset("me/pairs", split="train")' in card
    assert "this/folder" not in card
    assert "parquet =" not in card


def test_several_sets_are_configurations(hub, recipe, photos, distillkit, tmp_path):
    sets = [f'{{imagefolder="{photos}/test", name="{name}"}}' for name in ("A", "B")]
    out = tmp_path / "pairs"
    outcome = distillkit("degrade", recipe, "-o", out, "--set", f"data.eval=[{', '.join(sets)}]")
    assert outcome.code == 0, outcome.err
    assert outcome.out == (f"train/train: 6 pairs\nA/test: 3 pairs\nB/test: 3 pairs\ndone: {out}\n")
    assert distillkit("push", out, "me/pairs", "--dataset").code == 0
    card = hub.repositories["datasets", "me/pairs"].files["README.md"].decode()
    assert 'hub = "me/pairs"\nconfig = "B"\nsplit = "test"\nname = "B"\n' in card
    table = 'data.eval=[{hub="me/pairs", config="B", split="test"}]'
    assert_same(held_out(recipe, table), held_out(recipe, f"data.eval=[{sets[1]}]"))


def test_the_card_says_where_pairs_come_from(pairs, photos):
    card = DatasetCard.load(pairs / "README.md")
    data = card.data
    assert data.license == "unknown"
    assert data.size_categories == ["n<1K"]
    assert data.task_categories == ["image-to-image"]
    assert data.configs == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*.parquet"},
                {"split": "test", "path": "data/test-*.parquet"},
            ],
        }
    ]
    assert "| data | train | 6 |" in card.text
    assert 'use = "toy/halve"' in card.text
    assert "| train | toy/photos | unknown |" in card.text
    for file in ("README.md", "recipe.toml"):
        assert str(photos.parent) not in (pairs / file).read_text()


def test_captions_come_along(recipe, photos, tmp_path):
    lines = [
        '{"file_name": "train0.png", "text": "a"}',
        '{"file_name": "train1.png", "text": null}',
    ]
    (photos / "train/metadata.jsonl").write_text("\n".join(lines))
    table = f'data.train=[{{imagefolder="{photos}/train", caption_column="text"}}]'
    write_pairs(load_recipe(recipe, [table]), tmp_path / "pairs", ["train"])
    rows = datasets.load_dataset(str(tmp_path / "pairs"), split="train")
    assert rows["text"][:] == ["a", None]


def test_many_pairs_lie_in_several_files(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(degrade, "GROUP_BYTES", 1)
    monkeypatch.setattr(degrade, "GROUPS_PER_FILE", 2)
    write_pairs(load_recipe(recipe), tmp_path / "pairs")
    files = sorted(file.name for file in tmp_path.glob("pairs/data/train-*"))
    assert files == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    rows = datasets.load_dataset(str(tmp_path / "pairs"), split="train")
    assert [Image.open(f"{tmp_path}/photos/train/train{i}.png") for i in range(6)] == rows["gt"][:]


def test_photographs_that_cannot_be_used(recipe, photos, tmp_path, distillkit):
    damaged = photos / "train/train3.png"
    content = damaged.read_bytes()
    # Its header is sound.
    damaged.write_bytes(content[:100] + bytes(100) + content[200:])
    (photos / "train/train4.png").write_bytes(b"")
    out = tmp_path / "pairs"
    for fraction in (0, 0.1):
        changed = f"data.max_bad_fraction={fraction}"
        outcome = distillkit("degrade", recipe, "-o", out, "--set", changed)
        assert outcome.code == 2
        assert "images cannot be used, more than the allowed share" in outcome.err
        assert not out.exists()
    outcome = distillkit("degrade", recipe, "-o", out, "--set", "data.max_bad_fraction=0.5")
    assert outcome.code == 0
    assert re.search(r"left out: .*train3\.png", outcome.err)
    assert re.search(r"left out: .*train4\.png", outcome.err)
    assert "data/train: 4 pairs" in outcome.out


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.eval=[]"], "data.eval: no photographs to degrade"),
        (
            ['data.eval=[{imagefolder="photos/test", lq_column="lq"}]'],
            "data.eval: no photographs to degrade",
        ),
    ],
)
def test_a_recipe_without_photographs_to_degrade(recipe, photos, tmp_path, overrides, reason):
    lines = [f'{{"file_name": "test{i}.png", "lq_file_name": "test{i}.png"}}' for i in range(3)]
    (photos / "test/metadata.jsonl").write_text("\n".join(lines))
    scaled = [text.replace("photos/", f"{photos}/") for text in overrides]
    with pytest.raises(DistillkitError, match=reason):
        write_pairs(load_recipe(recipe, scaled), tmp_path / "pairs", ["test"])
    assert not (tmp_path / "pairs").exists()


def test_a_folder_that_exists_is_kept(recipe, tmp_path):
    with pytest.raises(DistillkitError, match="exists; name a new folder"):
        write_pairs(load_recipe(recipe), tmp_path)
