"""The demo's server, without a browser: its answers to photos, crowds and hostile files."""

import io
import re
import socket
import sys
import tempfile
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from hostile_images import COUNT, hostile_files
from PIL import Image
from toy_fixtures import install_plugins
from toy_models import ToyModel

from distillkit import DistillkitError, Restorer, hookimpl
from distillkit.cli import main as cli
from distillkit.inference.student import Student

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'distillkit[demo]'")

from demo_client import (
    DemoClient,
    WatchedRestorer,
    free_port,
    full,
    install_finder,
    photo,
    student_with_tradeoff,
)

from distillkit_demo import service
from distillkit_demo.middleware import MAX_CALLS
from distillkit_demo.server import serve

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


def decoded(content):
    return Image.open(io.BytesIO(content))


def test_a_photo_comes_back_as_the_restorer_makes_it(server, client):
    content = photo()
    saved = client.save(content, 30, 20, 0.25)
    assert saved.size == (60, 40)
    expected = np.asarray(Restorer(server[0].student)(content, 0.25))
    assert np.array_equal(np.asarray(saved.picture()), expected)
    shown = client.restore(content, 30, 20, 0.25)
    assert np.array_equal(shown.pixels(), expected)


def test_a_photo_is_opened_with_its_true_size_and_shrunk_to_what_is_shown(client, monkeypatch):
    monkeypatch.setattr(service, "MAX_SHOWN_PIXELS", 10_000)
    opened = client.open(photo(300, 200))
    assert opened.size == (200, 300)
    assert opened.picture().size == (81, 122)
    assert opened.messages[-1]["frames"] == 1


def test_a_crop_is_restored_as_the_restorer_restores_it(server, client):
    content = photo(100, 120)
    crop = "10,20,60,40,60,40"
    expected = decoded(content).crop((10, 20, 70, 60))
    cut = client.call("/cut", content, crop=crop)
    assert np.array_equal(np.asarray(cut.picture()), np.asarray(expected))
    saved = client.call("/save", content, crop=crop, tradeoff=1)
    restored = Restorer(server[0].student)(expected, 1)
    assert np.array_equal(np.asarray(saved.picture()), np.asarray(restored))


def test_a_photo_is_shrunk_before_it_is_restored(client):
    saved = client.call("/save", photo(400, 600), crop="0,0,600,400,90,60", tradeoff=1)
    assert saved.size == (180, 120)


def test_a_map_gives_each_pixel_its_tradeoff(server, client):
    content = photo()
    tradeoffs = np.zeros((40, 60), np.float32)
    tradeoffs[:, 30:] = 1
    saved = client.call("/save", content + tradeoffs.tobytes(), crop=full(30, 20), map="60,40")
    expected = Restorer(server[0].student)(content, tradeoffs)
    assert np.array_equal(np.asarray(saved.picture()), np.asarray(expected))
    realistic = np.asarray(Restorer(server[0].student)(content, 0.0))
    assert not np.array_equal(np.asarray(expected), realistic)


def test_what_plugins_find_is_told_for_each_pixel_that_is_shown(monkeypatch):
    install_finder(monkeypatch)
    with serving(student_with_tradeoff()) as (_, address):
        client = DemoClient(address)
        assert '"findable": "bright"' in client.request("GET", "/student.js").text
        picture = Image.new("RGB", (40, 30))
        picture.paste("white", (10, 5, 20, 15))
        file = io.BytesIO()
        picture.save(file, "PNG")
        found = client.call("/find", file.getvalue(), crop=full(40, 30), shown="80,60")
        levels = np.frombuffer(found.content, np.uint8).reshape(60, 80)
        assert levels[12:28, 22:38].min() == 255
        assert levels[:, 50:].max() == 0
        refused = client.call("/find", file.getvalue(), crop=full(40, 30), shown="0,60")
        assert "a page cannot show 0 x 60 pixels" in refused.failed


def test_without_masks_there_is_nothing_to_find(monkeypatch):
    install_plugins(monkeypatch)
    with serving(student_with_tradeoff()) as (_, address):
        client = DemoClient(address)
        assert '"findable": ""' in client.request("GET", "/student.js").text
        assert client.call("/find", photo(), crop=full(30, 20), shown="60,40").failed


@pytest.mark.parametrize("levels", [[2.0], [np.nan], [-1.0], [0.1, 0.2]])
def test_a_wrong_map_is_refused(client, levels):
    body = photo() + np.array(levels, np.float32).tobytes()
    outcome = client.call("/save", body, crop=full(30, 20), map=f"{len(levels)},1")
    assert "tradeoff map" in outcome.failed


