"""Exports: every way to load one gives the images of the run's own student, and what differs never appears."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from toy_plugin import Options

from distillkit import (
    DistilledRestorationPipeline,
    DistillkitError,
    Restorer,
    WeightFile,
    load_recipe,
    run_recipe,
)
from distillkit.cli import main as cli
from distillkit.export.folder import export, push, without_folders
from distillkit.export.model_card import model_card, strictest_licenses
from distillkit.plugins.descriptors import Spec
from distillkit.recipe.load import Component


@pytest.fixture
def run(recipe, tmp_path):
    return make_run(recipe, tmp_path)


def make_run(recipe, tmp_path, *sets):
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1", *sets]), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def image():
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(5))


def test_an_export_gives_the_same_images_however_it_is_loaded(run, tmp_path, image):
    said = export(run, tmp_path / "out")
    assert [line.partition(":")[0] for line in said] == [
        "Restorer",
        "diffusers pipeline",
        "peft adapters",
    ]
    wanted = Restorer.from_pretrained(run, "cpu")(image, [0.0, 0.3, 1.0])
    assert not torch.equal(wanted[0], wanted[2])
    restorer = Restorer.from_pretrained(tmp_path / "out", "cpu")
    own = DistilledRestorationPipeline.from_pretrained(tmp_path / "out")
    plain = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(plain) is DistilledRestorationPipeline
    for t, one in zip((0.0, 0.3, 1.0), wanted, strict=True):
        for restored in (restorer(image, t), own(image, t).images[0], plain(image, t).images[0]):
            assert torch.equal(restored, one)
    assert not list(tmp_path.glob(".*"))


def test_a_pipeline_saved_again_is_the_same(run, tmp_path, image):
    export(run, tmp_path / "out")
    pipeline = DistilledRestorationPipeline.from_pretrained(tmp_path / "out")
    pipeline.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/pipeline.py").read_text() == (
        tmp_path / "out/pipeline.py"
    ).read_text()
    again = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True).to("cpu")
    several = again([image, image], [0.0, 1.0], color="wavelet").images
    assert torch.equal(several[1][0], pipeline(image, 1.0, color="wavelet").images[0])
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DistillkitError, match="gone"):
        pipeline.save_pretrained(tmp_path / "third")


def test_code_in_an_exported_folder_is_run_only_for_those_who_trust_it(run, tmp_path, image):
    export(run, tmp_path / "out")
    (tmp_path / "out/pipeline.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "out")
    own = DistilledRestorationPipeline.from_pretrained(tmp_path / "out")
    assert torch.equal(own(image, 0.3).images[0], Restorer.from_pretrained(run, "cpu")(image, 0.3))


def test_plain_peft_loads_the_adapters(recipe, tmp_path, image):
    from peft import PeftModel
    from toy_plugin import Options, model

    run = make_run(recipe, tmp_path, "stage1.adapter.alpha=5", "stage2.adapter.alpha=0.5")
    export(run, tmp_path / "out")
    wanted = Restorer.from_pretrained(run, "cpu").student.restore(image[None], 1.0)
    toy = model(Options(seed=2))
    for stage in ("stage1", "stage2"):
        toy.network = PeftModel.from_pretrained(
            toy.network, tmp_path / "out/adapters" / stage
        ).merge_and_unload()
    with torch.no_grad():
        assert torch.allclose(toy.restore(image[None]), wanted, atol=1e-5)


def test_merged_weights_are_the_knob_at_one_place(run, tmp_path, image):
    export(run, tmp_path / "merged", merge_at=0.3)
    assert sorted(p.name for p in (tmp_path / "merged/student").iterdir()) == [
        "distillkit.json",
        "network.safetensors",
        "recipe.toml",
    ]
    merged = Restorer.from_pretrained(tmp_path / "merged", "cpu")
    assert torch.allclose(
        merged(image), Restorer.from_pretrained(run, "cpu")(image, 0.3), atol=1e-5
    )
    assert (
        torch.equal(merged(image), merged(image, 0.3))
        and "at tradeoff 0.3" in (tmp_path / "merged/README.md").read_text()
    )
    with pytest.raises(DistillkitError, match="no knob: its one tradeoff is 0.3"):
        merged(image, 0.5)
    assert torch.equal(
        DistilledRestorationPipeline.from_pretrained(tmp_path / "merged")(image).images[0],
        merged(image),
    )


@pytest.mark.parametrize(
    "sets", [["stage2.steps=0"], ["stage1.adapter.kind='full'"], ["stage2.variant='oftsr'"]]
)
def test_other_students_are_exported_with_the_adapters_they_have(recipe, tmp_path, image, sets):
    run = make_run(recipe, tmp_path, *sets)
    said = export(run, tmp_path / "out")
    stages = [p.name for p in sorted((tmp_path / "out").glob("adapters/*"))]
    assert stages == {"stage2.steps=0": ["stage1"], "stage1.adapter.kind='full'": ["stage2"]}.get(
        sets[0], ["stage1"]
    )
    assert len(said) == (3 if sets == ["stage2.steps=0"] else 2)
    if "full" in sets[0]:
        export(run, tmp_path / "merged", merge_at=1.0)
    else:
        with pytest.raises(DistillkitError, match="fixed tradeoff|evaluates the network twice"):
            export(run, tmp_path / "merged", merge_at=1.0)
    assert not (tmp_path / "merged").exists() or "full" in sets[0]


def test_an_export_that_gives_other_images_does_not_appear(run, tmp_path, monkeypatch):
    def spoilt(tensors, file, **options):
        save_file({k: v + 0.5 for k, v in tensors.items()}, file, **options)

    monkeypatch.setattr("distillkit.export.adapters.save_file", spoilt)
    with pytest.raises(
        DistillkitError, match="loaded as peft adapters, the student gives images that differ by"
    ):
        export(run, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} & {"out", ".out.part"} == set()


def test_the_command_says_what_it_compared(run, tmp_path, monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["distillkit", "export", str(run), *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, "".join(capfd.readouterr())

    code, said = call("-o", str(tmp_path / "out"))
    assert (
        code == 0
        and "Restorer: largest difference from the original 0" in said
        and (tmp_path / "out/README.md").is_file()
    )
    for arguments in (["--merge"], ["--tradeoff", "0.5"]):
        code, said = call("-o", str(tmp_path / "new"), *arguments)
        assert code == 2 and "need each other" in said
    assert call("-o", str(tmp_path / "out"))[0] == 2 and not (tmp_path / "new").exists()


def test_an_export_overwrites_nothing(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DistillkitError, match="exists; name a new folder"):
        export(run, tmp_path / "out")
    with pytest.raises(DistillkitError, match="no student here"):
        export(tmp_path / "photos", tmp_path / "new")


def test_the_card_says_what_a_stranger_must_know(run, tmp_path):
    export(run, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    rows = json.loads((run / "evaluation/metrics.json").read_text())
    psnr = next(
        r
        for r in rows
        if r["method"] == "student" and r["tradeoff"] == 1.0 and r["metric"].startswith("psnr")
    )
    assert f"{psnr['mean']:.4f}" in card and psnr["protocol"] in card and "linear:" not in card
    assert all(
        name in card
        for name in ("toy/student", "toy/faithful", "toy/realistic", "toy/halve", "toy/photos")
    )
    assert "license: other" in card and "all rights reserved" in card  # the toys name no license
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".md", ".toml", ".json"):
            assert str(tmp_path) not in file.read_text(), file


@pytest.mark.parametrize(
    ("licenses", "strictest"),
    [
        (["MIT", "Apache-2.0"], ["Apache-2.0", "MIT"]),
        (["Apache-2.0", "CC-BY-NC-SA-4.0"], ["CC-BY-NC-SA-4.0"]),
        (["Apache-2.0", "Apache-2.0 AND openrail++"], ["Apache-2.0 AND openrail++"]),
        (["GPL-3.0", "openrail++"], ["GPL-3.0"]),
        (["CC-BY-NC-4.0", "LicenseRef-Own"], ["CC-BY-NC-4.0", "LicenseRef-Own"]),
        (["LicenseRef-Own", "NONE"], ["NONE"]),
        (["MIT", "My license"], ["My license"]),
    ],
)
def test_the_strictest_licence_is_found(licenses, strictest):
    assert strictest_licenses(licenses)[0] == strictest


@pytest.mark.parametrize(
    ("of_descriptor", "of_files", "license"),
    [
        ("MIT", ["GPL-3.0"], "MIT"),
        ("unknown", ["MIT", "GPL-3.0", "MIT"], "MIT AND GPL-3.0"),
        ("unknown", [], "unknown"),
    ],
)
def test_a_descriptor_of_unknown_licence_has_that_of_its_files(of_descriptor, of_files, license):
    class Licensed(Options):
        def weight_files(self):
            return tuple(WeightFile(path="x", license=one) for one in of_files)

    spec = Spec(name="x", summary="", build="x:x", license=of_descriptor)
    assert Component("toy/x", spec, Licensed(), {}).license == license


def test_one_known_licence_goes_into_the_front_matter(recipe):
    resolved = load_recipe(recipe)
    about = {
        "recipe": "toy",
        "student": {"use": "toy/student"},
        "stage2": None,
        "licenses": {"student": "Apache-2.0"},
    }
    card = model_card(about, resolved.document.values, [])
    assert (
        card.startswith("---\nlicense: apache-2.0\n")
        and "was not evaluated" in card
        and "has a fixed tradeoff" in card
    )


def test_paths_of_the_machine_are_cut_off():
    assert (
        without_folders('a = "/home/me/photos"\nb = "x/y"\nc = ["/z", "C:\\\\me\\\\w"]')
        == 'a = "photos"\nb = "x/y"\nc = ["z", "w"]'
    )


def test_only_an_export_is_pushed(tmp_path):
    with pytest.raises(DistillkitError, match="not an exported folder"):
        push(tmp_path, "me/student")


def test_full_size_weights_stay_out_of_an_unmerged_export(run, tmp_path):
    export(run, tmp_path / "out")
    own = {f.name: load_file(f) for f in (run / "student").glob("*.safetensors")}
    there = {f.name: load_file(f) for f in (tmp_path / "out/student").glob("*.safetensors")}
    assert own.keys() == there.keys() and all(
        torch.equal(own[f][k], there[f][k]) for f in own for k in own[f]
    )
