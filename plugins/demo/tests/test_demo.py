"""The demo's server, without a browser: its answers to photos, crowds and hostile files."""

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

from demo_client import API, DemoClient, WatchedRestorer, free_port, photo, student_with_tradeoff

from distillkit_demo.page import MAX_WAITING_CALLS, serve
from distillkit_demo.service import MAX_KEPT_RESULTS, DemoService

MAX_PIXELS, MAX_UPLOAD = 60_000, 3 << 18


@contextmanager
def serving(student, **options):
    restorer = WatchedRestorer(student)
    limits = {"max_pixels": MAX_PIXELS, "max_upload": MAX_UPLOAD, **options}
    with serve(restorer, "toy", port=free_port(), **limits) as address:
        yield restorer, address


@pytest.fixture(scope="module")
def server():
    """The restorer and the address of a running demo."""
    with serving(student_with_tradeoff()) as restorer_and_address:
        yield restorer_and_address


@pytest.fixture
def client(server):
    """A client that must not learn anything about this machine's folders."""
    client = DemoClient(server[1])
    yield client
    leaks = {
        str(Path.home()),
        tempfile.gettempdir(),
        str(Path.cwd()),
        sys.prefix,
        str(Path(__file__).parents[1]),
        "site-packages",
    }
    answers = "\n".join(client.answers)
    assert [path for path in leaks if len(path) > 1 and path in answers] == []


def status_text(outputs):
    return html.unescape(re.sub("<[^>]*>", "", outputs[2]))


def fetch_picture(client, file):
    return Image.open(io.BytesIO(client.fetch(file)))


def test_a_photo_comes_back_as_the_restorer_makes_it(server, client):
    content = photo()
    outputs = client.restore(content, 0.25)
    (before, after), download = outputs[0], outputs[1]["value"]
    assert "30 x 20 → 60 x 40 pixels" in status_text(outputs)
    assert fetch_picture(client, before).size == fetch_picture(client, after).size == (60, 40)
    expected = Restorer(server[0].student)(content, 0.25)
    assert np.array_equal(np.asarray(fetch_picture(client, download)), np.asarray(expected))
    assert download["url"].endswith("restored_t0.25.png")


def test_the_tradeoff_changes_the_picture_and_going_back_costs_nothing(server, client):
    content = photo(21)
    restorer, _ = server
    ends = [client.fetch(client.restore(content, t)[0][1]) for t in (0.0, 1.0)]
    calls = restorer.calls
    assert ends[0] != ends[1]
    assert client.fetch(client.restore(content, 0.0)[0][1]) == ends[0]
    both = client.restore(content, 1.0, "most realistic (0)")[0]
    assert [client.fetch(file) for file in both] == ends and restorer.calls == calls


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_modes_are_the_restorers(server, client, mode):
    content = photo(mode=mode)
    outputs = client.restore(content)
    expected = Restorer(server[0].student)(content, 0.5)
    result = fetch_picture(client, outputs[1]["value"])
    assert result.mode == expected.mode and np.array_equal(np.asarray(result), np.asarray(expected))
    assert fetch_picture(client, outputs[0][1]).mode == (
        "RGBA" if mode in ("LA", "RGBA") else "RGB"
    )


def test_sixteen_bits_and_orientation_are_the_restorers(client):
    deep = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(deep, "PNG")
    outputs = client.restore(deep.getvalue())
    assert fetch_picture(client, outputs[1]["value"]).mode == "I;16"
    view = np.asarray(fetch_picture(client, outputs[0][0]))
    assert view.max() > 200  # white stays white
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = client.restore(photo(kind="JPEG", exif=exif))
    assert fetch_picture(client, turned[1]["value"]).size == (40, 60)
    assert fetch_picture(client, turned[0][0]).size == (40, 60)


def test_no_photo_is_no_error(client):
    assert client.join(None).status_code == 200
    outputs = client.result()
    assert outputs[0] is None and status_text(outputs) == "Choose a photo to begin."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (photo(300, 201), "201 x 300 pixels are more than the 0.06 million that this demo takes"),
        (b"nothing", "empty, or not an image of a known format"),
        (photo()[:300], "Not restored: "),
    ],
)
def test_refusals_are_explained(client, content, says):
    outputs = client.restore(content)
    assert outputs[0] is None and outputs[1]["value"] is None and says in status_text(outputs)


