"""The demo's server, without a browser: what it answers to photos, to crowds, to strangers' files, and what it must not tell."""

import html
import io
import os
import re
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hostile_images import COUNT, hostile_files
from PIL import Image
from toy_models import ToyModel

from distillkit import DistillkitError, Restorer
from distillkit.cli import main as cli
from distillkit.inference.student import Student

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'distillkit[demo]'")

from demo_client import API, Visitor, Watched, free_port, knobbed, photo

from distillkit.demo.desk import KEPT_RESULTS, Desk
from distillkit.demo.page import QUEUE, serve

MAX_PIXELS, MAX_UPLOAD = 60_000, 3 << 18


@contextmanager
def serving(student):
    restorer = Watched(student)
    with serve(
        restorer, "toy", port=free_port(), max_pixels=MAX_PIXELS, max_upload=MAX_UPLOAD
    ) as address:
        yield restorer, address


@pytest.fixture(scope="module")
def server():
    with serving(knobbed()) as both:
        yield both


@pytest.fixture
def visitor(server):
    one = Visitor(server[1])
    yield one
    leaks = {
        str(Path.home()),
        tempfile.gettempdir(),
        str(Path.cwd()),
        sys.prefix,
        str(Path(__file__).parents[1]),
        "site-packages",
    }
    said = "\n".join(one.heard)
    assert [path for path in leaks if len(path) > 1 and path in said] == []


def told(outputs):
    return html.unescape(re.sub("<[^>]*>", "", outputs[2]))


def picture(visitor, file):
    return Image.open(io.BytesIO(visitor.fetch(file)))


def test_a_photo_comes_back_as_the_restorer_makes_it(server, visitor):
    content = photo()
    outputs = visitor.restore(content, 0.25)
    (before, after), download = outputs[0], outputs[1]["value"]
    assert "30 x 20 → 60 x 40 pixels" in told(outputs) and picture(visitor, before).size == picture(
        visitor, after
    ).size == (60, 40)
    expected = Restorer(server[0].student)(content, 0.25)
    assert np.array_equal(np.asarray(picture(visitor, download)), np.asarray(expected))
    assert download["url"].endswith("restored_t0.25.png")


def test_the_knob_changes_the_picture_and_going_back_costs_nothing(server, visitor):
    content, restorer = photo(21), server[0]
    ends = [visitor.fetch(visitor.restore(content, t)[0][1]) for t in (0.0, 1.0)]
    calls = restorer.calls
    assert ends[0] != ends[1]
    assert visitor.fetch(visitor.restore(content, 0.0)[0][1]) == ends[0]
    both = visitor.restore(content, 1.0, "most realistic (0)")[0]
    assert [visitor.fetch(file) for file in both] == ends and restorer.calls == calls


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_modes_are_the_restorers(server, visitor, mode):
    content = photo(mode=mode)
    outputs = visitor.restore(content)
    expected = Restorer(server[0].student)(content, 0.5)
    result = picture(visitor, outputs[1]["value"])
    assert result.mode == expected.mode and np.array_equal(np.asarray(result), np.asarray(expected))
    assert picture(visitor, outputs[0][1]).mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")


def test_sixteen_bits_and_orientation_are_the_restorers(visitor):
    deep = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(deep, "PNG")
    outputs = visitor.restore(deep.getvalue())
    assert picture(visitor, outputs[1]["value"]).mode == "I;16"
    assert (
        np.asarray(picture(visitor, outputs[0][0])).max() > 200
    )  # white stays white in what is shown
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = visitor.restore(photo(kind="JPEG", exif=exif))
    assert (
        picture(visitor, turned[1]["value"]).size == picture(visitor, turned[0][0]).size == (40, 60)
    )


def test_no_photo_is_no_error(visitor):
    assert visitor.join(None).status_code == 200
    outputs = visitor.result()
    assert outputs[0] is None and told(outputs) == "Choose a photo to begin."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (photo(300, 201), "201 x 300 pixels are more than the 0.06 million that this demo takes"),
        (b"nothing", "empty, or not an image of a known format"),
        (photo()[:300], "Not restored: "),
    ],
)
def test_what_is_refused_is_told(visitor, content, says):
    outputs = visitor.restore(content)
    assert outputs[0] is None and outputs[1]["value"] is None and says in told(outputs)


