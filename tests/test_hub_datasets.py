"""Datasets of the Hub, loaded from a local server that answers the Hub's calls."""

import io
import json
import re
from functools import partial
from itertools import chain

import datasets
import numpy as np
import pytest
from hub_stand_in import StoredRepository, serve_hub, set_endpoint
from PIL import Image

from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.hub import is_cached
from distillkit.data.opening import open_source
from distillkit.data.sources import HubDataset
from distillkit.errors import DataError
from distillkit.recipe.build import open_sources
from distillkit.recipe.load import load_recipe
from distillkit.runs.preflight import check_required_files, fetch_all
from distillkit.runs.run import run_recipe

FIRST, SECOND = "1" * 40, "2" * 40
CONFIGS = b"""---
configs:
- config_name: small
  data_files: [{split: train, path: small.parquet}]
- config_name: large
  data_files: [{split: train, path: large.parquet}]
---
"""


def image_bytes(value):
    content = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def parquet(values, **columns):
    """Write a table with one gray 40 x 40 image for each value."""
    images = []
    for value in values:
        images.append({"bytes": image_bytes(value), "path": f"{value}.png"})
    features = {"image": datasets.Image(), **dict.fromkeys(columns, datasets.Value("string"))}
    rows = datasets.Dataset.from_dict(
        {"image": images, **columns}, features=datasets.Features(features)
    )
    content = io.BytesIO()
    rows.to_parquet(content)
    return content.getvalue()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    files = {
        "README.md": b"---\nlicense: mit\n---\n",
        "train.parquet": parquet([1, 2, 3], words=["a"] * 3),
    }
    changed = {**files, "train.parquet": parquet([4, 5])}
    photos = StoredRepository({FIRST: files, SECOND: changed}, {"v1": FIRST})
    with serve_hub(monkeypatch, tmp_path) as handler:
        handler.repositories["datasets", "me/photos"] = photos
        yield photos


@pytest.fixture
def unplug(hub, monkeypatch):
    """Cut the network: nobody listens at that port."""
    return partial(set_endpoint, monkeypatch, "http://127.0.0.1:9")


def open_photos(**options):
    return open_source(hub=HubDataset("me/photos", **options))


def values(source):
    return [int(source.read(index).gt[0, 0, 0]) for index in range(len(source))]


def test_a_revision_is_the_commit_that_is_read(hub):
    old, new = open_photos(revision="v1"), open_photos()
    assert (values(old), values(new)) == ([1, 2, 3], [4, 5])
    assert old.describe() == {
        "source": "me/photos",
        "images": 3,
        "commit": FIRST,
        "config": None,
        "split": "train",
    }
    assert new.describe()["commit"] == SECOND
    assert values(open_photos(revision=FIRST)) == [1, 2, 3]


def test_without_a_network_no_other_commit_stands_in(hub, unplug):
    open_photos(revision="v1")
    unplug()
    assert values(open_photos(revision="v1")) == [1, 2, 3]
    assert values(open_photos(revision=FIRST)) == [1, 2, 3]
    assert open_photos().describe()["commit"] == FIRST
    for revision in (SECOND, "v2", "main"):
        with pytest.raises(DataError, match="Hub cannot be reached and this is not in the cache"):
            open_photos(revision=revision)
    assert is_cached(HubDataset("me/photos", "v1"))
    assert not is_cached(HubDataset("me/photos", SECOND))


def test_the_five_refusals_of_the_hub_differ(hub, unplug, monkeypatch):
    with pytest.raises(DataError, match="no revision 'v9'; see .*/datasets/me/photos/commits"):
        open_photos(revision="v9")
    with pytest.raises(DataError, match="me/nothing - no such dataset on the Hub, or a private"):
        open_source(hub=HubDataset("me/nothing"))
    with pytest.raises(DataError, match='no name of a dataset; .* "owner/name"'):
        open_source(hub=HubDataset("me/photos/of/birds"))
    hub.gated = True
    accept = "gated: accept the terms at https://huggingface.co/datasets/me/photos"
    with pytest.raises(DataError, match=f'{accept}, then run "hf auth login"'):
        open_photos()
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(DataError, match=f"{accept} with the account that your token belongs to"):
        open_photos()
    unplug()
    with pytest.raises(DataError, match="the Hub cannot be reached"):
        open_photos()


def test_configurations_are_chosen_by_name(hub, unplug):
    hub.commits[SECOND] = {
        "README.md": CONFIGS,
        "small.parquet": parquet([6]),
        "large.parquet": parquet([7, 8]),
    }
    several = "several configurations: .*small.*; choose one with config ="
    with pytest.raises(DataError, match=several):
        open_photos()
    assert values(open_photos(config="small")) == [6]
    with pytest.raises(DataError, match="configuration 'tiny'.*small.*large"):
        open_photos(config="tiny")
    assert values(open_photos(config="large")) == [7, 8]
    unplug()
    assert values(open_photos(config="small")) == [6]
    with pytest.raises(DataError, match=several):
        open_photos()


def test_fetch_checks_a_dataset_that_is_cached(hub, recipe):
    def fetch(**keys):
        table = "".join(f', {key}="{value}"' for key, value in keys.items())
        lines = []
        overrides = [f'data.train=[{{hub="me/photos"{table}}}]', "data.eval=[]"]
        complete = fetch_all(load_recipe(recipe, overrides), lines.append)
        return complete, "\n".join(lines)

    complete, text = fetch(revision="v1")
    assert complete
    assert f"here: 3 images of me/photos, revision 'v1', commit {FIRST}" in text
    assert "downloading the dataset me/photos, revision 'v1'" in text
    assert "downloading" not in fetch(revision="v1")[1]
    for keys, problem in (
        ({"revision": "v9"}, "no revision 'v9'"),
        ({"revision": "v1", "split": "dev"}, "split 'dev'.*Should be one of"),
        ({"revision": "v1", "image_column": "picture"}, "no column 'picture'"),
        ({"revision": "v1", "image_column": "words"}, r"'words' holds texts \('a'\), not images"),
    ):
        complete, text = fetch(**keys)
        assert not complete
        assert re.search(problem, text), text


