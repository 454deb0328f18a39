"""Pushing to and loading from a local server that answers the Hub's calls."""

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline
from hub_stand_in import TOKEN, StoredRepository, serve_hub, set_endpoint
from huggingface_hub import SpaceCard

from distillkit import DistilledRestorationPipeline, DistillkitError, Restorer
from distillkit.console import LEVEL, logger
from distillkit.export.folder import export_folder
from distillkit.export.hub import Repository, upload
from distillkit.export.web import space_readme
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe

REPOSITORY = "me/student"
MODEL = ("models", REPOSITORY)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve_hub(monkeypatch, tmp_path / "cache") as handler:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield handler


@pytest.fixture
def folder(tmp_path):
    """A folder that passes for an exported student."""
    folder = tmp_path / "exported"
    (folder / "student").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "student" / "weights").write_bytes(b"1")
    (folder / ".hidden").write_text("of the file manager")
    (folder / "README.md").write_text(
        '---\nlicense: mit\n---\nrestore --run this/folder\nfolder = "this/folder"\n'
    )
    return folder


def test_a_pushed_student_is_loaded_by_its_name(hub, recipe, tmp_path, distillkit):
    run = tmp_path / "run"
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), run)
    export_folder(run, tmp_path / "exported")
    # The command exports by itself.
    outcome = distillkit("push", run, REPOSITORY, "--private")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith(f"{REPOSITORY}\n")
    stored = hub.repositories[MODEL]
    assert stored.settings["visibility"] == "private"
    assert len(stored.commits) == 2
    exported = {".gitattributes": b""}
    for path in (tmp_path / "exported").rglob("*"):
        if path.is_file():
            name = path.relative_to(tmp_path / "exported").as_posix()
            exported[name] = path.read_bytes()
    card = stored.files["README.md"].decode()
    assert "this/folder" not in card
    assert f"--run {REPOSITORY}" in card
    assert f'folder = snapshot_download("{REPOSITORY}")' in card
    assert stored.files == exported | {"README.md": card.encode()}
    image = torch.rand(3, 16, 16)
    expected = Restorer.from_pretrained(run, "cpu")(image, 0.5)
    assert torch.equal(Restorer.from_pretrained(REPOSITORY, "cpu")(image, 0.5), expected)
    own = DistilledRestorationPipeline.from_pretrained(REPOSITORY, cache_dir=tmp_path / "second")
    plain = DiffusionPipeline.from_pretrained(
        huggingface_hub.snapshot_download(REPOSITORY), trust_remote_code=True
    )
    assert torch.equal(own(image, 0.5).images[0], expected)
    assert torch.equal(plain(image, 0.5).images[0], expected)


def test_what_a_repository_holds_is_replaced_on_demand_only(hub, folder):
    stored = hub.repositories[MODEL] = StoredRepository()
    stored.commit({".gitattributes": b"", "a.bin": b"", "b.bin": b"", "c": b"", "README.md": b"#"})
    message = r"holds 4 files already \(README.md, a.bin, b.bin, ...\).*--replace"
    with pytest.raises(DistillkitError, match=message):
        upload(folder, Repository(REPOSITORY))
    assert len(stored.commits) == 1
    upload(folder, Repository(REPOSITORY, replace=True))
    assert len(stored.commits) == 2
    names = [".gitattributes", "README.md", "model_index.json", "student/weights"]
    assert sorted(stored.files) == names
    assert stored.files["README.md"].endswith(
        b'restore --run me/student\nfolder = snapshot_download("me/student")\n'
    )
    # The files on this disk stay as they are.
    assert "this/folder" in (folder / "README.md").read_text()


def test_an_empty_repository_is_filled(hub, folder):
    stored = hub.repositories[MODEL] = StoredRepository()
    stored.commit({".gitattributes": b""})
    upload(folder, Repository(REPOSITORY))
    assert "model_index.json" in stored.files


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        ("/api/repos/create", 403, r"the token may not write to me \(.*403"),
        ("/api/repos/create", 401, "the Hub does not accept the token; run .hf auth login"),
        ("/preupload/", 403, "the token may not write to me"),
        ("/commit/", 412, "somebody else changed it meanwhile"),
        ("/commit/", 500, "the Hub refused: .*500"),
        ("/api/models/", 401, "the Hub does not accept the token"),
    ],
)
def test_a_refusal_leaves_nothing_half_uploaded(hub, folder, call, status, reason, monkeypatch):
    message = "Invalid credentials in Authorization header" if status == 401 else "No"
    hub.refusal[call] = (status, message)
    # The client waits before it tries again.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DistillkitError, match=f"me/student - not uploaded: {reason}"):
        upload(folder, Repository(REPOSITORY))
    for stored in hub.repositories.values():
        assert stored.files == {".gitattributes": b""}