def test_a_file_that_is_too_large_is_refused_unread(visitor):
    answer = visitor.ask("POST", f"{API}/upload", files={"files": ("a.png", bytes(3_000_000))})
    assert answer.status_code == 413 and "larger than the 0.75 MB" in answer.text
    answer = visitor.ask("POST", f"{API}/upload", files={"files": ("a.png", bytes(MAX_UPLOAD + 1))})
    assert answer.status_code == 413 and "maximum allowed size" in answer.text
    assert visitor.ask("POST", f"{API}/upload", content=iter([b"x"])).status_code == 411


@pytest.mark.parametrize("tradeoff", [7, "a", None, [], float("inf")])
def test_a_wrong_tradeoff_harms_nobody(visitor, tradeoff):
    if visitor.join(visitor.upload(photo()), tradeoff, "nothing").is_success:
        assert visitor.result() is None or "Not restored" in visitor.heard[-1]
    assert visitor.restore(photo())[0]


def test_what_a_model_says_when_it_fails_stays_in_the_log(server, visitor, monkeypatch, caplog):
    monkeypatch.setattr(server[0], "fails", RuntimeError(f"in {__file__}"))
    assert (
        told(visitor.restore(photo(5, 5)))
        == "Not restored: the model failed on this photo. The demo's log says why."
    )
    assert __file__ in caplog.text
    monkeypatch.setattr(
        server[0], "fails", DistillkitError("out of memory: 5 x 5 pixels are too much")
    )
    assert (
        told(visitor.restore(photo(5, 5)))
        == "Not restored: out of memory: 5 x 5 pixels are too much"
    )


def test_twenty_at_once_are_all_answered_one_is_too_many_and_the_page_stays_open(server):
    restorer, address = server
    restorer.open.clear()
    visitors = [Visitor(address) for _ in range(QUEUE + 4)]
    paths = [v.upload(photo(8, 9 + i)) for i, v in enumerate(visitors)]
    try:
        assert visitors[0].join(paths[0]).status_code == 200
        while restorer.calls == 0 or len(visitors[0].heard) < 2:
            pass
        answers = [v.join(p) for v, p in zip(visitors[1:], paths[1:], strict=True)]
        assert visitors[0].ask("GET", "/").status_code == 200  # while all wait
    finally:
        restorer.open.set()
    refused = [a for a in answers if a.status_code == 503]
    assert 2 <= len(refused) <= 4 and all("Queue is full" in a.text for a in refused)
    waiting = [
        visitors[0],
        *(v for v, a in zip(visitors[1:], answers, strict=True) if a.is_success),
    ]
    with ThreadPoolExecutor(len(waiting)) as pool:
        results = list(pool.map(Visitor.result, waiting))
    assert len(results) >= QUEUE and all("pixels in" in told(r) for r in results)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/files",
        "/files/../../etc/passwd",
        "files/a",
        "http://127.0.0.1:9/a.png",
        "https://example.org/a",
        "",
        3,
    ],
)
def test_only_uploads_are_files(visitor, path):
    assert (
        visitor.join({"path": path, "url": None, "meta": {"_type": "gradio.FileData"}}).status_code
        == 400
    )
    nested = {"path": [{"path": path}]}
    assert visitor.join(nested).status_code == 400


def test_an_upload_that_is_not_there(visitor):
    assert visitor.join("/files/nothing/photo.png").status_code == 200
    assert visitor.result() is None


def test_addresses_that_the_page_has_no_use_for_are_closed(visitor):
    secret = [
        f"file={p}"
        for p in (
            "/etc/passwd",
            "/files/../../etc/passwd",
            "http://127.0.0.1:9/x",
            "%2Fetc%2Fpasswd",
        )
    ]
    other = [
        "proxy=http://127.0.0.1:9/",
        "openapi.json",
        "vibe-code",
        "deep_link",
        "run/restore",
        "stream/a/b/c/playlist.m3u8",
    ]
    outside = ["/monitoring", "/docs", "/openapi.json", "/../etc/passwd", "/pwa_icon"]
    for path in [*(f"{API}/{p}" for p in [*secret, *other]), *outside]:
        assert visitor.ask("GET", path).status_code == 404, path
    assert visitor.ask("GET", f"{API}/file=/files/nothing").status_code == 403
    assert visitor.ask("POST", f"{API}/process_recording").status_code == 404