def test_progress_is_told_by_tiles_and_by_place(server):
    restorer, address = server
    restorer.open.clear()
    calls = restorer.calls
    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(DemoClient(address).save, photo(100, 400), 400, 100)
            while restorer.calls == calls:
                time.sleep(0.01)
            second = pool.submit(DemoClient(address).save, photo(), 30, 20)
            time.sleep(0.5)
        finally:
            restorer.open.set()
        assert {"waiting": 1} in second.result().messages
        assert first.result().size == (800, 200)


def test_tiles_are_counted(monkeypatch):
    from distillkit_demo.call_queue import CallQueue

    reports = []
    queue = CallQueue()

    def work(on_tile):
        def watched(done, tiles):
            on_tile(done, tiles)
            reports.append((job.done, job.tiles))

        restorer = Restorer(student_with_tradeoff(), tile=32, overlap=8, on_tile=watched)
        return restorer(np.zeros((60, 60, 3), np.uint8))

    begun = threading.Event()
    job = queue.join(lambda on_tile: begun.wait() and work(on_tile))
    begun.set()
    job.future.result()
    tiles = len(reports)
    assert tiles > 4 and reports == [(i + 1, tiles) for i in range(tiles)]
    queue.close()


def test_who_leaves_makes_room_for_the_next(server, client):
    restorer, address = server
    restorer.open.clear()
    calls = restorer.calls
    call = {"content": photo(), "params": {"crop": full(30, 20), "tradeoff": 0}}
    try:
        for _ in range(3):
            with (
                httpx.Client(base_url=address, trust_env=False) as leaving,
                leaving.stream("POST", "/save", **call) as answer,
            ):
                next(answer.iter_raw())
        with client.http.stream("POST", "/save", **call) as next_one:
            # The first one is being restored; that the others have left is noticed in a while.
            assert '{"waiting": 1}' in next_one.iter_lines()
    finally:
        restorer.open.set()
    assert client.save(photo(), 30, 20).size == (60, 40)
    # Of those that left, only the first one was restored.
    assert restorer.calls <= calls + 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_modes_are_the_restorers(server, client, mode):
    content = photo(mode=mode)
    saved = client.save(content, 30, 20).picture()
    expected = Restorer(server[0].student)(content, 0.5)
    assert saved.mode == expected.mode and np.array_equal(np.asarray(saved), np.asarray(expected))
    cut = client.call("/cut", content, crop=full(30, 20)).picture()
    assert ("A" in cut.mode) == (mode in ("LA", "RGBA"))
    shown = client.restore(content, 30, 20).pixels()
    assert np.array_equal(shown, np.asarray(expected.convert("RGB")))


def test_sixteen_bits_and_orientation_are_the_restorers(client):
    deep = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(deep, "PNG")
    assert client.save(deep.getvalue(), 30, 20).picture().mode == "I;16"
    shrunk = client.call("/save", deep.getvalue(), crop="0,0,30,20,15,10", tradeoff=1)
    assert shrunk.picture().mode == "I;16" and shrunk.size == (30, 20)
    view = np.asarray(client.open(deep.getvalue()).picture())
    assert view.max() > 200  # white stays white
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(kind="JPEG", exif=exif)
    assert client.open(turned).size == (20, 30)
    assert client.save(turned, 20, 30).picture().size == (40, 60)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"nothing", "empty, or not an image of a known format"),
        (b"", "empty, or not an image of a known format"),
        (photo()[:300], "Not restored: "),
    ],
)
def test_what_is_no_photo_is_explained(client, content, says):
    assert says in client.open(content).failed
    assert says in client.save(content, 30, 20).failed


def test_a_photo_that_is_too_large_is_refused_before_it_is_decoded(client, monkeypatch):
    outcome = client.save(photo(300, 201), 201, 300)
    assert "201 x 300 pixels are more than the 0.06 million that this demo" in outcome.failed
    monkeypatch.setattr(service, "MAX_DECODED_PIXELS", 1000)
    monkeypatch.setattr(service, "read_picture", None)
    assert "50 x 40 pixels are more than the 0.001 million" in client.open(photo(40, 50)).failed


@pytest.mark.parametrize(
    "crop",
    [
        "0,0,31,20,31,20",
        "1,0,30,20,30,20",
        "0,5,30,20,30,20",
        "0,0,30,20,60,40",
        "0,0,0,20,0,20",
        "0,0,30,20,0,0",
    ],
)
def test_a_crop_outside_of_the_photo_is_refused(client, crop):
    assert "have no such crop" in client.call("/cut", photo(), crop=crop).failed


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/cut", {}),
        ("/cut", {"crop": "0,0,a,20,30,20"}),
        ("/cut", {"crop": "0,0,30,20,30"}),
        ("/cut", {"crop": f"0,0,{10**30},20,30,20"}),
        ("/cut", {"crop": "-1,0,30,20,30,20"}),
        ("/restore", {"crop": full(30, 20), "shown": "60,40"}),
        ("/restore", {"crop": full(30, 20), "shown": "60", "tradeoff": "1"}),
        ("/save", {"crop": full(30, 20), "tradeoff": "much"}),
        ("/save", {"crop": full(30, 20), "map": "60,40"}),
    ],
)
def test_a_call_that_the_page_would_not_make_is_refused(client, path, options):
    answer = client.request("POST", path, content=photo(), params=options)
    assert answer.status_code == 400 and answer.text