def test_a_file_that_is_too_large_is_refused_unread(client):
    answer = client.request("POST", f"{API}/upload", files={"files": ("a.png", bytes(3_000_000))})
    assert answer.status_code == 413 and "larger than the 0.75 MB" in answer.text
    answer = client.request(
        "POST", f"{API}/upload", files={"files": ("a.png", bytes(MAX_UPLOAD + 1))}
    )
    assert answer.status_code == 413 and "maximum allowed size" in answer.text
    assert client.request("POST", f"{API}/upload", content=iter([b"x"])).status_code == 411


@pytest.mark.parametrize("tradeoff", [7, "a", None, [], float("inf")])
def test_a_wrong_tradeoff_harms_nobody(client, tradeoff):
    if client.join(client.upload(photo()), tradeoff, "nothing").is_success:
        assert client.result() is None or "Not restored" in client.answers[-1]
    assert client.restore(photo())[0]


def test_errors_of_models_stay_in_the_log(server, client, monkeypatch, caplog):
    monkeypatch.setattr(server[0], "error", RuntimeError(f"in {__file__}"))
    outputs = client.restore(photo(5, 5))
    assert status_text(outputs).startswith("Not restored: the model failed on this photo.")
    assert status_text(outputs).endswith("The demo's log says why.")
    assert __file__ in caplog.text
    too_large = "out of memory: 5 x 5 pixels are too much"
    monkeypatch.setattr(server[0], "error", DistillkitError(too_large))
    assert status_text(client.restore(photo(5, 5))) == f"Not restored: {too_large}"


def test_twenty_at_once_are_all_answered_one_is_too_many_and_the_page_stays_open(server):
    restorer, address = server
    restorer.open.clear()
    first, *others = [DemoClient(address) for _ in range(MAX_WAITING_CALLS + 4)]
    path = first.upload(photo(8, 9))
    paths = [client.upload(photo(8, 10 + i)) for i, client in enumerate(others)]
    try:
        assert first.join(path).status_code == 200
        while restorer.calls == 0:
            pass
        answers = [client.join(path) for client, path in zip(others, paths, strict=True)]
        assert first.request("GET", "/").status_code == 200  # while all wait
    finally:
        restorer.open.set()
    refused = [answer for answer in answers if answer.status_code == 503]
    assert 2 <= len(refused) <= 4
    assert all("Queue is full" in answer.text for answer in refused)
    accepted = [c for c, answer in zip(others, answers, strict=True) if answer.is_success]
    waiting = [first, *accepted]
    with ThreadPoolExecutor(len(waiting)) as pool:
        results = list(pool.map(DemoClient.result, waiting))
    assert len(results) >= MAX_WAITING_CALLS and all("pixels in" in status_text(r) for r in results)


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
def test_only_uploads_are_files(client, path):
    file = {"path": path, "url": None, "meta": {"_type": "gradio.FileData"}}
    assert client.join(file).status_code == 400
    nested = {"path": [{"path": path}]}
    assert client.join(nested).status_code == 400


def test_an_upload_that_is_not_there(client):
    assert client.join("/files/nothing/photo.png").status_code == 200
    assert client.result() is None


def test_addresses_that_the_page_has_no_use_for_are_closed(client):
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
        assert client.request("GET", path).status_code == 404, path
    assert client.request("GET", f"{API}/file=/files/nothing").status_code == 403
    assert client.request("POST", f"{API}/process_recording").status_code == 404


FOREIGN = [
    {"host": "evil.example"},
    {"host": "evil.example:7860", "origin": "http://evil.example:7860"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_sites_and_other_names_are_refused(client, headers):
    form = {"files": ("photo.png", photo())}
    answer = client.request("POST", f"{API}/upload", files=form, headers=headers)
    assert answer.status_code in (403, 421)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "192.168.0.7", "[::1]"])
def test_own_names_and_numbers_are_known_through_any_port(client, name):
    headers = {"host": f"{name}:8080", "origin": f"http://{name}:8080"}
    form = {"files": ("photo.png", photo())}
    answer = client.request("POST", f"{API}/upload", files=form, headers=headers)
    assert answer.status_code == 200


