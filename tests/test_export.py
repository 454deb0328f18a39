"""Every way to load an export gives the images of the run's student.

An export that gives other images never appears.
"""

import errno
import json
import shutil
from functools import partial

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file
from toy_plugin import Options, model

from distillkit import (
    DistilledRestorationPipeline,
    DistillkitError,
    ModelInput,
    Restorer,
    WeightFile,
    load_recipe,
)
from distillkit.cli import main as cli
from distillkit.export.card_metadata import StudentFacts
from distillkit.export.folder import export_folder, without_folders
from distillkit.export.model_card import model_card, strictest_licenses
from distillkit.plugins.descriptors import Spec
from distillkit.recipe.load import Component


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def make_run(toys, finished_run):
    return partial(finished_run, "evaluation.max_images=1")


@pytest.fixture
def image():
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(5))


def restore(folder, image, tradeoff=None):
    return Restorer.from_pretrained(folder, "cpu")(image, tradeoff)


def ways_of(report):
    """The ways of loading that an export compared."""
    return [line.partition(":")[0] for line in report]


def test_an_export_gives_the_same_images_however_it_is_loaded(run, tmp_path, image, capfd):
    out = tmp_path / "out"
    capfd.readouterr()
    report = export_folder(run, out)
    # No bars, of diffusers neither.
    assert capfd.readouterr().err == ""
    assert ways_of(report) == ["Restorer", "diffusers pipeline", "peft adapters"]
    tradeoffs = [0.0, 0.3, 1.0]
    expected = restore(run, image, tradeoffs)
    assert not torch.equal(expected[0], expected[2])
    restorer = Restorer.from_pretrained(out, "cpu")
    own = DistilledRestorationPipeline.from_pretrained(out)
    plain = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    assert type(plain) is DistilledRestorationPipeline
    for tradeoff, original in zip(tradeoffs, expected, strict=True):
        assert torch.equal(restorer(image, tradeoff), original)
        assert torch.equal(own(image, tradeoff).images[0], original)
        assert torch.equal(plain(image, tradeoff).images[0], original)
    assert not list(tmp_path.glob(".*"))


def test_a_pipeline_saved_again_is_the_same(run, tmp_path, image):
    out = tmp_path / "out"
    export_folder(run, out)
    pipeline = DistilledRestorationPipeline.from_pretrained(out)
    pipeline.save_pretrained(tmp_path / "again")
    code = (tmp_path / "again/pipeline.py").read_text()
    assert code == (out / "pipeline.py").read_text()
    again = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True).to("cpu")
    several = again([image, image], [0.0, 1.0], color_fix="wavelet").images
    one = pipeline(image, 1.0, color_fix="wavelet").images[0]
    assert torch.equal(several[1][0], one)
    shutil.rmtree(out)
    with pytest.raises(DistillkitError, match="gone"):
        pipeline.save_pretrained(tmp_path / "third")


def test_the_code_in_an_export_imports_a_public_name_only(run, tmp_path):
    export_folder(run, tmp_path / "out")
    lines = (tmp_path / "out/pipeline.py").read_text().splitlines()
    imports = [line for line in lines if "import" in line]
    assert imports == ["from distillkit import DistilledRestorationPipeline  # noqa: F401"]


