"""Downloads from a loopback server that breaks off, ignores ranges or has another file."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distillkit import WeightFile, WeightsError
from distillkit.files.download import download

CONTENT = bytes(range(256)) * 9000  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if self.path != "/w.bin":
            return self.send_error(404)
        start = 0
        if wanted and server.ranged:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        server.ranged = True
        server.break_after = None
        server.url = f"http://127.0.0.1:{server.server_port}/w.bin"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_appears_whole_in_a_new_folder(server, tmp_path):
    to = tmp_path / "new" / "w.bin"
    assert download(server.url, to, SHA256) == to
    assert to.read_bytes() == CONTENT
    assert sorted(p.name for p in to.parent.iterdir()) == ["w.bin", "w.bin.sha256"]
    assert (tmp_path / "new" / "w.bin.sha256").read_text() == f"{SHA256}  w.bin\n"


def test_a_broken_download_resumes_where_it_stopped(server, tmp_path):
    to = tmp_path / "w.bin"
    half = len(CONTENT) // 2
    server.break_after = half
    with pytest.raises(
        WeightsError,
        match=f"broke off after {half} of {len(CONTENT)} bytes; what has arrived is kept",
    ):
        download(server.url, to)
    assert not to.exists() and (tmp_path / "w.bin.part").read_bytes() == CONTENT[:half]
    server.break_after = None
    download(server.url, to, SHA256)
    assert to.read_bytes() == CONTENT and server.ranges == [None, f"bytes={half}-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.bin", "w.bin.sha256"]


def test_a_server_without_ranges_is_asked_for_all_of_it(server, tmp_path):
    (tmp_path / "w.bin.part").write_bytes(b"old")
    server.ranged = False
    assert download(server.url, tmp_path / "w.bin", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_as_long_as_the_file_or_longer(server, tmp_path, extra):
    (tmp_path / "w.bin.part").write_bytes(CONTENT + extra)
    assert download(server.url, tmp_path / "w.bin", SHA256).read_bytes() == CONTENT
    assert len(server.ranges) == (2 if extra else 1)


def test_another_content_than_promised_is_deleted(server, tmp_path):
    (tmp_path / "w.bin.part").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=f"not {SHA256}; it was deleted"):
        download(server.url, tmp_path / "w.bin", SHA256)
    assert list(tmp_path.iterdir()) == []
    assert download(server.url, tmp_path / "w.bin", SHA256).read_bytes() == CONTENT


def test_a_file_that_was_fetched_before_has_to_be_the_same(server, tmp_path):
    record = tmp_path / "w.bin.sha256"
    record.write_text("0" * 64 + "  w.bin\n")
    with pytest.raises(
        WeightsError, match=r"not 0{64} as before; delete .*w\.bin\.sha256 if it is to be replaced"
    ):
        download(server.url, tmp_path / "w.bin")
    assert list(tmp_path.iterdir()) == [record]
    record.unlink()
    assert download(server.url, tmp_path / "w.bin", SHA256[:8]).read_bytes() == CONTENT


def test_what_cannot_be_downloaded(server, tmp_path):
    with pytest.raises(WeightsError, match=r"gone - the server answered 404"):
        download(server.url.replace("w.bin", "gone"), tmp_path / "gone")
    with pytest.raises(WeightsError, match="neither http nor https"):
        download((tmp_path / "w.bin").as_uri(), tmp_path / "copy.bin")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="not downloaded"):
        download(server.url, tmp_path / "file" / "w.bin")
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError, match=r"not downloaded: .*refused"):
        download(url, tmp_path / "w.bin")
    assert not (tmp_path / "w.bin").exists()


def test_a_weight_file_is_fetched_once_from_its_url(server, tmp_path):
    file = WeightFile(path=tmp_path / "w.bin", url=server.url, sha256=SHA256)
    assert file.fetchable and file.find() is None
    assert file.fetch() == file.fetch() == file.find() == tmp_path / "w.bin"
    assert len(server.ranges) == 1


def test_a_weight_file_without_url_names_its_source(tmp_path):
    file = WeightFile(path=tmp_path / "w.bin", source="a shelf", license="MIT")
    assert not file.fetchable and WeightFile(repo="owner/name", filename="w.bin").fetchable
    with pytest.raises(
        WeightsError, match=r"no such weight file; get it from a shelf \(license MIT\)"
    ):
        file.fetch()
