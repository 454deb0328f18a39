"""Captions: read with their images, and passed to every model that is asked about these."""

from dataclasses import replace

import datasets
import pytest
import torch
from toy_models import CaptionedToy

from distillkit import ModelInput, Restorer
from distillkit.data.batches import BatchSettings, TrainingBatches
from distillkit.data.evaluation_pairs import evaluation_pairs
from distillkit.data.opening import open_source
from distillkit.data.sources import Columns
from distillkit.errors import DataError, DistillkitError, RecipeError
from distillkit.inference.student import load_student
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe
from distillkit.training.models import build_models

CPU = torch.device("cpu")


@pytest.fixture
def described(photos):
    """The training photos with captions in a metadata file, one of them without."""
    lines = [f'{{"file_name": "train{i}.png", "text": "photo {i}"}}' for i in range(5)]
    (photos / "train" / "metadata.jsonl").write_text(
        "\n".join([*lines, '{"file_name": "train5.png", "text": null}'])
    )
    return photos / "train"


def captions_of(photos):
    files = sorted((photos / "train").glob("*.png"))
    return {"image": [str(f) for f in files], "words": [f"photo {f.stem[-1]}" for f in files]}


def test_a_folder_names_captions_in_its_metadata(described):
    source = open_source(imagefolder=described, columns=Columns(caption="text"))
    said = {source.label(i): source.read(i).caption for i in range(len(source))}
    assert said == {f"train{i}.png": f"photo {i}" for i in range(5)} | {"train5.png": None}
    assert open_source(imagefolder=described).read(0).caption is None


def test_datasets_and_parquet_files_have_captions_in_a_column(photos, tmp_path):
    dataset = datasets.Dataset.from_dict(captions_of(photos))
    dataset.to_parquet(tmp_path / "a.parquet")
    for kind in ({"dataset": dataset}, {"parquet": str(tmp_path / "a.parquet")}):
        assert open_source(**kind, columns=Columns(caption="words")).read(3).caption == "photo 3"


def test_a_column_that_is_missing_or_no_text_is_refused(photos):
    dataset = datasets.Dataset.from_dict(captions_of(photos) | {"tags": [["a", "b"]] * 6})
    with pytest.raises(DataError, match='no column .word.; did you mean "words"'):
        open_source(dataset=dataset, columns=Columns(caption="word"))
    with pytest.raises(DataError, match="column 'tags' holds .*, not one text an image"):
        open_source(dataset=dataset, columns=Columns(caption="tags"))


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_stay_with_their_images_in_batches_of_several_sources(described, photos, workers):
    silent = open_source(imagefolder=photos / "test", name="silent")
    sources = [
        open_source(imagefolder=described, columns=Columns(caption="text"), name="said"),
        silent,
    ]
    settings = BatchSettings(crop_size=16, batch_size=4, scale=2, seed=0, num_workers=workers)
    batches = TrainingBatches(sources, [1.0, 1.0], settings)
    met = [
        pair
        for batch in batches.iterate("stage1", 0, 6)
        for pair in zip(batch.ids, batch.captions, strict=True)
    ]
    for id, caption in met:
        number = id[-5]
        assert caption == (f"photo {number}" if "train" in id and number != "5" else None)
    assert {caption is None for _, caption in met} == {True, False}
    without_captions = TrainingBatches([silent], [1.0], replace(settings, num_workers=0))
    assert without_captions.batch("stage1", 0).captions is None


def test_evaluation_pairs_carry_their_captions(described):
    source = open_source(imagefolder=described, columns=Columns(caption="text"))
    pairs = evaluation_pairs(
        source, lambda gt, g: gt[..., ::2, ::2], crop=16, scale=2, seed=0, crops_per_image=2
    )
    assert len(pairs) == 12 and all(
        i.read().caption == (None if "5#" in i.name else f"photo {i.name[5]}") for i in pairs
    )


def test_an_input_has_one_caption_for_each_image():
    lq = torch.zeros(2, 3, 4, 4)
    assert ModelInput(lq).caption_list() == [None, None]
    assert ModelInput(lq, ["a", None]).caption_list() == ["a", None]
    with pytest.raises(DistillkitError, match="2 captions for 1 images"):
        ModelInput(lq[:1], ["a", None])


WITH = ["student.captions=true", "teachers.realness.captions=true"]


def test_a_run_gives_each_model_the_captions_of_its_batch(
    recipe, photos, tmp_path, monkeypatch, described
):
    seen = []
    monkeypatch.setattr(CaptionedToy, "seen", seen)
    column = f'data.train=[{{imagefolder="{described}", caption_column="text"}}]'
    (photos / "test" / "metadata.jsonl").write_text(
        "\n".join(f'{{"file_name": "test{i}.png", "text": "held out"}}' for i in range(3))
    )
    held_out = f'data.eval=[{{imagefolder="{photos / "test"}", caption_column="text"}}]'
    for target in ("reconstruction", "teacher"):
        run_recipe(
            load_recipe(recipe, [*WITH, column, held_out, f'stage2.target="{target}"']),
            tmp_path / target,
        )
    assert {caption for captions in seen for caption in captions} == {
        *(f"photo {i}" for i in range(5)),
        None,
        "held out",
    }
    assert {len(captions) for captions in seen if captions[0] == "held out"} == {1}

    seen.clear()
    restorer, image = (
        Restorer(load_student(tmp_path / "reconstruction"), tile=8),
        torch.rand(3, 12, 8),
    )
    plain = restorer(image)
    assert seen == [[None]] * 2  # two tiles
    assert not torch.allclose(restorer(image, caption="a long caption of this image"), plain)
    assert seen[2:] == [["a long caption of this image"]] * 2


def test_captions_and_models_that_take_them_need_each_other(recipe, described):
    column = f'data.train=[{{imagefolder="{described}", caption_column="text"}}]'
    with pytest.raises(
        RecipeError, match=r"data.train.0.caption_column - no model of this recipe takes captions"
    ):
        build_models(load_recipe(recipe, [column]), CPU)
    with pytest.raises(
        RecipeError, match=r"student, teachers.realness - takes? captions, and no source"
    ):
        build_models(load_recipe(recipe, WITH), CPU)