def test_code_in_an_exported_folder_is_run_only_for_those_who_trust_it(run, tmp_path, image):
    out = tmp_path / "out"
    export_folder(run, out)
    (out / "pipeline.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(out)
    own = DistilledRestorationPipeline.from_pretrained(out)
    assert torch.equal(own(image, 0.3).images[0], restore(run, image, 0.3))


def test_plain_peft_loads_the_adapters(make_run, tmp_path, image):
    run = make_run("stage1.adapter.alpha=5", "stage2.adapter.alpha=0.5")
    export_folder(run, tmp_path / "out")
    expected = Restorer.from_pretrained(run, "cpu").student.restore(ModelInput(image[None]), 1.0)
    toy = model(Options(seed=2))
    for stage in ("stage1", "stage2"):
        folder = tmp_path / "out/adapters" / stage
        toy.network = PeftModel.from_pretrained(toy.network, folder).merge_and_unload()
    with torch.no_grad():
        restored = toy.restore(ModelInput(image[None]))
    assert torch.allclose(restored, expected, atol=1e-5)


def test_merged_weights_are_the_student_at_one_tradeoff(run, tmp_path, image):
    folder = tmp_path / "merged"
    export_folder(run, folder, merge_at=0.3)
    names = sorted(file.name for file in (folder / "student").iterdir())
    assert names == ["distillkit.json", "network.safetensors", "recipe.toml"]
    assert "at tradeoff 0.3" in (folder / "README.md").read_text()
    merged = Restorer.from_pretrained(folder, "cpu")
    restored = merged(image)
    assert torch.allclose(restored, restore(run, image, 0.3), atol=1e-5)
    assert torch.equal(restored, merged(image, 0.3))
    pipeline = DistilledRestorationPipeline.from_pretrained(folder)
    assert torch.equal(pipeline(image).images[0], restored)
    with pytest.raises(DistillkitError, match="fixed tradeoff, 0.3"):
        merged(image, 0.5)


@pytest.mark.parametrize(
    ("override", "stages", "ways"),
    [
        ("stage2.steps=0", ["stage1"], 3),
        ("stage1.adapter.kind='full'", ["stage2"], 2),
        ("stage2.variant='oftsr'", ["stage1"], 2),
    ],
)
def test_other_students_are_exported_with_the_adapters_they_have(
    make_run, tmp_path, override, stages, ways
):
    run = make_run(override)
    report = export_folder(run, tmp_path / "out")
    assert [folder.name for folder in sorted(tmp_path.glob("out/adapters/*"))] == stages
    assert len(report) == ways


def test_a_student_trained_without_adapters_is_merged(make_run, tmp_path, image):
    run = make_run("stage1.adapter.kind='full'")
    export_folder(run, tmp_path / "merged", merge_at=1.0)
    merged = restore(tmp_path / "merged", image)
    assert torch.allclose(merged, restore(run, image, 1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("stage2.steps=0", "fixed tradeoff"),
        ("stage2.variant='oftsr'", "evaluates the network twice"),
    ],
)
def test_students_that_cannot_be_merged(make_run, tmp_path, override, reason):
    run = make_run(override)
    with pytest.raises(DistillkitError, match=reason):
        export_folder(run, tmp_path / "merged", merge_at=1.0)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("onnx", [False, True])
def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    distillkit, run, tmp_path, monkeypatch, onnx
):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("distillkit.inference.student.build_base_model", refuse)
    out = tmp_path / "read-only" / "graph.onnx"
    outcome = distillkit("export", run, "--onnx" if onnx else "-o", out)
    assert outcome.code == 2
    named = out.parent if onnx else out
    last_line = outcome.err.splitlines()[-1]
    assert last_line == f"error: {named} - cannot be written: Permission denied"


def _without(*keys):
    def change(about):
        table = about
        for key in keys[:-1]:
            table = table[key]
        del table[keys[-1]]

    return change


def _with(value, *keys):
    def change(about):
        table = about
        for key in keys[:-1]:
            table = table[key]
        table[keys[-1]] = value

    return change


DAMAGE = {
    "a newer key of stage 2": (_with(1, "stage2", "new"), "stage2.new - unknown key"),
    "a newer value": (_with("x", "stage2", "variant"), "stage2.variant - expected"),
    "a newer adapter": (_with("x", "stage1", "adapter", "kind"), "stage1.adapter.kind - expected"),
    "a newer option": (_with(1, "student", "new"), "with these settings: new - unknown"),
    "no seed": (_without("seed"), "seed - missing"),
    "a huge seed": (_with(10**30, "seed"), "seed - must be"),
    "no student": (_with({}, "student"), "student.use - missing"),
    "a list": (_with([], "stage1"), "stage1 - expected"),
    "no stage 2": (_without("stage2"), "stage2 - missing"),
    "a license": (_with(None, "licenses", "student"), "licenses.student - expected"),
    "a tradeoff": (_with(2, "merged"), "merged - must be"),
}