@pytest.mark.parametrize("tradeoff", ["7", "inf", "nan", "-1"])
def test_a_wrong_tradeoff_harms_nobody(client, tradeoff):
    assert "0 to 1" in client.save(photo(), 30, 20, tradeoff).failed
    assert not client.save(photo(), 30, 20).failed


def test_a_page_is_sent_no_more_than_it_shows(client):
    outcome = client.call(
        "/restore", photo(), crop=full(30, 20), tradeoff=0, shown="1000000,1000000"
    )
    assert "a page cannot show" in outcome.failed


def test_a_file_that_is_too_large_is_refused_unread(client):
    for path in ("/photo", "/restore"):
        answer = client.request("POST", path, content=bytes(3_000_000))
        assert answer.status_code == 413 and "larger than the 0.75 MB" in answer.text
    assert client.request("POST", "/photo", content=iter([b"x"])).status_code == 411


def test_errors_of_models_stay_in_the_log(server, client, monkeypatch, caplog):
    monkeypatch.setattr(server[0], "error", RuntimeError(f"in {__file__}"))
    failed = client.save(photo(5, 5), 5, 5).failed
    assert failed.startswith("Not restored: the model failed on this photo.")
    assert failed.endswith("The demo's log says why.")
    assert __file__ in caplog.text
    too_large = "out of memory: 5 x 5 pixels are too much"
    monkeypatch.setattr(server[0], "error", DistillkitError(too_large))
    assert client.save(photo(5, 5), 5, 5).failed == f"Not restored: {too_large}"


def test_a_crowd_is_answered_one_is_too_many_and_the_page_stays_open(server):
    restorer, address = server
    restorer.open.clear()
    calls = restorer.calls
    with ThreadPoolExecutor(MAX_CALLS) as pool:
        try:
            waiting = [
                pool.submit(DemoClient(address).save, photo(8, 9 + i), 9 + i, 8)
                for i in range(MAX_CALLS)
            ]
            one_more = DemoClient(address)
            while (answer := one_more.request("POST", "/photo", content=photo())).is_success:
                time.sleep(0.05)
            assert answer.status_code == 503 and "try again" in answer.text
            assert one_more.request("GET", "/").status_code == 200  # while all wait
        finally:
            restorer.open.set()
        sizes = [outcome.result().size for outcome in waiting]
    assert sizes == [(18 + 2 * i, 16) for i in range(MAX_CALLS)]
    assert restorer.calls == calls + MAX_CALLS


def test_photos_that_wait_take_bounded_memory():
    with serving(student_with_tradeoff(), max_memory=1500) as (restorer, address):
        restorer.open.clear()
        with ThreadPoolExecutor(1) as pool:
            try:
                first = pool.submit(DemoClient(address).save, photo(18, 18), 18, 18)
                while restorer.calls == 0:
                    time.sleep(0.01)
                client = DemoClient(address)
                assert client.request("POST", "/photo", content=photo(18, 18)).status_code == 503
            finally:
                restorer.open.set()
            assert first.result().size == (36, 36)


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/../etc/passwd", "/%2e%2e/server.py", "/server.py", "/examples/x"],
)
def test_there_are_no_other_addresses(client, path):
    assert client.request("GET", path).status_code == 404


@pytest.mark.parametrize("path", ["/photo", "/cut", "/restore", "/save"])
def test_photos_are_posted(client, path):
    assert client.request("GET", path).status_code in (404, 405)
    assert client.request("PUT", path, content=photo()).status_code == 405


FOREIGN = [
    {"host": "evil.example"},
    {"host": "evil.example:7860", "origin": "http://evil.example:7860"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_sites_and_other_names_are_refused(client, headers):
    answer = client.request("POST", "/photo", content=photo(), headers=headers)
    assert answer.status_code in (403, 421)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "192.168.0.7", "[::1]"])
def test_own_names_and_numbers_are_known_through_any_port(client, name):
    headers = {"host": f"{name}:8080", "origin": f"http://{name}:8080"}
    answer = client.request("POST", "/photo", content=photo(), headers=headers)
    assert answer.status_code == 200


