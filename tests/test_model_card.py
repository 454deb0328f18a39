"""The model card of an export, read with the Hub's own tools."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from hub_stand_in import TOKEN, StoredRepository, serve_hub
from huggingface_hub import ModelCard, metadata_load, metadata_save
from PIL import Image

from distillkit import DistillkitError, Restorer, WeightFile
from distillkit.export.card_metadata import StudentFacts, card_metadata
from distillkit.export.folder import export_folder
from distillkit.export.hub import Repository, upload
from distillkit.export.model_card import model_card

ROOT = Path(__file__).parents[1]
CITATION = ROOT / "CITATION.cff"
PHOTO4X = ROOT / "plugins/photo/distillkit_photo/trained/photo4x"
ABOUT = {
    "recipe": "toy",
    "student": {"use": "toy/student"},
    "stage2": None,
    "plugins": {"toy": "distillkit-toy 1.2"},
    "licenses": {"student": "Apache-2.0"},
}
RECIPE = {
    "name": "toy",
    "seed": 0,
    "student": {"use": "toy/student"},
    "data": {"train": [{"hub": "me/photos"}, {"imagefolder": "x"}], "batch_size": 1},
    "stage1": {"steps": 1},
    "stage2": {"steps": 0},
}

OF_A_TEACHER = {"steps": 1, "variant": "adapter_scaling", "target": "teacher"}


def row(**changes):
    """A row of ``metrics.json``."""
    usual = {"method": "student", "tradeoff": 0.5, "metric": "psnr", "dataset": "toy"}
    return usual | {"protocol": "of RGB", "mean": 20.5, "sem": 0.25, "n": 3} | changes


def metadata(rows=(), facts=StudentFacts(), recipe=RECIPE, licenses=("MIT",)):  # noqa: B008
    return yaml.safe_load(card_metadata(ABOUT, recipe, list(rows), facts, list(licenses)))


@pytest.fixture
def run(toys, finished_run):
    return finished_run("evaluation.max_images=1")


def test_the_hub_reads_what_was_measured(run, tmp_path, photos):
    photo = photos / "train/train0.png"
    export_folder(run, tmp_path / "out", picture=photo)
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "distillkit"
    assert card.data.pipeline_tag == "image-to-image"
    assert card.data.tags == ["distillkit", "image-restoration", "toy"]
    assert card.data.metrics == ["psnr", "ssim"]
    assert card.data.model_name == "toy"
    rows = []
    for one in json.loads((run / "evaluation/metrics.json").read_text()):
        if one["method"] == "student":
            rows.append(one)
    assert len(rows) == len(card.data.eval_results) == 6
    for result, measured in zip(card.data.eval_results, rows, strict=True):
        assert result.metric_value == measured["mean"]
        assert result.metric_type == measured["metric"]
        assert result.metric_name == f"{measured['metric']}, tradeoff {measured['tradeoff']:g}"
        assert result.dataset_name == result.dataset_type == "toy"
        assert result.metric_args["protocol"] == measured["protocol"]
        assert result.metric_args["tradeoff"] == measured["tradeoff"]


def test_a_photo_is_shown_at_several_tradeoffs(run, tmp_path, photos):
    photo = photos / "train/train0.png"
    out = tmp_path / "out"
    export_folder(run, out, picture=photo)
    text = (out / "README.md").read_text()
    widget = ModelCard(text).data.widget
    assert [example["example_title"] for example in widget] == [
        f"tradeoff {tradeoff:g}" for tradeoff in (0, 0.25, 0.5, 0.75, 1)
    ]
    restorer = Restorer.from_pretrained(run, "cpu")
    picture = Image.open(photo)
    for example in widget:
        assert Image.open(out / example["src"]).tobytes() == picture.tobytes()
        tradeoff = float(example["example_title"].removeprefix("tradeoff "))
        shown = Image.open(out / example["output"]["url"])
        assert shown.tobytes() == restorer(picture, tradeoff).tobytes()
        assert f"![Restored, tradeoff {tradeoff:g}]({example['output']['url']})" in text


def test_a_large_photo_is_shown_in_part(run, tmp_path):
    Image.new("RGB", (400, 100)).save(tmp_path / "large.png")
    export_folder(run, tmp_path / "out", merge_at=0.25, picture=tmp_path / "large.png")
    sizes = {}
    for file in (tmp_path / "out/pictures").iterdir():
        sizes[file.name] = Image.open(file).size
    assert sizes == {"input.png": (256, 100), "tradeoff-0.25.png": (512, 200)}
    text = (tmp_path / "out/README.md").read_text()
    assert "| input | restored |" in text


def test_without_a_photo_the_card_shows_none(run, tmp_path, distillkit):
    outcome = distillkit("export", run, "--onnx", tmp_path / "x", "--picture", "a.png")
    assert outcome.code == 2
    assert "--picture is for -o and --web, not for --onnx" in outcome.err
    with pytest.raises(DistillkitError, match=r"nothing\.png"):
        export_folder(run, tmp_path / "out", picture=tmp_path / "nothing.png")
    assert not (tmp_path / "out").exists()
    export_folder(run, tmp_path / "out")
    assert not (tmp_path / "out/pictures").exists()
    assert "widget" not in metadata_load(tmp_path / "out/README.md")


def test_the_card_shows_the_measured_curves(run, tmp_path):
    figure = run / "evaluation/tradeoff.png"
    Image.new("RGB", (8, 8)).save(figure)
    export_folder(run, tmp_path / "out")
    copied = tmp_path / "out/pictures/measured-toy.png"
    assert copied.read_bytes() == figure.read_bytes()
    assert "on toy](pictures/measured-toy.png)" in (tmp_path / "out/README.md").read_text()


def test_metadata_can_be_changed_with_the_hubs_tools(run, tmp_path):
    export_folder(run, tmp_path / "out")
    file = tmp_path / "out/README.md"
    before = file.read_text()
    data = metadata_load(file)
    assert ModelCard(before).data.to_dict() == data
    metadata_save(file, data | {"license_link": "LICENSE"})
    assert metadata_load(file) == data | {"license_link": "LICENSE"}
    assert file.read_text().endswith(before.partition("\n---\n")[2])


def test_no_command_names_a_folder_after_a_push(run, tmp_path, monkeypatch):
    export_folder(run, tmp_path / "out")
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.repositories["models", "me/student"] = StoredRepository()
        hub.repositories["models", "me/student"].commit({})
        upload(tmp_path / "out", Repository("me/student"))
        card = hub.repositories["models", "me/student"].files["README.md"].decode()
    assert "folder/" not in card
    commands = re.findall(r"^(?:- `)?(distillkit .*?)(?:`.*)?$", card, flags=re.MULTILINE)
    assert len(commands) == 3
    assert all("me/student" in command for command in commands)
    assert card.count('from_pretrained("me/student")') == 2


def test_the_base_is_named_with_its_relation():
    weights = [WeightFile(repo="them/base", filename="a.safetensors", license="openrail++")]
    adapter = metadata(facts=StudentFacts(weights=weights, is_adapter=True))
    assert (adapter["base_model"], adapter["base_model_relation"]) == (["them/base"], "adapter")
    whole = metadata(facts=StudentFacts(weights=weights))
    assert whole["base_model_relation"] == "finetune"
    assert not {"base_model", "base_model_relation"} & metadata().keys()


def test_datasets_of_the_hub_are_named_as_it_names_them():
    assert metadata()["datasets"] == ["me/photos"]
    assert "model-index" not in metadata()
    held_out = [{"hub": "me/tests", "name": "A", "split": "test"}, {"use": "x", "name": "B"}]
    recipe = RECIPE | {"data": RECIPE["data"] | {"eval": held_out}}
    rows = [row(dataset="A"), row(dataset="B"), row(method="bicubic"), row(mean=None)]
    (index,) = metadata(rows, recipe=recipe)["model-index"]
    first, second = index["results"]
    assert first["dataset"] == {"name": "A", "type": "me/tests", "split": "test"}
    assert second["dataset"] == {"name": "B", "type": "B"}
    (metric,) = first["metrics"]
    assert metric["value"] == 20.5
    assert metric["args"]["standard_error"] == 0.25


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["CC-BY-NC-SA-4.0"], {"license": "cc-by-nc-sa-4.0"}),
        (
            ["Apache-2.0 AND openrail++"],
            {"license": "other", "license_name": "apache-2.0-and-openrail"},
        ),
        (["MIT", "X: y"], {"license": "other", "license_name": "mit-and-x-y"}),
    ],
)
def test_a_license_is_named_as_the_hub_names_it(licenses, expected):
    data = metadata(licenses=licenses)
    assert {key: data[key] for key in data if key.startswith("license")} == expected


def test_the_card_names_weights_limits_and_what_to_cite():
    weights = [
        WeightFile(repo="them/base", filename="a.safetensors", license="openrail++"),
        WeightFile(path="weights/b.pth", url="https://example.org/b.pth", license="MIT"),
        WeightFile(path="/home/me/c.pth", source="their page"),
    ]
    card = model_card(ABOUT, RECIPE, [], StudentFacts(scale=4, weights=weights))
    assert "- `a.safetensors` of `them/base` on the Hub (license openrail++)" in card
    assert "- `weights/b.pth`, from https://example.org/b.pth (license MIT)" in card
    assert "- `c.pth`, from their page (license unknown)" in card
    assert "images 4 times as wide and high as their inputs" in card
    assert "It is no evidence of anything" in card
    for title in re.findall(r"title: \"?(.*?)\"?$", CITATION.read_text(), flags=re.MULTILINE):
        assert f"title = {{{title}}}" in card


@pytest.mark.parametrize(
    ("changes", "taught"),
    [
        ({}, True),
        ({"teachers": {}}, False),
        ({"stage1": {"steps": 3, "pretraining_steps": 3}}, False),
        ({"stage1": {"steps": 3, "teachers": {"fidelity": {"weight": 0}}}}, False),
        ({"stage1": {"steps": 0}, "stage2": OF_A_TEACHER}, True),
    ],
)
def test_the_card_speaks_of_teachers_where_there_were_some(changes, taught):
    recipe = RECIPE | {"teachers": {"fidelity": {"use": "toy/teacher"}}} | changes
    card = model_card(ABOUT, recipe, [], StudentFacts())
    assert ("trained without teachers by distillkit" not in card) == taught
    assert ("distilled by distillkit" in card) == taught
    assert ("its teachers' weights" in card) == taught


def test_the_card_speaks_of_numbers_and_damage_where_it_has_them():
    without = model_card(ABOUT, RECIPE, [], StudentFacts())
    assert "numbers below" not in without
    assert "trained on the damage that the images named below have." in without
    degraded = RECIPE | {"degradation": {"use": "toy/blur"}}
    measured = model_card(ABOUT, degraded, [row()], StudentFacts())
    assert "The numbers below hold" in measured
    assert "trained on the damage described below." in measured


def test_the_card_of_the_shipped_student_is_as_it_would_be_written_now():
    card = (PHOTO4X / "README.md").read_text()
    about = json.loads((PHOTO4X / "student/distillkit.json").read_text())
    recipe = tomllib.loads((PHOTO4X / "student/recipe.toml").read_text())
    written = model_card(about, recipe, [], StudentFacts(scale=4, has_checkpoints=True))
    # Its numbers are in the plugin's README.
    differing = set(card.splitlines()) ^ set(written.splitlines())
    assert differing == {
        "- The numbers in the README of distillkit-photo hold for the images that they were "
        "measured on.",
        "Measured on RealSR: the README of distillkit-photo has the tables, the training and the "
        "data.",
        "This student was not evaluated.",
    }