def test_a_damaged_or_newer_student_is_one_line(run):
    file = run / "student/distillkit.json"
    original = file.read_text()
    for change, reason in DAMAGE.values():
        about = json.loads(original)
        change(about)
        file.write_text(json.dumps(about))
        assert reason in _refusal(run)
    for content in (b"", b"null", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000):
        file.write_bytes(content)
        assert "distillkit.json - " in _refusal(run)
    file.write_text(original)
    weights = run / "student/stage2.safetensors"
    content = weights.read_bytes()
    for damaged in (b"", content[:50], content[:-1], content + b"0", b"\xff" + content[1:]):
        weights.write_bytes(damaged)
        assert "stage2.safetensors - " in _refusal(run)


def _refusal(run):
    with pytest.raises(DistillkitError) as refused:
        Restorer.from_pretrained(run, "cpu")
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("name", ["student/recipe.toml", "evaluation/metrics.json"])
def test_a_file_that_the_model_card_needs_is_named_if_damaged(run, tmp_path, name):
    (run / name).write_text("[")
    with pytest.raises(DistillkitError, match=f"{name} - .*damaged"):
        export_folder(run, tmp_path / "out")


def test_an_export_that_gives_other_images_does_not_appear(run, tmp_path, monkeypatch):
    def save_spoilt(tensors, file, **options):
        spoilt = {name: tensor + 0.5 for name, tensor in tensors.items()}
        save_file(spoilt, file, **options)

    monkeypatch.setattr("distillkit.export.adapters.save_file", save_spoilt)
    message = "loaded as peft adapters, the student gives images that differ by"
    with pytest.raises(DistillkitError, match=message):
        export_folder(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.part"))


def test_the_command_says_what_it_compared(run, tmp_path, monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["distillkit", "export", str(run), *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, "".join(capfd.readouterr())

    out = str(tmp_path / "out")
    code, printed = call("-o", out)
    assert code == 0
    assert "Restorer: largest difference from the original 0" in printed
    assert (tmp_path / "out/README.md").is_file()
    for arguments in (["--merge"], ["--tradeoff", "0.5"]):
        code, printed = call("-o", str(tmp_path / "new"), *arguments)
        assert code == 2
        assert "give --merge and --tradeoff together" in printed
    code, _ = call("-o", out)
    assert code == 2
    assert not (tmp_path / "new").exists()


FOREIGN_OPTIONS = {
    "-o": ["--half", "--tradeoff-plane", "--size 64x64", "--onnxruntime-web x"],
    "--onnx": ["--merge", "--onnxruntime-web x", "--picture x"],
    "--spandrel": ["--merge", "--tradeoff-plane", "--size 64x64"],
    "--ncnn": ["--merge", "--tradeoff-plane", "--size 64x64"],
    "--web": ["--merge", "--half", "--tradeoff 0.5", "--tradeoff-plane", "--size 64x64"],
}


@pytest.mark.parametrize("form", FOREIGN_OPTIONS)
def test_options_of_another_form_are_refused(distillkit, tmp_path, form):
    for option in FOREIGN_OPTIONS[form]:
        out = tmp_path / "out"
        outcome = distillkit("export", tmp_path, form, out, *option.split())
        assert outcome.code == 2
        name = option.partition(" ")[0]
        assert outcome.err.startswith(f"error: {name} is for ")
        assert outcome.err.endswith(f", not for {form}\n")
        assert not out.exists()


@pytest.mark.parametrize("forms", [[], ["-o", "a", "--onnx", "b"]])
def test_one_form_is_exported_at_a_time(distillkit, tmp_path, forms):
    outcome = distillkit("export", tmp_path, *forms)
    assert outcome.code == 2
    assert outcome.err.startswith("error: give one of -o, for a folder, --onnx, for a graph")


def test_an_export_overwrites_nothing(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DistillkitError, match="exists; name a new folder"):
        export_folder(run, tmp_path / "out")


def test_an_export_needs_a_student(tmp_path):
    with pytest.raises(DistillkitError, match="no student here"):
        export_folder(tmp_path, tmp_path / "new")


def test_the_card_says_what_a_stranger_must_know(run, tmp_path):
    export_folder(run, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    rows = json.loads((run / "evaluation/metrics.json").read_text())
    (psnr,) = (
        row
        for row in rows
        if (row["method"], row["tradeoff"]) == ("student", 1.0) and row["metric"].startswith("psnr")
    )
    assert f"{psnr['mean']:.4f}" in card
    assert psnr["protocol"] in card
    assert "linear:" not in card
    for name in ("student", "faithful", "realistic", "halve", "photos"):
        assert f"toy/{name}" in card
    # The toys name no license.
    assert "license: unknown" in card
    assert "all rights reserved" in card


def test_an_export_does_not_tell_where_the_run_was_made(run, tmp_path, trained_photos):
    export_folder(run, tmp_path / "out")
    texts = [file for file in tmp_path.glob("out/**/*") if file.suffix in (".md", ".toml", ".json")]
    assert texts
    for file in texts:
        text = file.read_text()
        assert str(tmp_path) not in text, file
        assert str(trained_photos.parent) not in text, file


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
def test_the_strictest_license_is_found(licenses, strictest):
    assert strictest_licenses(licenses)[0] == strictest


@pytest.mark.parametrize(
    ("of_descriptor", "of_files", "license"),
    [
        ("MIT", ["GPL-3.0"], "MIT"),
        ("unknown", ["MIT", "GPL-3.0", "MIT"], "MIT AND GPL-3.0"),
        ("unknown", [], "unknown"),
    ],
)
def test_a_descriptor_of_unknown_license_has_that_of_its_files(of_descriptor, of_files, license):
    class Licensed(Options):
        def weight_files(self):
            return tuple(WeightFile(path="x", license=one) for one in of_files)

    spec = Spec(name="x", summary="", build="x:x", license=of_descriptor)
    assert Component((), spec, Licensed(), {}).license == license


TOY_ABOUT = {
    "recipe": "toy",
    "student": {"use": "toy/student"},
    "stage2": None,
    "plugins": {"toy": "distillkit-toy 1.2"},
    "licenses": {"student": "Apache-2.0"},
}
"""What a student's ``distillkit.json`` holds at least."""


def test_one_known_license_goes_into_the_front_matter(recipe):
    resolved = load_recipe(recipe)
    card = model_card(TOY_ABOUT, resolved.document.values, [], StudentFacts())
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "`distillkit-toy 1.2` installed" in card
    assert "Plugins: `toy` (distillkit-toy 1.2)." in card
    assert "was not evaluated" in card
    assert "has a fixed tradeoff" in card


@pytest.mark.parametrize(
    ("protocol", "cell"),
    [
        ("weights absent: distillkit fetch --metric fid", None),
        ("FID, of all images", "not measured"),
    ],
)
def test_the_card_says_how_to_get_the_weights_of_a_metric(recipe, protocol, cell):
    resolved = load_recipe(recipe)
    row = {"method": "student", "tradeoff": 0.0, "metric": "fid", "dataset": "toy"}
    row |= {"protocol": protocol, "mean": None, "sem": None, "n": 0}
    card = model_card(TOY_ABOUT, resolved.document.values, [row], StudentFacts())
    assert f"| {cell or protocol} |" in card


def test_paths_of_the_machine_are_cut_off():
    text = 'a = "/home/me/photos"\nb = "x/y"\nc = ["/z", "C:\\\\me\\\\w"]'
    assert without_folders(text) == 'a = "photos"\nb = "x/y"\nc = ["z", "w"]'


def test_full_size_weights_stay_out_of_an_unmerged_export(run, tmp_path):
    export_folder(run, tmp_path / "out")
    originals = sorted((run / "student").glob("*.safetensors"))
    copies = sorted((tmp_path / "out/student").glob("*.safetensors"))
    assert [file.name for file in copies] == [file.name for file in originals]
    for copy, original in zip(copies, originals, strict=True):
        expected = load_file(original)
        tensors = load_file(copy)
        assert tensors.keys() == expected.keys()
        for name in tensors:
            assert torch.equal(tensors[name], expected[name])
