"""The page on many machines: its scripts are shell, and its arithmetic is right."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/how-to/many_machines.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
RECIPE = ROOT / "plugins/superres/distillkit_superres/recipes/ctsr_sr4x.toml"
IMAGES = 84_991


def check_syntax(script):
    return subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, check=False
    ).stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="NOT RUN: there is no bash")
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_shell(script):
    assert check_syntax(script) == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="NOT RUN: there is no bash")
def test_a_broken_script_would_be_noticed():
    assert len(SCRIPTS) == 6
    assert "syntax error" in check_syntax(SCRIPTS[-1].replace("done\n", ""))


@pytest.mark.parametrize("script", [script for script in SCRIPTS if "distillkit" in script])
def test_every_command_resumes(script):
    # A sweep takes up what is there by itself.
    assert any(words in script for words in ("--resume", "--skip-existing", "distillkit sweep"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="NOT RUN: there is no bash")
def test_the_loop_over_four_gpus_names_every_share_once(tmp_path):
    (script,) = [script for script in SCRIPTS if "CUDA_VISIBLE_DEVICES" in script]
    says = 'distillkit() { echo "$CUDA_VISIBLE_DEVICES" "$@" >> said; }\n'
    subprocess.run(["bash", "-c", says + script], cwd=tmp_path, check=True)
    said = sorted((tmp_path / "said").read_text().splitlines())
    shares = [(line[0], re.search(r"--shard (\S+)", line)[1]) for line in said]
    assert shares == [("0", "1/4"), ("1", "2/4"), ("2", "3/4"), ("3", "4/4")]


def test_the_epochs_follow_from_the_recipe():
    recipe = tomllib.loads(RECIPE.read_text())
    sources = recipe["data"]["train"]
    share = sources[0]["weight"] / sum(source["weight"] for source in sources)
    assert "LSDIR" in sources[0]["hub"]
    steps = recipe["stage1"]["steps"] + recipe["stage2"]["steps"]
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 3
    for processes, draws, epochs in rows:
        expected = recipe["data"]["batch_size"] * int(processes) * steps * share
        assert int(draws.replace(",", "")) == round(expected)
        assert float(epochs) == pytest.approx(expected / IMAGES, abs=0.05)


def test_the_sizes_follow_from_the_images():
    mb = 98e9 / IMAGES / 1e6
    assert f"= {mb:.2f} MB an image" in PAGE
    assert f"16 images, {16 * mb:.0f} MB, a second" in PAGE
    small, large = 4 * 4 * 64 * 64, 4 * 3 * 128 * 128
    assert f"({small / 1000:.0f} kB)" in PAGE
    assert f"({large / 1000:.0f} kB)" in PAGE
    assert f"would be {IMAGES * (small + large) / 1e9:.0f} GB" in PAGE
    assert f"At 1 s that is {70_000 / 3600:.0f} hours" in PAGE
    assert f"{1e6 * 0.16 / 3600:.0f} hours; in 16 shares {1e6 * 0.16 / 3600 / 16:.1f} hours" in PAGE