def test_a_name_that_is_allowed_is_known_behind_a_proxy_that_encrypts():
    student = student_with_tradeoff()
    with serving(student, allowed_hosts=["Demo.example"]) as (_, address):
        headers = {"host": "demo.example", "origin": "https://demo.example"}
        assert DemoClient(address).request("GET", "/", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/nowhere"])
def test_browsers_are_told_to_be_careful(client, path):
    headers = client.request("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_every_file_that_the_page_names_is_there(client):
    page = client.request("GET", "/").text
    names = re.findall(r'(?:src|href)="([\w.]+)"', page)
    assert len(names) == 8
    for name in names:
        assert client.request("GET", f"/{name}").status_code == 200
    assert 'fetch(path, { method: "POST"' in client.request("GET", "/backend.js").text


def test_the_examples_are_photos_that_are_restored_quickly(client):
    settings = client.request("GET", "/student.js").text
    addresses = re.findall(r'"address": "([\w/]+)"', settings)
    assert len(addresses) == 3
    for address in addresses:
        example = client.http.get(f"/{address}")
        assert example.headers["content-type"] == "image/jpeg"
        assert max(decoded(example.content).size) == 320


def test_hostile_files_are_restored_or_named(client):
    failures = {}
    for name, content in hostile_files().items():
        if len(content) > MAX_UPLOAD:
            continue
        opened = client.open(content)
        failures[name] = opened.failed
        if opened.failed:
            continue
        width, height = opened.size
        small = f"{min(width, 200)},{min(height, 200)}"
        saved = client.call("/save", content, crop=f"0,0,{width},{height},{small}", tradeoff=0.5)
        failures[name] = saved.failed
    assert len(failures) > COUNT - 3
    for name, failed in failures.items():
        if failed:
            assert failed.startswith("Not restored: ") and 25 < len(failed) < 400, (name, failed)
            assert "the model failed" not in failed, (name, failed)
        assert not (name.startswith("ok-") and failed), (name, failed)
        assert not (name.startswith("bad-") and not failed), name
    assert 100 < sum(map(bool, failures.values())) < 260


def test_a_student_of_a_fixed_tradeoff_says_so_and_takes_no_map():
    with serving(Student(ToyModel(), None, fixed_tradeoff=0.3)) as (_, address):
        client = DemoClient(address)
        assert '"tradeoff": 0.3' in client.request("GET", "/student.js").text
        assert client.save(photo(), 30, 20, 0.3).size == (60, 40)
        assert "fixed tradeoff" in client.save(photo(), 30, 20, 0.7).failed
        body = photo() + np.array([0, 1], np.float32).tobytes()
        refused = client.call("/save", body, crop=full(30, 20), map="2,1")
        assert "fixed tradeoff" in refused.failed


def test_nothing_of_a_photo_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(student_with_tradeoff()) as (_, address):
        assert not DemoClient(address).save(photo(), 30, 20).failed
        assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("is_named", [True, False])
def test_the_command(toys, recipe, tmp_path, monkeypatch, capfd, is_named):
    """With a run's folder, or the trained student of the plugins."""
    from distillkit.recipe.load import load_recipe
    from distillkit.runs.run import run_recipe
    from distillkit_demo import server

    run = tmp_path / "run"
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), run)
    capfd.readouterr()
    arguments = [str(run)] if is_named else []
    expected = f"loading {run}\n"
    if not is_named:
        bring_trained_students(monkeypatch, tmp_path)
        expected = "restoring with mine/run; another student: the argument RUN\nloading mine/run\n"
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    outcomes = []

    def restore_instead_of_waiting():
        client = DemoClient(address)
        outcomes.append(client.save(photo(), 30, 20))
        assert '"title": "run"' in client.http.get("/student.js").text

    monkeypatch.setattr(server, "wait_for_stop_signal", restore_instead_of_waiting)
    command = ["distillkit", "demo", *arguments, "--port", str(port)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    printed = capfd.readouterr()
    assert f"open {address}" in printed.out
    assert printed.err == expected
    assert outcomes[0].size == (60, 40)


def bring_trained_students(monkeypatch, folder):
    """Make a plugin with the trained students of a folder installed, beside the toys."""
    module = types.ModuleType("plugin_of_trained_students")
    module.distillkit_trained = hookimpl(specname="distillkit_trained")(lambda: folder)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    install_plugins(
        monkeypatch, toy="toy_plugin", demo="distillkit_demo.plugin", mine=module.__name__
    )


def test_without_its_packages_the_command_says_what_to_install(toys, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "distillkit_demo.server")
    monkeypatch.setattr(sys, "argv", ["distillkit", "demo", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "pip install 'distillkit[demo]'" in capfd.readouterr().err
