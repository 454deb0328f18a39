"""The recipes of distillkit: all load, full ones say what they lack, tiny ones run on a CPU."""

import json
import socket
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from distillkit import Restorer
from distillkit.plugins.manager import load_plugins
from distillkit.plugins.recipes import find_recipe, list_recipes
from distillkit.recipe.load import load_recipe

PLUGINS = load_plugins()
NAMES = [recipe.name for recipe in list_recipes(PLUGINS)]
OVERLAYS = [name for name in NAMES if "/profiles/" in name]
WHOLE = sorted(set(NAMES) - set(OVERLAYS))
IN_CLONE = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))
FULL = {
    "superres/ctsr_sr4x": [
        ("osediff.pkl", "18 MB", "Apache-2.0"),
        ("unet/diffusion_pytorch_model.safetensors", "3.5 GB", "openrail++"),
        ("resshift_realsrx4_s15_v1.pth", "478 MB", "NonCommercial"),
        ("autoencoder_vq_f4.pth", "221 MB", "NonCommercial"),
        ("vgg16-397923af.pth", "553 MB", "BSD-3-Clause"),
        ("data.train.0.hub", "danjacobellis/LSDIR"),
        ("data.train.1.hub", "yangtao9009/DIV2K"),
        ("data.train.2.imagefolder", "no such folder", "real_hr"),
        ("data.eval.0.imagefolder", "no such folder", "RealSRVal_crop128"),
    ],
    "superres/ctsr_sr4x_sinsr": [("SinSR_v1.pth", "478 MB", "CC-BY-NC-SA-4.0")],
    "lowlight/lle_gsad": [
        ("lolv2_syn_gen.pth", "by hand", "github.com/jinnh/GSAD"),
        ("llie_syn.pth", "by hand", "github.com/ChunmingHe/Reti-Diff"),
        ("retinex_decomnet.pth", "by hand"),
        ("data.train.0.root", "no such file or folder", "LOLv2"),
        ("data.eval.0.root", "no such file or folder", "LOLv2"),
    ],
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_recipe_is_valid_and_has_a_summary(name):
    load_recipe(name)
    assert len(find_recipe(name, PLUGINS).summary) > 20


@pytest.mark.parametrize("path", IN_CLONE, ids=lambda path: path.name)
def test_a_recipe_file_of_the_clone_is_another_name_and_no_copy(path):
    (name,) = tomllib.loads(path.read_text())["extends"]
    packaged = find_recipe(name, PLUGINS).path
    schema, *comments, extends = path.read_text().splitlines()
    assert packaged.name == path.name
    assert schema.startswith("#:schema ")
    assert all(line.startswith("# ") for line in comments)
    assert comments[-1] == f"# The recipe is {packaged.relative_to(path.parents[1]).as_posix()}."
    assert extends == f'extends = ["{name}"]'
    assert load_recipe(path).document.values == load_recipe(name).document.values


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("base", FULL)
def test_an_overlay_fits_on_every_full_recipe_and_changes_nothing_else(tmp_path, overlay, base):
    mine = tmp_path / "mine.toml"
    mine.write_text(f'name = "mine"\nextends = ["{base}", "{overlay}"]\n')
    changed, plain = (load_recipe(path).document.values for path in (mine, base))
    set_there = tomllib.loads(find_recipe(overlay, PLUGINS).path.read_text())
    for table, values in changed.items():
        before = plain[table]
        if isinstance(values, dict):
            assert {k for k in values if values[k] != before[k]} <= set(set_there.get(table, {}))
            assert all(values[k] == v for k, v in set_there.get(table, {}).items())


def test_the_full_recipe_keeps_to_the_paper():
    """Sec. 5.1."""
    recipe = load_recipe("superres/ctsr_sr4x").recipe
    stage1 = recipe.stage1
    stage2 = recipe.stage2
    assert stage1.steps == 20_000
    assert stage2.steps == 50_000
    assert recipe.data.crop_size == 512
    assert recipe.data.batch_size == 1
    assert recipe.training.adam_betas == (0.9, 0.999)
    for stage in (stage1, stage2):
        assert stage.learning_rate == 5e-5
        assert stage.adapter.rank == 4
        assert stage.adapter.kind == "lora"


def test_the_full_recipe_weights_losses_as_the_paper():
    """Sec. 5.1; the paper has one gamma, 5.5, for both teachers."""
    stage1 = load_recipe("superres/ctsr_sr4x").recipe.stage1
    reconstruction = stage1.reconstruction
    assert reconstruction.l2_weight == 1
    assert reconstruction.perceptual_weight == 2
    assert reconstruction.perceptual_metric.use == "distillkit/lpips-vgg"
    assert stage1.teachers["realness"].weight == 1
    assert stage1.teachers["fidelity"].weight == 2
    for teacher in stage1.teachers.values():
        assert teacher.imitation_weight == 1
        assert teacher.anchor_weight == 5.5


def test_the_three_sets_of_the_papers_tables_are_one_recipe():
    resolved = load_recipe("superres/ctsr_sr4x_all_sets")
    folders = {source.name: source.imagefolder.name for source in resolved.recipe.data.eval}
    assert folders == {
        "RealSR": "RealSRVal_crop128",
        "DRealSR": "DrealSRVal_crop128",
        "DIV2K-Val": "DIV2K_V2_val",
    }
    base = load_recipe("superres/ctsr_sr4x").document.values
    changed = dict(resolved.document.values)
    assert {key for key in base if base[key] != changed[key]} == {"name", "data"}


def test_the_papers_metrics_are_those_it_names_and_find_their_files_in_weights():
    resolved = load_recipe("superres/ctsr_sr4x")
    tables = {
        metric.use.rpartition("/")[2]: metric for metric in resolved.recipe.evaluation.metrics
    }
    assert tables["maniqa"].model == "maniqa-pipal"
    weights = Path.cwd() / "weights"
    files = {
        "niqe": {"parameters": "niqe_pris_params.npz"},
        "dists": {"weights": "dists.pt", "trunk": "vgg16-397923af.pth"},
    }
    for metric, options in files.items():
        for option, name in options.items():
            assert Path(getattr(tables[metric], option)).absolute() == weights / name


@pytest.mark.parametrize("variant", ["ctsr_eq8", "ctsr_alg2"])
def test_the_papers_own_variants_are_one_set_away(variant):
    assert (
        load_recipe("superres/ctsr_sr4x", [f'stage2.variant="{variant}"']).recipe.stage2.variant
        == variant
    )


@pytest.mark.parametrize(("name", "missing"), FULL.items(), ids=FULL)
def test_without_weights_and_data_all_of_it_is_named_before_any_work(
    name, missing, tmp_path, monkeypatch, capsys
):
    from distillkit.cli import main as cli

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(sys, "argv", ["distillkit", "run", name])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and not (tmp_path / "runs").exists()
    for words in missing:
        assert any(all(word in line for word in words) for line in lines), words
    assert lines[-1] == f"fetch what can be fetched with: distillkit fetch {name}"


def test_the_tiny_super_resolution_recipe_runs_to_the_end(distillkit, tmp_path):
    rows, history = run(distillkit, "superres/tiny/ctsr_sr4x", tmp_path, "evaluation.max_images=1")
    assert {
        "fidelity/imitate",
        "fidelity/anchor",
        "realness/imitate",
        "realness/anchor",
        "perceptual",
        "l2",
    } <= history[0].keys()
    assert Restorer.from_pretrained(tmp_path).scale == 4
    assert {row["metric"] for row in rows} == {"psnr", "ssim-y", "stlpips-alex"}


def test_a_student_thinner_than_its_teacher_runs_to_the_end(distillkit, tmp_path):
    _, history = run(distillkit, "superres/tiny/ctsr_sr4x_thin", tmp_path)
    assert "pretraining" in history[0]
    assert {"fidelity/imitate", "realness/anchor", "perceptual"} <= history[1].keys()
    about = json.loads((tmp_path / "student" / "distillkit.json").read_text())
    assert (about["student"]["width"], about["student"]["decoder_width"]) == (0.5, 0.5)
    assert any(
        name.startswith("decoder.") and tensor.any()
        for name, tensor in load_file(tmp_path / "student" / "stage1.safetensors").items()
    )
    restorer = Restorer.from_pretrained(tmp_path)
    restored = restorer(torch.zeros(3, 16, 20), [0.0, 1.0])
    assert [image.shape for image in restored] == [(3, 64, 80)] * 2
    assert not restored[0].equal(restored[1])


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures hardly larger than a crop: Reti-Diff restores whole ones."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_the_tiny_low_light_recipe_runs_to_the_end(distillkit, tmp_path, pictures):
    settings = ["evaluation.max_images=1", f"data.train=[{{imagefolder='{pictures}'}}]"]
    rows, history = run(distillkit, "lowlight/tiny/lle_gsad", tmp_path / "run", *settings)
    assert {
        "fidelity/imitate",
        "fidelity/anchor",
        "realness/output",
        "perceptual",
        "l2",
    } <= history[0].keys()
    assert "realness/anchor" not in history[0] and "teacher" in history[-1]
    assert Restorer.from_pretrained(tmp_path / "run").scale == 1
    assert {"psnr", "psnr-gtmean", "ssim-uniform"} < {row["metric"] for row in rows}


@pytest.mark.parametrize(
    ("name", "scale", "psnrs"), [("sr4x", 4, {"psnr"}), ("lle", 1, {"psnr", "psnr-gtmean"})]
)
def test_a_paper_recipe_cut_short_runs_to_the_end(distillkit, tmp_path, name, scale, psnrs):
    rows, history = run(distillkit, f"mini/paper_{name}", tmp_path, *SHORT)
    assert {
        "fidelity/imitate",
        "fidelity/anchor",
        "realness/imitate",
        "realness/anchor",
        "perceptual",
        "l2",
    } <= history[0].keys()
    assert "teacher" in history[-1]
    assert Restorer.from_pretrained(tmp_path).scale == scale
    assert psnrs == {row["metric"] for row in rows if row["metric"].startswith("psnr")}
    assert {"stlpips-alex", "stlpips-vgg"} <= {row["metric"] for row in rows}


def test_the_quickstart_cut_short_runs_to_the_end(distillkit, tmp_path):
    rows, history = run(distillkit, "photo/quickstart", tmp_path, *SHORT)
    assert {"realness/output", "realness/metric"} <= history[0].keys()
    assert "mix" in history[-1] and "truth" not in history[-1]
    assert Restorer.from_pretrained(tmp_path).scale == 4
    assert {row["method"] for row in rows} >= {"bicubic", "fidelity", "realness", "student"}


SHORT = [
    *(
        "stage1.steps=8",
        "stage2.steps=6",
        'stage1.adapter={kind="lora"}',
        "data.crop_size=32",
        "stage2.faithful_check_images=1",
    ),
    *("training.logging_steps=2", "training.validation_steps=8", "training.checkpointing_steps=6"),
    *(
        "evaluation.max_images=2",
        "evaluation.crop_size=64",
        "evaluation.tradeoffs=[0.0,0.5,1.0]",
        "evaluation.alphas=[0.5]",
    ),
]


def run(distillkit, recipe, out, *settings):
    """Run a recipe, check its folder, and return evaluation and log."""
    options = [part for setting in settings for part in ("--set", setting)]
    outcome = distillkit("run", recipe, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert {
        "recipe.toml",
        "report.html",
        "samples/step-00000008.png",
        "samples/step-00000014.png",
        "evaluation/table.md",
    } <= names
    assert {
        "checkpoints/step-00000014",
        "evaluation/tradeoff.png",
        "evaluation/comparison.png",
        "student/distillkit.json",
    } <= names
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    for stage in ("stage1", "stage2"):
        tensors = load_file(out / "student" / f"{stage}.safetensors")
        assert all(torch.isfinite(v).all() for v in tensors.values())
        assert any(v.any() for k, v in tensors.items() if "lora_B" in k or k.endswith(".delta"))
    rows = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert {row["tradeoff"] for row in rows if row["method"] == "student"} == {0.0, 0.5, 1.0}
    assert {"student", "fidelity", "realness", "bicubic", "linear:0.5"} <= {
        row["method"] for row in rows
    }
    return rows, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