def test_a_run_asks_for_its_own_revision(hub, recipe):
    open_photos(revision="v1")
    check_required_files(load_recipe(recipe, ['data.train=[{hub="me/photos", revision="v1"}]']))
    with pytest.raises(Exception, match="me/photos, revision 'v2' of the Hub"):
        check_required_files(load_recipe(recipe, ['data.train=[{hub="me/photos", revision="v2"}]']))


@pytest.mark.parametrize(
    "table",
    [
        'imagefolder = "photos/train"',
        'parquet = "shards/a.parquet"',
        'parquet = "shards/*.parquet"',
        'hub = "me/photos"\nrevision = "v1"',
    ],
)
def test_every_kind_of_source_is_opened_through_a_recipe_file(hub, recipe, photos, table):
    shards = recipe.parent / "shards"
    shards.mkdir()
    (shards / "a.parquet").write_bytes(parquet([1, 2]))
    table = table.replace("photos/train", str(photos / "train"))
    extended = recipe.parent / "extended.toml"
    extended.write_text(f'extends = ["{recipe.name}"]\n[[data.train]]\n{table}\n')
    [source] = open_sources(load_recipe(extended), "train")
    assert source.read(0).gt.dtype == np.uint8


def test_the_commit_is_recorded_in_run_and_student(hub, recipe, tmp_path):
    def resolved(revision):
        table = f'data.train=[{{hub="me/photos", revision="{revision}"}}]'
        return load_recipe(recipe, [table, "data.crop_size=16", "data.eval=[]"])

    open_photos(revision="v1")
    out = tmp_path / "run"
    run_recipe(resolved("v1"), out)
    [data] = json.loads((out / "manifest.json").read_text())["data"]
    assert (data["commit"], data["split"], data["images"]) == (FIRST, "train", 3)
    assert json.loads((out / "student" / "distillkit.json").read_text())["data"] == [data]
    # The tag moves on.
    hub.revisions["v1"] = SECOND
    open_photos(revision="v1")
    with pytest.raises(DataError, match=f'began with commit {FIRST}.*revision = "{FIRST}"'):
        run_recipe(resolved("v1"), out, resume=True)


def streamed(source, workers=0, micro_batches=1):
    settings = BatchSettings(
        crop_size=16,
        batch_size=2,
        scale=2,
        seed=0,
        num_workers=workers,
        micro_batches=micro_batches,
    )
    return TrainingBatches([source], [1.0], settings)


@pytest.mark.parametrize("buffer", [0, 5])
def test_a_stream_is_split_without_repeats_and_resumes_exactly(tmp_path, buffer):
    for number in range(2):
        images = range(12 * number, 12 * number + 12)
        (tmp_path / f"{number}.parquet").write_bytes(parquet(images))

    def read(steps, workers=0, micro_batches=(0, 1)):
        source = open_source(parquet=tmp_path / "*.parquet", stream_buffer=buffer)
        batches = streamed(source, workers, micro_batches=2)
        read = []
        for batch in batches.iterate("stage1", *steps, micro_batches):
            read.append([round(float(v) * 127.5 + 127.5) for v in batch.gt[:, 0, 0, 0]])
        return read

    whole = read((0, 12))
    for epoch in (whole[:12], whole[12:]):
        assert sorted(chain(*epoch)) == list(range(24))
    assert (list(chain(*whole[:12])) == list(range(24))) == (buffer == 0)
    # From the middle, by two workers, and by two processes.
    assert read((5, 12)) == whole[10:]
    assert read((0, 12), workers=2) == whole
    assert read((0, 12), micro_batches=(0,)) == whole[::2]
    assert read((0, 12), micro_batches=(1,)) == whole[1::2]


def test_a_dataset_of_the_hub_is_streamed_through_a_recipe(hub, recipe):
    table = 'data.train=[{hub="me/photos", revision="v1", streaming=true, shuffle_buffer=0}]'
    resolved = load_recipe(recipe, [table, "data.eval=[]"])
    check_required_files(resolved)
    [source] = open_sources(resolved, "train")
    assert values(source) == [1, 2, 3]
    assert source.describe()["commit"] == FIRST
    assert not is_cached(HubDataset("me/photos", "v1"))
    lines = []
    assert fetch_all(resolved, lines.append)
    assert "downloading" not in " ".join(lines)


def test_a_stream_is_read_at_any_position(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([1, 2, 3]))
    source = open_source(parquet=tmp_path / "a.parquet", stream_buffer=0)
    assert source.read(1).id.endswith("[1] 2.png")
    assert source.read(0).id.endswith("[0] 1.png")
    assert source.read(4).id.endswith("[4] 2.png")


def test_an_unusable_row_of_a_stream_is_replaced_by_the_next(tmp_path):
    rows = [{"image": {"bytes": image_bytes(value), "path": f"{value}.png"}} for value in (1, 2, 3)]
    rows[1]["image"] = {"bytes": b"no image", "path": "2.png"}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "a.parquet")
    source = open_source(parquet=tmp_path / "a.parquet", stream_buffer=0)
    settings = BatchSettings(crop_size=16, batch_size=3, scale=2, seed=0, max_bad_fraction=0.4)
    batches = TrainingBatches([source], [1.0], settings)
    ids = [id.split()[-1] for id in batches.batch("stage1", 0).ids]
    assert ids == ["1.png", "3.png", "3.png"]
    assert len(batches.bad_images) == 1