def test_what_the_server_says_of_itself_names_no_path(visitor):
    for path in (
        "/",
        "/config",
        f"{API}/info",
        "/theme.css",
        "/manifest.json",
        f"{API}/startup-events",
        "/static/x",
        "/assets/x",
    ):
        assert visitor.ask("GET", path).status_code in (200, 404)
    visitor.ask("POST", f"{API}/queue/join", content=b"{")
    visitor.ask("POST", f"{API}/queue/join", content=b"[" * 100_000)
    visitor.ask("POST", f"{API}/queue/join", json={"data": [], "fn_index": 99, "session_hash": "x"})
    visitor.ask("POST", f"{API}/reset", json={})
    visitor.ask("POST", f"{API}/cancel", content=bytes(2_000_000))
    visitor.ask(
        "POST",
        f"{API}/upload",
        content=b"x",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    visitor.ask("POST", f"{API}/upload", content=b"x")
    assert visitor.restore(photo())[0]


def test_hostile_files_are_restored_or_named(visitor):
    answers = {}
    for name, content in hostile_files().items():
        if len(content) <= MAX_UPLOAD:
            answers[name] = visitor.restore(content, name=name)
    assert len(answers) > COUNT - 3
    for name, outputs in answers.items():
        assert outputs is not None, name
        restored, said = outputs[0] is not None, told(outputs)
        assert (
            said.startswith("Left: ")
            if restored
            else said.startswith("Not restored: ") and len(said) > 25
        ), (name, said)
        assert "the model failed" not in said and len(said) < 400, (name, said)
        assert not (name.startswith("ok-") and not restored), (name, said)
        assert not (name.startswith("bad-") and restored), name
    assert 100 < sum(outputs[0] is None for outputs in answers.values()) < 260


def test_without_a_knob_the_slider_is_gone():
    with serving(Student(ToyModel(), None)) as (_, address):
        config = Visitor(address).http.get("/config").json()
        sliders = [
            c["props"]["visible"] for c in config["components"] if c["type"] in ("slider", "radio")
        ]
        assert sliders == [False, False] and "60 x 40" in told(
            Visitor(address).restore(photo(), 0.7)
        )


def test_files_of_results_are_bounded(tmp_path):
    desk = Desk(Restorer(knobbed()), tmp_path, MAX_PIXELS)
    one = desk.photo(photo())
    for i in range(KEPT_RESULTS + 5):
        desk.restored(one, i / 100)
    assert len(list(tmp_path.iterdir())) == KEPT_RESULTS + 1
    for file in tmp_path.rglob("view.jpg"):
        file.unlink()
    again = desk.photo(photo())
    assert again.view.exists() and desk.restored(again, 0.1).there()


def test_nothing_is_left_when_it_stops_and_the_environment_is_as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(knobbed()) as (_, address):
        assert Visitor(address).restore(photo())[0] and len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == [] and os.environ["GRADIO_TEMP_DIR"] == "x"


def test_it_listens_on_this_machine_only_and_says_when_it_cannot(server):
    port = int(server[1].rpartition(":")[2])
    assert server[1].startswith("http://127.0.0.1:")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), 1):
        pass
    with (
        pytest.raises(DistillkitError, match="choose another --host or --port"),
        serve(server[0], "toy", port=port),
    ):
        pass


def test_the_command(toys, recipe, tmp_path, monkeypatch, capfd):
    from distillkit.demo import page
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe

    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), tmp_path / "run")
    seen = []
    port = free_port()
    monkeypatch.setattr(
        page, "wait", lambda: seen.append(Visitor(f"http://127.0.0.1:{port}").restore(photo()))
    )
    monkeypatch.setattr(
        sys, "argv", ["distillkit", "demo", str(tmp_path / "run"), "--port", str(port)]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (
        not stopped.value.code
        and f"open http://127.0.0.1:{port}" in capfd.readouterr().out
        and "60 x 40" in told(seen[0])
    )


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "distillkit.demo.page")
    monkeypatch.setattr(sys, "argv", ["distillkit", "demo", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "pip install 'distillkit[demo]'" in capfd.readouterr().err