def test_what_is_wrong_is_said_before_any_work(hub, tmp_path, distillkit, monkeypatch):
    outcome = distillkit("push", tmp_path / "nothing", "student")
    assert outcome.code == 2
    assert outcome.err == ('error: student - names no owner; the Hub\'s names are "owner/name"\n')
    outcome = distillkit("push", tmp_path / "nothing", "me/stu dent")
    assert "me/stu dent - no name of a repository" in outcome.err
    stored = hub.repositories[MODEL] = StoredRepository()
    stored.commit({"a": b""})
    assert "holds 1 files already (a)" in distillkit("push", tmp_path, REPOSITORY).err
    monkeypatch.delenv("HF_TOKEN")
    outcome = distillkit("push", tmp_path / "nothing", REPOSITORY)
    assert outcome.code == 2
    assert 'nobody is logged in to the Hub: run "hf auth login", or set HF_TOKEN' in outcome.err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    outcome = distillkit("push", tmp_path, REPOSITORY)
    assert "me/student - not uploaded: the Hub cannot be reached" in outcome.err


def test_only_a_folder_of_its_kind_is_uploaded(hub, tmp_path):
    for kind, command in (("model", "-o DIR"), ("dataset", "degrade"), ("space", "--web DIR")):
        with pytest.raises(DistillkitError, match=f"holds no {kind} .*{command}"):
            upload(tmp_path, Repository(REPOSITORY, kind))
    assert hub.repositories == {}


def test_a_page_becomes_a_static_space(hub, tmp_path, distillkit):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<p>restores</p>")
    about = {"recipe": "toy: x", "licenses": {"student": "MIT"}}
    (page / "README.md").write_text(space_readme(about))
    outcome = distillkit("push", page, "me/page", "--space")
    assert outcome.code == 0, outcome.err
    stored = hub.repositories["spaces", "me/page"]
    assert stored.settings["sdk"] == "static"
    assert len(stored.commits) == 2
    data = SpaceCard(stored.files["README.md"].decode()).data
    assert (data.title, data.sdk, data.app_file) == ("toy: x", "static", "index.html")
    assert data.app_file in stored.files
    outcome = distillkit("push", tmp_path, "me/other", "--space")
    assert outcome.code == 2
    assert "distillkit export RUN --web DIR" in outcome.err


def test_an_interrupted_upload_says_how_to_go_on(hub, folder, distillkit, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupt)
    outcome = distillkit("push", folder, REPOSITORY)
    assert outcome.code == 130
    assert "me/student - interrupted: it holds all of the upload or nothing" in outcome.err
    assert hub.repositories[MODEL].files == {".gitattributes": b""}


@pytest.mark.parametrize("flag", ["-v", "-q"])
def test_no_level_prints_the_token_or_the_records_of_http(
    hub, folder, distillkit, monkeypatch, flag
):
    monkeypatch.setenv(LEVEL, "info")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    before = logger.level
    try:
        outcome = distillkit(flag, "push", folder, REPOSITORY)
    finally:
        logger.setLevel(before)
    assert outcome.code == 0, outcome.err
    for text in (TOKEN, "authorization", "httpcore", "HTTP Request"):
        assert text not in outcome.out + outcome.err


def test_no_message_shows_the_token(hub, folder, distillkit, caplog):
    with caplog.at_level("DEBUG"):
        outcome = distillkit("push", folder, REPOSITORY)
    assert outcome.code == 0
    assert TOKEN not in outcome.out + outcome.err + caplog.text
    # Nor where a server repeats it.
    hub.refusal["/api/"] = (403, f"Bearer {TOKEN} may not")
    outcome = distillkit("push", folder, REPOSITORY)
    assert outcome.code == 2
    assert "Bearer (token) may not" in outcome.err
    assert TOKEN not in outcome.out + outcome.err


def test_a_student_that_is_nowhere(hub):
    with pytest.raises(DistillkitError, match="no plugin's trained student, and not on the Hub"):
        Restorer.from_pretrained("me/another")
