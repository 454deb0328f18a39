"""``distillkit restore``: where results go, what is refused before any work, hostile files."""

import sys

import numpy as np
import pytest
from hostile_images import COUNT, hostile_files
from PIL import Image

from distillkit.cli import main as cli
from distillkit.errors import DiskError, DistillkitError
from distillkit.files.images import write_picture
from distillkit.inference.files import Shard, plan_files

MODEL = ("--model", "toy/faithful")


@pytest.fixture
def restore(monkeypatch, capfd, toys, tmp_path):
    """``restore(...)`` -> exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["distillkit", "restore", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        assert out == ""
        return stopped.value.code or 0, err

    return call


def picture(path, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folders_are_mirrored_and_files_and_patterns_taken(restore, tmp_path):
    for name in ("in/a.png", "in/below/b.jpg", "in/below/c.webp", "single.tif"):
        picture(tmp_path / name)
    (tmp_path / "in/notes.txt").write_text("no image")
    assert restore("in", "single.tif", "-o", "out", *MODEL) == (0, "")
    assert tree(tmp_path / "out") == ["a.png", "below/b.png", "below/c.png", "single.png"]
    assert Image.open(tmp_path / "out/below/b.png").size == (12, 10)
    assert restore("in/**/*.[jw]*", "-o", "by_pattern", *MODEL)[0] == 0
    assert tree(tmp_path / "by_pattern") == ["below/b.png", "below/c.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_one_file_goes_where_it_is_told(restore, tmp_path, suffix):
    picture(tmp_path / "a.png")
    assert restore("a.png", "-o", f"new/b{suffix}", *MODEL) == (0, "")
    assert Image.open(tmp_path / f"new/b{suffix}").size == (12, 10)
    assert tree(tmp_path / "new") == [f"b{suffix}"]


def test_results_of_a_second_run_into_the_same_folder_are_no_inputs(restore, tmp_path):
    picture(tmp_path / "in/a.png")
    for _ in range(2):
        assert restore("in", "-o", "in/restored", "--overwrite", *MODEL)[0] == 0
    assert tree(tmp_path / "in") == ["a.png", "restored/a.png"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_of_the_files_are_disjoint_and_together_all(tmp_path, count):
    for name in ("b.png", "a/c.png", "a.png", "z/y/x.png", "d.png"):
        picture(tmp_path / "in" / name)
    inputs = [tmp_path / "in", picture(tmp_path / "other.png")]
    shares = []
    for number in range(1, count + 1):
        jobs = plan_files(inputs, tmp_path / "out", shard=Shard(number, count))
        shares.append([job.source for job in jobs])
    everything = [job.source for job in plan_files(inputs, tmp_path / "out")]
    together = [source for share in shares for source in share]
    assert sorted(together) == sorted(everything)
    assert len(everything) == 6
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_stays_the_same_while_other_machines_finish_files(tmp_path):
    for name in "abcdef":
        picture(tmp_path / "in" / f"{name}.png")

    def share(number):
        jobs = plan_files(
            [tmp_path / "in"], tmp_path / "out", shard=Shard(number, 2), existing="skip"
        )
        return [job.source.stem for job in jobs]

    assert [share(1), share(2)] == [["a", "c", "e"], ["b", "d", "f"]]
    for name in "abc":
        picture(tmp_path / "out" / f"{name}.png")
    assert [share(1), share(2)] == [["e"], ["d", "f"]]


def test_the_order_of_the_inputs_does_not_move_shares(tmp_path):
    inputs = [picture(tmp_path / "in" / f"{name}.png") for name in "abcd"]
    shares = [
        plan_files(of_machine, tmp_path / "out", shard=Shard(2, 2))
        for of_machine in (inputs, inputs[::-1])
    ]
    assert shares[0] == shares[1]


def test_clashes_between_shares_are_refused(tmp_path):
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / "in" / name)
    with pytest.raises(DistillkitError, match="two results would be written there"):
        plan_files([tmp_path / "in"], tmp_path / "out", shard=Shard(1, 2))


def test_a_result_may_not_replace_an_input_of_another_share(tmp_path):
    for name in ("a.png", "b.jpg"):
        picture(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.png").symlink_to(tmp_path / "in/a.png")
    with pytest.raises(DistillkitError, match="is an input, which a result would replace"):
        plan_files([tmp_path / "in"], tmp_path / "out", shard=Shard(2, 2), existing="replace")
    plan_files([tmp_path / "in"], tmp_path / "out", shard=Shard(1, 2), existing="replace")


def test_shares_are_restored_and_resumed(restore, tmp_path):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    command = ("in", "-o", "out", "--skip-existing", *MODEL)
    assert restore(*command, "--shard", "1/2")[0] == 0
    assert tree(tmp_path / "out") == ["a.png", "c.png"]
    (tmp_path / "out/c.png").unlink()
    before = (tmp_path / "out/a.png").stat().st_mtime_ns
    assert restore(*command, "--shard", "1/2")[0] == 0
    assert tree(tmp_path / "out") == ["a.png", "c.png"]
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    assert restore(*command, "--shard", "2/2")[0] == 0
    assert tree(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert restore(*command, "--shard", "5/5") == (0, "nothing is left to restore\n")


def test_a_damaged_file_is_the_concern_of_its_share_alone(restore, tmp_path):
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"not a picture")
    assert restore("in", "-o", "out", "--shard", "1/2", *MODEL) == (0, "")
    code, message = restore("in", "-o", "out", "--shard", "2/2", *MODEL)
    assert code == 2 and "b.png" in message


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1", "1/0", "-1/4", "1/4/2", "1.5/4"])
def test_a_share_that_does_not_exist_is_refused(restore, tmp_path, shard):
    picture(tmp_path / "in/a.png")
    code, message = restore("in", "-o", "out", f"--shard={shard}", *MODEL)
    assert code == 2
    assert message.startswith(f"error: --shard {shard} - expected NUMBER/COUNT with a number from")
    assert not (tmp_path / "out").exists()


def test_several_tradeoffs_of_a_run(restore, recipe, tmp_path):
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe

    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), tmp_path / "run")
    picture(tmp_path / "a.png", (20, 20))
    of_run = ("--run", "run", "--tradeoff")
    code, _ = restore("a.png", "-o", "out", *of_run, "0,0.5,1")
    assert code == 0 and tree(tmp_path / "out") == ["a_t0.5.png", "a_t0.png", "a_t1.png"]
    ends = [np.asarray(Image.open(tmp_path / f"out/a_t{t}.png")) for t in (0, 1)]
    assert not np.array_equal(*ends)
    assert restore("a.png", "-o", "one.png", *of_run, "1", "--tile", "16")[0] == 0
    assert np.abs(np.asarray(Image.open(tmp_path / "one.png")).astype(int) - ends[1]).mean() < 2
    assert restore("a.png", "-o", "two", *of_run, "0,0.5,1", "--nodes", "2")[0] == 0
    middle = np.asarray(Image.open(tmp_path / "two/a_t0.5.png"))
    assert np.abs(np.mean(ends, 0) - middle).max() <= 1
    assert restore("a.png", "-o", "b.png", *MODEL, "--nodes", "6")[0] == 2


def test_a_precision_is_refused_before_anything_is_written(restore, tmp_path, monkeypatch):
    picture(tmp_path / "a.png", (20, 20))
    command = ("a.png", "-o", "out/b.png", *MODEL, "--precision", "bf16")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    code, message = restore(*command, "--device", "cpu")
    assert code == 2
    assert message.startswith("error: precision bf16 - cpu does not compute in bfloat16")
    assert tree(tmp_path) == ["a.png"]
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert restore(*command, "--device", "cpu")[0] == 0
    assert tree(tmp_path / "out") == ["b.png"]


def test_the_weights_of_a_tradeoff_are_merged_once_for_a_folder(
    restore, recipe, tmp_path, monkeypatch
):
    from distillkit.adapters.lora_layer import LoRALayer
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe

    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), tmp_path / "run")
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "in" / name, (20, 20))
    of_run = ("--run", "run", "--tradeoff", "0.5")
    computed = []
    weight_change = LoRALayer.weight_change

    def counted(layer):
        computed.append(layer)
        return weight_change(layer)

    monkeypatch.setattr(LoRALayer, "weight_change", counted)
    assert restore("in/a.png", "-o", "alone.png", *of_run)[0] == 0
    of_one_image = len(computed)
    assert of_one_image > 0
    assert restore("in", "-o", "out", *of_run)[0] == 0
    assert len(computed) == 2 * of_one_image
    alone = (tmp_path / "alone.png").read_bytes()
    assert all((tmp_path / "out" / name).read_bytes() == alone for name in tree(tmp_path / "in"))


def test_a_registered_model_takes_its_own_options(restore, tmp_path):
    picture(tmp_path / "a.png")
    for seed in (1, 2):
        options = (*MODEL, "--set", f"seed={seed}", "--color-fix", "adain")
        assert restore("a.png", "-o", f"{seed}.png", *options)[0] == 0
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["a.png", "-o", "out", "--run", "r", *MODEL], "give either --run, or --model"),
        (["a.png", "-o", "out", "--run", "r", "--set", "seed=1"], "give either --run, or --model"),
        (["a.png", "-o", "out", *MODEL, "--tradeoff", "2"], "expected a number from 0 to 1"),
        (["a.png", "-o", "out", *MODEL, "--tradeoff", "a,1"], "expected a number from 0 to 1"),
        (["a.png", "-o", "out", *MODEL, "--tradeoff", "0.5"], "has a fixed tradeoff"),
        (
            ["a.png", "-o", "out", *MODEL, "--tradeoff", "0,0.0"],
            "two results of a.png would be written there; name each input once, and each tradeoff",
        ),
        (["a.png", "-o", "out", *MODEL, "--set", "seed"], "a string needs quotes"),
        (
            ["a.png", "-o", "out", *MODEL, "--set", "sed=1"],
            'sed - unknown key; did you mean "seed"?; set them by --set KEY=VALUE',
        ),
        (["a.png", "-o", "out", *MODEL, "--color-fix", "sepia"], "no such color fix"),
        (["a.png", "-o", "out", *MODEL, "--device", "abacus"], "device abacus cannot be used"),
        (["a.png", "-o", "out", "--model", "toy/faithfull"], 'did you mean "toy/faithful"'),
        (["missing.png", "-o", "out", *MODEL], "missing.png - no such file or folder"),
        (["missing.png", "-o", "b.png", *MODEL], "missing.png - no such file or folder"),
        (["*.webp", "-o", "out", *MODEL], "matches no file"),
        (["empty", "-o", "out", *MODEL], "holds no images"),
        (["in", "-o", "b.png", *MODEL], "is one file"),
        (["a.png", "-o", "a.txt", *MODEL], "is a file; name an output folder"),
        (["a.png", "-o", ".", "--overwrite", *MODEL], "is an input"),
        (
            ["in/a.png", "in/a.jpg", "-o", "out", *MODEL],
            "restore each by its name, into different folders",
        ),
        (["a.png", "-o", "there.png", *MODEL], "there.png - exists; pass --overwrite"),
    ],
)
def test_refused_before_any_work(restore, tmp_path, arguments, what):
    for name in ("a.png", "in/a.png", "in/a.jpg", "there.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, message = restore(*arguments)
    assert code == 2 and what in message and "Traceback" not in message
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("command", "extra"), [("demo", "demo"), ("restore-video", "video")])
def test_commands_of_extras_that_are_missing_name_the_extra(
    toys, monkeypatch, capfd, command, extra
):
    own = [c for c in cli.app.registered_commands if c.name not in cli.EXTRA_OF_COMMAND]
    monkeypatch.setattr(cli.app, "registered_commands", own)
    monkeypatch.setattr(sys, "argv", ["distillkit", command, "somewhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert f"pip install 'distillkit[{extra}]'" in capfd.readouterr().err


def test_overwriting_replaces_results_only_when_told(restore, tmp_path):
    picture(tmp_path / "a.png")
    target = picture(tmp_path / "b.png")
    assert restore("a.png", "-o", "b.png", "--overwrite", *MODEL)[0] == 0
    assert Image.open(target).size == (12, 10)


def test_a_write_that_fails_half_way_leaves_nothing(monkeypatch, tmp_path):
    def full(self, file, **options):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_picture(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert tree(tmp_path) == []


def test_what_cannot_be_written_is_refused_before_any_work(restore, tmp_path):
    picture(tmp_path / "in/a/x.png")
    picture(tmp_path / "in/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_text("in the way")
    code, message = restore("in", "-o", "out", *MODEL)
    assert code == 2 and "out/a - cannot be written: Not a directory" in message
    assert tree(tmp_path / "out") == ["a"]


def test_a_plan_needs_no_torch():
    import subprocess

    program = (
        "import sys; from distillkit.inference.files import plan_files; "
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_plan_of_nothing_is_refused(tmp_path):
    with pytest.raises(DistillkitError, match="several inputs"):
        plan_files([picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "c.png")


def test_hostile_files_are_restored_or_named_and_leave_nothing_half_done(restore, tmp_path):
    files = hostile_files()
    assert len(files) == COUNT
    folder = tmp_path / "in"
    # A folder for each: some names differ by their suffix alone.
    for name, content in files.items():
        place = folder / name.replace(".", "_") / name
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    (folder / "a folder.png").mkdir()
    (folder / "a broken link.png").symlink_to(tmp_path / "nowhere")
    code, message = restore(folder, "-o", tmp_path / "out", *MODEL)
    named = {
        line.partition(" - ")[0].rpartition("/")[2]: line
        for line in message.splitlines()
        if line.startswith("not restored: ")
    }
    written = {p.parent.name: p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert code == 3 and "Traceback" not in message and len(named) + len(written) == COUNT
    for name in files:
        assert (name in named) != (name.replace(".", "_") in written), name
        assert not (name.startswith("ok-") and name in named), named[name]
        assert not (name.startswith("bad-") and name not in named), name
    for path in written.values():
        assert path.suffix == ".png" and not path.name.startswith(".")
        with Image.open(path) as result:
            result.load()
    assert all(len(line.partition(" - ")[2]) > 5 and len(line) < 400 for line in named.values())
    assert 100 < len(named) < 260


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_megapixels_bound_what_is_read(restore, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    width, height = 6, 5
    picture(tmp_path / "a.png", (width, height))
    limit = f"{(width * height - 2) / 1e6:.6f}"
    code, message = restore("a.png", "-o", "out", *MODEL, "--megapixels", limit)
    assert code == 2 and "a.png - its header claims more than" in message
    assert not (tmp_path / "out").exists()
    enough = f"{width * height / 1e6:.6f}"
    assert restore("a.png", "-o", "out", *MODEL, "--megapixels", enough)[0] == 0