def test_a_name_that_is_allowed_is_known_behind_a_proxy_that_encrypts():
    student = student_with_tradeoff()
    with serving(student, allowed_hosts=["Demo.example"]) as (_, address):
        headers = {"host": "demo.example", "origin": "https://demo.example"}
        assert DemoClient(address).request("GET", "/", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/config", f"{API}/nowhere"])
def test_browsers_are_told_to_be_careful(client, path):
    headers = client.request("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"


def test_it_asks_no_proxy_for_its_own_page(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with serving(student_with_tradeoff()) as (_, address):
        assert DemoClient(address).request("GET", "/").status_code == 200
    assert os.environ["no_proxy"] == ""


def test_old_files_make_room_for_new_ones(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(student_with_tradeoff(), max_disk=1 << 20) as (_, address):
        client = DemoClient(address)
        for side in range(280, 290):
            client.upload(photo(side, side))
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            assert sum(path.stat().st_size for path in files) < 1.1 * 2**20
    assert len(files) > 1


def test_what_the_server_says_of_itself_names_no_path(client):
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
        assert client.request("GET", path).status_code in (200, 404)
    client.request("POST", f"{API}/queue/join", content=b"{")
    client.request("POST", f"{API}/queue/join", content=b"[" * 100_000)
    client.request(
        "POST", f"{API}/queue/join", json={"data": [], "fn_index": 99, "session_hash": "x"}
    )
    client.request("POST", f"{API}/reset", json={})
    client.request("POST", f"{API}/cancel", content=bytes(2_000_000))
    client.request(
        "POST",
        f"{API}/upload",
        content=b"x",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    client.request("POST", f"{API}/upload", content=b"x")
    assert client.restore(photo())[0]


def test_hostile_files_are_restored_or_named(client):
    answers = {}
    for name, content in hostile_files().items():
        if len(content) <= MAX_UPLOAD:
            answers[name] = client.restore(content, name=name)
    assert len(answers) > COUNT - 3
    for name, outputs in answers.items():
        assert outputs is not None, name
        restored = outputs[0] is not None
        status = status_text(outputs)
        if restored:
            assert status.startswith("Left: "), (name, status)
        else:
            assert status.startswith("Not restored: ") and len(status) > 25, (name, status)
        assert "the model failed" not in status and len(status) < 400, (name, status)
        assert not (name.startswith("ok-") and not restored), (name, status)
        assert not (name.startswith("bad-") and restored), name
    assert 100 < sum(outputs[0] is None for outputs in answers.values()) < 260


def test_with_a_fixed_tradeoff_the_slider_is_gone():
    with serving(Student(ToyModel(), None)) as (_, address):
        client = DemoClient(address)
        components = client.http.get("/config").json()["components"]
        controls = [c for c in components if c["type"] in ("slider", "radio")]
        assert [c["props"]["visible"] for c in controls] == [False, False]
        assert "60 x 40" in status_text(client.restore(photo(), 0.7))


def test_files_of_results_are_bounded(tmp_path):
    service = DemoService(Restorer(student_with_tradeoff()), tmp_path, MAX_PIXELS)
    accepted = service.accept(photo())
    for i in range(MAX_KEPT_RESULTS + 5):
        service.restore(accepted, i / 100)
    assert len(list(tmp_path.iterdir())) == MAX_KEPT_RESULTS + 1
    for file in tmp_path.rglob("view.jpg"):
        file.unlink()
    again = service.accept(photo())
    assert again.view.exists() and service.restore(again, 0.1).exist()


def test_nothing_is_left_when_it_stops_and_the_environment_is_as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(student_with_tradeoff()) as (_, address):
        assert DemoClient(address).restore(photo())[0]
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    assert os.environ["GRADIO_TEMP_DIR"] == "x"


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
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe
    from distillkit_demo import page

    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), tmp_path / "run")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    outputs = []

    def restore_instead_of_waiting():
        client = DemoClient(address)
        outputs.append(client.restore(photo()))
        assert "# run" in client.http.get("/config").text

    monkeypatch.setattr(page, "wait_for_stop_signal", restore_instead_of_waiting)
    command = ["distillkit", "demo", str(tmp_path / "run"), "--port", str(port)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert f"open {address}" in capfd.readouterr().out
    assert "60 x 40" in status_text(outputs[0])


def test_without_gradio_the_command_says_what_to_install(toys, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "distillkit_demo.page")
    monkeypatch.setattr(sys, "argv", ["distillkit", "demo", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "pip install 'distillkit[demo]'" in capfd.readouterr().err
